"""Quantized layers as a device computes them: integers in, exact integer sums, one multiplication.

Rounding makes a network discontinuous: a sum that differs in its last bit may round to another
level, and the logits move by percents. Float convolutions add in an order that depends on the
library, the number of threads and the batch, so two correct implementations of the same quantized
network disagree on many images. Sums of integer codes below 2**24 are exact in float32 in any
order. Evaluation and export therefore use this form, and agree to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from apq.quantize.base import Packed

EXACT = 2**24
"""Integers up to here have float32 representations of their own."""


@dataclass(frozen=True)
class Rounding:
    """Rounding of a layer's input to integers ``low .. high`` times ``scale``.

    ``low == -1`` with ``bits == 1`` is the sign, with sign(0) = 1.
    """

    scale: float
    low: int
    high: int
    bits: int

    def codes(self, x: Tensor) -> Tensor:
        """Integers in float, same shape."""
        if self.bits == 1 and self.low < 0:
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        scale = torch.tensor(self.scale, dtype=x.dtype)
        return x.div(scale).round_().clamp_(self.low, self.high)


IMAGE = Rounding(1 / 256, -(2**15) + 1, 2**15 - 1, 16)
"""Normalised images in steps of 1/256 of a standard deviation, finer than the pixels themselves."""


@dataclass(frozen=True)
class IntegerLayer:
    """A convolution (a linear layer is a 1x1 one) with batch norm, bias and rounding folded in.

    Attributes:
        weight: Codes, with scales that include the gain of batch norm.
        bias: ``(out,)``.
        rounding: Of the input.
        stride, padding, groups: Of the convolution.
        relu6: Whether the output is clamped to 0..6.
    """

    weight: Packed
    bias: Tensor
    rounding: Rounding
    stride: int = 1
    padding: int = 0
    groups: int = 1
    relu6: bool = False

    @cached_property
    def multiplier(self) -> Tensor:
        """What a sum of codes is worth, ``(out,)``."""
        return self.weight.scale * torch.tensor(self.rounding.scale, dtype=torch.float32)

    @property
    def largest_sum(self) -> float:
        """Bound on the magnitude of any partial sum; below ``EXACT`` the order cannot matter."""
        values = self.weight.values().abs().flatten(1).sum(dim=1).max()
        return float(values) * max(-self.rounding.low, self.rounding.high)

    def run(self, x: Tensor) -> Tensor:
        """``(n, in, h, w) -> (n, out, h', w')``."""
        codes, weight = self.rounding.codes(x), self.weight.values()
        y = F.conv2d(codes, weight, None, self.stride, self.padding, 1, self.groups)
        y = y.mul_(self.multiplier.view(1, -1, 1, 1)).add_(self.bias.view(1, -1, 1, 1))
        return y.clamp_(0, 6) if self.relu6 else y


def fold_gain(packed: Packed, gain: Tensor) -> Packed:
    """Multiply output channels by the gain of batch norm; the codes stay, up to sign.

    Runtimes want positive steps: signs go into the codes, and a channel that batch norm switched
    off keeps the smallest one.
    """
    codes, scale = packed.codes, packed.scale * gain
    if packed.table is None:
        sign = torch.where(scale < 0, -1, 1).to(codes.dtype)
        codes = codes * sign.reshape(-1, *(1 for _ in codes.shape[1:]))
        scale = scale.abs().clamp_min(torch.finfo(scale.dtype).tiny)
    return Packed(codes, scale, packed.table, packed.bits)


def exact_mean(x: Tensor) -> Tensor:
    """Mean over height and width, summed in float64: the order of summation leaves no trace."""
    return x.double().mean(dim=(2, 3)).to(x.dtype)
