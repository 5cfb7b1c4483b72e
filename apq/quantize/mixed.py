"""A scheme per bitwidth, e.g. ``1=binary,2=ternary``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from apq.quantize.base import Scheme, require_bits


@dataclass(frozen=True)
class Mixed:
    """Chooses the scheme of a candidate's plain widths by their bits. They are still priced as
    integers; a space that offers the schemes by name has the schemes' prices.

    Attributes:
        by_bits: Scheme of weights, by bits.
        rest: Scheme of all other weights, and of activations except at 1 bit.
    """

    by_bits: tuple[tuple[int, Scheme], ...]
    rest: Scheme
    name: str = "mixed"
    operand: str = "fixed"

    @property
    def weight_bits(self) -> tuple[int, ...]:
        """Bitwidths that one of the schemes offers."""
        return tuple(sorted({*(bits for bits, _ in self.by_bits), *self.rest.weight_bits}))

    @property
    def activation_bits(self) -> tuple[int, ...]:
        """Bitwidths activations may have."""
        return tuple(sorted({b for s in self._all() for b in s.activation_bits}))

    def _all(self) -> tuple[Scheme, ...]:
        return (self.rest, *(scheme for _, scheme in self.by_bits))

    def _of(self, bits: int) -> Scheme:
        return dict(self.by_bits).get(bits, self.rest)

    def weights(self, weight: Tensor, bits: int) -> nn.Module:
        """Quantizer for a weight, fitted to it."""
        require_bits(self, bits, self.weight_bits, "weights")
        return self._of(bits).weights(weight, bits)

    def activations(self, sample: Tensor, bits: int, signed: bool) -> nn.Module:
        """Quantizer for activations, of the first scheme that offers the bits."""
        require_bits(self, bits, self.activation_bits, "activations")
        offers = next(s for s in self._all() if bits in s.activation_bits)
        return offers.activations(sample, bits, signed)

    def storage_bits(self, weight: Tensor, bits: int) -> int:
        """As the weight's scheme counts."""
        return self._of(bits).storage_bits(weight, bits)
