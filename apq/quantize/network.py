"""A subnet whose weights and activations are rounded as a candidate says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apq.errors import ApqError
from apq.quantize.base import LayerBits, Packed, Scheme, layer_plan
from apq.quantize.integer import IMAGE, IntegerLayer, Rounding, exact_mean, fold_gain
from apq.quantize.uniform import Uniform
from apq.space import Candidate

_SAMPLE = 2**16
"""Activations of one layer that a range is fitted to; more change the range by well under 1 %."""


class QuantizedConv(nn.Module):
    """Rounded input, rounded weight, convolution, batch norm, activation.

    In training mode in float, with batch norm apart; in eval mode in integers, folded, as devices
    run it (:mod:`apq.quantize.integer`). No gradients in eval mode.
    """

    def __init__(self, part: nn.Module, weights: Any, inputs: Any) -> None:
        super().__init__()
        self.conv: nn.Conv2d = part.conv  # type: ignore[assignment]
        self.bn: nn.BatchNorm2d = part.bn  # type: ignore[assignment]
        self.act: nn.Module = part.act  # type: ignore[assignment]
        self.weights: Any = weights
        self.inputs: Any = inputs

    @property
    def weight(self) -> Tensor:
        """Float weights that are rounded in every forward pass."""
        return self.conv.weight

    @torch.no_grad()
    def integer(self) -> IntegerLayer:
        """The layer as a device computes it."""
        c, bn = self.conv, self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return IntegerLayer(
            fold_gain(self.weights.pack(c.weight), gain), bn.bias - bn.running_mean * gain,
            _rounding(self.inputs), int(c.stride[0]), int(c.padding[0]), c.groups,
            isinstance(self.act, nn.ReLU6),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Same shapes as the float layer's."""
        if not self.training:
            with torch.no_grad():
                return self.integer().run(x)
        x = self.inputs(x) if self.inputs is not None else x
        c = self.conv
        weight = self.weights(c.weight)
        y = F.conv2d(x, weight, None, c.stride, c.padding, c.dilation, c.groups)
        out: Tensor = self.act(self.bn(y))
        return out


class QuantizedLinear(nn.Module):
    """Rounded input and weight; the bias stays float (it is added in the accumulator)."""

    def __init__(self, linear: nn.Linear, weights: Any, inputs: Any) -> None:
        super().__init__()
        self.linear = linear
        self.weights: Any = weights
        self.inputs: Any = inputs

    @property
    def weight(self) -> Tensor:
        """Float weights that are rounded in every forward pass."""
        return self.linear.weight

    @torch.no_grad()
    def integer(self) -> IntegerLayer:
        """The layer as a device computes it: a 1x1 convolution."""
        packed = self.weights.pack(self.linear.weight)
        codes = packed.codes[:, :, None, None]
        packed = Packed(codes, packed.scale, packed.table, packed.bits)
        return IntegerLayer(packed, self.linear.bias.detach(), _rounding(self.inputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in) -> (n, out)``."""
        if not self.training:
            with torch.no_grad():
                return self.integer().run(x[:, :, None, None]).flatten(1)
        x = self.inputs(x) if self.inputs is not None else x
        return F.linear(x, self.weights(self.linear.weight), self.linear.bias)


def _rounding(inputs: Any) -> Rounding:
    return IMAGE if inputs is None else inputs.rounding()


class QuantizedSubnet(nn.Module):
    """A subnet with quantized layers; takes normalised images, gives logits.

    Attributes:
        subnet: The network; its layers are :class:`QuantizedConv` and :class:`QuantizedLinear`.
        candidate: What was built.
        plan: Bits per layer, in the order they run.
        scheme: How the searched layers are quantized; the others are uniform.
    """

    def __init__(
        self, subnet: nn.Module, candidate: Candidate, plan: tuple[LayerBits, ...], scheme: Scheme
    ) -> None:
        super().__init__()
        self.subnet = subnet
        self.candidate = candidate
        self.plan = plan
        self.scheme = scheme

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)``."""
        net: Any = self.subnet
        x = net.stem(x)
        for part in (*net.first, *net.blocks, net.head):
            x = part(x)
        out: Tensor = net.classifier(x.mean(dim=(2, 3)) if self.training else exact_mean(x))
        return out

    def layers(self) -> Iterator[tuple[LayerBits, QuantizedConv | QuantizedLinear]]:
        """Plan and module of every layer, in the order they run."""
        for layer in self.plan:
            part = self.subnet.get_submodule(layer.name)
            assert isinstance(part, QuantizedConv | QuantizedLinear)
            yield layer, part

    def storage_bits(self) -> dict[str, int]:
        """Bits on disk per layer: weights as their scheme stores them, and a 32-bit bias per
        output channel (batch norm folded)."""
        sizes = {}
        for layer, part in self.layers():
            rule = rule_for(layer, self.scheme)
            sizes[layer.name] = rule.storage_bits(part.weight, layer.weight) + 32 * len(part.weight)
        return sizes


def rule_for(layer: LayerBits, scheme: Scheme) -> Scheme:
    """The scheme of one layer: fixed layers stay uniform whatever the searched ones do."""
    return scheme if layer.searched or isinstance(scheme, Uniform) else Uniform()


def quantize_subnet(
    subnet: nn.Module,
    candidate: Candidate,
    fixed_bits: int,
    calibration_images: Tensor | None,
    scheme: str | Scheme = "uniform",
) -> QuantizedSubnet:
    """Quantize a copy of a float subnet, every range fitted.

    Weight ranges come from the weights, activation ranges from what the float network does with
    the calibration images. Recalibrate batch norm afterwards, and fine-tune: low bits need it.

    Args:
        subnet: ``Subnet`` of the candidate; left as it is.
        candidate: Gives the bits of the searched layers.
        fixed_bits: Bits of stem, first block, head and classifier (uniform in every scheme); the
            image itself is not rounded.
        calibration_images: Normalised, ``(n, c, h, w)``; a hundred do. None leaves placeholder
            ranges, for a state dict to be loaded.
        scheme: A scheme for the searched layers, or its name (see ``find_scheme``).

    Raises:
        ApqError: unknown scheme, bits it does not offer, or weights or images with NaN.
    """
    chosen = _scheme(scheme)
    plan = layer_plan(candidate, fixed_bits)
    net = copy.deepcopy(subnet).eval()
    samples = _inputs(net, [layer.name for layer in plan], calibration_images)
    for layer in plan:
        part = net.get_submodule(layer.name)
        rule = rule_for(layer, chosen)
        inner: Any = part if isinstance(part, nn.Linear) else part.conv
        try:
            weights = rule.weights(inner.weight, layer.weight)
            inputs = None
            if layer.activation is not None:
                inputs = rule.activations(samples[layer.name], layer.activation, layer.signed)
        except ApqError as error:
            raise ApqError(f"{layer.name}: {error}") from error
        build: Callable[..., nn.Module] = (
            QuantizedLinear if isinstance(part, nn.Linear) else QuantizedConv
        )
        parent, _, leaf = layer.name.rpartition(".")
        setattr(net.get_submodule(parent), leaf, build(part, weights, inputs))
    return QuantizedSubnet(net, candidate, plan, chosen)


def _scheme(scheme: str | Scheme) -> Scheme:
    from apq.quantize import find_scheme  # the family is put together from this package's modules

    return find_scheme(scheme) if isinstance(scheme, str) else scheme


@torch.no_grad()
def _inputs(net: nn.Module, names: list[str], images: Tensor | None) -> dict[str, Tensor]:
    """A sample of every named layer's input, with the extremes kept."""
    if images is None:
        return {name: torch.ones(1) for name in names}
    samples: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].permute(0, 2, 3, 1) if args[0].dim() == 4 else args[0]
            flat = x.reshape(-1)
            if len(flat) > _SAMPLE:
                seeded = torch.Generator().manual_seed(0)
                picked = flat[torch.randint(len(flat), (_SAMPLE,), generator=seeded)]
                flat = torch.cat([picked, flat.max()[None], flat.min()[None]])
            samples[name] = flat

        return hook

    handles = [net.get_submodule(n).register_forward_pre_hook(keep(n)) for n in names]
    net(images)
    for handle in handles:
        handle.remove()
    return samples
