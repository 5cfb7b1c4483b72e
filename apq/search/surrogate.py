"""Additive models of a search's value: around one candidate, or fitted to many (ours)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq.search.program import Additive
from apq.search.region import Region
from apq.space import ATTRIBUTES, Genes, Space

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """All candidates that differ from one in a single gene.

    A gene of a skipped slot is changed in the shallowest candidate that runs the slot; there it
    starts from a copy of the block before.

    Attributes:
        full: The centre with skipped slots filled in, ``(axes,)``.
        rows: The neighbours, ``(n, axes)``; the first is the centre.
        axis, gene: What was changed per neighbour after the first.
        base: Per neighbour after the first, the row it was changed from.
    """

    full: Genes
    rows: Genes
    axis: NDArray[np.int64]
    gene: NDArray[np.int64]
    base: NDArray[np.int64]


def neighbours(region: Region, row: Genes) -> Neighbours:
    """Neighbours of one permitted row, shape ``(axes,)``."""
    space, stages = region.space, len(region.space.stages)
    full = row.copy()
    blocks, runs = space.block_genes(full[None])[0], space.active(row[None])[0]
    for slot in space.slots[1:]:
        if not runs[slot.index]:
            before = space.slots[slot.index - 1]
            sizes = [(len(a), len(b)) for a, b in zip(before.choices, slot.choices, strict=True)]
            copied = [
                round(int(g) / max(a - 1, 1) * (b - 1))
                for g, (a, b) in zip(blocks[before.index], sizes, strict=True)
            ]
            blocks[slot.index] = copied
    full = region.snap(full[None], canonical=False)[0]
    axis = np.repeat(np.arange(len(full)), [len(a) for a in region.allowed])
    gene = np.concatenate([np.array(a) for a in region.allowed]).astype(np.int64)
    moves = gene != full[axis]
    axis, gene = axis[moves], gene[moves]
    # where each slot is looked at: the centre, or the depth neighbour that first runs the slot
    base = np.zeros(len(axis), dtype=np.int64)
    reachable = np.ones(len(axis), dtype=bool)
    for slot in space.slots:
        if runs[slot.index]:
            continue
        mine = (axis >= stages) & ((axis - stages) // len(ATTRIBUTES) == slot.index)
        deeper = [
            g
            for g in region.allowed[slot.stage]
            if space.stages[slot.stage].depth[g] > slot.position
        ]
        if not deeper:
            reachable &= ~mine
            continue
        depth = min(deeper, key=lambda g, s=slot.stage: space.stages[s].depth[g])  # type: ignore[misc]
        base[mine] = 1 + int(np.flatnonzero((axis == slot.stage) & (gene == depth))[0])
    axis, gene, base = axis[reachable], gene[reachable], base[reachable]
    rows = np.repeat(full[None], len(axis) + 1, axis=0)
    shifted = np.flatnonzero(base) + 1
    rows[shifted, axis[base[shifted - 1] - 1]] = gene[base[shifted - 1] - 1]
    rows[np.arange(1, len(rows)), axis] = gene
    snapped = region.snap(rows)
    for i in np.flatnonzero(snapped[np.arange(1, len(rows)), axis] != gene):
        _leave_exclusion(region, rows, snapped, axis, gene, base, int(i))
    return Neighbours(full, snapped, axis, gene, base)


def _leave_exclusion(
    region: Region,
    rows: Genes,
    snapped: Genes,
    axis: NDArray[np.int64],
    gene: NDArray[np.int64],
    base: NDArray[np.int64],
    move: int,
) -> None:
    """Measure a gene that is excluded beside the centre's other genes from a neighbour that
    permits it: 4-bit activations beside kernel 7, say, from the one with kernel 5."""
    first = len(region.space.stages)
    slot = (axis[move] - first) // len(ATTRIBUTES)
    beside = np.flatnonzero(
        (axis >= first) & ((axis - first) // len(ATTRIBUTES) == slot) & (axis != axis[move])
    )
    trial = rows[beside + 1]
    trial[:, axis[move]] = gene[move]
    trial = region.snap(trial)
    kept = trial[np.arange(len(beside)), axis[beside]] == gene[beside]
    kept &= trial[:, axis[move]] == gene[move]
    if kept.any():
        first_kept = int(np.flatnonzero(kept)[0])
        base[move] = beside[first_kept] + 1
        snapped[move + 1] = trial[first_kept]


def local_model(region: Region, around: Neighbours, values: Floats, penalty: float) -> Additive:
    """The value as centre + sum of single-gene effects, plus ``penalty`` per changed gene.

    Args:
        region: What may be chosen.
        around: The neighbours.
        values: Their values, ``(n,)``, to be minimised.
        penalty: Keeps the optimum near the centre, where the model is right.
    """
    space, stages = region.space, len(region.space.stages)
    effect = np.zeros((len(space.axes), int(space.cardinalities.max())))
    effect[around.axis, around.gene] = values[1:] - values[around.base] + penalty
    own = effect[stages:].reshape(len(space.slots), len(ATTRIBUTES), -1)
    blocks: list[Floats] = [np.empty(0)] * len(space.slots)
    alike = sorted(space.slots, key=lambda slot: [len(c) for c in slot.choices])
    for sizes, group in itertools.groupby(alike, lambda slot: [len(c) for c in slot.choices]):
        members = [slot.index for slot in group]
        tables: Floats = np.zeros([1] * (1 + len(sizes)))
        for a, size in enumerate(sizes):
            shape = [len(members), *(size if i == a else 1 for i in range(len(sizes)))]
            tables = tables + own[members, a, :size].reshape(shape)
        for slot, table in zip(members, tables, strict=True):
            blocks[slot] = table
    return Additive(blocks, list(effect[:stages]), float(values[0]))


def features(space: Space, genes: Genes) -> NDArray[np.float32]:
    """Depth one-hots, then per slot and attribute one-hots that are 0 in skipped slots, and a
    one; ``(n, features)``."""
    parts = [
        (genes[:, s, None] == np.arange(len(stage.depth))).astype(np.float32)
        for s, stage in enumerate(space.stages)
    ]
    one = np.ones((len(genes), 1), dtype=np.float32)
    return np.concatenate([*parts, space.encode(genes), one], axis=1)


def fit_additive(space: Space, genes: Genes, values: Floats, ridge: float = 1e-2) -> Additive:
    """Least squares with a small ridge: ``values`` as a sum of effects of single choices.

    Args:
        space: The space.
        genes: ``(n, axes)``.
        values: ``(n,)``.
        ridge: Weight of the effects' squares, per row.
    """
    from scipy.linalg import cho_factor, cho_solve

    x = features(space, genes)
    mean = float(values.mean())
    gram = (x.T @ x).astype(np.float64)  # counts: single precision is exact
    gram[np.diag_indices_from(gram)] += ridge
    right = x.T @ (values - mean).astype(np.float32)
    effects = cho_solve(cho_factor(gram), right.astype(np.float64))
    sizes = [len(stage.depth) for stage in space.stages]
    sizes += [len(slot.choices[a]) for a in range(len(ATTRIBUTES)) for slot in space.slots]
    parts = np.split(effects[:-1], np.cumsum(sizes)[:-1])
    depths, by_axis = parts[: len(space.stages)], parts[len(space.stages) :]
    blocks = []
    for slot in space.slots:
        table: Floats = np.zeros([1] * len(ATTRIBUTES))
        for a in range(len(ATTRIBUTES)):
            of_axis = by_axis[a * len(space.slots) + slot.index]
            table = table + of_axis.reshape([-1 if i == a else 1 for i in range(len(ATTRIBUTES))])
        blocks.append(table)
    return Additive(blocks, depths, mean + float(effects[-1]))
