"""Uniform quantization: integers times a step. The default scheme, and HAQ's and APQ's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apq.errors import choose
from apq.quantize.base import Packed, require_bits
from apq.quantize.functions import clip_to_grid, grid, learn_step, round_to_grid
from apq.quantize.integer import Rounding
from apq.quantize.ranges import kl_clip, max_clip, mse_clip, require_finite

WEIGHT_RANGES = ("auto", "mse", "max", "kl")
ACTIVATION_RULES = ("pact", "lsq", "pact-kl")


class UniformWeights(nn.Module):
    """Weights on a narrow signed grid, one step per output channel (or per layer: KL).

    Attributes:
        scale: Step, ``(out, 1, …)``; a buffer, or a parameter when it is learned (LSQ).
    """

    def __init__(
        self, weight: Tensor, bits: int, ranges: str = "auto", learned: bool = False
    ) -> None:
        super().__init__()
        self.bits, self.ranges, self.learned = bits, ranges, learned
        self.low, self.high = grid(bits, signed=True)
        scale = self._scale(weight.detach())
        if learned:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    def _scale(self, weight: Tensor) -> Tensor:
        require_finite(weight, "weights")
        rows = weight.reshape(len(weight), -1)
        if self.ranges == "kl":
            rows = rows.reshape(1, -1)
        if self.ranges == "kl" and self.bits < 5:
            clip = weight.new_tensor([kl_clip(rows.cpu().numpy(), self.bits)])
        elif self.ranges == "mse" or (self.ranges == "auto" and self.bits < 5):
            clip = mse_clip(rows, self.bits)
        else:
            clip = max_clip(rows)
        step = torch.where(clip > 1e-30, clip / self.high, torch.ones_like(clip))
        return step.reshape(-1, *(1 for _ in weight.shape[1:]))

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Set the step from ``weight`` by the scheme's rule."""
        self.scale.copy_(self._scale(weight.detach()))

    @torch.no_grad()
    def pack(self, weight: Tensor) -> Packed:
        """The integers to store, and their step per output channel."""
        codes = weight.div(self.scale).clamp_(self.low, self.high).round_().to(torch.int16)
        scale = self.scale.detach().reshape(-1).broadcast_to(len(weight)).clone()
        return Packed(codes, scale, None, self.bits)

    def levels(self) -> Tensor:
        """Values the weights can take, ``(channels, levels)`` ascending."""
        return torch.arange(self.low, self.high + 1) * self.scale.detach().reshape(-1, 1)

    def forward(self, weight: Tensor) -> Tensor:
        """Rounded weights, same shape."""
        if self.learned:
            factor = 1 / math.sqrt(weight.numel() / self.scale.numel() * self.high)
            return learn_step(weight, self.scale, self.low, self.high, factor)
        return round_to_grid(weight, self.scale, self.low, self.high)


class UniformActivations(nn.Module):
    """Activations on a grid with one trained range for the layer.

    Attributes:
        clip: PACT: the value of the highest level. Trained with its own gradient rule.
        step: LSQ: the distance of levels. Exactly one of the two exists.
    """

    def __init__(
        self, sample: Tensor, bits: int, signed: bool, rule: str = "pact", narrow: bool = True
    ) -> None:
        super().__init__()
        self.bits, self.signed, self.rule = bits, signed, rule
        self.low, self.high = grid(bits, signed, narrow)
        clip = self._clip(sample.detach())
        if rule == "lsq":
            self.step = nn.Parameter(clip / self.high)
        else:
            self.clip = nn.Parameter(clip)

    def _clip(self, sample: Tensor) -> Tensor:
        require_finite(sample, "activations")
        rows = sample.reshape(1, -1)
        if self.rule == "pact-kl":
            clip = max_clip(rows).clamp_max(6.0)
            if self.bits < 5:
                clip = clip.clamp_max(kl_clip(rows.cpu().numpy(), self.bits))
        else:
            rows = rows if self.signed else rows.clamp_min(0)
            clip = mse_clip(rows, self.bits, self.signed)
        return torch.where(clip > 1e-6, clip, torch.ones_like(clip))[0].clone()

    def rounding(self) -> Rounding:
        """The grid as devices apply it."""
        if self.rule == "lsq":
            scale = float(self.step.detach())
        else:
            scale = float(self.clip.detach().clamp_min(1e-6) / self.high)
        return Rounding(scale, self.low, self.high, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """Rounded activations, same shape."""
        if self.rule == "lsq":
            # N of LSQ's gradient scale counts the whole batch (as the sheet's measurements do).
            factor = 1 / math.sqrt(x.numel() * self.high)
            return learn_step(x, self.step, self.low, self.high, factor)
        return clip_to_grid(x, self.clip, self.low, self.high)


@dataclass(frozen=True)
class Uniform:
    """Integers times a step for weights and activations.

    Attributes:
        weight_range: ``"mse"``: least squared error per output channel; ``"max"``: largest
            magnitude per channel; ``"auto"``: max at 5 bits and more, mse below; ``"kl"``: one
            range per layer by HAQ's KL rule below 5 bits, else the largest magnitude.
        activation_rule: ``"pact"``: trained clip that starts at the least squared error; ``"lsq"``:
            trained step, same start; ``"pact-kl"``: trained clip with HAQ's start.
        learn_weight_step: Train the weight steps too (LSQ); pays at 2-3 bits in long tunings.

    Raises:
        ApqError: an option is unknown.
    """

    weight_range: str = "auto"
    activation_rule: str = "pact"
    learn_weight_step: bool = False
    name: str = "uniform"
    weight_bits: tuple[int, ...] = tuple(range(2, 9))
    activation_bits: tuple[int, ...] = tuple(range(2, 9))
    operand: str = "fixed"

    def __post_init__(self) -> None:
        choose(self.weight_range, WEIGHT_RANGES, "weight range")
        choose(self.activation_rule, ACTIVATION_RULES, "activation rule")

    def weights(self, weight: Tensor, bits: int) -> UniformWeights:
        """Quantizer for a weight, fitted to it."""
        require_bits(self, bits, self.weight_bits, "weights")
        return UniformWeights(weight, bits, self.weight_range, self.learn_weight_step)

    def activations(self, sample: Tensor, bits: int, signed: bool) -> UniformActivations:
        """Quantizer for activations, fitted to a sample of them."""
        require_bits(self, bits, self.activation_bits, "activations")
        return UniformActivations(sample, bits, signed, self.activation_rule)

    def storage_bits(self, weight: Tensor, bits: int) -> int:
        """Packed integers and a 32-bit step per output channel (the KL range needs only one)."""
        scales = 1 if self.weight_range == "kl" else len(weight)
        return weight.numel() * bits + 32 * scales
