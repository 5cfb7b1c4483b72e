"""FLightNN: each filter a sum of up to two powers of two, their number learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from apq.quantize.base import Packed, require_bits
from apq.quantize.levels import few_level_activations, power_of_two
from apq.quantize.ranges import require_finite


class _Flight(torch.autograd.Function):
    """Q(w_i) = sum_j on_j R(r_j), r_0 = w_i, r_(j+1) = r_j - on_j R(r_j), on_j = |r_j| > t_j."""

    @staticmethod
    def forward(
        ctx: Any, w: Tensor, thresholds: Tensor, lowest: int, highest: int, temperature: float
    ) -> Tensor:
        rest, out = w, torch.zeros_like(w)
        terms, margins = [], []
        for threshold in thresholds:
            norm = rest.norm(dim=1)
            term = power_of_two(rest, lowest, highest)
            on = (norm > threshold).to(w.dtype)[:, None]
            out = out + on * term
            rest = rest - on * term
            terms.append(term)
            margins.append(norm - threshold)
        ctx.save_for_backward(*terms, *margins)
        ctx.temperature = temperature
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        saved = ctx.saved_tensors
        terms, margins = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        slopes = []
        for term, margin in zip(terms, margins, strict=True):
            gate = torch.sigmoid(margin / ctx.temperature)
            slope = gate * (1 - gate) / ctx.temperature
            slopes.append(-((grads[0] * term).sum(1) * slope).sum())
        return grads[0], torch.stack(slopes), None, None, None


def flight(
    w: Tensor, thresholds: Tensor, lowest: int, highest: int, temperature: float = 1.0
) -> Tensor:
    """Quantize filters to sums of powers of two.

    Gradients: to ``w`` straight through; to a threshold through the sigmoid of
    ``(norm - threshold) / temperature`` in place of the step (Ding et al., DAC 2019,
    arXiv:1904.02835; the path through later residuals is left out).

    Args:
        w: Filters, ``(out, fan_in)``.
        thresholds: One per term, ``(k,)``, compared with the norm of what is left of a filter.
        lowest, highest: Exponents of the powers; smaller magnitudes become 0.
        temperature: Temperature of the sigmoid.
    """
    out: Tensor = _Flight.apply(w, thresholds, lowest, highest, temperature)  # type: ignore[no-untyped-call]
    return out


def residual_norms(w: Tensor, thresholds: Tensor, lowest: int, highest: int) -> list[Tensor]:
    """Norms of what each term starts from, ``(out,)`` each, with gradients: the group lasso."""
    norms, rest = [], w
    for threshold in thresholds.detach():
        norm = rest.norm(dim=1)
        norms.append(norm)
        on = (norm > threshold).to(w.dtype)[:, None]
        rest = rest - on * power_of_two(rest.detach(), lowest, highest)
    return norms


def sums(terms: int, lowest: int) -> Tensor:
    """All sums of up to ``terms`` (1 or 2) signed powers from ``2^lowest`` to 1, for scale 1."""
    powers = 2.0 ** torch.arange(lowest, 1)
    one = torch.cat([-powers, torch.zeros(1), powers])
    return one if terms == 1 else torch.unique(one[:, None] + one[None])


class FlightWeights(nn.Module):
    """Weights as sums of powers of two times a power-of-two scale per layer.

    Attributes:
        thresholds: Trained, one per possible term; 0 at first, so every filter uses all terms.
        scale: The layer's largest magnitude rounded up to a power of two.
    """

    scale: Tensor

    def __init__(
        self, weight: Tensor, terms: int, lowest: int, strengths: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.terms, self.lowest, self.strengths = terms, lowest, strengths
        self.bits = 4 * terms
        self.thresholds = nn.Parameter(torch.zeros(terms, dtype=weight.dtype))
        self.register_buffer("scale", self._scale(weight.detach()))

    @staticmethod
    def _scale(weight: Tensor) -> Tensor:
        require_finite(weight, "weights")
        top = weight.abs().max()
        scale = torch.exp2(torch.log2(top.clamp_min(1e-30)).round())
        return torch.where(top > 1e-30, scale, torch.ones_like(scale))

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Set the scale from ``weight``."""
        self.scale.copy_(self._scale(weight.detach()))

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.reshape(len(weight), -1) / self.scale

    def forward(self, weight: Tensor) -> Tensor:
        """Rounded weights, same shape."""
        rows = self._rows(weight)
        # Norms grow with the fan-in: divided by its root, thresholds mean the same in all layers.
        limits = self.thresholds * rows.shape[1] ** 0.5
        return (flight(rows, limits, self.lowest, 0) * self.scale).reshape(weight.shape)

    def penalty(self, weight: Tensor) -> Tensor:
        """Group lasso on residuals: pushes filters towards fewer terms."""
        limits = self.thresholds * (weight.numel() / len(weight)) ** 0.5
        norms = residual_norms(self._rows(weight), limits, self.lowest, 0)
        parts = [s * n.sum() for s, n in zip(self.strengths, norms, strict=False)]
        return torch.stack(parts).sum()

    @torch.no_grad()
    def terms_used(self, weight: Tensor) -> Tensor:
        """Number of powers of two per filter, ``(out,)``, 0 to ``terms``."""
        rows = self._rows(weight.detach())
        rest, used = rows, torch.zeros(len(rows), dtype=torch.int64)
        for threshold in self.thresholds.detach() * rows.shape[1] ** 0.5:
            term = power_of_two(rest, self.lowest, 0)
            on = rest.norm(dim=1) > threshold
            used += on & (term != 0).any(1)
            rest = rest - on.to(rows.dtype)[:, None] * term
        return used

    def storage_bits(self, weight: Tensor) -> int:
        """Bits on disk: 4 per power of two that a filter has, how many it has in 2 bits per filter
        where they differ, the scales that batch norm leaves, and the table of sums."""
        used = self.terms_used(weight)
        told = 2 * len(used) if bool((used != used[0]).any()) else 0
        codes = 4 * int(used.sum()) * (weight.numel() // len(weight))
        return codes + told + 32 * len(used) + 32 * len(sums(self.terms, self.lowest))

    def _values(self) -> Tensor:
        return sums(self.terms, self.lowest)

    def levels(self) -> Tensor:
        """Values the weights can take, ``(1, levels)`` ascending."""
        return (self._values().sort().values * self.scale)[None]

    @torch.no_grad()
    def pack(self, weight: Tensor) -> Packed:
        """Indices of the sums."""
        values = self._values().sort().values
        normal = self(weight.detach()) / self.scale
        codes = torch.bucketize(normal, (values[1:] + values[:-1]) / 2).to(torch.int16)
        return Packed(codes, self.scale.broadcast_to(len(weight)).clone(), values, self.bits)


@dataclass(frozen=True)
class FlightNN:
    """Sums of up to ``bits / 4`` powers of two per weight: shifts and adds instead of products.

    Attributes:
        lowest: Smallest exponent; a 4-bit code holds a sign and zero or one of ``1 - lowest``
            exponents.
        strengths: Group-lasso factors of the first and second residual; the second makes filters
            content with one term. In 60 steps at a learning rate of 0.005 on CIFAR-10, of 2,528
            filters 0 were content at 1e-4, 22 at 1e-3, 1,099 at 1e-2 and 1,979 at 3e-2.
    """

    lowest: int = -6
    strengths: tuple[float, float] = (0.0, 1e-2)
    name: str = "flightnn"
    weight_bits: tuple[int, ...] = (4, 8)
    activation_bits: tuple[int, ...] = tuple(range(1, 9))
    operand: str = "po2"

    def weights(self, weight: Tensor, bits: int) -> FlightWeights:
        """Quantizer for a weight, fitted to it."""
        require_bits(self, bits, self.weight_bits, "weights")
        return FlightWeights(weight, bits // 4, self.lowest, self.strengths)

    def activations(self, sample: Tensor, bits: int, signed: bool) -> nn.Module:
        """Uniform activations."""
        require_bits(self, bits, self.activation_bits, "activations")
        return few_level_activations(sample, bits, signed)

    def storage_bits(self, weight: Tensor, bits: int) -> int:
        """Before training, when every filter has all its terms; the scale that batch norm leaves,
        and the table of sums that codes index."""
        return weight.numel() * bits + 32 * len(weight) + 32 * len(sums(bits // 4, self.lowest))
