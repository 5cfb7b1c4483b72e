"""Exact answers by integer programming: one block per slot, one depth per stage, additive costs.

The multiple-choice program of LANA (arXiv 2107.10624), with depths: binaries z pick a block per
slot, y a depth per stage; a slot has a block exactly if its stage's depth reaches it. Blocks that
another one beats in gain and in every limited cost are left out first, which changes no optimum.
Solved by HiGHS through SciPy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq.errors import BudgetError
from apq.search.front import nondominated
from apq.search.region import Region, within
from apq.space import Genes, Space

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Additive:
    """A value that is a sum over choices.

    Attributes:
        blocks: Per slot a table in the shape of the price tables.
        depths: Per stage a value per depth choice.
        constant: What every candidate has.
    """

    blocks: Sequence[Floats]
    depths: Sequence[Floats]
    constant: float = 0.0

    def value(self, space: Space, genes: Genes) -> Floats:
        """The sum for rows, ``(n,)``."""
        active, blocks = space.active(genes), space.block_genes(genes)
        total = np.full(len(genes), self.constant)
        for s, depths in enumerate(self.depths):
            total += depths[genes[:, s]]
        for slot, table in zip(space.slots, self.blocks, strict=True):
            rows = np.flatnonzero(active[:, slot.index])
            full = np.broadcast_to(table, [len(c) for c in slot.choices])
            total[rows] += full[tuple(blocks[rows, slot.index].T)]
        return total


def cost_as_additive(region: Region, metric: str) -> Additive:
    """A metric of the price tables (not ``peak_memory_kb``, which is no sum)."""
    depths = [np.zeros(len(stage.depth)) for stage in region.space.stages]
    return Additive(region.priced.tables[metric], depths, region.priced.fixed[metric])


def minimise(
    region: Region, what: Additive, limits: Mapping[str, float], seconds: float = 30.0
) -> Genes | None:
    """The permitted candidate with the smallest ``what`` within the limits.

    Args:
        region: What may be chosen.
        what: To be minimised.
        limits: Largest cost per metric; ``peak_memory_kb`` too.
        seconds: Give up after so long and take the best found.

    Returns:
        Genes ``(1, axes)``, or None if no candidate keeps the limits.
    """
    shrink = 1.0
    for _ in range(3):
        row = _solve(region, what, {m: v * shrink for m, v in limits.items()}, seconds)
        if row is None:
            return None
        costs = region.priced.costs(row, limits)
        if within(costs, limits).all():
            return row
        shrink -= 2e-6  # the solver's own tolerance let it slip over a limit
    return None


def _solve(
    region: Region, what: Additive, limits: Mapping[str, float], seconds: float
) -> Genes | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    space, priced = region.space, region.priced
    if limits.get("peak_memory_kb", np.inf) < priced.fixed["peak_memory_kb"]:
        return None
    sums = [m for m in limits if m != "peak_memory_kb"]
    gains, costs, picks, owner = [], [], [], []
    for slot, mask, table in zip(space.slots, region.permitted, what.blocks, strict=True):
        if "peak_memory_kb" in limits:
            mask = mask & (priced.tables["peak_memory_kb"][slot.index] <= limits["peak_memory_kb"])
        index = np.flatnonzero(mask)
        points = [table.ravel()[index]]
        points += [priced.tables[m][slot.index].ravel()[index] for m in sums]
        keep = nondominated(np.stack(points, axis=1)) if len(index) else np.zeros(0, dtype=bool)
        gains.append(points[0][keep])
        costs.append(np.stack([p[keep] for p in points[1:]]) if sums else np.zeros((0, keep.sum())))
        picks.append(index[keep])
        owner.append(np.full(int(keep.sum()), slot.index))
    depth_genes = [(s, g) for s in range(len(space.stages)) for g in region.allowed[s]]
    depth_stage, depth_gene = np.array(depth_genes).T
    depth = np.array([space.stages[s].depth[g] for s, g in depth_genes])

    slot_of = np.concatenate(owner)
    blocks, depths = len(slot_of), len(depth_gene)
    objective = np.concatenate([*gains, [what.depths[s][g] for s, g in depth_genes]])
    rows = np.zeros((len(space.slots) + len(space.stages) + len(sums), blocks + depths))
    low, high = np.zeros(len(rows)), np.zeros(len(rows))
    for slot in space.slots:
        rows[slot.index, :blocks] = slot_of == slot.index
        reaches = (depth_stage == slot.stage) & (depth > slot.position)
        rows[slot.index, blocks:] = -reaches.astype(float)
    for s in range(len(space.stages)):
        r = len(space.slots) + s
        rows[r, blocks:] = depth_stage == s
        low[r] = high[r] = 1.0
    for i, metric in enumerate(sums):
        r = len(space.slots) + len(space.stages) + i
        room = limits[metric] - priced.fixed[metric]
        if room < 0:
            return None
        scale = max(room, 1e-9)  # rows near 1 keep the solver's absolute tolerance meaningful
        rows[r, :blocks] = np.concatenate([c[i] for c in costs]) / scale
        low[r], high[r] = -np.inf, room / scale
    size = np.abs(objective).max() or 1.0
    with _quiet():
        solution = milp(
            objective / size,
            constraints=LinearConstraint(csr_array(rows), low, high),
            integrality=np.ones(blocks + depths),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 1e-7, "time_limit": seconds},
        )
    if solution.x is None:
        return None
    chosen = solution.x > 0.5
    row = np.zeros((1, len(space.axes)), dtype=np.int16)
    row[0, depth_stage[chosen[blocks:]]] = depth_gene[chosen[blocks:]]
    table_index = np.concatenate(picks)[chosen[:blocks]]
    view = space.block_genes(row)[0]
    for s, at in zip(slot_of[chosen[:blocks]], table_index, strict=True):
        view[s] = np.unravel_index(at, region.permitted[s].shape)
    return space.canonical(row)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the solver's own messages, written below Python, out of standard output."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # there is no standard output to protect
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def cheapest_within(region: Region, metric: str, limits: Mapping[str, float]) -> Genes | None:
    """The candidate with the smallest ``metric`` among those within the *other* limits."""
    others = {m: v for m, v in limits.items() if m != metric}
    if metric == "peak_memory_kb":
        # A maximum is no sum: bisect over the values it can take.
        values = np.unique(np.concatenate([t.ravel() for t in region.priced.tables[metric]]))
        values = np.unique(np.maximum(values[np.isfinite(values)], region.priced.fixed[metric]))
        blocks = [np.zeros(mask.shape) for mask in region.permitted]
        zero = Additive(blocks, cost_as_additive(region, "macs_m").depths)
        found, low, high = None, 0, len(values)
        while low < high:
            middle = (low + high) // 2
            row = minimise(region, zero, others | {metric: float(values[middle])})
            found, low, high = (found, middle + 1, high) if row is None else (row, low, middle)
        return found
    return minimise(region, cost_as_additive(region, metric), others)


def check_together(region: Region, limits: Mapping[str, float]) -> None:
    """Raise unless one permitted candidate keeps all limits at once.

    Raises:
        BudgetError: each limit can be met alone, but not all together; says what is the smallest
            reachable value of each while the others hold.
    """
    from apq.search.problem import rounded_up

    first = next(iter(limits))
    row = cheapest_within(region, first, limits)
    if row is not None and within(region.priced.costs(row, [first]), {first: limits[first]}).all():
        return
    lines = []
    for metric in limits:
        row = cheapest_within(region, metric, limits)
        if row is None:
            lines.append(f"the limits other than {metric} already exclude each other")
        else:
            reached = region.priced.costs(row, [metric])[metric][0]
            lines.append(f"{metric} can reach {rounded_up(float(reached))} while the others hold")
    wanted = ", ".join(f"{m} <= {v:g}" for m, v in limits.items())
    raise BudgetError(
        f"no candidate of space {region.space.name!r} has {wanted} together; " + "; ".join(lines)
    )
