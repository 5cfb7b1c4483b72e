"""A first, rough front from few candidates (ours)."""

from __future__ import annotations

import numpy as np

from apq.hardware.pricing import PricedSpace
from apq.search.knapsack import Bound, minimise_for_budgets
from apq.search.problem import Scored, join
from apq.search.record import Record
from apq.search.scalarisation import next_scalarisation
from apq.search.surrogate import fit_additive
from apq.search.variation import children, fittest

ROUNDS, BUDGETS, BOUNDS = 4, 60, 8
"""Number of rounds of fitting and solving, of budgets solved in each, and of choices of the genes
that several factors read."""


def warm_start(record: Record, rng: np.random.Generator) -> Scored:
    """Sample near the expected front: fit an additive model to a spread sample, solve it for all
    budgets at once, sample around the solutions, and repeat.

    Returns:
        Everything scored, at most about two fifths of the record's candidates or 2,100.
    """
    problem, priced = record.problem, record.problem.searched
    size = max(20, min(600, record.candidates // 10))
    sample = record.score(record.unseen(problem.spread_sample(size, rng)), "random")
    for turn in range(ROUNDS):
        if record.left <= size or not len(sample.genes):
            break
        goal = next_scalarisation(problem, 0, rng)
        budgets = np.linspace(priced.extreme(goal.metric)[0], goal.budget, BUDGETS + 1)
        model = fit_additive(problem.space, sample.genes, goal.value(sample))
        rows = np.concatenate(
            [
                minimise_for_budgets(priced, model, goal.metric, goal.budget, budgets, bound)
                for bound in _bounds(priced, sample)
            ]
        )
        fallback = problem.anchors[rng.integers(len(problem.anchors), size=len(rows))]
        rows = record.unseen(problem.cheapen(rows, fallback, rng))
        sample = join(sample, record.score(rows, "warm start"))
        if turn < ROUNDS - 1:
            known = [] if record.archive.best is None else [record.archive.best.genes]
            parents = np.concatenate([rows, *known])
            pairs = parents[rng.integers(len(parents), size=(2, size // 2))]
            near = children(problem, pairs[0], pairs[1], rng, 0.5, mutations=4.0)
            sample = join(sample, record.score(record.unseen(near), "warm start"))
    return sample


def _bounds(priced: PricedSpace, sample: Scored) -> list[Bound]:
    """Choices of the genes that several factors read, taken from the best rows of a sample."""
    best = sample.genes[fittest(sample.values, BOUNDS)]
    return list(dict.fromkeys(tuple(map(int, row)) for row in best[:, list(priced.bound)]))
