"""Search problems: objectives and limits over a priced space, and repair of infeasible rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError, BudgetError, choose
from apq.hardware.pricing import PricedSpace
from apq.search.integer_program import cheapest_within, check_together
from apq.search.region import fixed, rounded_up, within
from apq.space import Genes, Space

GAINS = ("accuracy", "score")
"""Objectives that are maximised; all others are costs."""

SOURCES = ("given", "random", "variation", "warm start", "local search", "program")
"""Sources of candidates: rows given to a search (another budget's front, a stored study), random
feasible draws, crossover and mutation, the additive model of the warm start, local search, and the
integer program."""

Floats = NDArray[np.float64]
Accuracy = Callable[[Genes], tuple[Floats, Floats]]
"""Maps genes ``(n, axes)`` to mean accuracy (fraction) and its spread, ``(n,)`` each."""


@dataclass(frozen=True)
class Forgiving:
    """AutoQKeras' score (arXiv 2006.10159): accuracy x (1 + delta), where

    delta = p/100 · log_rate(stress · reference / cost), p = ``smaller`` if the cost is below
    stress · reference, else ``larger``. With p = 8, rate = 2, halving the cost forgives 8 % of
    the accuracy.

    Attributes:
        metric: The cost, e.g. ``"bitops_g"``.
        reference: Its value for the reference model, in the metric's unit.
        smaller, larger: Tolerated relative accuracy loss in percent, per side.
        rate: The factor of cost reduction that earns that loss.
        stress: Scales the reference.

    Raises:
        ApqError: a number is outside its range.
    """

    metric: str
    reference: float
    smaller: float = 8.0
    larger: float = 8.0
    rate: float = 2.0
    stress: float = 1.0

    def __post_init__(self) -> None:
        numbers = (self.reference, self.smaller, self.larger, self.rate, self.stress)
        if not all(map(math.isfinite, numbers)):
            raise ApqError(f"the numbers of a score must be finite, got {numbers}")
        if self.reference <= 0 or self.stress <= 0 or self.rate <= 0 or self.rate == 1:
            raise ApqError(
                "a score needs a reference and a stress above 0, and a rate above 0 other than 1; "
                f"got {self.reference:g}, {self.stress:g} and {self.rate:g}"
            )

    def factor(self, cost: Floats) -> Floats:
        """1 + delta for costs of shape ``(n,)``."""
        target = self.stress * self.reference
        percent = np.where(cost < target, self.smaller, self.larger)
        out: Floats = 1 + percent / 100 * np.log(target / cost) / math.log(self.rate)
        return out


@dataclass(frozen=True, eq=False)
class Scored:
    """Scored candidates.

    Attributes:
        genes: ``(n, axes)``.
        accuracy, spread: Prediction and its spread, fractions, ``(n,)``.
        costs: The problem's costs (:attr:`Problem.metrics`), each ``(n,)``.
        values: Objectives to be minimised, ``(n, objectives)``.
        source: Index into :data:`SOURCES`, ``(n,)``.
        times: When scoring began and ended, seconds since 1970, ``(n, 2)``; rows of one batch
            share its time evenly.
    """

    genes: Genes
    accuracy: Floats
    spread: Floats
    costs: Mapping[str, Floats]
    values: Floats
    source: NDArray[np.int8]
    times: Floats

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Scored:
        """The given rows."""
        costs = {metric: cost[rows] for metric, cost in self.costs.items()}
        return Scored(
            self.genes[rows],
            self.accuracy[rows],
            self.spread[rows],
            costs,
            self.values[rows],
            self.source[rows],
            self.times[rows],
        )


def join(*parts: Scored) -> Scored:
    """Rows of several batches, in order."""
    return Scored(
        np.concatenate([p.genes for p in parts]),
        np.concatenate([p.accuracy for p in parts]),
        np.concatenate([p.spread for p in parts]),
        {m: np.concatenate([p.costs[m] for p in parts]) for m in parts[0].costs},
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.source for p in parts]),
        np.concatenate([p.times for p in parts]),
    )


@dataclass(frozen=True, eq=False)
class Problem:
    """A search problem. Its limits are checked exactly when it is created, so it has a solution.

    Attributes:
        priced: The space and its prices.
        accuracy: Predicts accuracy; called with hundreds of candidates at a time.
        objectives: Any of ``accuracy`` (maximised), ``score`` (maximised, needs ``forgiving``)
            and the priced costs (minimised).
        limits: Largest allowed value per cost.
        fix: Restrictions of genes, see :func:`apq.search.region.fixed`.
        caution: k in accuracy = mean - k · spread.
        forgiving: Definition of ``score``.
        least: Smallest allowed accuracy, a fraction: the cheapest candidate that reaches it is
            wanted (:mod:`apq.search.tolerance`). None: the most accurate within the limits is.
        made_from: Names and hashes of the predictor and other sources, for the run's files.

    Raises:
        BudgetError: a limit is negative, not a number, or below what can be reached.
        ApqError: an objective, a metric or a fixed gene does not exist, or the caution is not
            finite.
    """

    priced: PricedSpace
    accuracy: Accuracy
    objectives: tuple[str, ...] = ("accuracy", "latency_ms")
    limits: Mapping[str, float] = field(default_factory=dict)
    fix: tuple[str, ...] = ()
    caution: float = 0.0
    forgiving: Forgiving | None = None
    made_from: Mapping[str, str] = field(default_factory=dict)
    least: float | None = None

    def __post_init__(self) -> None:
        known = ["accuracy", *(["score"] if self.forgiving else []), *self.priced.metrics]
        if not math.isfinite(self.caution):
            raise ApqError(f"the caution must be a finite number, got {self.caution}")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ApqError(f"objectives must be distinct and at least one, got {self.objectives}")
        for name in self.objectives:
            choose(name, known, "objective")
        if self.forgiving:
            choose(self.forgiving.metric, self.priced.metrics, "cost")
        if self.least is not None and (
            "accuracy" not in self.objectives or not self.costs_minimised
        ):
            raise ApqError(
                "a smallest accuracy needs accuracy and a cost as objectives, not "
                + ", ".join(self.objectives)
            )
        check_limits(self.searched, self.limits)

    @cached_property
    def searched(self) -> PricedSpace:
        """The space restricted by ``fix``, with its prices."""
        return fixed(self.priced, self.fix)

    @property
    def space(self) -> Space:
        """The space restricted by ``fix``."""
        return self.searched.space

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Costs that the problem uses: objectives, limits, and the score's."""
        names = [o for o in self.objectives if o not in GAINS]
        names += list(self.limits)
        if self.forgiving and "score" in self.objectives:
            names.append(self.forgiving.metric)
        return tuple(dict.fromkeys(names))

    @property
    def costs_minimised(self) -> tuple[str, ...]:
        """The objectives that are costs."""
        return tuple(o for o in self.objectives if o not in GAINS)

    @property
    def cost_column(self) -> int:
        """Column of the first cost among the objectives."""
        return self.objectives.index(self.costs_minimised[0])

    def accurate(self, values: Floats) -> NDArray[np.bool_]:
        """Which rows of objectives, ``(n, objectives)``, are accurate enough, ``(n,)``."""
        least = -math.inf if self.least is None else self.least
        enough: NDArray[np.bool_] = -values[:, self.objectives.index("accuracy")] >= least
        return enough

    def feasible(self, genes: Genes) -> NDArray[np.bool_]:
        """Which rows are within every limit, ``(n,)``."""
        ok = within(self.priced.costs(genes, self.limits), self.limits)
        return np.broadcast_to(ok, len(genes)).copy()

    def evaluate(self, genes: Genes, source: str = "given") -> Scored:
        """Predict and price rows from ``source`` (one of :data:`SOURCES`).

        Raises:
            ApqError: the predictor returned a value that is not finite.
        """
        begun = time.time()
        answer = self.accuracy(genes) if len(genes) else (np.empty(0), np.empty(0))
        mean, spread = (np.asarray(a, dtype=np.float64) for a in answer)
        if not (np.isfinite(mean).all() and np.isfinite(spread).all()):
            raise ApqError("the predictor answered NaN or infinity for a candidate")
        return self.scored(genes, mean, spread, source, begun)

    def scored(
        self,
        genes: Genes,
        mean: Floats,
        spread: Floats,
        source: str = "given",
        begun: float | None = None,
    ) -> Scored:
        """Price rows whose accuracy and its spread are known, ``(n,)`` each; scoring them began at
        ``begun`` (seconds since 1970, default: now)."""
        begun = time.time() if begun is None else begun
        costs = self.priced.costs(genes, self.metrics)
        columns = []
        for name in self.objectives:
            if name == "accuracy":
                columns.append(self.caution * spread - mean)
            elif name == "score":
                assert self.forgiving is not None
                factor = self.forgiving.factor(costs[self.forgiving.metric])
                columns.append((self.caution * spread - mean) * factor)
            else:
                columns.append(costs[name])
        marks = np.linspace(begun, time.time(), len(genes) + 1)
        return Scored(
            genes,
            mean,
            spread,
            costs,
            np.stack(columns, axis=1),
            np.full(len(genes), SOURCES.index(source), dtype=np.int8),
            np.stack([marks[:-1], marks[1:]], axis=1),
        )

    @cached_property
    def anchors(self) -> Genes:
        """At least one feasible row, found exactly; infeasible rows are repaired towards it."""
        metrics = dict.fromkeys([*self.limits, *self.metrics]) or self.priced.metrics[:1]
        rows = np.concatenate([self.searched.extreme(metric)[1] for metric in metrics])
        rows = rows[self.feasible(rows)]
        if not len(rows):
            row = cheapest_within(self.searched, next(iter(self.limits)), self.limits)
            assert row is not None  # check_limits has passed
            rows = row
        return np.unique(rows, axis=0)

    @cached_property
    def cheap(self) -> Genes:
        """For each limit, the cheapest block of every slot, skipped or not, and the smallest
        depths."""
        rows = [self.searched.extreme(metric, canonical=False)[1] for metric in self.limits]
        return np.concatenate(rows) if rows else self.anchors

    def cheapen(
        self, genes: Genes, fallback: Genes, rng: np.random.Generator, revert: float = 0.0
    ) -> Genes:
        """Make rows feasible by moving some genes part of the way to the cheapest choice, so that
        the expensive gene that made a row infeasible can stay (ours).

        Args:
            genes: Permitted rows, ``(n, axes)``.
            fallback: Feasible rows, returned where that does not suffice.
            rng: Draws the genes and how far they move.
            revert: Share of the rows that take genes of their fallback instead.
        """
        bad = np.flatnonzero(~self.feasible(genes))
        if not len(bad):
            return genes
        out, genes, fallback = genes.copy(), genes[bad], fallback[bad]
        cheap = self.cheap[rng.integers(len(self.cheap), size=len(genes))]
        part = rng.random(genes.shape, dtype=np.float32)
        toward = cheap + np.rint((genes - cheap) * part).astype(np.int16)
        back = rng.random((len(genes), 1)) < revert
        toward = np.where(back, fallback, self.space.snap(toward, canonical=False))
        out[bad] = self.pull(genes, toward, fallback, rng)
        return out

    def pull(
        self,
        genes: Genes,
        toward: Genes,
        fallback: Genes,
        rng: np.random.Generator,
        halvings: int = 6,
    ) -> Genes:
        """Make rows feasible by giving them genes of other rows (ours).

        Genes are taken over in random order, as few as a bisection finds necessary. The time per
        row does not depend on how tight the limits are, and nothing is redrawn.

        Args:
            genes: Permitted rows, ``(n, axes)``.
            toward: Rows to take genes from, ``(n, axes)``.
            fallback: Feasible rows, returned where all genes of ``toward`` do not suffice.
            rng: Draws the order.
            halvings: Steps of the bisection.
        """
        bad = np.flatnonzero(~self.feasible(genes))
        if not len(bad):
            return genes
        child, anchor = genes[bad], toward[bad]
        order = rng.random(child.shape, dtype=np.float32)
        low, high = np.zeros(len(bad), dtype=np.float32), np.ones(len(bad), dtype=np.float32)
        best = fallback[bad]
        last = self.space.snap(anchor)
        ok = self.feasible(last)
        best[ok] = last[ok]
        for _ in range(halvings):
            middle = (low + high) / 2
            trial = self.space.snap(np.where(order < middle[:, None], anchor, child))
            ok = self.feasible(trial)
            best[ok] = trial[ok]
            high, low = np.where(ok, middle, high), np.where(ok, low, middle)
        out = genes.copy()
        out[bad] = best
        return out

    def sample(self, count: int, rng: np.random.Generator) -> Genes:
        """Random feasible rows: uniform ones, repaired towards a known feasible row if needed."""
        genes = self.space.snap(self.space.draw(count, rng))
        return self._pull_down(genes, rng)

    def _pull_down(self, genes: Genes, rng: np.random.Generator) -> Genes:
        anchors = self.anchors[rng.integers(len(self.anchors), size=len(genes))]
        return self.pull(genes, anchors, anchors, rng)

    def spread_sample(self, count: int, rng: np.random.Generator) -> Genes:
        """Feasible rows spread from cheap to rich, the first generation of the engines (ours).

        Uniform genes crowd around the middle of every cost. Here each row takes a random share of
        its genes from the cheapest or from the richest candidate instead.
        """
        genes = self.space.snap(self.space.draw(count, rng))
        rich = np.array([max(a) for a in self.space.allowed], dtype=np.int16)
        ends = np.concatenate([self.anchors, self.space.snap(rich[None])])
        share = rng.random((count, 1)) ** 0.5
        taken = rng.random(genes.shape) < share
        ends = ends[rng.integers(len(ends), size=count)]
        genes = self.space.snap(np.where(taken, ends, genes))
        return self._pull_down(genes, rng)


def require_reachable(
    priced: PricedSpace, budgets: Sequence[Mapping[str, float]], fix: Sequence[str] = ()
) -> None:
    """Refuse budgets that nothing meets, each a mapping of limits (:func:`check_limits`)."""
    searched = fixed(priced, fix)
    for limits in budgets:
        check_limits(searched, limits)


def check_limits(priced: PricedSpace, limits: Mapping[str, float]) -> None:
    """Raise unless some permitted candidate is within all limits; exact, without sampling.

    Raises:
        BudgetError: no candidate is; names the limit and the range that can be reached.
        ApqError: there is no such cost.
    """
    for metric, limit in limits.items():
        choose(metric, priced.metrics, "cost")
        low, high = priced.extreme(metric)[0], priced.extreme(metric, largest=True)[0]
        reach = f"reachable with these choices: {rounded_up(low)} … {rounded_up(high)}"
        if not math.isfinite(limit) or limit <= 0:
            raise BudgetError(f"{metric} must be a positive number, got {limit}; {reach}")
        if not within({metric: np.array([low])}, {metric: limit}).all():
            raise BudgetError(
                f"no candidate of space {priced.space.name!r} has {metric} <= {limit:g}; {reach}"
            )
    if len(limits) > 1:
        rows = np.concatenate([priced.extreme(metric)[1] for metric in limits])
        costs = priced.costs(rows, limits)
        if not within(costs, limits).any():
            check_together(priced, limits)
