"""Quantized networks in a device's arithmetic: integers between layers, exact integer sums.

Rounding makes a network discontinuous: a sum that differs in its last bit may round to another
level, which changes the logits by percents. Float convolutions add in an order that depends on the
library, the number of threads and the batch, so two correct implementations of the same quantized
network disagree on many images. Here every tensor between two layers is integers on a grid, every
sum of products is an integer below 2**24 (exact in float32 in any order), and one float32
multiplication per channel takes a sum to the next grid. That is the arithmetic of integer kernels
(ONNX QLinearConv); evaluation, export and runtimes therefore agree to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from apq.quantize.base import Packed
from apq.space.graph import Node, number, walk
from apq.space.layer import Size, both
from apq.supernet.calls import TorchCall, run_call
from apq.supernet.elastic import ACTIVATIONS, convolve
from apq.supernet.network import max_pool

EXACT = 2**24
"""Integers up to this magnitude are exact in float32."""

Layer = TypeVar("Layer", covariant=True)


@dataclass(frozen=True)
class Rounding:
    """A grid: integers ``low .. high`` times ``scale``.

    ``low == -1`` with ``bits == 1`` is the sign, with sign(0) = 1.
    """

    scale: float
    low: int
    high: int
    bits: int

    @property
    def is_sign(self) -> bool:
        """Whether the levels are -1 and 1."""
        return self.bits == 1 and self.low < 0

    @property
    def zero(self) -> int:
        """Zero point when the integers are stored as unsigned bytes."""
        if self.low >= 0:
            return 0
        return -self.low if self.high - self.low == 255 else 128

    @property
    def fills_byte(self) -> bool:
        """Whether saturation to an unsigned byte is the only clamping needed."""
        return self.high - self.low == 255

    def codes(self, x: Tensor) -> Tensor:
        """Integers in float, same shape."""
        if self.is_sign:
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        scale = torch.tensor(self.scale, dtype=x.dtype)
        return x.div(scale).round_().clamp_(self.low, self.high)

    def holds(self, other: Rounding) -> bool:
        """Whether the other grid's integers mean the same here."""
        same = self.scale == other.scale and self.is_sign == other.is_sign
        return same and self.low <= other.low and other.high <= self.high


def regrid(codes: Tensor, grid: Rounding, to: Rounding) -> Tensor:
    """Integers of one grid as integers of another."""
    if to.holds(grid):
        return codes
    return to.codes(codes * torch.tensor(grid.scale, dtype=codes.dtype))


@dataclass(frozen=True)
class IntegerLayer:
    """A convolution (a linear layer is a 1x1 one) with batch norm, bias and activation folded in.

    Attributes:
        weight: Codes, with scales that include the gain of batch norm.
        bias: ``(out,)``. Integers in units of ``step``; weights from a table: in real units.
        rounding: Grid of the input.
        output: Grid of the output, which ends where the activation does; None: real numbers.
        stride, padding, groups: Parameters of the convolution.
        act: The activation that the output's grid ends with.
    """

    weight: Packed
    bias: Tensor
    rounding: Rounding
    output: Rounding | None
    stride: Size = 1
    padding: int = 0
    groups: int = 1
    act: str = ""

    @cached_property
    def step(self) -> Tensor:
        """Real value of one unit of a sum of products, ``(out,)``."""
        return self.weight.scale * torch.tensor(self.rounding.scale, dtype=torch.float32)

    @cached_property
    def multiplier(self) -> Tensor:
        """Factor from a sum of products to steps of the output, ``(out,)``."""
        if self.output is None:
            return self.step
        return self.step / torch.tensor(self.output.scale, dtype=torch.float32)

    @property
    def real_bias(self) -> Tensor:
        """The bias in real units, ``(out,)``."""
        return self.bias if self.weight.table is not None else self.bias * self.step

    @property
    def largest_sum(self) -> float:
        """Bound on the magnitude of any partial sum; below ``EXACT`` the order cannot matter."""
        values = self.weight.values().abs().flatten(1).sum(dim=1).max()
        return float(values) * max(-self.rounding.low, self.rounding.high)

    @property
    def may_saturate(self) -> bool:
        """Whether a sum of two products of bytes could leave 16 bits.

        x86 processors without VNNI add pairs of products of unsigned activations and signed weights
        in 16 bits, and saturate. Convolutions of single channels are computed otherwise.
        """
        if self.groups > 1 or self.weight.table is not None:
            return False
        codes = self.weight.values().flatten(1)
        pairs = [codes.mul(sign).clamp_min(0).topk(min(2, codes.shape[1])) for sign in (1, -1)]
        most = max(float(pair.values.sum(dim=1).max()) for pair in pairs)
        return most * (self.rounding.zero + self.rounding.high) > 2**15 - 1

    def run(self, codes: Tensor) -> Tensor:
        """``(n, in, h, w) -> (n, out, h', w')``, integers in float; real if there is no output
        grid."""
        values = self.weight.values()
        # float32 would round large sums, and cuDNN any
        if self.weight.table is None and (codes.is_cuda or self.largest_sum >= EXACT):
            codes, values = codes.double(), values.double()
        y = convolve(codes, values, None, self.stride, self.groups, self.padding).float()
        bias, multiplier = self.bias.view(1, -1, 1, 1), self.multiplier.view(1, -1, 1, 1)
        if self.weight.table is None:
            y = y.add_(bias).mul_(multiplier)
        else:
            y = y.mul_(multiplier)
            y = y.add_(bias if self.output is None else bias / self.output.scale)
        return y if self.output is None else y.round_().clamp_(self.output.low, self.output.high)


def integer_layer(
    weight: Packed,
    bias: Tensor,
    rounding: Rounding,
    output: Rounding | None,
    *,
    stride: Size = 1,
    padding: int = 0,
    groups: int = 1,
    act: str = "",
) -> IntegerLayer:
    """Round the bias to integers, and end the output's grid where the activation does.

    Where the bias would be rounded to more than a thirtieth of an output step, weights of few bits
    are spread over the byte. A channel whose weights are so small that its bias would not fit
    (batch norm switched it off) gets a larger scale, which rounds the weights to fewer levels.
    """
    output = None if output is None else within(output, act)
    if weight.table is None:
        weight = _spread(weight, rounding, output, 127 if groups > 1 else 64)
        needed = bias.abs() / (EXACT / 2 * rounding.scale)
        if bool((weight.scale < needed).any()):
            scale = torch.maximum(weight.scale, needed)
            shape = (-1, *(1 for _ in weight.codes.shape[1:]))
            codes = (weight.codes * (weight.scale / scale).reshape(shape)).round()
            weight = replace(weight, codes=codes.to(weight.codes.dtype), scale=scale)
        step = weight.scale * torch.tensor(rounding.scale, dtype=torch.float32)
        bias = (bias / step).round()
    return IntegerLayer(weight, bias, rounding, output, stride, padding, groups, act)


def within(grid: Rounding, act: str) -> Rounding:
    """A grid that begins and ends where an activation does."""
    if act in ("relu", "relu6"):
        grid = replace(grid, low=max(grid.low, 0))
    return replace(grid, high=min(grid.high, round(6 / grid.scale))) if act == "relu6" else grid


def _spread(weight: Packed, rounding: Rounding, output: Rounding | None, most: int) -> Packed:
    """Let codes count in larger units, the largest being at most ``most``, if the bias needs finer
    ones. Two products with weights of up to 64 cannot saturate 16 bits."""
    top = max(1, int(weight.codes.abs().max()))
    unit = 2 ** int(math.log2(max(1, most // top)))
    coarse = output is not None and bool((weight.scale * rounding.scale).max() > output.scale / 16)
    return replace(weight, unit=unit, scale=weight.scale / unit) if coarse else weight


@dataclass(frozen=True)
class Step(Generic[Layer]):
    """One node of a network that is ready to run, batch norm folded.

    Attributes:
        name, op, inputs: As of :class:`apq.space.graph.Node`.
        layer: The convolution (a linear layer is a 1x1 one); None for a node without weights.
        grid: Grid of the output's integers; None: real numbers.
        act: As of the node; grids end where it does.
        window: Kernel and stride of a ``maxpool``.
        operation: The operation of a ``torch`` node.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    layer: Layer | None = None
    grid: Rounding | None = None
    act: str = ""
    window: tuple[int, int] = (1, 1)
    operation: Operation | None = None


@dataclass(frozen=True, eq=False)
class Operation:
    """The operation of a node of kind ``torch``, in floating point.

    Attributes:
        call, args: As of the node.
        held: The tensors it owns.
    """

    call: str
    args: str
    held: tuple[Tensor, ...]


def operation_of(network: nn.Module, node: Node) -> Operation | None:
    """The operation of a node of kind ``torch``; None for all others."""
    if node.op != "torch":
        return None
    module = network.get_submodule(node.name) if node.held else None
    held = module.tensors() if isinstance(module, TorchCall) else []
    return Operation(node.call, node.args, tuple(tensor.detach() for tensor in held))


def window(node: Node) -> tuple[int, int]:
    """Kernel and stride of a ``maxpool``, else (1, 1)."""
    return (number(node.kernel), both(node.stride)[0]) if node.op == "maxpool" else (1, 1)


@torch.no_grad()
def run(steps: Sequence[Step[IntegerLayer]], images: Tensor) -> Tensor:
    """Logits ``(n, classes)`` of normalised images ``(n, c, h, w)``."""
    grids = {step.name: step.grid for step in steps}
    flat: set[str] = set()  # what torch has without pixels, and integers with one

    def apply(step: Step[IntegerLayer], *inputs: Tensor) -> Tensor:
        out = compute(step, *inputs)
        if step.op in ("pool", "linear") or (step.op != "torch" and flat & {*step.inputs[:1]}):
            flat.add(step.name)
        return out

    def compute(step: Step[IntegerLayer], *inputs: Tensor) -> Tensor:
        if step.operation is not None:
            given = []
            for name, x in zip(step.inputs, inputs, strict=True):
                grid = grids[name]
                assert grid is not None
                real = x * torch.tensor(grid.scale, dtype=torch.float32)
                given.append(real.flatten(1) if name in flat else real)
            out = run_call(step.operation.call, step.operation.args, given, step.operation.held)
            if step.grid is None:
                return out
            if out.dim() == 2:
                flat.add(step.name)
                out = out[:, :, None, None]
            return step.grid.codes(out)
        if step.layer is not None:
            grid = grids[step.inputs[0]]
            assert grid is not None
            return step.layer.run(regrid(inputs[0], grid, step.layer.rounding))
        here, to = [grids[name] for name in step.inputs], step.grid
        assert to is not None
        known = [grid for grid in here if grid is not None]
        if step.op == "pool":
            return mean(inputs[0], known[0], to)
        if step.op == "maxpool":
            return max_pool(regrid(inputs[0], known[0], to), *step.window)
        if step.op == "act":
            real = inputs[0] * torch.tensor(known[0].scale, dtype=torch.float32)
            return to.codes(ACTIVATIONS[step.act]()(real))
        if step.op == "scale":
            product = inputs[0] * inputs[1]
            return (
                product.mul_(scale_factor(known[0], known[1], to)).round_().clamp_(to.low, to.high)
            )
        assert all(grid.scale == to.scale for grid in known)  # joined tensors share a stream
        joined = torch.cat(inputs, 1) if step.op == "concat" else sum(inputs[1:], inputs[0])
        return joined.clamp(to.low, to.high)

    grid = steps[0].grid
    assert grid is not None
    out: Tensor = walk(steps, grid.codes(images), apply)
    return out.flatten(1) if out.shape[2:].numel() == 1 else out


def mean(codes: Tensor, grid: Rounding, to: Rounding) -> Tensor:
    """Mean over height and width, ``(n, c, 1, 1)``: an exact sum and one multiplication."""
    total = codes.sum(dim=(2, 3), keepdim=True)
    return total.mul_(mean_factor(grid, to, codes[0, 0].numel())).round_().clamp_(to.low, to.high)


def scale_factor(x: Rounding, factor: Rounding, to: Rounding) -> Tensor:
    """Factor from a product of two integers to steps of the result's grid, float32 scalar, as
    integer kernels compute it (ONNX QLinearMul)."""
    a, b, c = (torch.tensor(g.scale, dtype=torch.float32) for g in (x, factor, to))
    return a * b / c


def mean_factor(grid: Rounding, to: Rounding, pixels: int) -> Tensor:
    """Factor from a sum over the pixels to steps of the mean's grid, float32 scalar."""
    scales = (torch.tensor(s, dtype=torch.float32) for s in (grid.scale, to.scale))
    here, there = scales
    return here / (there * pixels)


def fold_gain(packed: Packed, gain: Tensor) -> Packed:
    """Multiply output channels by the gain of batch norm; the codes stay, up to sign.

    Runtimes require positive steps: signs go into the codes, and a channel with a gain of 0 gets
    the smallest positive step.
    """
    codes, scale = packed.codes, packed.scale * gain
    if packed.table is None:
        sign = torch.where(scale < 0, -1, 1).to(codes.dtype)
        codes = codes * sign.reshape(-1, *(1 for _ in codes.shape[1:]))
        scale = scale.abs().clamp_min(torch.finfo(scale.dtype).tiny)
    return replace(packed, codes=codes, scale=scale)
