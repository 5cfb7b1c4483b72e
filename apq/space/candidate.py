"""A candidate: one sub-network, described by its active blocks only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Bits:
    """Bitwidths of one block: (pointwise, depthwise) x (weights, activations)."""

    pw_w: int = 8
    pw_a: int = 8
    dw_w: int = 8
    dw_a: int = 8


@dataclass(frozen=True)
class Block:
    """One inverted residual: depthwise kernel size, hidden channels left after pruning, bits."""

    kernel: int
    width: int
    bits: Bits = Bits()


@dataclass(frozen=True)
class Candidate:
    """A sub-network: input resolution in pixels and, per stage, its blocks.

    A stage's depth is the length of its tuple. Equal candidates are equal subnets.
    """

    resolution: int
    stages: tuple[tuple[Block, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain nested data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """Inverse of :meth:`to_dict`.

        Raises:
            KeyError, TypeError: the data does not describe a candidate.
        """
        stages = tuple(
            tuple(
                Block(
                    int(b["kernel"]),
                    int(b["width"]),
                    Bits(**{k: int(v) for k, v in b["bits"].items()}),
                )
                for b in stage
            )
            for stage in data["stages"]
        )
        return cls(resolution=int(data["resolution"]), stages=stages)

    def __str__(self) -> str:
        """One line: per block ``kernel x width`` and its four bitwidths."""
        return " | ".join(
            " ".join(
                f"k{b.kernel}w{b.width}b{b.bits.pw_w}{b.bits.pw_a}{b.bits.dw_w}{b.bits.dw_a}"
                for b in stage
            )
            for stage in self.stages
        )
