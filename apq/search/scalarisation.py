"""What the exact steps of a search aim at: one value, and one cost with a budget.

A front is made of many such aims: the most accurate candidate for this latency, for that one …
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq.search.problem import GAINS, Floats, Problem, Scored
from apq.space import Genes


@dataclass(frozen=True, eq=False)
class Scalarisation:
    """A value to be minimised, and the additive cost whose budget binds.

    Attributes:
        weights: Of the problem's objectives in minimised form, ``(objectives,)``.
        metric: The cost that is budgeted; not ``peak_memory_kb``, which is no sum.
        budget: Its largest value. The problem's limits hold besides.
    """

    weights: Floats
    metric: str
    budget: float

    def value(self, scored: Scored) -> Floats:
        """The value of scored rows, ``(n,)``."""
        value: Floats = scored.values @ self.weights
        return value

    def meets(self, problem: Problem, genes: Genes) -> NDArray[np.bool_]:
        """Which rows keep the budget and the problem's limits, ``(n,)``."""
        cost = problem.priced.costs(genes, [self.metric])[self.metric]
        met: NDArray[np.bool_] = (cost <= self.budget) & problem.feasible(genes)
        return met


def next_scalarisation(problem: Problem, turn: int, rng: np.random.Generator) -> Scalarisation:
    """The aim of the ``turn``-th step, 0, 1 …

    Without a cost among the objectives, all aims are at the limit. Otherwise every fourth one is,
    and the others fill the range between the cheapest candidate and the limit, closer together
    near the cheap end, where accuracy rises steeply.
    """
    traded = [m for m in problem.costs_minimised if m != "peak_memory_kb"]
    limited = [m for m in problem.limits if m != "peak_memory_kb"]
    metric = str(rng.choice(traded or limited or problem.priced.metrics[:1]))
    low, high = (problem.searched.extreme(metric, largest=end)[0] for end in (False, True))
    high = min(high, problem.limits.get(metric, high))
    if traded and turn % 4:
        high = low + (high - low) * _even(turn - turn // 4) ** 2
    return Scalarisation(_weights(problem, metric, rng), metric, high)


def _weights(problem: Problem, metric: str, rng: np.random.Generator) -> Floats:
    """What is to be maximised counts 1, and further costs than ``metric`` a random small part of
    their range; without anything to be maximised, costs are weighted at random."""
    names = problem.objectives
    weights = np.array([float(name in GAINS) for name in names])
    if not weights.any():
        mixed: Floats = rng.dirichlet(np.ones(len(names)))
        return mixed
    for i, name in enumerate(names):
        if name in problem.costs_minimised and name != metric:
            low, high = (problem.searched.extreme(name, largest=end)[0] for end in (False, True))
            weights[i] = 10 ** rng.uniform(-3, -1) / max(high - low, 1e-12)
    return weights


def _even(index: int) -> float:
    """Van der Corput's sequence in base 2, which fills 0 … 1: 1/2, 1/4, 3/4, 1/8 …"""
    out, step = 0.0, 0.5
    while index:
        out += step * (index % 2)
        index, step = index // 2, step / 2
    return out
