"""Pareto fronts: the archive of a search, its hypervolume, knee, and table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from apq.search.problem import GAINS, SOURCES, Floats, Problem, Scored, join
from apq.search.region import within
from apq.search.rows import nondominated
from apq.space import Candidate, Genes, Space


class Archive:
    """The non-dominated candidates seen so far."""

    def __init__(self) -> None:
        self.best: Scored | None = None

    def add(self, batch: Scored) -> None:
        """Add a batch; of candidates with equal objectives the earlier one is kept."""
        both = batch if self.best is None else join(self.best, batch)
        self.best = both[nondominated(both.values)]

    def add_feasible(self, batch: Scored, limits: Mapping[str, float]) -> None:
        """Add the rows of a batch that are within the limits."""
        ok = np.broadcast_to(within(batch.costs, limits), len(batch.genes))
        if ok.any():
            self.add(batch if ok.all() else batch[ok])


@dataclass(frozen=True)
class Reference:
    """The box in which hypervolume is measured, one entry per objective (minimised form).

    Attributes:
        ideal: The ideal point: the best value of every objective, where the hypervolume is 1.
        worst: The reference point: the worst value of every objective.
    """

    ideal: Floats
    worst: Floats

    def hypervolume(self, values: Floats) -> float:
        """Share of the box that the rows dominate, 0 … 1."""
        if not len(values):
            return 0.0
        scaled = (values - self.ideal) / np.maximum(self.worst - self.ideal, 1e-300)
        volume: float = moocore.hypervolume(np.minimum(scaled, 1.0), ref=np.ones(scaled.shape[1]))
        return float(volume)


def reference(problem: Problem) -> Reference:
    """The box of a problem: accuracy from chance (one in ``classes``; 0 of a single output) to 1; a
    cost from the smallest reachable to its limit, or to the largest reachable."""
    ideal, worst = [], []
    for name in problem.objectives:
        if name in GAINS:
            ideal.append(-1.0)
            classes = problem.priced.space.classes
            worst.append(-1.0 / classes if classes > 1 else 0.0)
        else:
            ideal.append(problem.searched.extreme(name)[0])
            high = problem.searched.extreme(name, largest=True)[0]
            worst.append(min(problem.limits.get(name, high), high))
    return Reference(np.array(ideal), np.array(worst))


@dataclass(frozen=True, eq=False)
class Front:
    """The Pareto front of a search, by rising first cost (or falling accuracy without one).

    Attributes:
        space: The space.
        objectives: Names, as in the problem.
        genes: ``(n, axes)``.
        accuracy, spread: Predictions, fractions, ``(n,)``.
        costs: Every priced cost, ``(n,)`` each.
        values: Objectives in minimised form, ``(n, objectives)``.
        source: Index into :data:`apq.search.problem.SOURCES`, ``(n,)``.
    """

    space: Space
    objectives: tuple[str, ...]
    genes: Genes
    accuracy: Floats
    spread: Floats
    costs: Mapping[str, Floats]
    values: Floats
    source: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.genes)

    def candidate(self, row: int) -> Candidate:
        """The candidate of one row."""
        return self.space.build(self.genes[row])

    def knee(self) -> int:
        """The row furthest below the plane through the front's ends, objectives scaled to 0 … 1
        (the usual knee; with one objective the best row)."""
        low, high = self.values.min(axis=0), self.values.max(axis=0)
        scaled = (self.values - low) / np.where(high > low, high - low, 1.0)
        return int(scaled.sum(axis=1).argmin())

    def diversity(self) -> float:
        """Mean share of genes in which two candidates of the front differ, 0 … 1."""
        n = len(self)
        if n < 2:
            return 0.0
        agree = 0.0
        for column in self.genes.T:
            counts = np.bincount(column).astype(np.float64)
            agree += float((counts * (counts - 1)).sum())
        return float(1.0 - agree / (n * (n - 1) * self.genes.shape[1]))

    def table(self) -> dict[str, NDArray[Any]]:
        """Columns: accuracy, spread, every cost, ``source`` (where the candidate came from), and
        every gene's value as :meth:`Space.values` returns it."""
        return {
            "accuracy": self.accuracy,
            "accuracy_spread": self.spread,
            **self.costs,
            "source": np.array(SOURCES)[self.source],
            **self.space.values(self.genes),
        }


def front_of(problem: Problem, best: Scored) -> Front:
    """Order an archive's rows and price them in every metric."""
    costs = [i for i, name in enumerate(problem.objectives) if name in problem.costs_minimised]
    order = np.argsort(best.values[:, costs[0] if costs else 0], kind="stable")
    best = best[order]
    return Front(
        problem.priced.space,
        problem.objectives,
        best.genes,
        best.accuracy,
        best.spread,
        problem.priced.costs(best.genes),
        best.values,
        best.source,
    )
