"""Dynamic programming for additive values under one additive cost, all budgets at once.

The multiple-choice knapsack with depths: slot after slot, the best value for every (binned) total
cost. Where the integer program needs tens of milliseconds for one budget, this needs a few for
all of them, up to the width of a bin.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from apq.hardware.pricing import PricedSpace
from apq.search.integer_program import Additive
from apq.search.rows import distinct
from apq.space import Genes

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Factors = tuple[tuple[Ints, Floats], ...]
"""For each factor, its permitted combinations by rising cost: flat index and cost."""
BINS = 500
_BEYOND = np.full(BINS + 1, np.inf)
"""Marks totals that are smaller than the cost of a block."""
_AT_COST = np.arange(BINS + 1)[:, None] + len(_BEYOND)
Bound = tuple[int, ...]
"""Choices of the genes that several factors read (``PricedSpace.bound``), in their order."""


@lru_cache(maxsize=256)
def _by_cost(priced: PricedSpace, metric: str, bound: Bound) -> Factors:
    out = []
    for table, mask in zip(priced.tables[metric], _permitted(priced, bound), strict=True):
        index = np.flatnonzero(mask)
        index = index[np.argsort(table.ravel()[index], kind="stable")]
        out.append((index, table.ravel()[index]))
    return tuple(out)


def _permitted(priced: PricedSpace, bound: Bound) -> Sequence[NDArray[np.bool_]]:
    """Masks of the combinations that agree with the bound choices."""
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


@dataclass
class _Filled:
    """The table of best totals, filled factor by factor.

    Attributes:
        value: Smallest total for every binned cost, ``(BINS + 1,)``.
        kept: Per factor, the flat index and the cost in bins of each undominated combination.
        picks: Per factor, which of those gives the best total at every cost, ``(BINS + 1,)``.
        depths: Per stage, the depth gene that gives the best total at every cost, ``(BINS + 1,)``.
    """

    value: Floats
    kept: dict[int, tuple[Ints, Ints]] = field(default_factory=dict)
    picks: dict[int, Ints] = field(default_factory=dict)
    depths: list[Ints] = field(default_factory=list)


def minimise_for_budgets(
    priced: PricedSpace,
    what: Additive,
    metric: str,
    limit: float,
    budgets: Floats,
    bound: Bound = (),
) -> Genes:
    """For every budget, a row whose ``what`` is close to the smallest at that cost.

    Args:
        priced: The space and its costs.
        what: The value that is minimised.
        metric: An additive cost.
        limit: The largest budget of interest, more than the fixed layers cost.
        budgets: Costs up to ``limit``, in the metric's unit.
        bound: Choices of the genes that several factors read; the others are free.

    Returns:
        Distinct rows, at most one per reachable budget. Costs are rounded to bins of 1/500 of the
        limit, so a row may exceed its budget by that much: check before use.
    """
    factors = _by_cost(priced, metric, bound)
    if any(not len(index) for index, _ in factors):
        return np.zeros((0, len(priced.space.axes)), dtype=np.int16)
    width = max(limit - priced.fixed[metric], 1e-12) / BINS
    filled = _fill(priced, what, factors, width)
    cost = np.unique(((budgets - priced.fixed[metric]) / width).astype(np.int64))
    cost = cost[(cost >= 0) & (cost <= BINS)]
    return distinct(_read_off(priced, filled, cost[np.isfinite(filled.value[cost])]))


def _fill(priced: PricedSpace, what: Additive, factors: Factors, width: float) -> _Filled:
    """Add factor after factor, and choose each stage's depth."""
    space, filled = priced.space, _Filled(np.zeros(BINS + 1))

    def add(before: Floats, f: int) -> Floats:
        return _with_factor(filled, f, before, factors[f], _values(priced, what, f), width)

    for f in range(len(space.slots), len(space.factors)):  # factors that are never skipped
        filled.value = add(filled.value, f)
    for s, stage in enumerate(space.stages):
        after = list(itertools.accumulate(stage.slots, add, initial=filled.value))
        allowed = space.allowed[s]
        options = np.stack([after[stage.depth[g]] + what.depths[s][g] for g in allowed])
        choice = options.argmin(axis=0)
        filled.depths.append(np.array(allowed)[choice])
        filled.value = options[choice, np.arange(BINS + 1)]
    return filled


def _values(priced: PricedSpace, what: Additive, f: int) -> Floats:
    """The value that is minimised, for every combination of a factor, flattened."""
    table = what.tables[f]
    if table.size < priced.permitted[f].size:
        table = np.broadcast_to(table, priced.permitted[f].shape)
    return table.ravel()


def _with_factor(
    filled: _Filled, f: int, before: Floats, by_cost: tuple[Ints, Floats], values: Floats,
    width: float,
) -> Floats:  # fmt: skip
    """Best totals with one more factor; records the combinations they use."""
    index, cost = by_cost
    values = values[index]
    low = np.minimum.accumulate(values)
    better = np.flatnonzero(low < np.concatenate([[np.inf], low[:-1]]))
    bins = np.minimum(np.rint(cost[better] / width), BINS + 1).astype(np.int64)
    last = np.concatenate([bins[1:] > bins[:-1], [True]])  # best of its bin
    better, bins = better[last], bins[last]
    filled.kept[f] = (index[better], bins)
    total = np.concatenate([_BEYOND, before]).take(_AT_COST - bins)
    total += values[better]
    filled.picks[f] = total.argmin(axis=1)
    best: Floats = total[np.arange(BINS + 1), filled.picks[f]]
    return best


def _read_off(priced: PricedSpace, filled: _Filled, cost: Ints) -> Genes:
    """Trace back the rows with the best totals at these binned costs, last factor first."""
    space = priced.space
    rows = np.zeros((len(cost), len(space.axes)), dtype=np.int16)

    def take(f: int, runs: Ints) -> None:
        """Write a factor's choice into the rows that run it, and subtract its cost."""
        index, bins = filled.kept[f]
        pick = filled.picks[f][cost[runs]]
        chosen = np.unravel_index(index[pick], priced.permitted[f].shape)
        rows[runs[:, None], list(space.factors[f].axes)] = np.stack(chosen, axis=1)
        cost[runs] -= bins[pick]

    for s, stage in reversed(list(enumerate(space.stages))):
        rows[:, s] = filled.depths[s][cost]
        depth = np.array(stage.depth)[rows[:, s]]
        for i in reversed(stage.slots):
            take(i, np.flatnonzero(depth > space.slots[i].position))
    for f in reversed(range(len(space.slots), len(space.factors))):
        take(f, np.arange(len(rows)))
    return rows
