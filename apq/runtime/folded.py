"""A network as the list of convolutions a device runs, batch norm folded. Exports start here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apq.quantize import QuantizedSubnet
from apq.quantize.integer import IntegerLayer, Step, operation_of, window
from apq.space.graph import LAYERS, Node
from apq.space.layer import Size
from apq.supernet.elastic import stride_of
from apq.supernet.network import Network


@dataclass(frozen=True)
class FloatLayer:
    """A convolution of a float network, batch norm folded in; fields as in IntegerLayer."""

    weight: Tensor
    bias: Tensor
    stride: Size = 1
    padding: int = 0
    groups: int = 1
    act: str = ""


Steps = Sequence[Step[IntegerLayer | FloatLayer]]


@torch.no_grad()
def fold(network: nn.Module) -> Steps:
    """The nodes of a subnet, quantized or float, in the order they run."""
    if isinstance(network, QuantizedSubnet):
        return network.integer()
    assert isinstance(network, Network)
    return [
        Step(
            node.name,
            node.op,
            node.inputs,
            _layer(network, node) if node.op in LAYERS else None,
            act=node.act,
            window=window(node),
            operation=operation_of(network, node),
        )
        for node in network.graph.nodes
    ]


def weight_shape(layer: IntegerLayer | FloatLayer) -> tuple[int, ...]:
    """Weights' shape ``(out, in / groups, k, k)``."""
    weight = layer.weight
    return tuple((weight if isinstance(weight, Tensor) else weight.codes).shape)


def _layer(network: Network, node: Node) -> FloatLayer:
    part = network.get_submodule(node.name)
    if isinstance(part, nn.Linear):
        bias = torch.zeros(len(part.weight)) if part.bias is None else part.bias.detach()
        return FloatLayer(part.weight.detach()[:, :, None, None], bias, act=node.act)
    conv, bn = part.conv, part.bn
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    fused = nn.utils.fuse_conv_bn_eval(conv, bn)
    assert fused.bias is not None
    return FloatLayer(
        fused.weight.detach(), fused.bias.detach(), stride_of(conv), int(conv.padding[0]),
        conv.groups, node.act,
    )  # fmt: skip
