"""What a search keeps while it runs: the archive, the count, the curve; memory stays flat."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from apq.search.front import Archive, Reference, reference
from apq.search.problem import Problem, Scored, join
from apq.space import Genes

OnProgress = Callable[[int, int, Mapping[str, float]], None]
OnBatch = Callable[[Scored], None]

STALE = 30
"""Generations in a row with hardly anything new after which a search ends early."""

CHUNK = 2_000
"""Most candidates scored together; bounds memory."""


@lru_cache(maxsize=16)
def _weights(axes: int) -> NDArray[np.uint64]:
    rng = np.random.default_rng(0)
    return rng.integers(2**63, size=axes, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def row_keys(genes: Genes) -> NDArray[np.uint64]:
    """A 64-bit hash per row, ``(n,)``; equal rows have equal keys."""
    keys: NDArray[np.uint64] = (genes.astype(np.uint64) + np.uint64(1)) @ _weights(genes.shape[1])
    return keys


@dataclass(frozen=True)
class Point:
    """One point of a search's curve: candidates scored so far, best accuracy, hypervolume."""

    candidates: int
    accuracy: float
    hypervolume: float


class Record:
    """Scores candidates for an engine and remembers what matters.

    Args:
        problem: Scores and prices.
        candidates: How many an engine may score in all.
        on_progress: Called about a hundred times.
        on_batch: Receives everything scored, batch by batch.
    """

    def __init__(
        self,
        problem: Problem,
        candidates: int,
        on_progress: OnProgress | None = None,
        on_batch: OnBatch | None = None,
    ) -> None:
        self.problem = problem
        self.candidates = candidates
        self.archive = Archive()
        self.curve: list[Point] = []
        self.done = 0
        self.notes: dict[str, float] = {}
        self.scoring_seconds = 0.0
        self.reference: Reference = reference(problem)
        self._on_progress = on_progress
        self._on_batch = on_batch
        self._next_point = 0
        self._stale = 0
        self._seen = np.zeros(1 << 21, dtype=np.uint64)

    @property
    def left(self) -> int:
        """How many more may be scored; 0 once nothing new turns up, as in a tiny space."""
        return self.candidates - self.done if self._stale < STALE else 0

    def score(self, genes: Genes) -> Scored:
        """Score rows (no more than are left). All are counted and handed to ``on_batch``; those
        within the limits enter the archive."""
        genes = genes[: max(self.left, 0)]
        start = time.perf_counter()
        parts = [
            self.problem.evaluate(genes[i : i + CHUNK]) for i in range(0, max(len(genes), 1), CHUNK)
        ]
        self.scoring_seconds += time.perf_counter() - start
        batch = join(*parts)
        if self._on_batch is not None:
            self._on_batch(batch)
        self.take(batch)
        self.done += len(batch.genes)
        if self.done >= self._next_point or self.left <= 0:
            self._point()
        return batch

    def unseen(self, genes: Genes) -> Genes:
        """The rows that have not passed here before, each once.

        Remembers rows by 64-bit hashes in a table of fixed size, so memory stays flat; a row that
        was pushed out may pass again.
        """
        keys = row_keys(genes)
        _, first = np.unique(keys, return_index=True)
        order = np.sort(first)
        keys = keys[order]
        place = (keys >> np.uint64(43)).astype(np.int64)
        new = self._seen[place] != keys
        self._seen[place] = keys
        self._stale = 0 if new.sum() > 0.05 * len(new) else self._stale + 1
        fresh: Genes = genes[order[new]]
        return fresh

    def take(self, batch: Scored) -> None:
        """Take candidates within the limits into the archive, without counting them."""
        self.archive.add_feasible(batch, self.problem.limits)

    def _point(self) -> None:
        best = self.archive.best
        if best is None:
            return
        point = Point(
            self.done, float(best.accuracy.max()), self.reference.hypervolume(best.values)
        )
        self.curve.append(point)
        self._next_point = self.done + max(1, self.candidates // 100)
        if self._on_progress is not None:
            figures = {"accuracy": point.accuracy}
            if best.values.shape[1] > 1:
                figures["hypervolume"] = point.hypervolume
            self._on_progress(self.done, self.candidates, figures)
