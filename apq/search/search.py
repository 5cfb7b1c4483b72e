"""The one entry: a problem in, a front out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from apq.errors import ApqError, choose
from apq.search import ALGORITHMS, STORED
from apq.search.front import Front, Reference, front_of
from apq.search.problem import GAINS, Problem
from apq.search.record import OnBatch, OnProgress, Point, Record
from apq.search.rows import distinct
from apq.space import Genes


@dataclass(frozen=True, eq=False)
class Result:
    """What a search found.

    Attributes:
        problem: What was asked.
        front: The Pareto set of everything scored, never empty, all within the limits.
        chosen: The row of the front to build: the most accurate within the limits, or the knee
            where nothing is limited.
        candidates: How many were scored.
        curve: Best accuracy and hypervolume over candidates.
        reference: The box in which hypervolume was measured.
        algorithm, seed: How it was searched.
        scoring_seconds: Time spent in predicting and pricing, s.
        notes: What the algorithm has to say, e.g. the fidelity of a surrogate.
        baselines: By name what was tried as hard (:mod:`apq.search.baselines`); None: nothing of
            the kind keeps the budgets.
    """

    problem: Problem
    front: Front
    chosen: int
    candidates: int
    curve: tuple[Point, ...]
    reference: Reference
    algorithm: str
    seed: int
    scoring_seconds: float
    notes: Mapping[str, float]
    baselines: Mapping[str, Result | None] = field(default_factory=dict)


def search(
    problem: Problem,
    algorithm: str = "nsga2",
    candidates: int = 20_000,
    seed: int = 0,
    storage: str | None = None,
    seeds: Genes | None = None,
    on_progress: OnProgress | None = None,
    on_batch: OnBatch | None = None,
) -> Result:
    """Search.

    Args:
        problem: What is searched.
        algorithm: A name in :data:`apq.search.ALGORITHMS`.
        candidates: How many are scored.
        seed: Decides everything random.
        storage: Optuna storage for ``nsga2``: a journal file, ``sqlite:///…``, ``postgresql://…``.
        seeds: Rows to start from, e.g. another budget's front; made feasible first.
        on_progress: Called with done, total and figures about a hundred times.
        on_batch: Receives everything scored, batch by batch.

    Raises:
        ApqError: unknown algorithm, unusable storage, or a storage that the algorithm ignores.
    """
    engine = ALGORITHMS[choose(algorithm, ALGORITHMS, "algorithm")]
    if storage is not None and algorithm not in STORED:
        raise ApqError(
            f"{algorithm} keeps nothing in a storage: leave out --storage, or search with "
            f"{', '.join(STORED)}"
        )
    record = Record(problem, candidates, on_progress, on_batch)
    start = problem.anchors[:0] if seeds is None else _feasible(problem, seeds, seed)
    engine(record, seed, start, storage)
    record.finish()
    assert record.archive.best is not None
    front = front_of(problem, record.archive.best)
    chosen = choose_row(problem, front)
    return Result(
        problem,
        front,
        chosen,
        record.done,
        tuple(record.curve),
        record.reference,
        algorithm,
        seed,
        record.scoring_seconds,
        record.notes,
    )


def choose_row(problem: Problem, front: Front) -> int:
    """The front's row to build: best in the first objective that is to be maximised if costs are
    limited, else the knee."""
    for i, name in enumerate(problem.objectives):
        if name in GAINS and (problem.limits or len(problem.objectives) == 1):
            return int(front.values[:, i].argmin())
    return front.knee()


def _feasible(problem: Problem, rows: Genes, seed: int) -> Genes:
    """Rows snapped to what is permitted and pulled within the limits, distinct."""
    rng = np.random.default_rng([seed, 1])
    rows = problem.region.snap(rows)
    fallback = problem.anchors[rng.integers(len(problem.anchors), size=len(rows))]
    return distinct(problem.cheapen(rows, fallback, rng))
