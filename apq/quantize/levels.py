"""Few levels: binary, modified binary, ternary, powers of two, fixed point.

The five schemes of the AutoQKeras patent (WO2021247737A1; Coelho et al., arXiv:2006.10159), each
with a scale per output channel, fitted or the nearest power of two, or a constant exponent. Values
follow QKeras' quantizers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from apq.errors import choose
from apq.quantize.base import Packed, require_bits
from apq.quantize.functions import grid
from apq.quantize.integer import Rounding
from apq.quantize.ranges import require_finite
from apq.quantize.uniform import UniformActivations

# ---- the levels, for scale 1 -------------------------------------------------------------------


def binary(x: Tensor) -> Tensor:
    """-1 or 1; the sign of 0 is 1."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def binary01(x: Tensor) -> Tensor:
    """0 or 1; 0 gives 1."""
    return (x >= 0).to(x.dtype)


def ternary(x: Tensor, threshold: float = 0.5) -> Tensor:
    """-1, 0 or 1; 0 where ``|x| < threshold`` (QKeras without a fitted scale: 0.33)."""
    return torch.sign(x) * (x.abs() >= threshold).to(x.dtype)


def fixed_point(
    x: Tensor, bits: int, integer: int, signed: bool = True, narrow: bool = False
) -> Tensor:
    """Sign and mantissa: multiples of a power of two.

    Signed: ``-2^integer .. 2^integer - step``, step ``2^(integer - bits + 1)``, ``narrow`` leaves
    the lowest level out, one bit is the sign; unsigned: ``0 .. 2^integer - step``, step
    ``2^(integer - bits)``. Rounds half to even.
    """
    if signed and bits == 1:
        return binary(x)
    step = 2.0 ** (integer - bits + int(signed))
    high = 2 ** (bits - int(signed)) - 1
    low = 0 if not signed else -high if narrow else -high - 1
    return x.div(step).round_().clamp_(low, high).mul_(step)


def power_of_two(x: Tensor, lowest: int, highest: int, zero: bool = True) -> Tensor:
    """Sign and exponent: ``±2^e`` with ``lowest <= e <= highest``; rounds in the log domain.

    With ``zero``, magnitudes below ``2^(lowest - 1/2)`` become 0 (ours: pruned weights stay
    pruned); without, they become ``±2^lowest`` (QKeras), 0 counting as positive.
    """
    size = x.abs()
    exponent = torch.log2(size.clamp_min(1e-30)).round_().clamp_(lowest, highest)
    out = binary(x) * torch.exp2(exponent)
    return torch.where(size < 2.0 ** (lowest - 0.5), torch.zeros_like(x), out) if zero else out


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, slope: Tensor | None) -> Tensor:
        ctx.save_for_backward(slope)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (grads[0] if slope is None else grads[0] * slope), None, None


def straight_through(x: Tensor, values: Tensor, slope: Tensor | None = None) -> Tensor:
    """``values`` in the forward pass; the gradient goes to ``x``, times ``slope`` if given."""
    out: Tensor = _Straight.apply(x, values, slope)  # type: ignore[no-untyped-call]
    return out


# ---- scales per row, least squares for given codes -----------------------------------------------


def _least_squares(rows: Tensor, codes: Tensor) -> Tensor:
    return (rows * codes).sum(1) / (codes * codes).sum(1).clamp_min(1e-7)


def nearest_power(scale: Tensor) -> Tensor:
    """The power of two nearest in the log domain; 0 stays 0."""
    power = torch.exp2(torch.log2(scale.clamp_min(1e-30)).round())
    return torch.where(scale > 1e-30, power, torch.zeros_like(scale))


def binary_scale(rows: Tensor, power: bool = False) -> Tensor:
    """Mean magnitude (XNOR-Net, arXiv:1603.05279); ``power`` rounds it to a power of two."""
    scale = _least_squares(rows, binary(rows))
    return nearest_power(scale) if power else scale


def binary01_scale(rows: Tensor) -> Tensor:
    """Mean of the values that become 1."""
    return _least_squares(rows, binary01(rows))


def ternary_scale(rows: Tensor, power: bool = False, rounds: int = 5) -> Tensor:
    """Alternates codes and least squares from two thirds of the largest magnitude (QKeras).

    ``power`` rounds the scale to a power of two every time.
    """
    return _alternate(rows, ternary_codes, power, rounds)


def _alternate(
    rows: Tensor, codes: Callable[[Tensor], Tensor], power: bool = False, rounds: int = 5
) -> Tensor:
    scale = 2 * rows.abs().amax(1) / 3
    for i in range(rounds + 1):
        if i:
            scale = _least_squares(rows, codes(rows / scale.clamp_min(1e-30)[:, None]))
        if power:
            scale = nearest_power(scale)
    return scale


def ternary_codes(x: Tensor) -> Tensor:
    """The nearest of -1, 0, 1."""
    return x.round().clamp(-1, 1)


def binary01_codes(x: Tensor) -> Tensor:
    """The nearer of 0 and 1. Unlike :func:`binary01`, which makes 0 into 1, it leaves what is
    rounded already as it is."""
    return x.round().clamp(0, 1)


def _best_exponent(rows: Tensor, levels: Callable[[Tensor], Tensor], tries: int = 8) -> Tensor:
    """Power of two with the least squared error per row, from the one above the maximum down."""
    top = rows.abs().amax(1)
    highest = torch.exp2(torch.log2(top.clamp_min(1e-30)).ceil())
    best, best_error = highest.clone(), torch.full_like(top, torch.inf)
    for i in range(tries):
        scale = highest * 2.0**-i
        error = (levels(rows / scale[:, None]) * scale[:, None] - rows).square().sum(1)
        better = error < best_error
        best, best_error = torch.where(better, scale, best), torch.where(better, error, best_error)
    return torch.where(top > 1e-30, best, torch.ones_like(best))


# ---- modules -----------------------------------------------------------------------------------


class LevelWeights(nn.Module):
    """Weights ``levels(w / scale) * scale``, one scale per output channel; straight through.

    Args:
        weight: Fitted to this.
        bits: Bits of one code.
        levels: Map to the scheme's levels for scale 1.
        fit_scale: Scale per row of ``(rows, values)``; the flag asks for powers of two.
        values: All levels for scale 1, ascending.
        rule: As ``Levels.scale``.
        tabled: Whether codes index the levels; else the levels are multiples of ``unit``.
    """

    scale: Tensor

    def __init__(
        self,
        weight: Tensor,
        bits: int,
        levels: Callable[[Tensor], Tensor],
        fit_scale: Callable[[Tensor, bool], Tensor],
        values: Tensor,
        rule: int | str = "fitted",
        tabled: bool = False,
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        self.bits, self.tabled, self.unit, self.rule = bits, tabled, unit, rule
        self._levels, self._fit_scale, self._values = levels, fit_scale, values
        self.register_buffer("scale", self._scale(weight.detach()))

    def _scale(self, weight: Tensor) -> Tensor:
        require_finite(weight, "weights")
        rows = weight.reshape(len(weight), -1)
        if isinstance(self.rule, int):
            scale = torch.full((len(rows),), 2.0**self.rule, dtype=weight.dtype)
        else:
            scale = self._fit_scale(rows, self.rule == "po2")
        return scale.reshape(-1, *(1 for _ in weight.shape[1:]))

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Set the scales from ``weight``."""
        self.scale.copy_(self._scale(weight.detach()))

    def _normal(self, weight: Tensor) -> Tensor:
        """Levels of the weights, for scale 1."""
        return self._levels(weight.detach() / self.scale.clamp_min(1e-30))

    def forward(self, weight: Tensor) -> Tensor:
        """Rounded weights, same shape."""
        return straight_through(weight, self._normal(weight) * self.scale)

    def levels(self) -> Tensor:
        """Values the weights can take, ``(channels, levels)`` ascending."""
        return self._values * self.scale.reshape(-1, 1)

    @torch.no_grad()
    def pack(self, weight: Tensor) -> Packed:
        """Codes to store: indices of the levels, or the integers they are."""
        normal, scale = self._normal(weight), self.scale.reshape(-1)
        if self.tabled:
            middles = (self._values[1:] + self._values[:-1]) / 2
            codes = torch.bucketize(normal, middles)
            return Packed(codes.to(torch.int16), scale.clone(), self._values, self.bits)
        codes = normal.div(self.unit).round()
        return Packed(codes.to(torch.int16), scale * self.unit, None, self.bits)


class StepActivations(nn.Module):
    """Activations on a grid whose step is a power of two and fixed; gradient 1 inside it."""

    step: Tensor

    def __init__(self, sample: Tensor, bits: int, signed: bool) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.low, self.high = grid(bits, signed)
        self.register_buffer("step", self._step(sample.detach()))

    def _step(self, sample: Tensor) -> Tensor:
        require_finite(sample, "activations")
        rows = sample.reshape(1, -1) if self.signed else sample.reshape(1, -1).clamp_min(0)

        def levels(x: Tensor) -> Tensor:
            return x.mul(self.high + 1).round_().clamp_(self.low, self.high).div_(self.high + 1)

        return _best_exponent(rows, levels)[0] / (self.high + 1)

    def rounding(self) -> Rounding:
        """The grid as devices apply it."""
        return Rounding(float(self.step), self.low, self.high, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """Rounded activations, same shape."""
        inside = (x >= self.low * self.step) & (x <= self.high * self.step)
        return straight_through(
            x, self.rounding().codes(x.detach()) * self.step, inside.to(x.dtype)
        )


class SignActivations(nn.Module):
    """Signed activations as ``±scale``; gradient 1 where ``|x| < scale`` (hard tanh)."""

    scale: Tensor

    def __init__(self, sample: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", self._scale(sample.detach()))

    def _scale(self, sample: Tensor) -> Tensor:
        require_finite(sample, "activations")
        mean = sample.abs().mean()
        return torch.where(mean > 1e-30, mean, torch.ones_like(mean))

    def rounding(self) -> Rounding:
        """The sign as devices apply it."""
        return Rounding(float(self.scale), -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``±scale``, same shape."""
        slope = (x.abs() < self.scale).to(x.dtype)
        return straight_through(x, binary(x.detach()) * self.scale, slope)


def few_level_activations(sample: Tensor, bits: int, signed: bool) -> nn.Module:
    """Uniform activations (PACT); at 1 bit the sign if signed, else 0 or the clip."""
    if bits == 1 and signed:
        return SignActivations(sample)
    return UniformActivations(sample, bits, signed)


# ---- schemes -----------------------------------------------------------------------------------

SCALES = ("fitted", "po2")


@dataclass(frozen=True)
class Levels:
    """A scheme of few levels; made by the functions below.

    Attributes:
        scale: ``"fitted"``: one per output channel; ``"po2"``: the same, as powers of two; a whole
            number: the constant ``2^scale``.

    Raises:
        ApqError: the scale is none of these.
    """

    name: str
    weight_bits: tuple[int, ...]
    operand: str
    scale: int | str = "fitted"
    activation_bits: tuple[int, ...] = tuple(range(1, 9))

    def __post_init__(self) -> None:
        if isinstance(self.scale, str):
            choose(self.scale, SCALES, "scale")

    def activations(self, sample: Tensor, bits: int, signed: bool) -> nn.Module:
        """Quantizer for activations, fitted to a sample of them."""
        require_bits(self, bits, self.activation_bits, "activations")
        if self.name == "mantissa" and bits > 1:
            return StepActivations(sample, bits, signed)
        return few_level_activations(sample, bits, signed)

    def weights(self, weight: Tensor, bits: int) -> LevelWeights:
        """Quantizer for a weight, fitted to it."""
        require_bits(self, bits, self.weight_bits, "weights")
        return LevelWeights(weight, bits, rule=self.scale, **_LEVELS[self.name](bits))

    def storage_bits(self, weight: Tensor, bits: int) -> int:
        """Codes, a 32-bit scale per output channel (powers of two would need 8; runtimes take
        floats), and the table that codes of powers index."""
        made = _LEVELS[self.name](bits)
        table = 32 * len(made["values"]) if made.get("tabled") else 0
        return weight.numel() * bits + 32 * len(weight) + table


def _exponent_levels(bits: int) -> dict[str, Any]:
    """Zero and, with the other codes, as many powers of two below 1 as fit."""
    lowest = -(2 ** (bits - 1) - 2)

    def levels(x: Tensor) -> Tensor:
        return power_of_two(x, lowest, 0)

    powers = 2.0 ** torch.arange(lowest, 1)
    values = torch.cat([-powers.flip(0), torch.zeros(1), powers])
    return {
        "levels": levels, "fit_scale": lambda rows, _: _best_exponent(rows, levels, 3),
        "values": values, "tabled": True,
    }  # fmt: skip


def _mantissa_levels(bits: int) -> dict[str, Any]:
    def levels(x: Tensor) -> Tensor:
        return fixed_point(x, bits, 0, narrow=True)

    unit = 2.0 ** (1 - bits)
    low, high = grid(bits, signed=True)
    return {
        "levels": levels, "fit_scale": lambda rows, _: _best_exponent(rows, levels),
        "values": torch.arange(low, high + 1) * unit, "unit": unit,
    }  # fmt: skip


_LEVELS: dict[str, Callable[[int], dict[str, Any]]] = {
    "binary": lambda _: {
        "levels": binary, "fit_scale": binary_scale, "values": torch.tensor([-1.0, 1.0])
    },
    "modified-binary": lambda _: {
        "levels": binary01_codes,
        "fit_scale": lambda rows, power: _alternate(rows, binary01_codes, power),
        "values": torch.tensor([0.0, 1.0])
    },
    "ternary": lambda _: {
        "levels": ternary_codes, "fit_scale": ternary_scale, "values": torch.tensor([-1.0, 0, 1])
    },
    "exponent": _exponent_levels,
    "mantissa": _mantissa_levels,
}  # fmt: skip


def binary_scheme(scale: int | str = "fitted") -> Levels:
    """Weights ``±scale``, 1 bit."""
    return Levels("binary", (1,), "binary", scale)


def modified_binary_scheme(scale: int | str = "fitted") -> Levels:
    """Weights 0 or ``scale``, 1 bit."""
    return Levels("modified-binary", (1,), "binary01", scale)


def ternary_scheme(scale: int | str = "fitted") -> Levels:
    """Weights ``-scale``, 0, ``scale``, 2 bits."""
    return Levels("ternary", (2,), "ternary", scale)


def exponent_scheme(scale: int | str = "fitted") -> Levels:
    """Weights 0 or ``±2^e``: a multiplication is a shift. 2 to 5 bits. A fitted scale is a power
    of two in any case."""
    return Levels("exponent", (2, 3, 4, 5), "po2", scale)


def mantissa_scheme(scale: int | str = "fitted") -> Levels:
    """Fixed point: uniform with steps that are powers of two, for weights and activations; a
    constant scale is that of the weights."""
    return Levels("mantissa", tuple(range(2, 9)), "fixed", scale)
