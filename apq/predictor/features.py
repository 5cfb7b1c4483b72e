"""What a predictor sees of a candidate: the paper's one-hot code and, by default, its costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from apq.space import Genes, Space
from apq.space.layer import bitops, macs, weight_count

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Inputs:
    """n candidates as arrays; columns that are 1 are listed instead of stored densely.

    Attributes:
        arch_hot: Architecture columns that are 1, shape ``(n, k)``; -1 for none.
        bits_hot: Bit columns that are 1, counted from 0, shape ``(n, m)``; -1 for none.
        arch_costs: Logarithms of what follows from the architecture alone, ``(n, f)``.
        bits_costs: Logarithms of what depends on bits too, ``(n, g)``.
    """

    arch_hot: NDArray[np.int64]
    bits_hot: NDArray[np.int64]
    arch_costs: Floats
    bits_costs: Floats

    def __len__(self) -> int:
        return len(self.arch_hot)

    def __getitem__(self, rows: Any) -> Inputs:
        return Inputs(
            self.arch_hot[rows], self.bits_hot[rows], self.arch_costs[rows], self.bits_costs[rows]
        )


class Features(Protocol):
    """Turns candidates into :class:`Inputs`.

    Attributes:
        arch_columns, bits_columns: Widths of the two one-hot parts.
        arch_costs, bits_costs: Names of the cost columns.
    """

    arch_columns: int
    bits_columns: int
    arch_costs: tuple[str, ...]
    bits_costs: tuple[str, ...]

    def inputs(self, candidates: Any) -> Inputs:
        """Inputs of n candidates."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which the same features can be built again."""
        ...


class SpaceFeatures:
    """Features of genes of a :class:`~apq.space.Space`.

    The one-hot code is APQ's (CVPR 2020, section 3.2). ``costs=True`` adds logarithms of counts
    (ours): multiply-accumulates and weights of the searchable part and of each stage, and with
    bits BitOps and stored weight bits. They let a predictor generalise from few samples, since
    accuracy follows size smoothly while one-hot columns have to be learnt one by one.
    """

    def __init__(self, space: Space, *, costs: bool = True) -> None:
        self.space = space
        self.costs = costs
        self.arch_columns = space.architecture_dims
        self.bits_columns = space.encoding_dims - space.architecture_dims
        parts = ("", *(f"_{s}" for s in range(len(space.stages)))) if costs else ()
        self.arch_costs = tuple(f"{name}{part}" for part in parts for name in ("macs", "weights"))
        self.bits_costs = tuple(f"{name}{part}" for part in parts for name in ("bitops", "storage"))
        self._slot_stage = np.array([slot.stage for slot in space.slots])
        self._tables, self._offsets, self._strides = _count_tables(space)

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
        bits = hot[:, :, 2:].reshape(len(hot), -1)
        bits = np.where(bits >= 0, bits - self.arch_columns, -1)
        costs = self._costs(genes) if self.costs else np.zeros((len(genes), 0, 4), np.float32)
        return Inputs(
            hot[:, :, :2].reshape(len(hot), -1),
            bits,
            np.ascontiguousarray(costs[:, :, :2]).reshape(len(genes), -1),
            np.ascontiguousarray(costs[:, :, 2:]).reshape(len(genes), -1),
        )

    def _costs(self, genes: Genes) -> Floats:
        """Log counts of the whole network and each stage, shape ``(n, 1 + stages, 4)``."""
        blocks = self.space.block_genes(genes).astype(np.int64)
        index = np.einsum("nsa,sa->ns", blocks, self._strides) + self._offsets
        index[~self.space.active(genes)] = len(self._tables) - 1
        counts = self._tables[index]
        starts = np.searchsorted(self._slot_stage, np.arange(len(self.space.stages)))
        stages = np.add.reduceat(counts, starts, axis=1)
        whole = stages.sum(axis=1, keepdims=True)
        logs: Floats = np.log(np.concatenate([whole, stages], axis=1))
        return logs

    def to_dict(self) -> dict[str, Any]:
        """Plain data; inverse of :func:`features_from_dict`."""
        return {"kind": "space", "costs": self.costs, "space": self.space.to_dict()}


def _count_tables(space: Space) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Macs, weights, bitops and weight bits of every block of every slot, so that counting is a
    gather: table ``(combinations + 1, 4)`` whose last row is zero, offsets, strides."""
    rows, offsets, strides = [], [], []
    for slot in space.slots:
        shape = tuple(len(c) for c in slot.choices)
        total = np.zeros((*shape, 4))
        for layers in space.block_layers(slot, *space.slot_grid(slot)):
            weights = weight_count(layers)
            figures = (macs(layers), weights, bitops(layers), weights * layers["weight_bits"])
            for i, figure in enumerate(figures):
                total[..., i] += figure
        offsets.append(sum(len(r) for r in rows))
        strides.append([int(np.prod(shape[i + 1 :])) for i in range(len(shape))])
        rows.append(total.reshape(-1, 4))
    table = np.concatenate([*rows, np.zeros((1, 4))]).astype(np.float32)
    return table, np.array(offsets, dtype=np.int64), np.array(strides, dtype=np.int64)


def features_from_dict(data: Mapping[str, Any]) -> SpaceFeatures:
    """Inverse of ``to_dict``.

    Raises:
        KeyError, SpaceError: the data is incomplete.
    """
    return SpaceFeatures(Space.from_dict(data["space"]), costs=bool(data["costs"]))
