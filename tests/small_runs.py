"""Runs of small spaces, as a search leaves them, and what may be wrong with their names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from apq.hardware import price_space
from apq.search.problem import Problem
from apq.search.run import run_search

NASTY = (
    "</title></script><script>alert('x')</script><!--&\"\u2028\u202eright to left " + "x" * 10_000
)


def accuracy(genes):
    """More of everything is better."""
    mean = 0.5 + 0.4 * (1 - np.exp(-genes.sum(axis=1) / 9))
    return mean, np.full(len(genes), 0.01)


def search(folder, space, limit=0.7, **made_from):
    priced = price_space(space)
    low, high = priced.reach("bitops_g")
    limits = {"bitops_g": low + limit * (high - low)}
    problem = Problem(priced, accuracy, ("accuracy", "bitops_g"), limits, made_from=made_from)
    return run_search(folder, problem, candidates=150, baselines=True, command="apq search")


def hostile(source):
    """A run with hostile names wherever a name may stand."""
    how = replace(
        source.run, name=NASTY, baselines={NASTY: next(iter(source.run.baselines.values()))}
    )
    costs = {NASTY: next(iter(source.run.costs.values())), **source.run.costs}
    search = source.best.search.model_copy(update={"algorithm": NASTY})
    best = source.best.model_copy(
        update={"search": search, "devices": (NASTY,), "made_from": {NASTY: NASTY},
                "command": NASTY, "apq": NASTY, "versions": {NASTY: NASTY}, "limits": {NASTY: 1.0},
                "costs": {NASTY: 1.0}}
    )  # fmt: skip
    return replace(source, run=replace(how, costs=costs, limits={NASTY: 1.0}), best=best)


def repeated(source, rows):
    """A run whose front has so many rows, the last one chosen."""
    repeat = np.arange(rows) % len(source.run.genes)
    run = replace(
        source.run,
        genes=source.run.genes[repeat],
        accuracy=source.run.accuracy[repeat],
        spread=source.run.spread[repeat],
        costs={name: cost[repeat] for name, cost in source.run.costs.items()},
        block_costs={name: cost[repeat] for name, cost in source.run.block_costs.items()},
        chosen=rows - 1,
    )
    return replace(source, run=run)
