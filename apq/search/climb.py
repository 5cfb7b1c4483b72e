"""Steps by exact optimisation of a local additive model (ours).

Around a candidate every single-gene change is scored, which gives an additive model of the value;
the knapsack of that model under the budget is solved, and its optimum is the next candidate if it
is truly better. Costs are additive exactly and accuracy nearly so, hence a few steps lead from
anywhere to candidates that plain evolution of the same length does not find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq.search.front import Archive
from apq.search.knapsack import BINS, minimise_for_budgets
from apq.search.problem import Floats, Problem, Scored, join
from apq.search.program import Additive
from apq.search.record import Record
from apq.search.surrogate import fit_additive, local_model, neighbours
from apq.search.variation import children
from apq.space import Genes

WARINESS = (0.02, 0.1, 0.0)
"""What a changed gene costs in the model, in standard deviations of the value over the
neighbours: far steps trust the model, short ones stay where it is right. Tried in order until one
helps."""

NEARBY = np.linspace(0.8, 0.99, 12)
"""Smaller budgets at which a model's optima are looked at too, as shares of the aimed-at one."""

SKETCHES, SKETCHED = 4, 60
"""Rounds of a sketch, and budgets it solves in each."""

ENOUGH = 60_000
"""Candidates from which a front gains from the full share of climbs (measured)."""

ELITE = 4
"""How many of the best results are crossed to start again."""

PRICES = (3.0, 10.0, 30.0)
"""With further limits: what using one of them up costs in the model, in the same unit."""


@dataclass(frozen=True, eq=False)
class Aim:
    """What a climb minimises, and under which budget.

    Attributes:
        weights: Of the problem's objectives in minimised form, ``(objectives,)``.
        metric: The additive cost that is budgeted.
        budget: Its largest value.
    """

    weights: Floats
    metric: str
    budget: float

    def value(self, scored: Scored) -> Floats:
        """The scalar to be minimised, ``(n,)``."""
        value: Floats = scored.values @ self.weights
        return value

    def meets(self, problem: Problem, genes: Genes) -> NDArray[np.bool_]:
        """Which rows keep the budget and the problem's limits, ``(n,)``."""
        cost = problem.priced.costs(genes, [self.metric])[self.metric]
        met: NDArray[np.bool_] = (cost <= self.budget) & problem.feasible(genes)
        return met


def climb(record: Record, row: Genes, aim: Aim, most: int = 30) -> tuple[Genes, Scored | None]:
    """Improve a row, shape ``(axes,)``, until no step helps or nothing is left to score.

    The start may be over the budget; then the first step leads under it.

    Returns:
        The last row, and the non-dominated feasible ones of all that was scored on the way.
    """
    problem, now, best = record.problem, np.inf, Archive()
    if aim.meets(problem, row[None])[0]:
        now = float(aim.value(problem.evaluate(row[None]))[0])
    for _ in range(most):
        around = neighbours(problem.region, row)
        if record.left <= len(around.rows):
            break
        scored = record.score(around.rows)
        best.add_feasible(scored, problem.limits)
        value = aim.value(scored)
        unit = float(value.std())
        for wary in WARINESS:
            model = local_model(problem.region, around, value, wary * unit)
            rows = _optima(problem, aim, model, unit)
            if not len(rows) or record.left <= 0:
                continue
            tried = record.score(rows)
            best.add_feasible(tried, problem.limits)
            worth = np.where(aim.meets(problem, tried.genes), aim.value(tried), np.inf)
            first = int(worth.argmin())
            if worth[first] < now - 1e-7:
                now, row = float(worth[first]), tried.genes[first]
                break
        else:
            break  # no model's optimum is better: a local optimum
    return row, best.best


def _optima(problem: Problem, aim: Aim, model: Additive, unit: float) -> Genes:
    """Optima of a model under the budget, within all limits."""
    priced = problem.priced
    if "peak_memory_kb" in problem.limits:  # a maximum: what exceeds it anywhere is out
        over = [t > problem.limits["peak_memory_kb"] for t in priced.tables["peak_memory_kb"]]
        blocks = [np.where(o, 1e9, b) for o, b in zip(over, model.blocks, strict=True)]
        model = Additive(blocks, model.depths)
    models = [model]
    others = [m for m in problem.limits if m not in (aim.metric, "peak_memory_kb")]
    if others:
        load = [
            np.sum([priced.tables[m][slot.index] / problem.limits[m] for m in others], axis=0)
            for slot in priced.space.slots
        ]
        for price in PRICES:
            dear = [b + price * unit * x for b, x in zip(model.blocks, load, strict=True)]
            models.append(Additive(dear, model.depths))
    # rounding to bins may carry a row over the budget: the last few bins are asked for
    width = (aim.budget - priced.fixed[aim.metric]) / BINS
    budgets: Floats = aim.budget - width * np.arange(4, dtype=np.float64)
    if len(problem.objectives) > 1:  # neighbouring points of the front come for free
        budgets = np.concatenate([budgets, aim.budget * NEARBY])
    rows = [
        minimise_for_budgets(problem.region, m, aim.metric, aim.budget, budgets) for m in models
    ]
    distinct: Genes = np.unique(np.concatenate(rows), axis=0)
    kept: Genes = distinct[aim.meets(problem, distinct)]
    return kept


def aims(problem: Problem, turn: int, rng: np.random.Generator) -> Aim:
    """The aim of the ``turn``-th climb.

    With costs among the objectives, budgets fill the range between the cheapest candidate and the
    limit evenly (van der Corput's sequence), and every fourth one is the limit itself.
    """
    names = problem.objectives
    weights = np.array([1.0 if name in ("accuracy", "score") else 0.0 for name in names])
    traded = [m for m in problem.costs_minimised if m != "peak_memory_kb"]
    limited = [m for m in problem.limits if m != "peak_memory_kb"]
    metric = (traded or limited or [problem.priced.metrics[0]])[0]
    if len(traded or limited) > 1:
        metric = str(rng.choice(traded or limited))
    low, high = (problem.region.extreme(metric, largest=end)[0] for end in (False, True))
    high = min(high, problem.limits.get(metric, high))
    if not weights.any():
        weights = rng.dirichlet(np.ones(len(names)))
    elif len(problem.costs_minimised) > 1:
        for i, name in enumerate(names):
            if name in problem.costs_minimised and name != metric:
                span = np.ptp([problem.region.extreme(name, largest=e)[0] for e in (False, True)])
                weights[i] = 10 ** rng.uniform(-3, -1) / max(float(span), 1e-12)
    if not traded or turn % 4 == 0:
        return Aim(weights, metric, high)
    return Aim(weights, metric, low + (high - low) * _even(turn - turn // 4))


def _even(index: int) -> float:
    """Van der Corput's sequence in base 2: 1/2, 1/4, 3/4, 1/8 …"""
    out, step = 0.0, 0.5
    while index:
        out += step * (index % 2)
        index, step = index // 2, step / 2
    return out


class Climber:
    """Climbs now and then while another engine runs.

    Starts are random at first (or given), then crosses: with one objective of the best results so
    far, with several of the archive's members nearest to the aimed-at budget.

    Args:
        record: Scores candidates.
        starts: Rows to start from before random ones.
        share: Part of all candidates that climbs may use; less if there are several objectives
            and fewer than ``ENOUGH`` candidates, since each climb refines one point of the front.
    """

    def __init__(self, record: Record, starts: Genes, share: float) -> None:
        if len(record.problem.objectives) > 1:
            share *= min(1.0, record.candidates / ENOUGH)
        self.record, self.share = record, share
        self.starts = list(starts[:ELITE])
        self.found: list[Genes] = []
        self.turn = 0
        self.scored = 0

    def run(self, rng: np.random.Generator) -> Scored | None:
        """One climb if its turn has come: what it found that nothing else it scored dominates."""
        record = self.record
        if record.left < 2 or self.scored >= self.share * (record.done + 1):
            return None
        aim = aims(record.problem, self.turn, rng)
        before = record.done
        row, found = climb(record, self._start(aim, rng), aim)
        self.found.append(row)
        self.turn += 1
        self.scored += record.done - before
        if record.done == before:
            self.share = 0.0  # too little is left for another step
        return found

    def _start(self, aim: Aim, rng: np.random.Generator) -> Genes:
        problem, best = self.record.problem, self.record.archive.best
        start: Genes
        if self.starts:
            start = self.starts.pop(0)
            return start
        if self.turn < ELITE or best is None:
            start = problem.sample(1, rng)[0]
            return start
        if len(problem.objectives) == 1:
            pool = np.unique(np.stack(self.found), axis=0)
            order = aim.value(problem.evaluate(pool)).argsort(kind="stable")
        else:
            pool = best.genes
            cost = problem.priced.costs(pool, [aim.metric])[aim.metric]
            order = np.abs(cost - aim.budget).argsort(kind="stable")
        pool = pool[order[:ELITE]]
        pair = rng.permutation(len(pool))[[0, -1]]
        mixed = children(problem, pool[pair[:1]], pool[pair[1:]], rng, 1.0, mutations=6.0)
        start = mixed[0]
        return start


def sketch(record: Record, rng: np.random.Generator) -> Scored:
    """A first, rough front from few candidates: fit an additive model to a spread sample, solve
    it for all budgets at once, sample around the answers, and again.

    Returns:
        Everything it scored.
    """
    problem = record.problem
    region = problem.region
    size = max(20, min(600, record.candidates // 10))
    sample = record.score(record.unseen(problem.spread_sample(size, rng)))
    for turn in range(SKETCHES):
        if record.left <= size or not len(sample.genes):
            break
        aim = aims(problem, 0, rng)
        low = region.extreme(aim.metric)[0]
        budgets = np.linspace(low, aim.budget, SKETCHED + 1)
        values = aim.value(sample)
        model = fit_additive(problem.priced.space, sample.genes[-4000:], values[-4000:])
        rows = minimise_for_budgets(region, model, aim.metric, aim.budget, budgets)
        fallback = problem.anchors[rng.integers(len(problem.anchors), size=len(rows))]
        rows = record.unseen(problem.cheapen(rows, fallback, rng))
        parents = record.archive.best.genes if record.archive.best is not None else rows
        if len(rows):
            sample = join(sample, record.score(rows))
            parents = np.concatenate([rows, parents])
        if turn < SKETCHES - 1:
            pairs = parents[rng.integers(len(parents), size=(2, size // 2))]
            near = children(problem, pairs[0], pairs[1], rng, 0.5, mutations=4.0)
            sample = join(sample, record.score(record.unseen(near)))
    return sample
