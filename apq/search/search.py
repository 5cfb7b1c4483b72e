"""Search a problem and return its front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from apq.cost import Cost, Stopwatch
from apq.errors import ApqError, choose
from apq.hardware.pricing import PricedSpace
from apq.search import ALGORITHMS
from apq.search.front import Front, Reference, front_of, reference
from apq.search.many import default_cost
from apq.search.options import Options
from apq.search.problem import GAINS, Accuracy, Problem, Scored
from apq.search.record import OnBatch, OnProgress, Point, Record
from apq.search.rows import distinct
from apq.search.tolerance import LOCAL_SEARCH, narrow, require_accurate
from apq.space import Candidate, Genes


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a search.

    Attributes:
        problem: The problem that was searched.
        front: The Pareto set of everything scored, never empty, all within the limits.
        chosen: The row of the front to build: the most accurate within the limits, the cheapest
            that is accurate enough, or, without limits, the knee.
        candidates: Number of candidates scored.
        curve: Best accuracy and hypervolume over candidates.
        reference: The box in which hypervolume was measured.
        algorithm, seed: Algorithm and random seed.
        cost: Cost of the search itself (time, memory).
        scoring_seconds: Time spent in predicting and pricing, s.
        sources: For each source of candidates (:data:`apq.search.problem.SOURCES`), how many were
            scored and how many are on the front.
        notes: Results particular to the algorithm, e.g. the fidelity of a surrogate.
        baselines: Baselines with the same effort, by name (:mod:`apq.search.baselines`); None: no
            such network is within the limits.
        scored: Everything that was scored, if it was kept (random search, for plots).
        bound: An upper bound of the best prediction within the limits, if requested, as
            :meth:`apq.bound.Bound.to_dict` returns it.
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
    scored: Scored | None = None
    bound: Mapping[str, float] | None = None

    @property
    def candidate(self) -> Candidate:
        """The chosen candidate."""
        return self.front.candidate(self.chosen)

    @property
    def accuracy(self) -> float:
        """Its predicted accuracy, a fraction."""
        return float(self.front.accuracy[self.chosen])

    @property
    def spread(self) -> float:
        """The spread of its predicted accuracy, a fraction."""
        return float(self.front.spread[self.chosen])

    @property
    def costs(self) -> dict[str, float]:
        """Its costs by metric, e.g. ``latency_ms``."""
        return {metric: float(cost[self.chosen]) for metric, cost in self.front.costs.items()}

    @property
    def within_limits(self) -> bool:
        """Whether the chosen candidate is within the problem's limits and accurate enough."""
        if self.problem.least is not None and not self._accurate:
            return False
        return bool(self.problem.feasible(self.front.genes[[self.chosen]])[0])

    @property
    def _accurate(self) -> bool:
        return bool(self.problem.accurate(self.front.values[[self.chosen]])[0])

    @property
    def strongest(self) -> str | None:
        """Name of the baseline within the limits whose chosen candidate is best in the first
        objective, or cheapest if a smallest accuracy is required; None: there is none."""
        found = {n: r for n, r in self.baselines.items() if r is not None and r.within_limits}
        decides = 0 if self.problem.least is None else self.problem.cost_column
        value = {n: float(r.front.values[r.chosen, decides]) for n, r in found.items()}
        return min(value, key=lambda name: value[name], default=None)


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
    """Search a problem.

    Args:
        problem: The problem.
        algorithm: A name in :data:`apq.search.ALGORITHMS`.
        candidates: Number of candidates to score; None: the algorithm's default.
        seed: Random seed.
        options: Settings of the algorithm.
        seeds: Rows to start from, e.g. another budget's front; made feasible first.
        on_progress: Called with done, total and figures about a hundred times.
        on_batch: Receives everything scored, batch by batch.

    Raises:
        ApqError: unknown algorithm, unusable storage, an option that the algorithm does not take,
            or no candidate within the limits was found.
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
    if problem.least is None:
        method.engine(record, seed, start, options)
    else:
        if "local_search" in method.options and options.local_search is None:
            options = replace(options, local_search=LOCAL_SEARCH)
        narrow(record, method.engine, seed, start, options)
    record.finish()
    if record.archive.best is None:
        raise ApqError(
            f"none of the {record.done:,} candidates that {algorithm} scored keeps the budgets; "
            "nsga2 and evolution repair theirs"
        )
    front = front_of(problem, record.archive.best)
    chosen = choose_row(problem, front)
    if problem.least is not None:
        require_accurate(problem, front)
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


def result_of(problem: Problem, best: Scored, candidates: int, algorithm: str, seed: int) -> Result:
    """A result from scored rows that do not come from a single search.

    Args:
        problem: The problem that they solve.
        best: The rows of the front.
        candidates: Number of candidates scored to find them.
        algorithm, seed: Algorithm and random seed.
    """
    front, box = front_of(problem, best), reference(problem)
    end = Point(candidates, float(front.accuracy.max()), box.hypervolume(front.values))
    return Result(
        problem, front, choose_row(problem, front), candidates, (end,), box, algorithm, seed,
        Stopwatch().cost(), 0.0, {}, {},
    )  # fmt: skip


def search_front(
    priced: PricedSpace,
    accuracy: Accuracy,
    limits: Mapping[str, float] | None = None,
    *,
    objectives: tuple[str, ...] = (),
    fix: tuple[str, ...] = (),
    caution: float = 0.0,
    with_margin: bool = False,
    least: float | None = None,
    algorithm: str = "nsga2",
    candidates: int | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Result:
    """Find the best candidates of a priced space within limits: a Pareto front, and one chosen.

    Args:
        priced: The space and its prices, from :func:`apq.hardware.pricing.price_space`.
        accuracy: From genes ``(n, axes)`` to predicted accuracies and their spreads, fractions,
            ``(n,)`` each: a predictor's ``predict``, or any other function.
        limits: Largest allowed value per cost, in the unit that its name ends in. Every candidate
            of the front is within them.
        objectives: ``"accuracy"`` and costs. Default: accuracy and the first limited cost; without
            limits latency on the first device, or else BitOps.
        fix: Choices to keep to, as in ``("bits=8", "b03_kernel=3")``.
        caution: k in accuracy = mean - k x spread.
        with_margin: Tighten limits by the known error of measured tables, so that they hold on
            the device.
        least: Smallest accuracy, a fraction: choose the cheapest candidate that reaches it, by the
            first cost of the objectives, instead of the most accurate.
        algorithm: A name in :data:`apq.search.ALGORITHMS`.
        candidates: Number of candidates to score; None: 20,000, or what the algorithm needs.
        seed: Random seed.
        on_progress: Called with done, total and figures about a hundred times.

    Returns:
        The front, and the chosen candidate with its predicted accuracy and its costs: the most
        accurate one, or, without limits, the knee of the front.

    Raises:
        BudgetError: no candidate of the space is within the limits (the message says what can be
            reached), or none that is accurate enough was found.
        ApqError: a cost, objective, gene or algorithm that does not exist.

    Example:
        >>> import apq
        >>> space = apq.load_space("digits")
        >>> table = apq.build_table(space, apq.load_cost_model("bitfusion-apq"))
        >>> priced = apq.price_space(space, table)
        >>> predictor = apq.load_predictor("digits/predictor.safetensors", space)
        >>> found = apq.search_front(
        ...     priced, predictor.predict, {"latency_ms": 0.02}, candidates=500
        ... )
        >>> 0 < found.costs["latency_ms"] <= 0.02
        True
        >>> len(found.front) == len(found.front.accuracy)  # a prediction per candidate
        True
    """
    for metric in limits or {}:
        choose(metric, priced.metrics, "cost")
    limits = priced.with_margin(limits or {}) if with_margin else dict(limits or {})
    traded = objectives or ("accuracy", next(iter(limits), None) or default_cost(priced))
    problem = Problem(priced, accuracy, traded, limits, fix, caution, least=least)
    return search(problem, algorithm, candidates, seed, on_progress=on_progress)


def choose_row(problem: Problem, front: Front) -> int:
    """The front's row to build: with a smallest accuracy, the cheapest that reaches it (if none
    does, the most accurate); with limits, the best in the first maximised objective; otherwise
    the knee."""
    if problem.least is not None:
        enough = np.flatnonzero(problem.accurate(front.values))
        if len(enough):
            return int(enough[front.values[enough, problem.cost_column].argmin()])
        return int(front.values[:, problem.objectives.index("accuracy")].argmin())
    for i, name in enumerate(problem.objectives):
        if name in GAINS and (problem.limits or len(problem.objectives) == 1):
            return int(front.values[:, i].argmin())
    return front.knee()


def _feasible(problem: Problem, rows: Genes, seed: int) -> Genes:
    """Distinct rows, moved to the nearest permitted choices and within the limits."""
    rng = np.random.default_rng([seed, 1])
    rows = problem.space.snap(rows)
    fallback = problem.anchors[rng.integers(len(problem.anchors), size=len(rows))]
    return distinct(problem.cheapen(rows, fallback, rng))
