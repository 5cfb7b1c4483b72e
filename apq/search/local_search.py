"""Local search by exact optimisation of a local additive model (ours).

Every single-gene change of a candidate is scored, which gives an additive model of the value. A
knapsack optimises the model within the budget; its optimum becomes the next candidate if the
predictor finds it better. Costs are exactly additive and accuracy nearly so, hence a few steps
reach candidates that evolution alone does not find.
"""

from __future__ import annotations

import numpy as np

from apq.hardware.pricing import PricedSpace
from apq.search.front import Archive
from apq.search.integer_program import Additive
from apq.search.knapsack import BINS, Bound, minimise_for_budgets
from apq.search.problem import Floats, Problem, Scored
from apq.search.record import Record
from apq.search.rows import distinct
from apq.search.scalarisation import Scalarisation, next_scalarisation
from apq.search.surrogate import local_model, neighbours
from apq.search.variation import children
from apq.space import Genes

WARINESS = (0.02, 0.1, 0.0)
"""Penalties per changed gene in the model, in standard deviations of the value over the
neighbours: small ones allow far steps, large ones keep steps short, where the model is accurate.
Tried in order until one helps."""

NEARBY = np.linspace(0.8, 0.99, 12)
"""Smaller budgets at which a model's optima are also scored, as shares of the budget."""

PRICES = (3.0, 10.0, 30.0)
"""With further limits: penalty in the model for using one of them up, in the same unit."""

ENOUGH = 60_000
"""Number of candidates from which a front gains from the full share of local search: each local
search refines one part of the front, and rough fronts gain more from evolution (measured)."""

ELITE = 4
"""Number of random starts with one objective; then the same number of best results is crossed."""


def local_search(
    record: Record, row: Genes, goal: Scalarisation, most: int
) -> tuple[Genes, Scored | None]:
    """Improve a row, shape ``(axes,)``, until no step helps or ``most`` candidates are scored.

    The start may exceed the budget; then the first step returns to it.

    Returns:
        The last row, and the non-dominated feasible rows of all that were scored.
    """
    problem, now, best = record.problem, np.inf, Archive()
    until = record.done + min(most, record.left)
    if goal.meets(problem, row[None])[0]:
        now = float(goal.value(problem.evaluate(row[None]))[0])
    better: Genes | None = row
    while better is not None:
        row = better
        around = neighbours(problem.space, row)
        if record.done + len(around.rows) >= until:
            break
        scored = record.score(around.rows, "local search")
        best.add_feasible(scored, problem.limits)
        value = goal.value(scored)
        unit, better = float(value.std()), None
        for wary in WARINESS:
            model = local_model(problem.space, around, value, wary * unit)
            tried = record.score(_optima(problem, goal, model, unit, row), "local search")
            best.add_feasible(tried, problem.limits)
            worth = np.where(goal.meets(problem, tried.genes), goal.value(tried), np.inf)
            if worth.min(initial=np.inf) < now - 1e-7:
                now, better = float(worth.min()), tried.genes[worth.argmin()]
                break
    return row, best.best


def _optima(
    problem: Problem, goal: Scalarisation, model: Additive, unit: float, row: Genes
) -> Genes:
    """Optima of a model within the budget and all limits; perhaps none. At most one of the genes
    that several factors read differs from ``row``."""
    priced = problem.searched
    if "peak_memory_kb" in problem.limits:  # a maximum: no block may exceed it
        over = [t > problem.limits["peak_memory_kb"] for t in priced.tables["peak_memory_kb"]]
        tables = [np.where(o, 1e9, b) for o, b in zip(over, model.tables, strict=True)]
        model = Additive(tables, model.depths)
    models = [model]
    others = [m for m in problem.limits if m not in (goal.metric, "peak_memory_kb")]
    if others:
        load = [
            np.sum([priced.tables[m][f] / problem.limits[m] for m in others], axis=0)
            for f in range(len(priced.space.factors))
        ]
        for price in PRICES:
            dear = [b + price * unit * x for b, x in zip(model.tables, load, strict=True)]
            models.append(Additive(dear, model.depths))
    # rounding to bins may put a row over the budget, so the last few bins are solved as well
    width = (goal.budget - priced.fixed[goal.metric]) / BINS
    budgets: Floats = goal.budget - width * np.arange(4, dtype=np.float64)
    if len(problem.objectives) > 1:  # the same table gives neighbouring points of the front
        budgets = np.concatenate([budgets, goal.budget * NEARBY])
    rows = [
        minimise_for_budgets(priced, m, goal.metric, goal.budget, budgets, bound)
        for m in models
        for bound in _bounds(priced, row)
    ]
    found = distinct(np.concatenate(rows))
    kept: Genes = found[goal.meets(problem, found)]
    return kept


def _bounds(priced: PricedSpace, row: Genes) -> list[Bound]:
    """A row's choices of the genes that several factors read, and all variants of one gene."""
    own = tuple(int(row[i]) for i in priced.bound)
    found = [own]
    for place, i in enumerate(priced.bound):
        others = (g for g in priced.space.allowed[i] if g != own[place])
        found += [(*own[:place], g, *own[place + 1 :]) for g in others]
    return found


class LocalSearch:
    """Local searches interleaved with another engine.

    With one objective they start from given rows, then from random ones, then from crosses of
    the best results so far; with several objectives from the archive, near the next budget.

    Args:
        record: Scores candidates.
        starts: Rows to start from first.
        share: Share of all candidates that local search may use, 0 … 1; None: ``usual`` or less.
        usual: The default with one objective; fronts from few candidates get less.
    """

    def __init__(self, record: Record, starts: Genes, share: float | None, usual: float) -> None:
        if share is None:
            several = len(record.problem.objectives) > 1
            share = usual * (min(1.0, record.candidates / ENOUGH) if several else 1.0)
        self.record, self.share = record, share
        self.starts = list(starts[:ELITE])
        self.found: list[Genes] = []
        self.turn = 0
        self.scored = 0

    def run(self, rng: np.random.Generator) -> Scored | None:
        """Run one local search if it is due, and return the non-dominated rows it scored."""
        record, before = self.record, self.record.done
        left = int(self.share * record.candidates) - self.scored
        if self.scored >= self.share * (before + 1) or left <= 0:
            return None
        goal = next_scalarisation(record.problem, self.turn, rng)
        row, found = local_search(record, self._start(goal, rng), goal, left)
        self.found.append(row)
        self.turn += 1
        self.scored += record.done - before
        if record.done == before:
            self.share = 0.0  # too little is left for another step
        return found

    def _start(self, goal: Scalarisation, rng: np.random.Generator) -> Genes:
        problem, best = self.record.problem, self.record.archive.best
        start: Genes
        if self.starts:
            start = self.starts.pop(0)
            return start
        if len(problem.objectives) > 1 and best is not None:
            cost = problem.priced.costs(best.genes, [goal.metric])[goal.metric]
            pool = best.genes[np.abs(cost - goal.budget).argsort(kind="stable")]
        elif self.turn < ELITE:
            start = problem.sample(1, rng)[0]
            return start
        else:
            pool = distinct(np.stack(self.found))
            pool = pool[goal.value(problem.evaluate(pool)).argsort(kind="stable")]
        pair = pool[rng.permutation(min(ELITE, len(pool)))[[0, -1]]]
        start = children(problem, pair[:1], pair[1:], rng, 1.0, mutations=6.0)[0]
        return start
