"""APQ's constrained evolution, corrected and vectorised; a whole front with several objectives.

Section 3.4 of APQ (CVPR 2020): the best quarter of a population are parents; half of the children
are mutants, half are crossovers. The released code loses the bits, the crossovers, the depths and
half of the first population; here the predictor sees every gene, every child may enter, depths
mutate, and the whole first population counts. Infeasible children are repaired, not redrawn.
"""

from __future__ import annotations

import numpy as np

from apq.search.local_search import LocalSearch
from apq.search.options import Options
from apq.search.problem import Scored, join
from apq.search.record import Record
from apq.search.rows import first_of_each, row_keys
from apq.search.variation import children, fittest
from apq.search.warm_start import warm_start
from apq.space import Genes

PARENTS, CHILDREN = 25, 300
LOCAL_SEARCH = 0.85
"""Share of the candidates that local search may use."""


def evolution(record: Record, seed: int, seeds: Genes, options: Options) -> None:
    """Evolve until the record's candidates are used up.

    Args:
        record: Scores candidates.
        seed: Random seed.
        seeds: Feasible rows for the first population.
        options: ``local_search`` and ``warm_start``.
    """
    problem = record.problem
    rng = np.random.default_rng(seed)
    several = len(problem.objectives) > 1
    parents = min(100 if several else PARENTS, max(2, record.candidates // 10))
    size = min(CHILDREN, max(20, record.candidates // 50))  # large batches take less per child
    pool = record.score(record.unseen(seeds), "given")
    if options.warm_start is not False:
        pool = join(pool, warm_start(record, rng))
    else:
        rows = problem.spread_sample(min(size, record.left), rng)
        pool = join(pool, record.score(record.unseen(rows), "random"))
    pool = best(pool, parents)
    local = LocalSearch(record, seeds, options.local_search, LOCAL_SEARCH)
    while record.left > 0:
        count = min(size, record.left)
        first, second = rng.integers(len(pool.genes), size=(2, count))
        mixed = np.where(np.arange(count)[:, None] % 2 == 0, 0.0, 1.0)
        rows = children(problem, pool.genes[first], pool.genes[second], rng, crossover=mixed)
        pool = join(pool, record.score(record.unseen(rows), "variation"))
        found = local.run(rng)
        if found is not None:
            pool = join(pool, found)
        pool = best(pool, parents)


def best(pool: Scored, count: int) -> Scored:
    """The first ``count`` distinct rows by Pareto rank, then crowding."""
    pool = pool[first_of_each(row_keys(pool.genes))]
    return pool[fittest(pool.values, count)]
