"""Scalarised problems that the exact steps of a search solve: one value, one budgeted cost.

A front is made of many of them: the most accurate candidate at each of many latencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq.search.problem import GAINS, Floats, Problem, Scored
from apq.space import Genes


@dataclass(frozen=True, eq=False)
class Scalarisation:
    """A value to be minimised within a budget of one additive cost.

    Attributes:
        weights: Weights of the problem's objectives in minimised form, ``(objectives,)``.
        metric: The budgeted cost; not ``peak_memory_kb``, which is a maximum, not a sum.
        budget: Its largest value. The problem's limits hold as well.
    """

    weights: Floats
    metric: str
    budget: float

    def value(self, scored: Scored) -> Floats:
        """The value of scored rows, ``(n,)``."""
        value: Floats = scored.values @ self.weights
        return value

    def meets(self, problem: Problem, genes: Genes) -> NDArray[np.bool_]:
        """Which rows are within the budget and the problem's limits, ``(n,)``."""
        cost = problem.priced.costs(genes, [self.metric])[self.metric]
        met: NDArray[np.bool_] = (cost <= self.budget) & problem.feasible(genes)
        return met


def next_scalarisation(problem: Problem, turn: int, rng: np.random.Generator) -> Scalarisation:
    """The scalarised problem of step ``turn`` (0, 1 …).

    Without a cost among the objectives, the budget is always the limit. Otherwise every fourth
    one is, and the others cover the range between the cheapest candidate and the limit, more
    densely near the cheap end, where accuracy rises steeply.
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
    """Maximised objectives have weight 1, costs other than ``metric`` a small random share of
    their range; if nothing is maximised, costs have random weights."""
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
    """The van der Corput sequence in base 2: 1/2, 1/4, 3/4, 1/8 …"""
    out, step = 0.0, 0.5
    while index:
        out += step * (index % 2)
        index, step = index // 2, step / 2
    return out
