"""The one entry: a problem in, a front out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from apq.cost import Cost, Stopwatch
from apq.errors import ApqError, choose
from apq.search import ALGORITHMS
from apq.search.front import Front, Reference, front_of
from apq.search.options import Options
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
        cost: Of the search.
        scoring_seconds: Time spent in predicting and pricing, s.
        sources: By where candidates came from (:data:`apq.search.problem.SOURCES`), how many were
            scored and how many are on the front.
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
    cost: Cost
    scoring_seconds: float
    sources: Mapping[str, Mapping[str, int]]
    notes: Mapping[str, float]
    baselines: Mapping[str, Result | None] = field(default_factory=dict)


def search(
    problem: Problem,
    algorithm: str = "nsga2",
    candidates: int | None = None,
    seed: int = 0,
    options: Options | None = None,
    seeds: Genes | None = None,
    on_progress: OnProgress | None = None,
    on_batch: OnBatch | None = None,
) -> Result:
    """Search.

    Args:
        problem: What is searched.
        algorithm: A name in :data:`apq.search.ALGORITHMS`.
        candidates: How many are scored; None: what the algorithm scores by itself.
        seed: Decides everything random.
        options: Settings of the algorithm.
        seeds: Rows to start from, e.g. another budget's front; made feasible first.
        on_progress: Called with done, total and figures about a hundred times.
        on_batch: Receives everything scored, batch by batch.

    Raises:
        ApqError: unknown algorithm, unusable storage, an option that the algorithm does not take,
            or nothing that keeps the budgets was found.
    """
    method = ALGORITHMS[choose(algorithm, ALGORITHMS, "algorithm")]
    options = options or Options()
    for name in options.given():
        if name not in method.options:
            others = [other for other, m in ALGORITHMS.items() if name in m.options]
            raise ApqError(
                f"{algorithm} has no use for --{name.replace('_', '-')}: leave it out, or search "
                f"with {', '.join(others)}"
            )
    watch = Stopwatch()
    record = Record(problem, candidates or method.candidates, on_progress, on_batch)
    start = problem.anchors[:0] if seeds is None else _feasible(problem, seeds, seed)
    method.engine(record, seed, start, options)
    record.finish()
    if record.archive.best is None:
        raise ApqError(
            f"none of the {record.done:,} candidates that {algorithm} scored keeps the budgets; "
            "nsga2 and evolution repair theirs"
        )
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
        watch.cost(),
        record.scoring_seconds,
        record.shares(),
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
    rows = problem.space.snap(rows)
    fallback = problem.anchors[rng.integers(len(problem.anchors), size=len(rows))]
    return distinct(problem.cheapen(rows, fallback, rng))
