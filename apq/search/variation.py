"""Crossover, mutation and repair of whole generations of genes, vectorised."""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import NDArray

from apq.search.problem import Floats, Problem
from apq.space import Genes, Space

Ints = NDArray[np.int64]
REVERT = 0.3
"""Share of infeasible children that are repaired by genes of their parent; in the others, other
genes are made cheaper."""


def crowding(values: Floats, ranks: Ints) -> Floats:
    """Crowding distance of NSGA-II (Deb et al., 2002) of each row within its rank, ``(n,)``; the
    ends of a rank are infinite."""
    out = np.zeros(len(values))
    if not len(values):
        return out
    for column in values.T:
        order = np.lexsort((column, ranks))
        ordered, rank_of = column[order], ranks[order]
        begins = np.flatnonzero(np.diff(rank_of, prepend=rank_of[0] - 1))
        ends = np.append(begins[1:], len(order)) - 1
        width = np.repeat(ordered[ends] - ordered[begins], ends - begins + 1)
        gaps = np.zeros(len(order))
        gaps[1:-1] = ordered[2:] - ordered[:-2]
        gaps[begins] = gaps[ends] = np.inf
        out[order] += np.divide(gaps, width, out=np.zeros(len(order)), where=width > 0)
    return out


def rank(values: Floats, penalty: Floats | None = None) -> tuple[Ints, Floats]:
    """Pareto rank (0 is best) and crowding distance within the rank, ``(n,)`` each.

    Args:
        values: Objectives in minimised form, ``(n, objectives)``.
        penalty: How far constraints are violated, ``(n,)``; rows above 0 come after all others,
            by rising penalty (constrained domination; Deb et al., 2002).
    """
    if penalty is not None and (penalty > 0).any():
        over = penalty > 0
        ranks, distance = np.empty(len(values), dtype=np.int64), np.zeros(len(values))
        ranks[~over], distance[~over] = rank(values[~over])
        ranks[over] = len(values) + np.unique(penalty[over], return_inverse=True)[1]
        return ranks, distance
    if values.shape[1] == 1:
        places: Ints = values[:, 0].argsort(kind="stable").argsort(kind="stable")
        return places, np.zeros(len(values))
    ranks = np.asarray(moocore.pareto_rank(values), dtype=np.int64)
    return ranks, crowding(values, ranks)


def fittest(values: Floats, count: int | None, penalty: Floats | None = None) -> Ints:
    """The first ``count`` rows by rank, then crowding, best first; arguments as in :func:`rank`."""
    ranks, distance = rank(values, penalty)
    first: Ints = np.lexsort((-distance, ranks))[:count]
    return first


def tournament(ranks: Ints, distance: Floats, count: int, rng: np.random.Generator) -> Ints:
    """Rows that win binary tournaments by rank, then crowding; shape ``(count,)``."""
    a, b = rng.integers(len(ranks), size=(2, count))
    wins = (ranks[a] < ranks[b]) | ((ranks[a] == ranks[b]) & (distance[a] >= distance[b]))
    winners: Ints = np.where(wins, a, b)
    return winners


def children(
    problem: Problem,
    first: Genes,
    second: Genes,
    rng: np.random.Generator,
    crossover: float | NDArray[np.float64] = 0.9,
    mutations: float = 2.0,
) -> Genes:
    """One feasible child per pair of feasible parents.

    Uniform crossover, then reset mutation: a mutated gene is redrawn, half of the time to a
    neighbouring choice. A slot that the child runs but a parent does not takes the other parent's
    block, or a random one. Infeasible children are repaired towards their first parent.

    Args:
        problem: Defines permitted and feasible rows.
        first, second: Parents, ``(n, axes)``.
        rng: Source of randomness.
        crossover: Probability of crossover per child; otherwise it is a mutated first parent.
        mutations: Mean number of mutated genes per child.
    """
    space = problem.space
    n, axes = first.shape
    # genes or, for every other child, whole blocks come from the second parent
    chance = rng.random((n, axes), dtype=np.float32)
    whole = np.arange(n) % 2 == rng.integers(2)
    parts = rng.random((int(whole.sum()), space.part_count), dtype=np.float32)
    chance[whole] = parts.take(space.parts, axis=1)
    mixes = rng.random((n, 1)) < crossover
    share = rng.random((n, 1), dtype=np.float32) * 0.5 * mixes
    child = np.where(chance < share, second, first)

    ran_first, ran_second = space.decides(first), space.decides(second)
    child = np.where(ran_first & ~ran_second, first, child)
    child = np.where(ran_second & ~ran_first, second, child)

    rate = rng.exponential(mutations, (n, 1)) / max(1, space.free_count)
    hit = np.nonzero(rng.random((n, axes), dtype=np.float32) < rate)
    child[hit] = _mutated(space, child[hit], hit[1], rng)
    grown = space.decides(child) & ~(ran_first | ran_second)
    new = np.flatnonzero(grown.any(axis=1))
    if len(new):
        fresh = space.snap(space.draw(len(new), rng), canonical=False)
        child[new] = np.where(grown[new], fresh, child[new])
    return problem.cheapen(space.snap(child), first, rng, revert=REVERT)


def _mutated(space: Space, genes: Genes, axes: Ints, rng: np.random.Generator) -> Genes:
    """Single genes redrawn or moved to a neighbouring choice; they and their axes are ``(k,)``."""
    moved = genes + 2 * rng.integers(2, size=len(genes), dtype=np.int16) - 1
    moved = np.clip(moved, 0, space.cardinalities[axes] - 1)
    near = rng.random(len(genes)) < 0.5
    return np.where(near, moved, space.redraw(axes, rng)).astype(np.int16)
