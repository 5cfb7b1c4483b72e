"""A search's archive, count of candidates and curve, in bounded memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from apq.search.front import Archive, Reference, reference
from apq.search.problem import SOURCES, Problem, Scored, join
from apq.search.rows import first_of_each, row_keys
from apq.space import Genes

OnProgress = Callable[[int, int, Mapping[str, float]], None]
OnBatch = Callable[[Scored], None]

STALE = 30
"""A search ends early after this many consecutive draws with fewer than one new row in twenty: a
tiny space is then exhausted, and an engine that waits for new rows would never end."""

CHUNK = 2_000
"""Most candidates scored in one batch; bounds memory."""


@dataclass(frozen=True)
class Point:
    """One point of a search's curve: candidates scored so far, best accuracy, hypervolume."""

    candidates: int
    accuracy: float
    hypervolume: float


class Record:
    """Scores candidates for an engine and keeps the archive, the count and the curve.

    Args:
        problem: Scores and prices.
        candidates: Number of candidates that an engine may score in total.
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
        self.sources: Counter[str] = Counter()
        self.reference: Reference = reference(problem)
        self._on_progress = on_progress
        self._on_batch = on_batch
        self._next_point = 0
        self._stale = 0
        bits = min(21, max(10, (4 * candidates).bit_length()))
        self._seen, self._shift = np.zeros(1 << bits, dtype=np.uint64), np.uint64(64 - bits)

    @property
    def left(self) -> int:
        """Number of candidates that may still be scored; 0 once a tiny space is exhausted."""
        return self.candidates - self.done if self._stale < STALE else 0

    def score(self, genes: Genes, source: str) -> Scored:
        """Score at most :attr:`left` rows from ``source``, one of
        :data:`apq.search.problem.SOURCES`. All are counted and passed to ``on_batch``; those
        within the limits enter the archive."""
        genes = genes[: max(self.left, 0)]
        start = time.perf_counter()
        parts = [
            self.problem.evaluate(genes[i : i + CHUNK], source)
            for i in range(0, max(len(genes), 1), CHUNK)
        ]
        self.scoring_seconds += time.perf_counter() - start
        batch = join(*parts)
        self.count(batch)
        return batch

    def count(self, batch: Scored) -> None:
        """Count scored candidates and add them to the archive."""
        if self._on_batch is not None:
            self._on_batch(batch)
        self.take(batch)
        self.done += len(batch.genes)
        for name, number in zip(
            SOURCES, np.bincount(batch.source, minlength=len(SOURCES)), strict=True
        ):
            self.sources[name] += int(number)
        if self.done >= self._next_point or self.left <= 0:
            self._point()

    def unseen(self, genes: Genes) -> Genes:
        """The rows that no earlier call returned, without duplicates.

        Rows are remembered as 64-bit hashes in a table of fixed size, so memory is bounded; a row
        whose entry was overwritten may be returned again.
        """
        keys = row_keys(genes)
        order = first_of_each(keys)
        keys = keys[order]
        place = (keys >> self._shift).astype(np.int64)
        new = self._seen[place] != keys
        self._seen[place] = keys
        self._stale = 0 if new.sum() > 0.05 * len(new) else self._stale + 1
        fresh: Genes = genes[order[new]]
        return fresh

    def take(self, batch: Scored) -> None:
        """Add candidates within the limits to the archive, without counting them."""
        self.archive.add_feasible(batch, self.problem.limits)

    def shares(self) -> dict[str, dict[str, int]]:
        """For each source, how many candidates were scored and how many are on the front."""
        best = self.archive.best
        front = Counter() if best is None else Counter(SOURCES[i] for i in best.source)
        return {
            name: {"candidates": self.sources[name], "front": front[name]}
            for name in SOURCES
            if self.sources[name] or front[name]
        }

    def finish(self) -> None:
        """Add the last point of the curve, even if nothing was left to score."""
        if not self.curve or self.curve[-1].candidates < self.done:
            self._point()

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
