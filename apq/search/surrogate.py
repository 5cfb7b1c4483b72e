"""Additive models of a search's value: around one candidate, or fitted to many (ours)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq.search.integer_program import Additive
from apq.space import Genes, Space

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """All candidates that differ from one in a single gene.

    A gene of a skipped slot is changed in the shallowest candidate that runs the slot; there it
    starts from a copy of the block before.

    Attributes:
        full: The centre with skipped slots filled in, ``(axes,)``.
        rows: The neighbours, ``(n, axes)``; the first is the centre.
        axis, gene: The axis and new gene of each neighbour after the first.
        base: Per neighbour after the first, the row it was changed from.
    """

    full: Genes
    rows: Genes
    axis: NDArray[np.int64]
    gene: NDArray[np.int64]
    base: NDArray[np.int64]


def neighbours(space: Space, row: Genes) -> Neighbours:
    """Neighbours of one permitted row, shape ``(axes,)``."""
    full = row.copy()
    runs = space.active(row[None])[0]
    for before, slot in itertools.pairwise(space.slots):
        for name in () if runs[slot.index] else slot.attributes:
            if name in before.attributes:
                there, here = (space.place[f"{s.name}_{name}"] for s in (before, slot))
                most, own = (int(space.cardinalities[i]) - 1 for i in (there, here))
                full[here] = round(int(full[there]) / max(most, 1) * own)
    full = space.snap(full[None], canonical=False)[0]
    axis = np.repeat(np.arange(len(full)), [len(a) for a in space.allowed])
    gene = np.concatenate([np.array(a) for a in space.allowed]).astype(np.int64)
    moves = gene != full[axis]
    axis, gene = axis[moves], gene[moves]
    # the row in which each slot's genes are changed: the centre, or the shallowest that runs it
    base = np.zeros(len(axis), dtype=np.int64)
    reachable = np.ones(len(axis), dtype=bool)
    slot_of = _slots(space)[axis]
    for slot in space.slots:
        if runs[slot.index]:
            continue
        mine = slot_of == slot.index
        depths = space.stages[slot.stage].depth
        deeper = [g for g in space.allowed[slot.stage] if depths[g] > slot.position]
        if not deeper:
            reachable &= ~mine
            continue
        depth = min(deeper, key=lambda g, depths=depths: depths[g])  # type: ignore[misc]
        base[mine] = 1 + int(np.flatnonzero((axis == slot.stage) & (gene == depth))[0])
    axis, gene, base = axis[reachable], gene[reachable], base[reachable]
    rows = np.repeat(full[None], len(axis) + 1, axis=0)
    shifted = np.flatnonzero(base) + 1
    rows[shifted, axis[base[shifted - 1] - 1]] = gene[base[shifted - 1] - 1]
    rows[np.arange(1, len(rows)), axis] = gene
    snapped = space.snap(rows)
    for i in np.flatnonzero(snapped[np.arange(1, len(rows)), axis] != gene):
        _leave_exclusion(space, rows, snapped, axis, gene, base, int(i))
    return Neighbours(full, snapped, axis, gene, base)


def _slots(space: Space) -> NDArray[np.int64]:
    """Slot of every axis, -1 for none."""
    return np.array([-1 if axis.slot is None else axis.slot for axis in space.axes])


def _leave_exclusion(
    space: Space,
    rows: Genes,
    snapped: Genes,
    axis: NDArray[np.int64],
    gene: NDArray[np.int64],
    base: NDArray[np.int64],
    move: int,
) -> None:
    """Where an exclusion forbids a gene in the centre, measure its effect from a neighbour that
    permits it: 4-bit activations excluded with kernel 7, say, from the one with kernel 5."""
    slot_of = _slots(space)[axis]
    beside = np.flatnonzero((slot_of == slot_of[move]) & (axis != axis[move]))
    trial = rows[beside + 1]
    trial[:, axis[move]] = gene[move]
    trial = space.snap(trial)
    kept = trial[np.arange(len(beside)), axis[beside]] == gene[beside]
    kept &= trial[:, axis[move]] == gene[move]
    if kept.any():
        first_kept = int(np.flatnonzero(kept)[0])
        base[move] = beside[first_kept] + 1
        snapped[move + 1] = trial[first_kept]


def local_model(space: Space, around: Neighbours, values: Floats, penalty: float) -> Additive:
    """The value as centre + sum of single-gene effects, plus ``penalty`` per changed gene.

    Args:
        space: The space.
        around: The neighbours.
        values: Their values, ``(n,)``, to be minimised.
        penalty: Keeps the optimum near the centre, where the model is right.
    """
    effect = np.zeros((len(space.axes), int(space.cardinalities.max())))
    effect[around.axis, around.gene] = values[1:] - values[around.base] + penalty
    sizes = space.cardinalities
    by_axis = [effect[i, : sizes[i]] for i in range(len(space.axes))]
    return _sum_of_effects(space, by_axis, float(values[0]))


def _sum_of_effects(space: Space, effects: Sequence[Floats], constant: float) -> Additive:
    """Effects of single choices, per axis, as tables of the factors."""
    tables: list[Floats] = [np.empty(0)] * len(space.factors)
    for group in space.alike:
        total: Floats = np.zeros((len(group.factors), *[1] * len(group.shape)))
        for d, (axes, own) in enumerate(zip(group.axes.T, group.own.T, strict=True)):
            if own.any():
                part = np.array([effects[i] for i in axes])
                part = part if own.all() else part * own[:, None]
                shape = [len(axes), *(-1 if k == d else 1 for k in range(len(group.shape)))]
                total = total + part.reshape(shape)
        for f, table in zip(group.factors, total, strict=True):
            tables[f] = table
    return Additive(tables, [effects[s] for s in range(len(space.stages))], constant)


def features(space: Space, genes: Genes) -> NDArray[np.float32]:
    """Depth one-hots, then the encoding, whose columns are 0 in skipped slots, and a one;
    ``(n, features)``."""
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
    order = [*range(len(space.stages)), *space.encoded]
    parts = np.split(effects[:-1], np.cumsum(space.cardinalities[order])[:-1])
    by_axis = dict(zip(order, parts, strict=True))
    in_order = [by_axis[i] for i in range(len(space.axes))]
    return _sum_of_effects(space, in_order, mean + float(effects[-1]))
