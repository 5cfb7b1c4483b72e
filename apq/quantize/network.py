"""A subnet whose weights and activations are rounded as a candidate says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apq.errors import ApqError
from apq.quantize.base import LayerBits, Scheme, layer_plan
from apq.quantize.integer import IntegerLayer, Rounding, Step, fold_gain, integer_layer, run
from apq.quantize.uniform import Uniform, UniformActivations
from apq.space import Candidate
from apq.supernet.depthwise import depthwise

_SAMPLE = 2**16
"""Activations of one layer that a range is fitted to; more change the range by well under 1 %."""


class QuantizedConv(nn.Module):
    """Rounded input, rounded weight, convolution, batch norm, activation, all in float.

    Attributes:
        inputs: Rounds the input; None: it is on its grid already.
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
    def integer(self, rounding: Rounding, output: Rounding) -> IntegerLayer:
        """The layer as a device computes it, between two grids."""
        c, bn = self.conv, self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return integer_layer(
            fold_gain(self.weights.pack(c.weight), gain), bn.bias - bn.running_mean * gain,
            rounding, output, stride=int(c.stride[0]), padding=int(c.padding[0]), groups=c.groups,
            relu6=isinstance(self.act, nn.ReLU6),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Same shapes as the float layer's."""
        x = self.inputs(x) if self.inputs is not None else x
        c, weight = self.conv, self.weights(self.conv.weight)
        if c.groups > 1:
            y = depthwise(x, weight, int(c.stride[0]))
        else:
            y = F.conv2d(x, weight, None, c.stride, c.padding)
        out: Tensor = self.act(self.bn(y))
        return out


class QuantizedLinear(nn.Module):
    """Rounded input and weight; the bias stays float."""

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
    def integer(self, rounding: Rounding, output: Rounding | None) -> IntegerLayer:
        """The layer as a device computes it: a 1x1 convolution."""
        packed = self.weights.pack(self.linear.weight)
        packed = replace(packed, codes=packed.codes[:, :, None, None])
        return integer_layer(packed, self.linear.bias.detach(), rounding, output)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in) -> (n, out)``."""
        x = self.inputs(x) if self.inputs is not None else x
        return F.linear(x, self.weights(self.linear.weight), self.linear.bias)


class ImageGrid(nn.Module):
    """The byte a device receives per pixel and channel: 256 levels from the darkest to the
    brightest value of normalised images."""

    scale: Tensor
    low: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        ends = images.amin().clamp_max(0), images.amax().clamp_min(0)
        scale = ((ends[1] - ends[0]) / 255).clamp_min(1e-6)
        self.register_buffer("scale", scale)
        self.register_buffer("low", (ends[0] / scale).round().clamp(-255, 0))

    def rounding(self) -> Rounding:
        """The grid."""
        return Rounding(float(self.scale), int(self.low), int(self.low) + 255, 8)


class QuantizedSubnet(nn.Module):
    """A subnet with quantized layers; takes normalised images, gives logits.

    In training mode in float, with batch norm apart. In eval mode in integers, folded, as devices
    run it (:mod:`apq.quantize.integer`); no gradients there. The two differ by isolated roundings,
    and by the image, which only devices receive in 8 bits.

    What runs from block to block, a *stream*, has 8 bits whatever the layers have: one grid for all
    tensors that shortcuts add up, so that a device adds integers.

    Attributes:
        subnet: The network; its layers are :class:`QuantizedConv` and :class:`QuantizedLinear`.
        candidate: What was built.
        plan: Bits per layer, in the order they run.
        scheme: How searched layers with plain widths are quantized; fixed ones are uniform.
        image: Grid of the input.
        streams: Rounding of each stream; a block without shortcut begins a new one.
        pooled: Rounding of what is averaged before the classifier.
    """

    def __init__(
        self, subnet: nn.Module, candidate: Candidate, plan: tuple[LayerBits, ...], scheme: Scheme,
        image: ImageGrid, streams: list[nn.Module], pooled: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__()
        self.subnet = subnet
        self.candidate = candidate
        self.plan = plan
        self.scheme = scheme
        self.image = image
        self.streams = nn.ModuleList(streams)
        self.pooled: Any = pooled

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)``."""
        return self.simulate(x) if self.training else run(self.integer(), x)

    def simulate(self, x: Tensor) -> Tensor:
        """Logits computed in float: what training sees."""
        net: Any = self.subnet
        streams = iter(self.streams)
        stream = next(streams)
        x = stream(net.first[1](net.first[0](net.stem(x))))
        for block in net.blocks:
            y = block.project(block.depthwise(block.expand(x)))
            if block.shortcut:
                x = stream(x + stream(y))
            else:
                stream = next(streams)
                x = stream(y)
        out: Tensor = net.classifier(self.pooled(net.head(x)).mean(dim=(2, 3)))
        return out

    def integer(self) -> list[Step[IntegerLayer]]:
        """The layers as a device computes them, in the order they run."""
        net: Any = self.subnet
        streams = [stream.rounding() for stream in self.streams]  # type: ignore[operator]
        number = 0
        steps: list[Step[IntegerLayer]] = []

        def add(name: str, here: Rounding, after: Rounding | None, shortcut: bool = False) -> None:
            part = net.get_submodule(name)
            steps.append(Step(name, part.integer(_grid(part, here), after), shortcut))

        first, second = (_grid(part) for part in net.first)
        add("stem", self.image.rounding(), first)
        add("first.0", first, second)
        add("first.1", second, streams[0])
        for i, block in enumerate(net.blocks):
            inside = _grid(block.depthwise), _grid(block.project)
            add(f"blocks.{i}.expand", streams[number], inside[0])
            add(f"blocks.{i}.depthwise", inside[0], inside[1])
            number += not block.shortcut
            add(f"blocks.{i}.project", inside[1], streams[number], bool(block.shortcut))
        add("head", streams[number], self.pooled.rounding())
        add("classifier", _grid(net.classifier), None)
        return steps

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
            rule, _ = rules_for(layer, self.scheme)
            sizes[layer.name] = rule.storage_bits(part.weight, layer.weight) + 32 * len(part.weight)
        return sizes


def _grid(part: Any, otherwise: Rounding | None = None) -> Rounding:
    """Grid a layer rounds its input to; ``otherwise`` if it takes the input as it comes."""
    grid: Rounding | None = otherwise if part.inputs is None else part.inputs.rounding()
    assert grid is not None
    return grid


def rules_for(layer: LayerBits, scheme: Scheme) -> tuple[Scheme, Scheme]:
    """The schemes of one layer's weights and input: those that the candidate names, or, for plain
    widths, ``scheme``; fixed layers stay uniform whatever the searched ones do."""
    plain = scheme if layer.searched or isinstance(scheme, Uniform) else Uniform()
    weights, inputs = (
        _scheme(name) if name else plain for name in (layer.weight_scheme, layer.activation_scheme)
    )
    return weights, inputs


def quantize_subnet(
    subnet: nn.Module,
    candidate: Candidate,
    fixed_bits: tuple[int, int],
    calibration_images: Tensor | None,
    scheme: str | Scheme = "uniform",
) -> QuantizedSubnet:
    """Quantize a copy of a float subnet, every range fitted.

    Weight ranges come from the weights, activation ranges from what the float network does with
    the calibration images. Recalibrate batch norm afterwards, and fine-tune: low bits need it.

    Args:
        subnet: ``Subnet`` of the candidate; left as it is.
        candidate: Gives the bits of the searched layers, and schemes where it names them.
        fixed_bits: Bits of weights and activations of stem, first block, head and classifier
            (uniform in every scheme; ``Space.fixed_layer_bits``); the image itself is not rounded.
        calibration_images: Normalised, ``(n, c, h, w)``; a hundred do. None leaves placeholder
            ranges, for a state dict to be loaded.
        scheme: What plain widths of the searched layers mean: a scheme, or its name (see
            ``find_scheme``).

    Raises:
        ApqError: unknown scheme, bits it does not offer, or weights or images with NaN.
    """
    chosen = _scheme(scheme)
    plan = layer_plan(candidate, fixed_bits)
    net = copy.deepcopy(subnet).eval()
    samples = _samples(net, [layer.name for layer in plan], calibration_images)
    for layer in plan:
        part = net.get_submodule(layer.name)
        weight_rule, input_rule = rules_for(layer, chosen)
        inner: Any = part if isinstance(part, nn.Linear) else part.conv
        try:
            weights = weight_rule.weights(inner.weight, layer.weight)
            inputs = None
            if layer.activation is not None:
                sample = samples[layer.name]
                inputs = input_rule.activations(sample, layer.activation, layer.signed)
        except ApqError as error:
            raise ApqError(f"{layer.name}: {error}") from error
        if layer.signed and isinstance(inputs, UniformActivations) and layer.activation == 8:
            inputs = None  # the stream has 8 uniform bits already
        build: Callable[..., nn.Module] = (
            QuantizedLinear if isinstance(part, nn.Linear) else QuantizedConv
        )
        parent, _, leaf = layer.name.rpartition(".")
        setattr(net.get_submodule(parent), leaf, build(part, weights, inputs))
    image = ImageGrid(samples["stem"])
    streams: list[nn.Module] = [
        UniformActivations(torch.cat(parts), 8, signed=True, narrow=False)
        for parts in _stream_samples(net, samples)
    ]
    pooled = UniformActivations(samples["pool"], 8, signed=False)
    return QuantizedSubnet(net, candidate, plan, chosen, image, streams, pooled)


def _stream_samples(net: Any, samples: dict[str, Tensor]) -> list[list[Tensor]]:
    """What runs from block to block, by stream: the inputs of the layers that read it."""
    streams: list[list[Tensor]] = [[]]
    for i, block in enumerate(net.blocks):
        streams[-1].append(samples[f"blocks.{i}.expand"])
        if not block.shortcut:
            streams.append([])
    streams[-1].append(samples["head"])
    return streams


def _scheme(scheme: str | Scheme) -> Scheme:
    from apq.quantize import find_scheme  # the family is put together from this package's modules

    return find_scheme(scheme) if isinstance(scheme, str) else scheme


@torch.no_grad()
def _samples(net: nn.Module, names: list[str], images: Tensor | None) -> dict[str, Tensor]:
    """A sample of every named layer's input, with the extremes kept; ``pool``: of the head's
    output."""
    if images is None:
        return {name: torch.ones(1) for name in (*names, "pool")}
    samples: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        flat = (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).reshape(-1)
        if len(flat) > _SAMPLE:
            seeded = torch.Generator().manual_seed(0)
            picked = flat[torch.randint(len(flat), (_SAMPLE,), generator=seeded)]
            flat = torch.cat([picked, flat.max()[None], flat.min()[None]])
        samples[name] = flat

    def before(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, args: keep(name, args[0])

    handles = [net.get_submodule(n).register_forward_pre_hook(before(n)) for n in names]
    head = net.get_submodule("head")
    handles.append(head.register_forward_hook(lambda _, __, out: keep("pool", out)))
    net(images)
    for handle in handles:
        handle.remove()
    return samples
