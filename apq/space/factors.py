"""A space's costs as sums of factors, each over the few genes that are read together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.space.graph import Node
from apq.space.structure import Genes, Structure


@dataclass(frozen=True)
class Factor:
    """Nodes whose costs depend on the same few genes, and are looked up together.

    Attributes:
        name: Name of the block, e.g. ``b03``, or of the first node outside blocks.
        nodes: Nodes in the order they run.
        axes: Indices of the genes: a block's own first, then shared genes that it reads.
        slot: The block's index; None for nodes that every candidate has.
    """

    name: str
    nodes: tuple[Node, ...]
    axes: tuple[int, ...]
    slot: int | None = None


@dataclass(frozen=True)
class Alike:
    """Factors whose tables have the same shape.

    Attributes:
        factors: Their indices among all factors.
        shape: Number of choices per gene.
        axes: Indices of the genes of each, ``(factors, dimensions)``.
        own: Mask of a slot's own genes or, in a factor without a slot, of shared genes that no
            earlier factor has, ``(factors, dimensions)``; every gene but the depths occurs once.
    """

    factors: tuple[int, ...]
    shape: tuple[int, ...]
    axes: NDArray[np.int64]
    own: NDArray[np.bool_]


@dataclass(frozen=True)
class Factored(Structure):
    """A space that is priced factor by factor."""

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """The nodes grouped by the genes they read: slot by slot, then the nodes outside slots that
        depend on genes. Every shared gene is in one of the latter, if necessary without nodes."""
        found = []
        for slot in self.slots:
            nodes, own = self.block(slot), self.own(slot)
            others = sorted(self._read(nodes) - {*own})
            found.append(Factor(slot.name, nodes, (*own, *others), slot.index))
        always: dict[tuple[int, ...], list[Node]] = {}
        for node in self.graph.nodes:
            if not node.block and node.op != "image":
                always.setdefault(tuple(sorted(self._read([node]))), []).append(node)
        always.pop((), None)
        for i in self.shared:
            always.setdefault((i,), [])
        for axes, members in always.items():
            name = members[0].name if members else self.axes[axes[0]].name
            found.append(Factor(name, tuple(members), axes))
        return tuple(found)

    def _read(self, nodes: Iterable[Node]) -> set[int]:
        """Places of the genes, depths aside, that nodes read."""
        names = set().union(*(self.graph.genes(node) for node in nodes))
        return {self.place[name] for name in names if not self.axis(name).is_depth}

    def grid(self, factor: Factor) -> dict[str, NDArray[np.int64]]:
        """Choices of a factor's genes as open-mesh arrays by name of the gene, one dimension per
        gene: broadcasting them gives every combination, in the shape of the dense price tables."""
        axes = [self.axes[i] for i in factor.axes]
        mesh = np.ix_(*(np.array(axis.choices, dtype=np.int64) for axis in axes))
        return {axis.name: m for axis, m in zip(axes, mesh, strict=True)}

    @cached_property
    def _table_sizes(self) -> list[int]:
        """Combinations of every factor's choices."""
        return [math.prod(len(self.axes[i].choices) for i in f.axes) for f in self.factors]

    @cached_property
    def _steps(self) -> NDArray[np.floating[Any]]:
        """Stride of every gene in each factor's flattened table, ``(axes, factors)``.

        Floats, because their matrix product is fast; integers of this size are exact.
        """
        exact = np.float32 if max(self._table_sizes, default=0) < 2**24 else np.float64
        steps = np.zeros((len(self.axes), len(self.factors)), dtype=exact)
        for f, (factor, size) in enumerate(zip(self.factors, self._table_sizes, strict=True)):
            for i in factor.axes:
                size //= len(self.axes[i].choices)
                steps[i, f] = size
        return steps

    @cached_property
    def table_offsets(self) -> NDArray[np.int64]:
        """Offset of each factor's table in the concatenation of all flattened tables."""
        return np.cumsum([0, *self._table_sizes])[:-1]

    @cached_property
    def alike(self) -> tuple[Alike, ...]:
        """The factors, grouped by the shape of their tables."""
        taken = {i for factor in self.factors if factor.slot is not None for i in factor.axes}
        taken = {i for i in taken if self.axes[i].slot is not None}
        own: list[list[bool]] = []
        for factor in self.factors:
            if factor.slot is not None:
                own.append([self.axes[i].slot == factor.slot for i in factor.axes])
                continue
            own.append([i not in taken for i in factor.axes])
            taken |= {*factor.axes}
        groups: dict[tuple[int, ...], list[int]] = {}
        for f, factor in enumerate(self.factors):
            groups.setdefault(tuple(len(self.axes[i].choices) for i in factor.axes), []).append(f)
        return tuple(
            Alike(
                tuple(members), shape,
                np.array([self.factors[f].axes for f in members]).reshape(len(members), -1),
                np.array([own[f] for f in members]).reshape(len(members), -1),
            )
            for shape, members in groups.items()
        )  # fmt: skip

    def combinations(self, genes: Genes) -> NDArray[np.int64]:
        """Index of each factor's chosen combination into its flattened table, ``(n, factors)``."""
        index: NDArray[np.int64] = (genes.astype(self._steps.dtype) @ self._steps).astype(np.int64)
        return index

    def counted(self, genes: Genes) -> NDArray[np.bool_]:
        """Which factors count, ``(n, factors)``: those of skipped slots do not."""
        active = self.active(genes)
        always = np.ones((len(genes), len(self.factors) - active.shape[1]), dtype=bool)
        return np.concatenate([active, always], axis=1) if always.shape[1] else active
