"""Input features of a predictor: the paper's one-hot code, and smooth columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from apq.space import Genes, Space, is_format
from apq.space.formats import BITS
from apq.space.graph import there
from apq.space.layer import bitops, macs, weight_count

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Groups = tuple[tuple[str, int], ...]
"""Names of neighbouring columns that mean the same kind of thing, and how many there are."""


@dataclass(frozen=True)
class Inputs:
    """n candidates as arrays. One-hot columns are listed, not stored.

    Attributes:
        arch_hot: Architecture columns that are 1, shape ``(n, k)``; -1 for none.
        bits_hot: Bit columns that are 1, counted from 0, shape ``(n, m)``; -1 for none.
        arch: Smooth columns that follow from the architecture alone, ``(n, a)``.
        bits: Smooth columns that depend on bits too, ``(n, b)``.
    """

    arch_hot: NDArray[np.int64]
    bits_hot: NDArray[np.int64]
    arch: Floats
    bits: Floats

    def __len__(self) -> int:
        return len(self.arch_hot)

    def __getitem__(self, rows: Any) -> Inputs:
        return Inputs(self.arch_hot[rows], self.bits_hot[rows], self.arch[rows], self.bits[rows])


class Features(Protocol):
    """Turns candidates into :class:`Inputs`.

    Attributes:
        arch_hot_groups, bits_hot_groups: What the one-hot columns are.
        arch_groups, bits_groups: What the smooth columns are.
    """

    arch_hot_groups: Groups
    bits_hot_groups: Groups
    arch_groups: Groups
    bits_groups: Groups

    def inputs(self, candidates: Any) -> Inputs:
        """Inputs of n candidates."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which the same features can be built again."""
        ...


def width(groups: Groups) -> int:
    """Total number of columns of the groups."""
    return sum(n for _, n in groups)


def one_hot(hot: NDArray[np.int64], columns: int) -> Floats:
    """The dense one-hot code ``(n, columns)``; -1 and columns beyond leave no mark."""
    out = np.zeros((len(hot), columns + 1), dtype=np.float32)
    np.put_along_axis(out, np.where((hot < 0) | (hot >= columns), columns, hot), 1.0, axis=1)
    return np.ascontiguousarray(out[:, :-1])


class SpaceFeatures:
    """Features of genes of a :class:`~apq.space.Space`.

    The one-hot code is APQ's (CVPR 2020, section 3.2). ``smooth=True`` adds columns (ours) in
    which similar candidates are close, so that few samples suffice. For the architecture: the
    chosen values as numbers, sums over stages, and logarithms of multiply-accumulates and weights
    of the searchable part and of each stage. For the bits: rounding steps, summed overall, by kind,
    by stage and by slot, so that effects common to all layers are learnt first; and logarithms of
    the mean product of bits per multiply-accumulate and of the mean bits per weight.
    """

    def __init__(self, space: Space, *, smooth: bool = True) -> None:
        self.space = space
        self.smooth = smooth
        self._arch, self._bits = (
            [i for i, a in enumerate(space.axes) if not a.is_depth and a.is_format == formats]
            for formats in (False, True)
        )
        choices = [
            (name, sum(len(a.choices) for a in space.axes if a.attribute == name))
            for name in space.attributes
        ]
        hot = [(is_format(name), (f"{name} choices", n)) for name, n in choices]
        self.arch_hot_groups: Groups = tuple(group for formats, group in hot if not formats)
        self.bits_hot_groups: Groups = tuple(group for formats, group in hot if formats)
        self.arch_groups: Groups = ()
        self.bits_groups: Groups = ()
        if not smooth:
            return
        slots, stages = len(space.slots), len(space.stages)
        self._levels = _level_table(space)
        self._grid_arch = _Grid.of(space, formats=False)
        self._grid_bits = _Grid.of(space, formats=True)
        self._stage_starts = np.array([stage.slots[0] for stage in space.stages])
        self._counts = _count_table(space)
        arch, bits = self._grid_arch, self._grid_bits
        self.arch_groups = (
            ("depth", stages), *arch.groups, ("sums", len(arch.names) * stages),
            ("counts", 2 * (1 + stages)),
        )  # fmt: skip
        kinds = len(bits.names)
        self.bits_groups = (
            *bits.groups,
            ("noise", 1), ("noise by kind", kinds), ("noise by stage", stages),
            ("noise by stage and kind", kinds * stages), ("noise by slot", slots),
            ("mean bits", 2), ("mean bits by stage", 2 * stages),
        )  # fmt: skip

    def inputs(self, candidates: Genes) -> Inputs:
        """Inputs of genes, shape ``(n, len(space.axes))``.

        Raises:
            ValueError: the number of columns is not the space's number of axes.
        """
        genes = np.asarray(candidates)
        if genes.ndim != 2 or genes.shape[1] != len(self.space.axes):
            raise ValueError(
                f"genes must have shape (n, {len(self.space.axes)}) in space "
                f"{self.space.name!r}, got {genes.shape}"
            )
        hot = self.space.hot_columns(genes)
        bits_hot = hot[:, self._bits]
        bits_hot = np.where(bits_hot >= 0, bits_hot - self.space.architecture_dims, -1)
        arch = bits = np.zeros((len(genes), 0), dtype=np.float32)
        if self.smooth:
            arch, bits = self._smooth(genes, hot)
        return Inputs(hot[:, self._arch], bits_hot, arch, bits)

    def _smooth(self, genes: Genes, hot: NDArray[np.int64]) -> tuple[Floats, Floats]:
        n = len(genes)
        level = np.concatenate([self._levels[hot], np.zeros((n, 1), dtype=np.float32)], axis=1)
        arch_grid, bits_grid = level[:, self._grid_arch.places], level[:, self._grid_bits.places]
        sums, noise = (
            np.add.reduceat(grid, self._stage_starts, axis=2) for grid in (arch_grid, bits_grid)
        )
        depth = self.space.depths(genes).astype(np.float32)
        index = self.space.combinations(genes) + self.space.table_offsets
        index[~self.space.counted(genes)] = -1
        counted, slots = self._counts[index], len(self.space.slots)
        stages = np.add.reduceat(counted[:, :slots], self._stage_starts, axis=1)
        total = stages.sum(axis=1, keepdims=True)
        total += counted[:, slots:].sum(axis=1, keepdims=True)
        counts = np.log(np.maximum(np.concatenate([total, stages], axis=1), 1.0))
        kinds = noise.sum(axis=2)
        # bitops over macs and stored bits over weights: bits alone, whatever the architecture
        mean_bits = counts[:, :, 2:] - counts[:, :, :2]
        arch = (depth, level[:, self._grid_arch.listed], sums, counts[:, :, :2])
        bits = (
            level[:, self._grid_bits.listed], kinds.sum(axis=1), kinds, noise.sum(axis=1), noise,
            bits_grid.sum(axis=1), mean_bits[:, 0], mean_bits[:, 1:],
        )  # fmt: skip
        return (
            np.concatenate([part.reshape(n, -1) for part in arch], axis=1),
            np.concatenate([part.reshape(n, -1) for part in bits], axis=1),
        )

    def parts(self) -> tuple[Doubles, Doubles, Doubles]:
        """The summands of the smooth columns (those of the bits come last).

        Returns:
            A row per column of the encoding, one per stage (times its depth), and one per logarithm
            of a count: macs, weights, BitOps and weight bits, at least 1, of all blocks, then of
            each stage. ``(…, a + b)`` each.

        Example:
            >>> import apq
            >>> of_choices, of_depths, of_logs = SpaceFeatures(apq.load_space("digits")).parts()
            >>> of_choices.shape[1] == of_depths.shape[1] == of_logs.shape[1]
            True
        """
        space, stages = self.space, len(self.space.stages)
        wide = width(self.arch_groups), width(self.bits_groups)
        found = [np.zeros((n, sum(wide))) for n in (space.encoding_dims, stages, 4 * (1 + stages))]
        if not self.smooth:
            return found[0], found[1], found[2]
        hot = np.full((space.encoding_dims + 1, len(space.axes)), -1, dtype=np.int64)
        for i in space.encoded:
            own = space.starts[i] + np.arange(len(space.axes[i].choices))
            hot[own, i] = own
        same = np.zeros(
            hot.shape, dtype=np.int16
        )  # depths and counts are alike, only levels differ
        columns = np.concatenate(self._smooth(same, hot), axis=1).astype(np.float64)
        found[0] += columns[:-1] - columns[-1]
        found[0][np.abs(found[0]) < 1e-9] = 0.0
        found[1][range(stages), range(stages)] = 1.0
        for part in range(1 + stages):
            for kind in range(2):
                last = 2 * (part - 1 - stages) + kind  # counted from behind
                found[2][4 * part + kind, wide[0] + last] = 1.0
                found[2][4 * part + 2 + kind, sum(wide) + last] = 1.0
                found[2][4 * part + kind, sum(wide) + last] = -1.0
        return found[0], found[1], found[2]

    @property
    def counts(self) -> Floats:
        """Macs, weights, BitOps and weight bits of every combination of every factor, one after the
        other, ``(combinations, 4)``."""
        return _count_table(self.space)[:-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: enough to build the same features again."""
        return {"kind": "space", "smooth": self.smooth, "space": self.space.to_dict()}


@dataclass(frozen=True)
class _Grid:
    """Columns of the genes of one kind, by attribute and slot.

    Attributes:
        names: Attributes of slots.
        places: Column of the gene, ``(names, slots)``; one past the last axis where there is none.
        listed: Columns of all genes of the kind, name by name.
        groups: Names of these, and how many each.
    """

    names: tuple[str, ...]
    places: NDArray[np.int64]
    listed: NDArray[np.int64]
    groups: Groups

    @classmethod
    def of(cls, space: Space, formats: bool) -> _Grid:
        names = tuple(
            name
            for name in space.attributes
            if is_format(name) == formats and any(name in slot.attributes for slot in space.slots)
        )
        none = len(space.axes)
        places = [
            [space.place.get(f"{s.name}_{name}", none) for s in space.slots] for name in names
        ]
        listed = [i for i in space.encoded if space.axes[i].is_format == formats]
        kinds = [space.axes[i].attribute for i in listed]
        groups = tuple((name, kinds.count(name)) for name in dict.fromkeys(kinds))
        shape = (len(names), len(space.slots))
        return cls(
            names, np.array(places, dtype=np.int64).reshape(shape),
            np.array(listed, dtype=np.int64), groups,
        )  # fmt: skip


def _level_table(space: Space) -> Floats:
    """The number behind every one-hot column, and a last 0 for a skipped block.

    Kernels and widths are relative to the largest of the slot. Formats become the step of a grid of
    as many bits as they store, relative to the coarsest: rounding errors are proportional to it and
    a skipped block makes none. What sets schemes of equal bits apart is left to the one-hot code.
    """
    levels: list[float] = []
    for i in space.encoded:
        axis = space.axes[i]
        choices = np.array(axis.choices)
        values = (BITS[choices] if axis.is_format else choices).astype(np.float64)
        share = values / max(values.max(), 1.0)
        levels.extend(2.0 ** (values.min() - values) if axis.is_format else share)
    return np.array([*levels, 0.0], dtype=np.float32)


def _count_table(space: Space) -> Floats:
    """Macs, weights, bitops and weight bits of every combination of every factor, so that counting
    is a gather: ``(combinations + 1, 4)``, whose last row is zero."""
    rows: list[NDArray[np.float64]] = []
    for factor in space.factors:
        grid = space.grid(factor)
        total = np.zeros((*(mesh.size for mesh in grid.values()), 4))
        for node, layers in space.rows(factor.nodes, grid):
            weights = weight_count(layers)
            stored = weights * BITS[layers["weight_bits"]]
            for i, figure in enumerate((macs(layers), weights, bitops(layers), stored)):
                total[..., i] += figure * there(node, grid)
        rows.append(total.reshape(-1, 4))
    return np.concatenate([*rows, np.zeros((1, 4))]).astype(np.float32)
