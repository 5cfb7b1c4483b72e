"""APQ's constrained evolution, mended and vectorised; with several objectives a whole front.

Section 3.4 of APQ (CVPR 2020): the best quarter of a population are parents, half of the children
are mutants, half crosses. The released code loses the bits, the crosses, the depths and half of
the first population; here the predictor sees every gene, every child may enter, depths mutate,
and all of the first population counts. Infeasible children are pulled back, not redrawn.
"""

from __future__ import annotations

import numpy as np

from apq.search.climb import Climber
from apq.search.problem import Scored, join
from apq.search.record import Record
from apq.search.rows import first_of_each, row_keys
from apq.search.sketch import sketch
from apq.search.variation import children, rank
from apq.space import Genes

PARENTS, CHILDREN = 25, 300
CLIMBS = 0.85
"""Part of the candidates spent on climbs."""


def evolution(record: Record, seed: int, seeds: Genes, storage: str | None = None) -> None:
    """Evolve until the record's candidates are used up. Keeps no storage.

    Args:
        record: Scores candidates.
        seed: Decides every draw.
        seeds: Feasible rows for the first population.
        storage: Unused.
    """
    problem = record.problem
    rng = np.random.default_rng(seed)
    several = len(problem.objectives) > 1
    parents = min(100 if several else PARENTS, max(2, record.candidates // 10))
    size = min(CHILDREN, max(20, record.candidates // 50))  # larger ones cost less per child
    pool = best(join(record.score(record.unseen(seeds)), sketch(record, rng)), parents)
    climber = Climber(record, seeds, CLIMBS)
    while record.left > 0:
        count = min(size, record.left)
        first, second = rng.integers(len(pool.genes), size=(2, count))
        mixed = np.where(np.arange(count)[:, None] % 2 == 0, 0.0, 1.0)
        rows = children(problem, pool.genes[first], pool.genes[second], rng, crossover=mixed)
        pool = join(pool, record.score(record.unseen(rows)))
        climbed = climber.run(rng)
        if climbed is not None:
            pool = join(pool, climbed)
        pool = best(pool, parents)


def best(pool: Scored, count: int) -> Scored:
    """The first ``count`` distinct rows by Pareto rank, then crowding."""
    pool = pool[first_of_each(row_keys(pool.genes))]
    ranks, distance = rank(pool.values)
    return pool[np.lexsort((-distance, ranks))[:count]]
