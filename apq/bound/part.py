"""A part of a space: some choices per gene, the limits, and the largest value that a sum can have.

What is bounded here is affine in what is chosen: effects of single choices, of depths, and of
macs, weights, BitOps and weight bits. Such a function is a sum over factors, so without a limit its
maximum takes the best cell of every factor; a limit enters by Lagrange multipliers, any of which
gives a valid bound. Genes that several factors read are chosen in each by itself, which can only
raise a maximum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apq.hardware.pricing import PricedSpace
from apq.space import Genes, Space

Floats = NDArray[np.float64]
Choices = tuple[tuple[int, ...], ...]
"""Per gene the choices that are left."""

COUNTS = 4
"""Macs, weights, BitOps and weight bits."""

MULTIPLIERS = (0.1, 0.3, 0.6, 1.0, 2.0)
"""What a limit used up whole costs, as shares of a function's range; tried for many functions."""

STEPS = 40
"""Multipliers tried for a single function."""


@dataclass(frozen=True)
class Affine:
    """n functions of a candidate.

    Attributes:
        hot: Per column of the encoding, ``(n, encoding_dims)``.
        depth: Per unit of depth of every stage, ``(n, stages)``.
        logs: Per natural logarithm of a count, at least 1: of all, then of each stage, four each
            (:data:`COUNTS`), ``(n, 4 (1 + stages))``.
        constant: ``(n,)``.
    """

    hot: Floats
    depth: Floats
    logs: Floats
    constant: Floats

    def __add__(self, other: Affine) -> Affine:
        hot, depth, logs, constant = (a + b for a, b in zip(self.parts, other.parts, strict=True))
        return Affine(hot, depth, logs, constant)

    def __neg__(self) -> Affine:
        return Affine(-self.hot, -self.depth, -self.logs, -self.constant)

    @property
    def parts(self) -> tuple[Floats, Floats, Floats, Floats]:
        """The four arrays."""
        return self.hot, self.depth, self.logs, self.constant

    def mixed(self, weights: Floats, constant: Floats | float = 0.0) -> Affine:
        """Sums of these functions: ``weights`` of shape ``(m, n)``, a constant added to each."""
        hot, depth, logs, own = (weights @ part for part in self.parts)
        return Affine(hot, depth, logs, own + constant)


@dataclass(frozen=True)
class _Cells:
    """The combinations of one factor that a part permits.

    Attributes:
        stage: Of its block; None where every candidate has the factor.
        skipped: Whether some of the candidates do not run it.
        axes: Its genes, and per gene whether its effects count here.
        own: See ``axes``.
        permitted: In the shape of the choices left.
        counts: The four counts, in that shape and four.
        costs: Per limited cost, in that shape, infinite where it is not permitted.
    """

    stage: int | None
    skipped: bool
    axes: tuple[int, ...]
    own: tuple[bool, ...]
    permitted: NDArray[np.bool_]
    counts: Floats
    costs: Floats

    @property
    def flat(self) -> Floats:
        """The costs, ``(metrics, combinations)``."""
        return self.costs.reshape(len(self.costs), self.permitted.size)


class Part:
    """The candidates that take their genes from some choices and keep the limits.

    Args:
        priced: The space and its costs.
        limits: Largest cost per metric.
        counts: Macs, weights, BitOps and weight bits of all combinations of all factors.
        choices: Per gene what may be chosen; ascending.
    """

    def __init__(
        self, priced: PricedSpace, limits: Mapping[str, float], counts: Floats, choices: Choices
    ) -> None:
        self.space = priced.space
        self.sums = tuple(m for m in limits if m != "peak_memory_kb")
        self.room = np.array([limits[m] * (1 + 1e-9) - priced.fixed[m] for m in self.sums])
        self._peak = limits.get("peak_memory_kb", np.inf) * (1 + 1e-9)
        self.depths = [
            np.array([s.depth[g] for g in own], dtype=np.float64)
            for s, own in zip(self.space.stages, choices, strict=False)
        ]
        self.choices = tuple(own if self.runs(i) else own[:1] for i, own in enumerate(choices))
        self.cells = [*self._cells(priced, counts)]

    @cached_property
    def empty(self) -> bool:
        """Whether no candidate can keep the limits; False says nothing."""
        least = np.zeros(len(self.sums))
        for cells in self.cells:
            if not cells.skipped:
                if not cells.permitted.any():
                    return True
                least += cells.flat.min(axis=1)
        return bool((least > self.room).any())

    @property
    def size(self) -> float:
        """How many rows of genes it has, skipped blocks and limits not looked at."""
        return float(np.prod([float(len(c)) for c in self.choices]))

    def rows(self) -> Genes:
        """All of them, in canonical form and permitted."""
        mesh = np.meshgrid(*(np.array(c, dtype=np.int16) for c in self.choices), indexing="ij")
        rows = self.space.canonical(np.stack([m.ravel() for m in mesh], axis=1))
        rows = np.unique(rows, axis=0)
        kept: Genes = rows[self.space.contains(rows)]
        return kept

    def runs(self, gene: int) -> bool:
        """Whether some of the candidates run a gene's block, if it is a block's."""
        slot = self.space.axes[gene].slot
        if slot is None:
            return True
        found = self.space.slots[slot]
        return bool(self.depths[found.stage].max() > found.position)

    def may_skip(self, gene: int) -> bool:
        """Whether a gene's block is skipped by some of the candidates."""
        slot = self.space.axes[gene].slot
        if slot is None:
            return False
        found = self.space.slots[slot]
        return bool(self.depths[found.stage].min() <= found.position)

    def _cells(self, priced: PricedSpace, counts: Floats) -> Iterator[_Cells]:
        space = self.space
        own = _own(space)
        for f, factor in enumerate(space.factors):
            stage, skipped = None, False
            if factor.slot is not None:
                slot = space.slots[factor.slot]
                stage, depths = slot.stage, self.depths[slot.stage]
                skipped = bool(depths.min() <= slot.position)
                if depths.max() <= slot.position:
                    continue
            left = np.ix_(*(self.choices[i] for i in factor.axes)) if factor.axes else ()
            shape = priced.permitted[f].shape
            start = space.table_offsets[f]
            counted = counts[start : start + int(np.prod(shape))].reshape(*shape, COUNTS)[left]
            costs = np.array([priced.tables[m][f][left] for m in self.sums])
            costs = costs.reshape(len(self.sums), *counted.shape[:-1])
            mask = priced.permitted[f][left] & (
                priced.tables["peak_memory_kb"][f][left] <= self._peak
            )
            costs = np.where(mask, costs, np.inf)
            yield _Cells(stage, skipped, factor.axes, own[f], mask, counted, costs)

    # ---- counts ------------------------------------------------------------------------------

    @cached_property
    def _logs(self) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
        """Slopes and constants of lines above and below every logarithm, as functions of the
        counts, and its range."""
        low, high = self._sums()
        below, above = np.log(np.maximum(low, 1.0)), np.log(np.maximum(high, 1.0))
        wide = (low >= 1.0) & (above - below > 1e-9)
        chord = np.where(wide, (above - below) / np.where(wide, high - low, 1.0), 0.0)
        middle = np.where(wide, 1.0 / np.where(wide, chord, 1.0), 1.0)  # where the tangent touches
        return (
            np.where(wide, chord, 0.0), np.where(wide, np.log(middle) - 1.0, above),
            chord, np.where(wide, below - chord * low, below), below, above,
        )  # fmt: skip

    def _sums(self) -> tuple[Floats, Floats]:
        """Smallest and largest counts, of all and of each stage, ``(4 (1 + stages),)`` each."""
        size = COUNTS * (1 + len(self.depths))
        ends = []
        for sign in (-1.0, 1.0):
            values = [sign * np.moveaxis(c.counts.reshape(-1, COUNTS), 1, 0) for c in self.cells]
            tables = []
            for cells, table in zip(self.cells, values, strict=True):
                full = np.zeros((size, table.shape[1]))
                full[:COUNTS] = table
                if cells.stage is not None:
                    full[COUNTS * (1 + cells.stage) :][:COUNTS] = table
                tables.append(full)
            costs = [c.flat for c in self.cells]
            masks = [c.permitted.ravel() for c in self.cells]
            ends.append(sign * self._best(tables, costs, masks, np.zeros(size)))
        return np.maximum(ends[0], 0.0), np.maximum(ends[1], 0.0)

    # ---- maxima ------------------------------------------------------------------------------

    def maxima(self, what: Affine) -> Floats:
        """At least the largest value of each function, ``(n,)``.

        Number formats count by themselves: their logarithms by their range, their costs at the
        cheapest. That makes tables small enough for many functions at once.
        """
        slopes, constant = self._lines(what, formats=False)
        constant = constant + self._free(what.hot)
        tables, costs, masks = [], [], []
        for cells in self.cells:
            places = tuple(d for d, i in enumerate(cells.axes) if self.space.axes[i].is_format)
            table = self._table(cells, what.hot, slopes, formats=False)
            mask = cells.permitted.any(axis=places)
            least = cells.costs.min(axis=tuple(1 + d for d in places)) if places else cells.costs
            table = table.reshape(len(table), -1)
            for d in places:
                effects = self._effects(what.hot, cells, d)
                table = table + effects.max(axis=1, keepdims=True)
            tables.append(table)
            costs.append(least.reshape(len(self.sums), mask.size))
            masks.append(mask.ravel())
        return self._best(tables, costs, masks, constant)

    def maximum(self, what: Affine) -> float:
        """At least the largest value of one function; all combinations looked at."""
        slopes, constant = self._lines(what, formats=True)
        constant = constant + self._free(what.hot)
        tables = [self._table(c, what.hot, slopes, formats=True).reshape(1, -1) for c in self.cells]
        costs = [c.flat for c in self.cells]
        masks = [c.permitted.ravel() for c in self.cells]
        shares = np.geomspace(0.01, 10.0, STEPS)
        return float(self._best(tables, costs, masks, constant, shares)[0])

    def _lines(self, what: Affine, formats: bool) -> tuple[Floats, Floats]:
        """What is multiplied by the counts, ``(n, 1 + stages, 4)``, and what is constant: depths at
        their best, logarithms by the lines above or below them."""
        above, above_at, below, below_at, low, high = self._logs
        up = what.logs > 0
        slopes = what.logs * np.where(up, above, below)
        fixed = what.logs * np.where(up, above_at, below_at)
        if not formats:
            kinds = np.arange(what.logs.shape[1]) % COUNTS >= 2
            slopes = np.where(kinds, 0.0, slopes)
            fixed = np.where(kinds, np.maximum(what.logs * low, what.logs * high), fixed)
        constant = what.constant + fixed.sum(axis=1)
        for s, depths in enumerate(self.depths):
            constant = constant + (what.depth[:, s, None] * depths).max(axis=1)
        return slopes.reshape(len(slopes), -1, COUNTS), constant

    def _effects(self, hot: Floats, cells: _Cells, d: int) -> Floats:
        """Effects of the choices left of one of a factor's genes, ``(n, choices)``."""
        i = cells.axes[d]
        if not cells.own[d]:
            return np.zeros((len(hot), len(self.choices[i])))
        start = self.space.starts[i]
        return hot[:, start + np.array(self.choices[i])]

    def _table(self, cells: _Cells, hot: Floats, slopes: Floats, formats: bool) -> Floats:
        """A value per cell, ``(n, …)``; without formats their axes are left out."""
        keep = [d for d, i in enumerate(cells.axes) if formats or not self.space.axes[i].is_format]
        counts = cells.counts
        own = slopes[:, 0] + (slopes[:, 1 + cells.stage] if cells.stage is not None else 0.0)
        if not formats:  # macs and weights are the same whatever the formats
            counts = counts[tuple(slice(None) if d in keep else 0 for d in range(len(cells.axes)))]
            own, counts = own[:, :2], counts[..., :2]
        table: Floats = np.tensordot(own, counts, axes=([1], [counts.ndim - 1]))
        for place, d in enumerate(keep):
            shape = [len(hot), *[1] * len(keep)]
            shape[1 + place] = -1
            table = table + self._effects(hot, cells, d).reshape(shape)
        return table

    def _free(self, hot: Floats) -> Floats:
        """The best of genes whose effects count in no factor, ``(n,)``."""
        total = np.zeros(len(hot))
        owned = {
            i
            for factor, own in zip(self.space.factors, _own(self.space), strict=True)
            for i, mine in zip(factor.axes, own, strict=True)
            if mine
        }
        for i in self.space.encoded:
            if i not in owned:
                start = self.space.starts[i]
                total += hot[:, start + np.array(self.choices[i])].max(axis=1)
        return total

    def _best(
        self,
        tables: Sequence[Floats],
        costs: Sequence[Floats],
        masks: Sequence[NDArray[np.bool_]],
        constant: Floats,
        shares: Sequence[float] | Floats = MULTIPLIERS,
    ) -> Floats:
        """The smallest bound that some multipliers give, ``(n,)``."""
        parts = [
            (table[:, mask], cost[:, mask], cells.skipped)
            for table, cost, mask, cells in zip(tables, costs, masks, self.cells, strict=True)
        ]

        def value(multipliers: Floats) -> Floats:
            total: Floats = constant + multipliers @ self.room
            for table, cost, skipped in parts:
                if not table.shape[1]:
                    continue
                best = (table - multipliers @ cost).max(axis=1)
                total = total + (np.maximum(best, 0.0) if skipped else best)
            return total

        span = sum((np.ptp(t, axis=1) for t, _, _ in parts if t.shape[1]), np.zeros(len(constant)))
        chosen = np.zeros((len(constant), len(self.sums)))
        best = value(chosen)
        for metric, room in enumerate(self.room):
            unit = span / max(room, 1e-12)
            start = chosen.copy()
            for share in shares:
                trial = start.copy()
                trial[:, metric] = unit * share
                now = value(trial)
                better = now < best
                best, chosen[better] = np.minimum(best, now), trial[better]
        return best


def _own(space: Space) -> list[tuple[bool, ...]]:
    """Per factor which genes' effects count in it, each gene in one factor at most."""
    own: list[tuple[bool, ...]] = [()] * len(space.factors)
    for group in space.alike:
        for f, flags in zip(group.factors, group.own.tolist(), strict=True):
            own[f] = tuple(flags)
    return own
