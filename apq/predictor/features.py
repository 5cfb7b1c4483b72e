"""What a predictor sees of a candidate: the paper's one-hot code, and columns that are smooth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from apq.space import ATTRIBUTES, Genes, Space
from apq.space.formats import BITS
from apq.space.layer import bitops, macs, weight_count

Floats = NDArray[np.float32]
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
    """How many columns the groups have together."""
    return sum(n for _, n in groups)


def one_hot(hot: NDArray[np.int64], columns: int) -> Floats:
    """The dense one-hot code ``(n, columns)``; -1 and columns beyond leave no mark."""
    out = np.zeros((len(hot), columns + 1), dtype=np.float32)
    np.put_along_axis(out, np.where((hot < 0) | (hot >= columns), columns, hot), 1.0, axis=1)
    return np.ascontiguousarray(out[:, :-1])


class SpaceFeatures:
    """Features of genes of a :class:`~apq.space.Space`.

    The one-hot code is APQ's (CVPR 2020, section 3.2). ``smooth=True`` adds columns (ours) in
    which near candidates are near, so that little data goes a long way: the chosen values as
    numbers, sums over stages, and logarithms of multiply-accumulates and weights, of the
    searchable part and of each stage. Of the bits: rounding steps, summed over everything, by
    kind, by stage and by slot, so that what all layers have in common is learnt first; and
    logarithms of the mean product of bits per multiply-accumulate and of the mean bits per weight.
    """

    def __init__(self, space: Space, *, smooth: bool = True) -> None:
        self.space = space
        self.smooth = smooth
        sizes = [sum(len(slot.choices[a]) for slot in space.slots) for a in range(len(ATTRIBUTES))]
        hot = tuple((f"{name} choices", n) for name, n in zip(ATTRIBUTES, sizes, strict=True))
        self.arch_hot_groups: Groups = hot[:2]
        self.bits_hot_groups: Groups = hot[2:]
        self.arch_groups: Groups = ()
        self.bits_groups: Groups = ()
        if not smooth:
            return
        slots, stages = len(space.slots), len(space.stages)
        self._levels = _level_table(space)
        self._stage_starts = np.array(
            [next(s.index for s in space.slots if s.stage == i) for i in range(stages)]
        )
        self._counts, self._offsets, self._strides = _count_tables(space)
        self.arch_groups = (
            ("depth", stages), ("kernel", slots), ("width", slots),
            ("sums", 2 * stages), ("counts", 2 * (1 + stages)),
        )  # fmt: skip
        self.bits_groups = (
            *((name, slots) for name in ATTRIBUTES[2:]),
            ("noise", 1), ("noise by kind", 4), ("noise by stage", stages),
            ("noise by stage and kind", 4 * stages), ("noise by slot", slots),
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
        n = len(genes)
        hot = self.space.hot_columns(genes)
        bits_hot = hot[:, :, 2:].reshape(n, -1)
        bits_hot = np.where(bits_hot >= 0, bits_hot - self.space.architecture_dims, -1)
        arch = bits = np.zeros((n, 0), dtype=np.float32)
        if self.smooth:
            arch, bits = self._smooth(genes, hot)
        return Inputs(hot[:, :, :2].reshape(n, -1), bits_hot, arch, bits)

    def _smooth(self, genes: Genes, hot: NDArray[np.int64]) -> tuple[Floats, Floats]:
        n = len(genes)
        levels = self._levels[hot].transpose(0, 2, 1)  # (n, attributes, slots); -1 is the zero row
        sums = np.add.reduceat(levels, self._stage_starts, axis=2)
        depth = self.space.depths(genes).astype(np.float32)
        blocks = self.space.block_genes(genes).astype(np.int64)
        index = np.einsum("nsa,sa->ns", blocks, self._strides) + self._offsets
        index[hot[:, :, 0] < 0] = -1
        stages = np.add.reduceat(self._counts[index], self._stage_starts, axis=1)
        counts = np.log(np.concatenate([stages.sum(axis=1, keepdims=True), stages], axis=1))
        noise = sums[:, 2:]
        kinds = noise.sum(axis=2)
        # bitops over macs and stored bits over weights: bits alone, whatever the architecture
        mean_bits = counts[:, :, 2:] - counts[:, :, :2]
        arch = (depth, levels[:, :2], sums[:, :2], counts[:, :, :2])
        bits = (
            levels[:, 2:], kinds.sum(axis=1), kinds, noise.sum(axis=1), noise,
            levels[:, 2:].sum(axis=1), mean_bits[:, 0], mean_bits[:, 1:],
        )  # fmt: skip
        return (
            np.concatenate([part.reshape(n, -1) for part in arch], axis=1),
            np.concatenate([part.reshape(n, -1) for part in bits], axis=1),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data: enough to build the same features again."""
        return {"kind": "space", "smooth": self.smooth, "space": self.space.to_dict()}


def _level_table(space: Space) -> Floats:
    """The number behind every one-hot column, and a last 0 for a skipped block.

    Kernels and widths are relative to the largest of the slot. Formats become the step of a grid of
    as many bits as they store, relative to the coarsest: rounding errors are proportional to it and
    a skipped block makes none. What sets schemes of equal bits apart is left to the one-hot code.
    """
    levels: list[float] = []
    for a, _ in enumerate(ATTRIBUTES):
        for slot in space.slots:
            choices = np.array(slot.choices[a])
            values = (choices if a < 2 else BITS[choices]).astype(np.float64)
            levels.extend(values / values.max() if a < 2 else 2.0 ** (values.min() - values))
    return np.array([*levels, 0.0], dtype=np.float32)


def _count_tables(space: Space) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Macs, weights, bitops and weight bits of every block of every slot, so that counting is a
    gather: table ``(combinations + 1, 4)`` whose last row is zero, offsets, strides."""
    rows: list[NDArray[np.float64]] = []
    offsets: list[int] = []
    strides: list[list[int]] = []
    for slot in space.slots:
        shape = tuple(len(c) for c in slot.choices)
        total = np.zeros((*shape, 4))
        for layers in space.rows(space.block(slot), space.slot_grid(slot)):
            weights = weight_count(layers)
            stored = weights * BITS[layers["weight_bits"]]
            figures = (macs(layers), weights, bitops(layers), stored)
            for i, figure in enumerate(figures):
                total[..., i] += figure
        offsets.append(sum(len(r) for r in rows))
        strides.append([int(np.prod(shape[i + 1 :])) for i in range(len(shape))])
        rows.append(total.reshape(-1, 4))
    table = np.concatenate([*rows, np.zeros((1, 4))]).astype(np.float32)
    return table, np.array(offsets, dtype=np.int64), np.array(strides, dtype=np.int64)
