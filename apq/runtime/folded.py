"""A network as the list of convolutions a device runs, batch norm folded. Exports start here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apq.quantize import QuantizedSubnet
from apq.quantize.integer import IntegerLayer, Step


@dataclass(frozen=True)
class FloatLayer:
    """A convolution of a float network, batch norm folded in; fields as in IntegerLayer."""

    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0
    groups: int = 1
    relu6: bool = False


Steps = Sequence[Step[IntegerLayer | FloatLayer]]


@torch.no_grad()
def fold(network: nn.Module) -> Steps:
    """The convolutions of a subnet, quantized or float, in the order they run."""
    if isinstance(network, QuantizedSubnet):
        return network.integer()
    blocks = network.get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    steps = [_step(network, name) for name in ("stem", "first.0", "first.1")]
    for i, block in enumerate(blocks):
        steps += [_step(network, f"blocks.{i}.{part}") for part in ("expand", "depthwise")]
        steps.append(_step(network, f"blocks.{i}.project", bool(block.shortcut)))
    return [*steps, _step(network, "head"), _step(network, "classifier")]


def weight_shape(layer: IntegerLayer | FloatLayer) -> tuple[int, ...]:
    """Weights' shape ``(out, in / groups, k, k)``."""
    weight = layer.weight
    return tuple((weight if isinstance(weight, Tensor) else weight.codes).shape)


def _step(subnet: nn.Module, name: str, shortcut: bool = False) -> Step[FloatLayer]:
    part = subnet.get_submodule(name)
    if isinstance(part, nn.Linear):
        return Step(name, FloatLayer(part.weight.detach()[:, :, None, None], part.bias.detach()))
    conv, bn = part.conv, part.bn
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    fused = nn.utils.fuse_conv_bn_eval(conv, bn)
    assert fused.bias is not None
    layer = FloatLayer(
        fused.weight.detach(), fused.bias.detach(), int(conv.stride[0]), int(conv.padding[0]),
        conv.groups, isinstance(part.act, nn.ReLU6),
    )  # fmt: skip
    return Step(name, layer, shortcut)
