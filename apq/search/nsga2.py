"""NSGA-II: Optuna's sampler, with whole generations varied and scored as arrays.

:class:`apq.search.sampler.JointSampler` chooses parents, makes children and selects survivors. A
warm start gives it a first generation, and local search occasionally refines survivors; both are
options, and the source of every candidate is recorded.
"""

from __future__ import annotations

import numpy as np

from apq.search.genome import SpaceGenome
from apq.search.local_search import LocalSearch
from apq.search.options import Options
from apq.search.problem import Scored, join
from apq.search.record import Record
from apq.search.sampler import JointSampler
from apq.search.study import Store
from apq.search.warm_start import warm_start
from apq.space import Genes

POPULATION = 100
"""Candidates per generation. The same number survives if local search refines them; half of it
without local search or with few candidates, which gives better fronts (measured)."""

LOCAL_SEARCH = 0.75
"""Share of the candidates that local search may use. With one objective, crossover of its results
finds more."""


def nsga2(record: Record, seed: int, seeds: Genes, options: Options) -> None:
    """Run NSGA-II until the record's candidates are used up.

    Args:
        record: Scores candidates.
        seed: Random seed.
        seeds: Feasible rows for the first generation.
        options: All options are used.

    Raises:
        ApqError: the storage cannot be opened, or holds trials of another problem.
    """
    problem = record.problem
    genome = SpaceGenome(problem)
    size = min(POPULATION, max(4, record.candidates // 10))
    alone = options.local_search == 0 or record.candidates < 10_000
    survivors = size // 2 if alone else size
    sampler = JointSampler(genome, population_size=survivors, seed=seed)
    pool: Scored | None = None
    store: Store | None = None
    if options.storage is not None:
        store = Store(problem, sampler, options.storage, options.keep or "front")
        record.done += store.before
        record.take(store.found)
        feasible = problem.feasible(store.found.genes)
        if feasible.any():
            pool = store.found[feasible]
            numbers = np.arange(len(pool.genes))
            chosen = sampler.survive(pool.values)
            pool, numbers = pool[chosen], numbers[chosen]
    before = counted = record.done
    local = LocalSearch(record, seeds, options.local_search, LOCAL_SEARCH)
    rng = np.random.default_rng([seed, record.done])
    brood = 0
    while record.left > 0:
        count = min(size, record.left)
        if pool is not None:
            rows = sampler.breed(genome, pool.genes, pool.values, numbers, count, brood=brood)
            born = record.score(record.unseen(rows), "variation")
        else:
            born = record.score(record.unseen(seeds[:count]), "given")
            if options.warm_start is not False:
                born = join(born, warm_start(record, rng))
            else:
                rows = sampler.first(genome, min(size - len(born.genes), record.left), brood)
                born = join(born, record.score(record.unseen(rows), "random"))
        found = local.run(rng)
        if found is not None:
            born = join(born, found)
        brood = 0 if len(born.genes) else brood + 1
        new = counted + np.arange(len(born.genes))
        counted += len(born.genes)
        numbers = new if pool is None else np.concatenate([numbers, new])
        pool = born if pool is None else join(pool, born)
        chosen = sampler.survive(pool.values)
        pool, numbers = pool[chosen], numbers[chosen]
        if store is not None:
            store.add(born, pool, record.done - before)
    if store is not None:
        best = [s for s in (pool, record.archive.best) if s is not None]
        if best:
            store.finish(join(*best))
        record.take(store.others())  # what other processes found meanwhile
