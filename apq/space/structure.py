"""A family's network as genes: what follows from the graph alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.space.axes import Axis, SearchedStage, Slot, is_format
from apq.space.candidate import Candidate
from apq.space.families import DEFAULT_FAMILY, FAMILIES, Family
from apq.space.families.base import plain
from apq.space.families.builder import Builder
from apq.space.formats import Choice, code_of
from apq.space.graph import LATER, Graph, Node, is_priced, number
from apq.space.layer import Layer, LayerArray, Size, size_of, to_layer

Genes = NDArray[np.int16]


@dataclass(frozen=True)
class Structure:
    """The networks of a family, as a graph and its genes.

    Attributes:
        family: The description from which everything else is derived.
    """

    family: Family

    @property
    def name(self) -> str:
        """The space's name."""
        return self.family.name

    @property
    def classes(self) -> int:
        """Outputs of the classifier."""
        return self.family.classes

    @property
    def exclude(self) -> tuple[Mapping[str, Choice], ...]:
        """Combinations of choices that no block may have."""
        return self.family.exclude

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return number(self.graph.nodes[0].channels)

    @cached_property
    def resolution(self) -> int:
        """Largest height and width of an image in pixels."""
        side = self.graph.nodes[0].side
        return max(self.axis(side).choices) if isinstance(side, str) else number(side)

    @property
    def image_size(self) -> Size:
        """Largest height and width of an image in pixels: one number, or both where it is not
        square."""
        return size_of(self.graph.nodes[0].size or self.resolution)

    # ---- parts -----------------------------------------------------------------------------

    @cached_property
    def _written(self) -> Builder:
        return self.family.write()

    @cached_property
    def graph(self) -> Graph:
        """The network as nodes that read genes."""
        return self._written.graph

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The genes: ``depth_0 …``, those of several blocks, then per slot ``b00_kernel …``."""
        return self._written.axes

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Every place for a block, active or not, in network order."""
        return tuple(self._written.slots)

    @cached_property
    def stages(self) -> tuple[SearchedStage, ...]:
        """The searched stages in order, one per depth axis, which keeps the leading slots."""
        return self._written.stages

    @cached_property
    def shared(self) -> tuple[int, ...]:
        """Indices of the genes that are neither a depth nor a block's own."""
        return tuple(i for i, a in enumerate(self.axes) if a.slot is None and not a.is_depth)

    def axis(self, name: str) -> Axis:
        """The axis of a name."""
        return self.axes[self.place[name]]

    @cached_property
    def place(self) -> dict[str, int]:
        """Columns of the genes by name."""
        return {axis.name: i for i, axis in enumerate(self.axes)}

    @cached_property
    def cardinalities(self) -> NDArray[np.int16]:
        """Number of choices per axis, shape ``(len(axes),)``."""
        return np.array([len(axis.choices) for axis in self.axes], dtype=np.int16)

    @cached_property
    def parts(self) -> NDArray[np.int64]:
        """The part that each gene belongs to, ``(len(axes),)``: a part per depth and shared gene,
        then one per slot."""
        first = len(self.stages) + len(self.shared)
        return np.array(
            [i if axis.slot is None else first + axis.slot for i, axis in enumerate(self.axes)]
        )

    @property
    def part_count(self) -> int:
        """Number of parts."""
        return len(self.stages) + len(self.shared) + len(self.slots)

    def own(self, slot: Slot) -> tuple[int, ...]:
        """Places of a slot's genes."""
        return tuple(self.place[name] for name in slot.genes)

    def block(self, slot: Slot) -> tuple[Node, ...]:
        """Nodes of a slot's block."""
        return tuple(node for node in self.graph.nodes if node.block == slot.name)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the description (its name aside), 16 hex digits."""
        data = {k: v for k, v in self.to_dict().items() if k != "name"}
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def architecture(self) -> str:
        """Hash of the description without names and number formats, 16 hex digits. Spaces with the
        same hash share supernets and fp32 samples, which have no formats."""
        genes = [[axis.name, axis.choices] for axis in self.axes if not axis.is_format]
        nodes = [_shape_of(replace(node, weight=0, activation=0)) for node in self.graph.nodes]
        text = json.dumps([genes, nodes], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain data with the field names of the TOML form; inverse of :meth:`from_dict`.
        Restrictions are no part of it."""
        kind = next(name for name, kind in FAMILIES.items() if isinstance(self.family, kind))
        about = {} if kind == DEFAULT_FAMILY else {"family": kind}
        return about | plain(self.family)

    # ---- what runs -------------------------------------------------------------------------

    def depths(self, genes: Genes) -> NDArray[np.int64]:
        """Depth of every stage, shape ``(n, stages)``."""
        stages = np.arange(len(self.stages))
        depths: NDArray[np.int64] = self._depth_table[stages, genes[:, : len(stages)]]
        return depths

    @cached_property
    def _depth_table(self) -> NDArray[np.int64]:
        """Depth per stage and choice, padded, shape ``(stages, most choices)``."""
        most = max((len(stage.depth) for stage in self.stages), default=0)
        rows = [stage.depth + (0,) * (most - len(stage.depth)) for stage in self.stages]
        return np.array(rows, dtype=np.int64).reshape(len(rows), most)

    @cached_property
    def _gates(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Stage and position of every slot."""
        slots = [(slot.stage, slot.position) for slot in self.slots]
        stage, position = np.array(slots, dtype=np.int64).reshape(-1, 2).T
        return stage, position

    def active(self, genes: Genes) -> NDArray[np.bool_]:
        """Which slots run, shape ``(n, slots)``: the leading ``depth`` of each stage."""
        stage, position = self._gates
        active: NDArray[np.bool_] = self.depths(genes)[:, stage] > position
        return active

    def decides(self, genes: Genes) -> NDArray[np.bool_]:
        """Mask of the genes that do not belong to skipped slots, shape as ``genes``."""
        always = np.ones((len(genes), len(self.stages) + len(self.shared)), dtype=bool)
        by_part = np.concatenate([always, self.active(genes)], axis=1)
        decides: NDArray[np.bool_] = by_part[:, self.parts]
        return decides

    def canonical(self, genes: Genes) -> Genes:
        """Copy with the genes of skipped slots set to 0, so equal subnets are equal rows."""
        out: Genes = genes * self.decides(genes)
        return out

    # ---- layers ----------------------------------------------------------------------------

    def graph_of(self, candidate: Candidate) -> Graph:
        """The network of one candidate: numbers in place of genes, only nodes that run."""
        return self.graph.at(self.chosen(candidate))

    def chosen(self, candidate: Candidate) -> dict[str, int]:
        """Chosen value by name of the gene, formats as codes; genes of skipped blocks are missing.

        The candidate is taken to be of this space (:meth:`genes` checks).
        """
        return {
            name: code_of(choice) if is_format(name) else int(choice)
            for name, choice in candidate.choices
        }

    def rows(
        self, nodes: Iterable[Node], values: Mapping[str, Any] | None = None
    ) -> list[tuple[Node, LayerArray]]:
        """The priced ones among ``nodes``, as layers.

        Args:
            nodes: Nodes of ``graph``.
            values: Values of the genes they read: numbers, or arrays that broadcast together.
        """
        sides = self.sides(values or {})
        return [
            (node, self.graph.row(node, sides[node.inputs[0]], values))
            for node in nodes
            if is_priced(node)
        ]

    def sides(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Height and width in pixels of every node's output, by its name.

        Args:
            values: Values of genes: numbers, or arrays that broadcast together. Without a
                resolution the largest one is used.
        """
        side = self.graph.side
        default = {side: self.resolution} if isinstance(side, str) else {}
        return self.graph.sides(default | dict(values))

    @cached_property
    def fixed_layers(self) -> dict[str, Layer]:
        """Layers that are the same in every candidate, by name."""
        fixed = [n for n in self.graph.priced if not n.block and not self.graph.genes(n)]
        return {node.name: to_layer(row) for node, row in self.rows(fixed)} if fixed else {}

    def layers(self, candidate: Candidate) -> tuple[Layer, ...]:
        """Layers of one candidate in the order they run."""
        graph = self.graph_of(candidate)
        sides = graph.sides()
        return tuple(to_layer(graph.row(node, sides[node.inputs[0]])) for node in graph.priced)


def _shape_of(node: Node) -> dict[str, Any]:
    """A node's fields, without unused ones that were added later, so that old hashes stay valid."""
    said = asdict(node)
    return {k: v for k, v in said.items() if k not in LATER or v != getattr(_PLAIN, k)}


_PLAIN = Node("", "")
