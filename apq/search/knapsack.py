"""Dynamic programming for additive values under one additive cost, all budgets at once.

The multiple-choice knapsack with depths: slot after slot, the best value for every (binned) total
cost. Where the integer program needs tens of milliseconds for one budget, this needs a few for
all of them, up to the width of a bin.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from apq.hardware.pricing import PricedSpace
from apq.search.integer_program import Additive
from apq.search.rows import distinct
from apq.space import Genes

Ints = NDArray[np.int64]
BINS = 500
Bound = tuple[int, ...]
"""Choices of the genes that several factors read (``PricedSpace.bound``), in their order."""


@lru_cache(maxsize=256)
def _by_cost(
    priced: PricedSpace, metric: str, bound: Bound
) -> tuple[tuple[Ints, NDArray[np.float64]], ...]:
    """Per factor its permitted combinations by rising cost: flat index and cost."""
    out = []
    for table, mask in zip(priced.tables[metric], _permitted(priced, bound), strict=True):
        index = np.flatnonzero(mask)
        index = index[np.argsort(table.ravel()[index], kind="stable")]
        out.append((index, table.ravel()[index]))
    return tuple(out)


def _permitted(priced: PricedSpace, bound: Bound) -> Sequence[NDArray[np.bool_]]:
    """Masks of the combinations with these choices of what is bound."""
    if not bound:
        return priced.permitted
    chosen = dict(zip(priced.bound, bound, strict=True))
    masks = []
    for factor, mask in zip(priced.space.factors, priced.permitted, strict=True):
        kept = np.zeros_like(mask)
        where = tuple(chosen.get(i, slice(None)) for i in factor.axes)
        kept[where] = mask[where]
        masks.append(kept)
    return masks


def minimise_for_budgets(
    priced: PricedSpace,
    what: Additive,
    metric: str,
    limit: float,
    budgets: NDArray[np.float64],
    bound: Bound = (),
) -> Genes:
    """For every budget a row that about minimises ``what`` at a cost of about the budget.

    Args:
        priced: What may be chosen, and its costs.
        what: To be minimised.
        metric: An additive cost.
        limit: The largest budget of interest, more than the fixed layers cost.
        budgets: Costs up to ``limit``, in the metric's unit.
        bound: Choices of the genes that several factors read; the others are free.

    Returns:
        Distinct rows, one per reachable budget at most. Costs are rounded to bins of 1/500
        of the limit, so a row may overshoot its budget by as much: check before use.
    """
    space, factors = priced.space, _by_cost(priced, metric, bound)
    if any(not len(index) for index, _ in factors):
        return np.zeros((0, len(space.axes)), dtype=np.int16)
    width = max(limit - priced.fixed[metric], 1e-12) / BINS
    value = np.zeros(BINS + 1)
    picks: dict[int, Ints] = {}
    kept: dict[int, tuple[Ints, Ints]] = {}
    depths: list[Ints] = []
    beyond = np.full(BINS + 1, np.inf)  # what is left of a total that is less than a block's cost
    at_cost = np.arange(BINS + 1)[:, None] + len(beyond)

    def add(f: int, before: NDArray[np.float64]) -> NDArray[np.float64]:
        """Best totals with one more factor."""
        index, cost = factors[f]
        table = what.tables[f]
        if table.size < priced.permitted[f].size:
            table = np.broadcast_to(table, priced.permitted[f].shape)
        values = table.ravel()[index]
        low = np.minimum.accumulate(values)
        better = np.flatnonzero(low < np.concatenate([[np.inf], low[:-1]]))
        bins = np.minimum(np.rint(cost[better] / width), BINS + 1).astype(np.int64)
        last = np.concatenate([bins[1:] > bins[:-1], [True]])  # best of its bin
        better, bins = better[last], bins[last]
        kept[f] = (index[better], bins)
        total = np.concatenate([beyond, before]).take(at_cost - bins)
        total += values[better]
        picks[f] = total.argmin(axis=1)
        best: NDArray[np.float64] = total[np.arange(BINS + 1), picks[f]]
        return best

    always = range(len(space.slots), len(space.factors))
    for f in always:
        value = add(f, value)
    for s, stage in enumerate(space.stages):
        after = list(itertools.accumulate(stage.slots, lambda v, f: add(f, v), initial=value))
        allowed = space.allowed[s]
        options = np.stack([after[stage.depth[g]] + what.depths[s][g] for g in allowed])
        choice = options.argmin(axis=0)
        depths.append(np.array(allowed)[choice])
        value = options[choice, np.arange(BINS + 1)]
    cost = np.unique(((budgets - priced.fixed[metric]) / width).astype(np.int64))
    cost = cost[(cost >= 0) & (cost <= BINS)]
    cost = cost[np.isfinite(value[cost])]
    rows = np.zeros((len(cost), len(space.axes)), dtype=np.int16)

    def take(f: int, runs: Ints) -> None:
        """Write a factor's pick into the rows that run it, and take its cost off them."""
        index, bins = kept[f]
        pick = picks[f][cost[runs]]
        chosen = np.unravel_index(index[pick], priced.permitted[f].shape)
        rows[runs[:, None], list(space.factors[f].axes)] = np.stack(chosen, axis=1)
        cost[runs] -= bins[pick]

    for s, stage in reversed(list(enumerate(space.stages))):
        rows[:, s] = depths[s][cost]
        depth = np.array(stage.depth)[rows[:, s]]
        for i in reversed(stage.slots):
            take(i, np.flatnonzero(depth > space.slots[i].position))
    for f in reversed(always):
        take(f, np.arange(len(rows)))
    return distinct(rows)
