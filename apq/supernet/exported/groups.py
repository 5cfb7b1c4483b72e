"""Groups of channels that can only be kept or cut together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from apq.space.families.traced import TracedPart
from apq.supernet.exported.program import op_of, place_of


class Run(NamedTuple):
    """Channels of one group in a row: its number, how many, and entries that belong to each."""

    group: int
    channels: int
    each: int = 1


class Frozen(NamedTuple):
    """Why a group keeps its full width, and where that is."""

    reason: str
    where: str


class Groups:
    """A partition of all channels (union-find).

    Attributes:
        step: Per group how many channels must be kept or cut together.
    """

    def __init__(self) -> None:
        self.step: dict[int, int] = {}
        self._parent: list[int] = []
        self._frozen: dict[int, Frozen] = {}

    def new_group(self) -> int:
        """A group of its own."""
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def find(self, group: int) -> int:
        """The group that stands for all that were joined with this one."""
        while self._parent[group] != group:
            self._parent[group] = self._parent[self._parent[group]]
            group = self._parent[group]
        return group

    def frozen(self, group: int) -> Frozen | None:
        """Why a group cannot be cut, or None."""
        top = self.find(group)
        return next((why for g, why in self._frozen.items() if self.find(g) == top), None)

    def together(self, group: int) -> int:
        """How many channels of a group are kept or cut at once."""
        top = self.find(group)
        return math.lcm(*(n for g, n in self.step.items() if self.find(g) == top))

    def freeze(self, runs: Iterable[Run], node: Any, reason: str) -> None:
        """Keep all channels, because of an operation or, if None, of what the network is."""
        for run in runs:
            where = "" if node is None else place_of(node)
            self._frozen.setdefault(run.group, Frozen(reason, where))

    def join(self, several: Sequence[tuple[Run, ...]], node: Any) -> bool:
        """Tie runs together that lie over each other; if they do not match, keep them all."""
        shapes = {tuple((run.channels, run.each) for run in runs) for runs in several}
        if len(shapes) > 1:
            reason = f"{op_of(node)} of channels that are made up differently"
            self.freeze(itertools.chain(*several), node, reason)
            return False
        for runs in several[1:]:
            for a, b in zip(several[0], runs, strict=True):
                low, high = sorted((self.find(a.group), self.find(b.group)))
                self._parent[high] = low
        return True


def parts_of(runs: tuple[Run, ...], gene: Callable[[int], str]) -> tuple[TracedPart, ...]:
    """Runs with the names of genes; none if all are fixed."""
    found = tuple(TracedPart(run.channels, gene(run.group), run.each) for run in runs)
    return found if any(part.group for part in found) else ()
