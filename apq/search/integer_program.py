"""Exact optima by integer programming: one block per slot, one depth per stage, additive costs.

The multiple-choice program of LANA (arXiv 2107.10624), with depths and shared genes: binary
variables z select a combination per factor, y a depth per stage and a choice per gene that several
factors read. A slot has a block exactly if its stage's depth reaches it, and combinations agree on
shared genes. Combinations that are dominated in the value and in every limited cost by another with
the same shared genes are removed first, which changes no optimum. Solved by HiGHS through SciPy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import BudgetError
from apq.hardware.pricing import PricedSpace
from apq.search.region import rounded_up, within
from apq.search.rows import nondominated
from apq.space import Genes, Space

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Additive:
    """A value that is a sum over choices.

    Attributes:
        tables: Per factor of the space, a table that broadcasts to the price tables' shape.
        depths: Per stage, a value per depth choice.
        constant: The part that is the same for every candidate.
    """

    tables: Sequence[Floats]
    depths: Sequence[Floats]
    constant: float = 0.0

    def value(self, space: Space, genes: Genes) -> Floats:
        """The sum for rows, ``(n,)``."""
        active = space.active(genes)
        total = np.full(len(genes), self.constant)
        for s, depths in enumerate(self.depths):
            total += depths[genes[:, s]]
        for factor, table in zip(space.factors, self.tables, strict=True):
            rows = np.arange(len(genes))
            if factor.slot is not None:
                rows = np.flatnonzero(active[:, factor.slot])
            full = np.broadcast_to(table, [len(space.axes[i].choices) for i in factor.axes])
            total[rows] += full[tuple(genes[rows][:, list(factor.axes)].T)]
        return total


def cost_as_additive(priced: PricedSpace, metric: str) -> Additive:
    """A metric of the price tables (not ``peak_memory_kb``, which is a maximum, not a sum)."""
    depths = [np.zeros(len(stage.depth)) for stage in priced.space.stages]
    return Additive(priced.tables[metric], depths, priced.fixed[metric])


def minimise(
    priced: PricedSpace, what: Additive, limits: Mapping[str, float], seconds: float = 30.0
) -> Genes | None:
    """The permitted candidate with the smallest ``what`` within the limits.

    Args:
        priced: The space and its costs.
        what: The value that is minimised.
        limits: Largest cost per metric, ``peak_memory_kb`` included.
        seconds: Time limit in seconds; the best solution found until then is returned.

    Returns:
        Genes ``(1, axes)``, or None if no candidate is within the limits.
    """
    shrink = 1.0
    for _ in range(3):
        row = _solve(priced, what, {m: v * shrink for m, v in limits.items()}, seconds)
        if row is None:
            return None
        costs = priced.costs(row, limits)
        if within(costs, limits).all():
            return row
        shrink -= 2e-6  # within the solver's tolerance, but over a limit
    return None


@dataclass(frozen=True)
class _Cells:
    """The combinations of one factor that may be chosen.

    Attributes:
        index: Index into the factor's flattened table, ``(n,)``.
        gain: The value that is minimised, ``(n,)``.
        costs: The limited sums, ``(limits, n)``.
    """

    index: Ints
    gain: Floats
    costs: Floats


def _cells(
    priced: PricedSpace, what: Additive, sums: Sequence[str], peak: float
) -> Iterator[_Cells]:
    """For each factor, the combinations that none with the same shared genes dominates."""
    bound = set(priced.bound)
    for f, (factor, mask) in enumerate(zip(priced.space.factors, priced.permitted, strict=True)):
        if np.isfinite(peak):
            mask = mask & (priced.tables["peak_memory_kb"][f] <= peak)
        index = np.flatnonzero(mask)
        gain = np.broadcast_to(what.tables[f], mask.shape).ravel()[index]
        costs = [priced.tables[m][f].ravel()[index] for m in sums]
        points = np.stack([gain, *costs], axis=1)
        dims = [d for d, i in enumerate(factor.axes) if i in bound]
        groups = np.zeros(len(index), dtype=np.int64)
        for d in dims:
            groups = groups * mask.shape[d] + np.unravel_index(index, mask.shape)[d]
        keep = np.zeros(len(index), dtype=bool)
        for group in np.unique(groups):
            mine = np.flatnonzero(groups == group)
            keep[mine[nondominated(points[mine])]] = True
        yield _Cells(index[keep], gain[keep], points[keep, 1:].T)


class _Rows:
    """Linear constraints ``low <= coefficients @ x <= high``, row after row.

    Attributes:
        low, high: Bounds of the rows so far.
    """

    def __init__(self) -> None:
        self._at: list[tuple[Ints, Ints, Floats]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, parts: Iterable[tuple[Ints, float | Floats]], low: float, high: float) -> None:
        """Add one row: each part names columns and their coefficients (or one for all)."""
        columns, values = zip(*parts, strict=True)
        full = [np.broadcast_to(v, c.shape) for c, v in zip(columns, values, strict=True)]
        column = np.concatenate(columns)
        row = np.full(len(column), len(self.low))
        self._at.append((row, column, np.concatenate(full).astype(np.float64)))
        self.low.append(low)
        self.high.append(high)

    def matrix(self, width: int) -> Any:
        """The coefficients as a sparse SciPy array, ``(rows, width)``."""
        from scipy.sparse import coo_array

        rows, columns, values = (np.concatenate(part) for part in zip(*self._at, strict=True))
        return coo_array((values, (rows, columns)), shape=(len(self.low), width)).tocsr()


class _Program:
    """The integer program of a space: its binary variables and constraints.

    Variables are the cells of every factor, then the choices of every depth and of every gene
    that several factors read.
    """

    def __init__(self, priced: PricedSpace, cells: Sequence[_Cells]) -> None:
        space = self.space = priced.space
        self.priced, self.cells = priced, cells
        named = (*range(len(space.stages)), *priced.bound)
        self.choices = [(i, g) for i in named for g in space.allowed[i]]
        self.starts = np.cumsum([0, *(len(c.index) for c in cells)])
        self.blocks = int(self.starts[-1])
        self._number = {choice: self.blocks + k for k, choice in enumerate(self.choices)}
        self.rows = _Rows()
        for i in named:
            self.rows.add([(self._columns(i, space.allowed[i]), 1.0)], 1.0, 1.0)
        for f in range(len(cells)):
            self._add_factor(f)

    def _columns(self, gene: int, choices: Iterable[int]) -> Ints:
        return np.array([self._number[gene, g] for g in choices], dtype=np.int64)

    def _add_factor(self, f: int) -> None:
        """Select one cell exactly if the factor's block runs, consistent with shared genes."""
        factor, space = self.space.factors[f], self.space
        own = np.arange(self.starts[f], self.starts[f + 1])
        if factor.slot is None:
            self.rows.add([(own, 1.0)], 1.0, 1.0)
        else:
            slot = space.slots[factor.slot]
            depth = space.stages[slot.stage].depth
            gates = [g for g in space.allowed[slot.stage] if depth[g] > slot.position]
            deep = self._columns(slot.stage, gates)
            self.rows.add([(own, 1.0), (deep, -1.0)], 0.0, 0.0)
        shape = self.priced.permitted[f].shape
        for d, i in enumerate(factor.axes):
            if i in self.priced.bound:
                chosen = np.unravel_index(self.cells[f].index, shape)[d]
                for g in space.allowed[i]:
                    agree = [(own[chosen == g], 1.0), (self._columns(i, [g]), -1.0)]
                    self.rows.add(agree, -np.inf, 0.0)

    def add_limit(self, costs: Floats, room: float) -> None:
        """Keep the sum of the cells' costs within ``room``."""
        scale = max(room, 1e-9)  # scaled to about 1, since the solver's tolerance is absolute
        self.rows.add([(np.arange(self.blocks), costs / scale)], -np.inf, room / scale)

    def solve(self, objective: Floats, seconds: float) -> Genes | None:
        """The genes with the smallest objective, ``(1, axes)``; None if none is found in time."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        rows, size = self.rows, np.abs(objective).max() or 1.0
        with quiet():
            solution = milp(
                objective / size,
                constraints=LinearConstraint(rows.matrix(len(objective)), rows.low, rows.high),
                integrality=np.ones(len(objective)),
                bounds=Bounds(0, 1),
                options={"mip_rel_gap": 1e-7, "time_limit": seconds},
            )
        return None if solution.x is None else self._genes(solution.x > 0.5)

    def _genes(self, picked: NDArray[np.bool_]) -> Genes:
        genes = np.zeros((1, len(self.space.axes)), dtype=np.int16)
        for (i, g), one in zip(self.choices, picked[self.blocks :], strict=True):
            if one:
                genes[0, i] = g
        for f, factor in enumerate(self.space.factors):
            cell = np.flatnonzero(picked[self.starts[f] : self.starts[f + 1]])
            if len(cell) and factor.axes:
                index, shape = self.cells[f].index[cell[0]], self.priced.permitted[f].shape
                genes[0, list(factor.axes)] = np.unravel_index(index, shape)
        return self.space.canonical(genes)


def _solve(
    priced: PricedSpace, what: Additive, limits: Mapping[str, float], seconds: float
) -> Genes | None:
    space = priced.space
    peak = limits.get("peak_memory_kb", np.inf)
    sums = [m for m in limits if m != "peak_memory_kb"]
    room = {m: limits[m] - priced.fixed[m] for m in sums}
    if peak < priced.fixed["peak_memory_kb"] or any(r < 0 for r in room.values()):
        return None
    cells = list(_cells(priced, what, sums, peak))
    if any(not len(c.index) for c, f in zip(cells, space.factors, strict=True) if f.slot is None):
        return None
    program = _Program(priced, cells)
    for k, metric in enumerate(sums):
        program.add_limit(np.concatenate([c.costs[k] for c in cells]), room[metric])
    depths = [what.depths[i][g] if i < len(space.stages) else 0.0 for i, g in program.choices]
    return program.solve(np.concatenate([*(c.gain for c in cells), depths]), seconds)


@contextmanager
def quiet() -> Iterator[None]:
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


def cheapest_within(priced: PricedSpace, metric: str, limits: Mapping[str, float]) -> Genes | None:
    """The candidate with the smallest ``metric`` among those within the *other* limits."""
    others = {m: v for m, v in limits.items() if m != metric}
    if metric == "peak_memory_kb":
        # A maximum is not a sum: bisect over its possible values.
        values = np.concatenate([t.ravel() for t in priced.tables[metric]])
        values = np.unique(np.maximum(values[np.isfinite(values)], priced.fixed[metric]))
        blocks = [np.zeros(mask.shape) for mask in priced.permitted]
        zero = Additive(blocks, cost_as_additive(priced, "macs_m").depths)
        found, low, high = None, 0, len(values)
        while low < high:
            middle = (low + high) // 2
            row = minimise(priced, zero, others | {metric: float(values[middle])})
            found, low, high = (found, middle + 1, high) if row is None else (row, low, middle)
        return found
    return minimise(priced, cost_as_additive(priced, metric), others)


def check_together(priced: PricedSpace, limits: Mapping[str, float]) -> None:
    """Raise unless some permitted candidate is within all limits at once.

    Raises:
        BudgetError: each limit can be met alone, but not all together; gives the smallest reachable
            value of each while the others hold.
    """
    first = next(iter(limits))
    row = cheapest_within(priced, first, limits)
    if row is not None and within(priced.costs(row, [first]), {first: limits[first]}).all():
        return
    lines = []
    for metric in limits:
        row = cheapest_within(priced, metric, limits)
        if row is None:
            lines.append(f"the limits other than {metric} already exclude each other")
        else:
            reached = priced.costs(row, [metric])[metric][0]
            lines.append(f"{metric} can reach {rounded_up(float(reached))} while the others hold")
    wanted = ", ".join(f"{m} <= {v:g}" for m, v in limits.items())
    raise BudgetError(
        f"no candidate of space {priced.space.name!r} has {wanted} together; " + "; ".join(lines)
    )
