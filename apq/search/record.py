"""What a search keeps while it runs: the archive, the count, the curve; memory stays flat."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from apq.search.front import Archive, Reference, reference
from apq.search.problem import Problem, Scored
from apq.space import Genes

OnProgress = Callable[[int, int, Mapping[str, float]], None]
OnBatch = Callable[[Scored], None]

CHUNK = 2_000
"""Most candidates scored together; bounds memory."""


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
        self.scoring_seconds = 0.0
        self.reference: Reference = reference(problem)
        self._on_progress = on_progress
        self._on_batch = on_batch
        self._next_point = 0

    @property
    def left(self) -> int:
        """How many more may be scored."""
        return self.candidates - self.done

    def score(self, genes: Genes) -> Scored:
        """Score rows (no more than are left) and take them in."""
        from apq.search.problem import join

        genes = genes[: max(self.left, 0)]
        start = time.perf_counter()
        parts = [
            self.problem.evaluate(genes[i : i + CHUNK]) for i in range(0, max(len(genes), 1), CHUNK)
        ]
        self.scoring_seconds += time.perf_counter() - start
        batch = join(*parts)
        self.take(batch)
        self.done += len(batch.genes)
        if self.done >= self._next_point or self.left <= 0:
            self._point()
        return batch

    def take(self, batch: Scored) -> None:
        """Take in candidates scored elsewhere, without counting them."""
        if len(batch.genes):
            self.archive.add(batch)
            if self._on_batch is not None:
                self._on_batch(batch)

    def _point(self) -> None:
        best = self.archive.best
        assert best is not None
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
