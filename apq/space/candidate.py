"""A candidate: one sub-network, described by its active blocks only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from apq.errors import SpaceError
from apq.files import check
from apq.space.formats import Choice, code_of


@dataclass(frozen=True)
class Bits:
    """Number formats of one block: (pointwise, depthwise) x (weights, activations).

    Plain widths are ints, others names (:mod:`apq.space.formats`).
    """

    pw_w: Choice = 8
    pw_a: Choice = 8
    dw_w: Choice = 8
    dw_a: Choice = 8

    @property
    def codes(self) -> tuple[int, int, int, int]:
        """Codes of the formats.

        Raises:
            SpaceError: a format is unknown.
        """
        return code_of(self.pw_w), code_of(self.pw_a), code_of(self.dw_w), code_of(self.dw_a)

    def __str__(self) -> str:
        """The four, as in ``8/8/ternary/4``."""
        return f"{self.pw_w}/{self.pw_a}/{self.dw_w}/{self.dw_a}"


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
            SpaceError: the data does not describe a candidate.
        """
        from apq.space.schema import CandidateTable

        return check(data, CandidateTable, "the candidate", SpaceError).build()

    def __str__(self) -> str:
        """One line: per block kernel, width and its four formats, as in ``k3w16b8/8/ternary/4``."""
        return " | ".join(
            " ".join(f"k{b.kernel}w{b.width}b{b.bits}" for b in stage) for stage in self.stages
        )
