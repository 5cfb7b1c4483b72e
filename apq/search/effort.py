"""Search effort: algorithm, candidates and options, to give baselines the same."""

from __future__ import annotations

from dataclasses import dataclass

from apq.search.options import Options
from apq.search.problem import Problem
from apq.search.record import OnBatch, OnProgress
from apq.search.search import Result, search


@dataclass(frozen=True)
class Effort:
    """The effort of a search.

    Attributes:
        algorithm, candidates, seed, options, on_progress: As in :func:`apq.search.search.search`.
    """

    algorithm: str = "nsga2"
    candidates: int | None = None
    seed: int = 0
    options: Options | None = None
    on_progress: OnProgress | None = None

    def search(
        self, problem: Problem, candidates: int | None = None, on_batch: OnBatch | None = None
    ) -> Result:
        """Search a problem with this effort, or with another number of candidates."""
        return search(
            problem, self.algorithm, candidates or self.candidates, self.seed, self.options,
            on_progress=self.on_progress, on_batch=on_batch,
        )  # fmt: skip
