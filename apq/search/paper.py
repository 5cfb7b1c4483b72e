"""APQ's evolutionary search as published (CVPR 2020, section 3.4), for comparison.

One population of 100; in every round the 25 most accurate are parents of 50 mutants and 50
crossovers, and invalid or over-budget candidates are redrawn. A mutant redraws every stage's depth
and every block (kernel, width and bits) with probability 0.1; a crossover takes each of them from
either parent. The released code differs (see benchmarks/search_peers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError
from apq.search.options import Options
from apq.search.problem import Problem, Scored, join
from apq.search.record import Record
from apq.space import Genes

POPULATION, PARENTS, MUTANTS, CROSSOVERS, RATE, ROUNDS = 100, 25, 50, 50, 0.1, 500
PATIENCE = 2_000_000
"""Number of consecutive draws over the budget after which the search ends with an error."""


def paper(record: Record, seed: int, seeds: Genes, options: Options) -> None:
    """Evolve for 500 rounds, or until the record's candidates are used up.

    Adds to ``record.notes``: ``rounds``, and ``drawn``, the number of candidates drawn, including
    those rejected as over the budget.

    Args:
        record: Scores candidates. Parents are chosen by the first objective.
        seed: Random seed.
        seeds: Feasible rows that replace random ones in the first population.
        options: Unused.

    Raises:
        ApqError: the budget is so tight that no draw is within it.
    """
    problem, rng = record.problem, np.random.default_rng(seed)
    redraw = Redraw(problem)
    seeds = seeds[: min(POPULATION, record.left)]
    missing = min(POPULATION, record.left) - len(seeds)
    rows = redraw(missing, partial(problem.space.draw, rng=rng))
    people = join(_score(record, seeds, "given"), _score(record, rows, "random"))
    rounds = 0
    while rounds < ROUNDS and record.left > 0:
        parents = best(people, PARENTS)
        mutants = redraw(min(MUTANTS, record.left), partial(_mutants, problem, parents, rng))
        people = join(parents, _score(record, mutants, "variation"))
        crosses = redraw(min(CROSSOVERS, record.left), partial(_crossovers, problem, parents, rng))
        people = join(people, _score(record, crosses, "variation"))
        rounds += 1
    record.notes |= {"rounds": float(rounds), "drawn": float(redraw.drawn)}


def _score(record: Record, rows: Genes, source: str) -> Scored:
    """Score rows, keeping the genes of skipped blocks for children that run them."""
    space = record.problem.space
    return replace(record.score(space.canonical(rows), source), genes=rows)


def best(people: Scored, count: int) -> Scored:
    """The best ``count`` rows in the first objective."""
    return people[people.values[:, 0].argsort(kind="stable")[:count]]


class Redraw:
    """Redraws rows until they are valid and within the limits.

    Attributes:
        drawn: Number of rows drawn so far.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.drawn = problem, 0

    def __call__(self, count: int, draw: Callable[[int], Genes]) -> Genes:
        """``count`` rows of ``draw(n)``, in the order in which they were drawn."""
        problem, kept, vain = self.problem, [self.problem.anchors[:0]], 0
        while (missing := count - sum(map(len, kept))) > 0:
            rows = draw(min(10_000, max(2 * missing, vain)))
            run = problem.space.canonical(rows)
            good = np.flatnonzero(problem.space.contains(run) & problem.feasible(run))
            used = len(rows) if len(good) < missing else int(good[missing - 1]) + 1
            kept.append(rows[good[:missing]])
            self.drawn += used
            vain = 0 if len(good) else vain + len(rows)
            if vain >= PATIENCE:
                raise ApqError(
                    f"the paper's search draws again what is over the budget, and none of "
                    f"{vain:,} draws kept it; --algorithm nsga2 repairs its children instead"
                )
        return np.concatenate(kept)


def _by_part(problem: Problem, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each gene, the value of ``chosen`` for its stage's depth or its block."""
    by_gene: NDArray[np.bool_] = chosen.take(problem.space.parts, axis=1)
    return by_gene


def _mutants(problem: Problem, parents: Scored, rng: np.random.Generator, count: int) -> Genes:
    chosen = parents.genes[rng.integers(len(parents.genes), size=count)]
    hit = _by_part(problem, rng.random((count, problem.space.part_count)) < RATE)
    mutants: Genes = np.where(hit, problem.space.draw(count, rng), chosen)
    return mutants


def _crossovers(problem: Problem, parents: Scored, rng: np.random.Generator, count: int) -> Genes:
    first, second = parents.genes[rng.integers(len(parents.genes), size=(2, count))]
    taken = _by_part(problem, rng.random((count, problem.space.part_count)) < 0.5)
    crosses: Genes = np.where(taken, second, first)
    return crosses
