"""Dynamic programming for additive values under one additive cost, all budgets at once.

The multiple-choice knapsack with depths: slot after slot, the best value for every (binned) total
cost. Where the integer program needs tens of milliseconds for one budget, this needs a few for
all of them, up to the width of a bin.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from apq.search.program import Additive
from apq.search.region import Region
from apq.search.rows import distinct
from apq.space import Genes

Ints = NDArray[np.int64]
BINS = 500


@lru_cache(maxsize=64)
def _by_cost(region: Region, metric: str) -> tuple[tuple[Ints, NDArray[np.float64]], ...]:
    """Per slot its permitted combinations by rising cost: flat index and cost."""
    out = []
    for table, mask in zip(region.priced.tables[metric], region.permitted, strict=True):
        index = np.flatnonzero(mask)
        index = index[np.argsort(table.ravel()[index], kind="stable")]
        out.append((index, table.ravel()[index]))
    return tuple(out)


def minimise_for_budgets(
    region: Region, what: Additive, metric: str, limit: float, budgets: NDArray[np.float64]
) -> Genes:
    """For every budget a row that about minimises ``what`` at a cost of about the budget.

    Args:
        region: What may be chosen.
        what: To be minimised.
        metric: An additive cost.
        limit: The largest budget of interest, more than the fixed layers cost.
        budgets: Costs up to ``limit``, in the metric's unit.

    Returns:
        Distinct rows, one per reachable budget at most. Costs are rounded to bins of 1/500
        of the limit, so a row may overshoot its budget by as much: check before use.
    """
    space, slots = region.space, _by_cost(region, metric)
    width = max(limit - region.priced.fixed[metric], 1e-12) / BINS
    value = np.zeros(BINS + 1)
    picks: list[Ints] = []
    kept: list[tuple[Ints, Ints]] = []
    depths: list[Ints] = []
    beyond = np.full(BINS + 1, np.inf)  # what is left of a total that is less than a block's cost
    at_cost = np.arange(BINS + 1)[:, None] + len(beyond)
    for s, stage in enumerate(space.stages):
        after = [value]
        for slot in (slot for slot in space.slots if slot.stage == s):
            index, cost = slots[slot.index]
            values = what.blocks[slot.index].ravel()[index]
            low = np.minimum.accumulate(values)
            better = np.flatnonzero(low < np.concatenate([[np.inf], low[:-1]]))
            bins = np.minimum(np.rint(cost[better] / width), BINS + 1).astype(np.int64)
            last = np.concatenate([bins[1:] > bins[:-1], [True]])  # best of its bin
            better, bins = better[last], bins[last]
            kept.append((index[better], bins))
            total = np.concatenate([beyond, after[-1]]).take(at_cost - bins)
            total += values[better]
            picks.append(total.argmin(axis=1))
            after.append(total[np.arange(BINS + 1), picks[-1]])
        options = np.stack([after[stage.depth[g]] + what.depths[s][g] for g in region.allowed[s]])
        choice = options.argmin(axis=0)
        depths.append(np.array(region.allowed[s])[choice])
        value = options[choice, np.arange(BINS + 1)]
    cost = np.unique(((budgets - region.priced.fixed[metric]) / width).astype(np.int64))
    cost = cost[(cost >= 0) & (cost <= BINS)]
    cost = cost[np.isfinite(value[cost])]
    rows = np.zeros((len(cost), len(space.axes)), dtype=np.int16)
    blocks = space.block_genes(rows)
    for s, stage in reversed(list(enumerate(space.stages))):
        rows[:, s] = depths[s][cost]
        depth = np.array(stage.depth)[rows[:, s]]
        for slot in reversed([slot for slot in space.slots if slot.stage == s]):
            runs = np.flatnonzero(depth > slot.position)
            index, bins = kept[slot.index]
            pick = picks[slot.index][cost[runs]]
            shape = region.permitted[slot.index].shape
            blocks[runs, slot.index] = np.stack(np.unravel_index(index[pick], shape), axis=1)
            cost[runs] -= bins[pick]
    return distinct(rows)
