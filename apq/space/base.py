"""The search space: a value that says what can be chosen, and the arrays that follow from it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import SpaceError, side_by_side
from apq.files.limits import MOST_CHANNELS, MOST_DEPTHS, MOST_EXCLUDED, MOST_STAGES, MOST_WIDTHS
from apq.space.candidate import Bits, Block, Candidate
from apq.space.formats import (
    FORMATS,
    Choice,
    allowed,
    choice_of,
    code_of,
    ordered,
)
from apq.space.graph import LAYERS, Graph, Node
from apq.space.layer import Layer, LayerArray, out_side, to_layer

Genes = NDArray[np.int16]

ARCHITECTURE = ("kernel", "width")
BIT_FIELDS = ("pw_w", "pw_a", "dw_w", "dw_a")
BIT_ATTRIBUTES = tuple(f"{name}_bits" for name in BIT_FIELDS)
ATTRIBUTES = ARCHITECTURE + BIT_ATTRIBUTES
"""What is chosen in every block slot, in the order of the genes."""


@dataclass(frozen=True)
class Stage:
    """A run of block slots with one output width.

    Attributes:
        channels: Output channels of every block of the stage.
        stride: Stride of the first block; the others have 1.
        depth: How many leading blocks may be kept. The largest is the number of slots.
        kernel: Depthwise kernel sizes to choose from (odd).
        expand: With ``width_step``: lowest and highest hidden width as multiples of a block's
            input channels. Without: the multiples to choose from.
        width_step: Distance between hidden widths, in channels; 0 means ``expand`` is a list.
    """

    channels: int
    stride: int
    depth: tuple[int, ...]
    kernel: tuple[int, ...]
    expand: tuple[float, ...]
    width_step: int = 8

    def widths(self, in_channels: int) -> tuple[int, ...]:
        """Hidden widths of a block with ``in_channels`` inputs, ascending."""
        if not self.width_step:
            return tuple(_divisible(round(in_channels * e)) for e in self.expand)
        low, high = self.expand[0] * in_channels, self.expand[-1] * in_channels
        count = int((high - low) / self.width_step + 1e-9)
        return tuple(round(low) + i * self.width_step for i in range(count + 1))


@dataclass(frozen=True)
class BitChoices:
    """Number formats a block may use for pointwise/depthwise weights and activations.

    Plain widths as ints, others by name (:mod:`apq.space.formats`); given in any order, kept by
    stored bits.

    Raises:
        SpaceError: a format is unknown.
    """

    pw_w: tuple[Choice, ...] = (4, 6, 8)
    pw_a: tuple[Choice, ...] = (4, 6, 8)
    dw_w: tuple[Choice, ...] = (4, 6, 8)
    dw_a: tuple[Choice, ...] = (4, 6, 8)

    def __post_init__(self) -> None:
        for name in BIT_FIELDS:
            object.__setattr__(self, name, ordered(getattr(self, name)))

    @property
    def codes(self) -> tuple[tuple[int, ...], ...]:
        """Codes of the choices, in the order of the fields."""
        return tuple(tuple(map(code_of, getattr(self, name))) for name in BIT_FIELDS)


@dataclass(frozen=True)
class Axis:
    """One gene: its column name, what may be chosen, and the slot it belongs to (None: depth).

    ``choices`` are what arrays hold: depths, kernels, widths, codes of number formats.
    """

    name: str
    attribute: str
    choices: tuple[int, ...]
    stage: int
    slot: int | None

    @cached_property
    def labels(self) -> tuple[Choice, ...]:
        """The choices as people write them: numbers, and names of formats."""
        if self.attribute not in BIT_ATTRIBUTES:
            return self.choices
        return tuple(map(choice_of, self.choices))

    @cached_property
    def named(self) -> bool:
        """Whether a choice has a name. Columns of such an axis hold text, ``"8"`` too."""
        return any(isinstance(label, str) for label in self.labels)


@dataclass(frozen=True)
class Slot:
    """A place for a block: its fixed geometry and its choices in the order of ATTRIBUTES (formats
    as codes)."""

    index: int
    stage: int
    position: int
    in_channels: int
    out_channels: int
    stride: int
    side: int
    choices: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """The block's name, as in ``b03``."""
        return f"b{self.index:02d}"

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes, in the order of ATTRIBUTES."""
        return tuple(f"{self.name}_{attribute}" for attribute in ATTRIBUTES)

    @property
    def shortcut(self) -> bool:
        """Whether the block adds its input to its output."""
        return self.stride == 1 and self.in_channels == self.out_channels


def _divisible(value: float, step: int = 8) -> int:
    """Round to a multiple of ``step``, never more than 10 % down (MobileNet's rule)."""
    rounded = max(step, int(value + step / 2) // step * step)
    return rounded + step if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class Space:
    """What can be searched: MobileNetV2-type networks as data.

    The network is: 3x3 stem, one fixed depthwise-separable block, the stages, a 1x1 head
    convolution, global average pooling, a linear classifier. The fixed layers use ``fixed_bits``.

    Attributes:
        name: Short name.
        resolution: Input side in pixels.
        in_channels: Image channels.
        classes: Outputs of the classifier.
        stem_channels, stem_stride: The 3x3 stem convolution.
        first_channels: Output channels of the fixed first block (depthwise 3x3, then 1x1).
        head_channels: Output channels of the 1x1 convolution before pooling.
        stages: The searchable stages.
        bits: Number formats the searchable blocks may use.
        fixed_bits: Bitwidth of everything that is not searched.
        fixed_weight_bits: Bitwidth of its weights, if another. Where the classifier is large or the
            blocks are small these weights are much of a file.
        exclude: Combinations no block may have, e.g. ``({"kernel": 7, "dw_a_bits": 4},)``.

    Raises:
        SpaceError: the numbers contradict themselves; the message names the field.
    """

    name: str
    resolution: int
    classes: int
    stages: tuple[Stage, ...]
    in_channels: int = 3
    stem_channels: int = 16
    stem_stride: int = 1
    first_channels: int = 16
    head_channels: int = 320
    bits: BitChoices = BitChoices()
    fixed_bits: int = 8
    fixed_weight_bits: int | None = None
    exclude: tuple[Mapping[str, Choice], ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    # ---- structure -------------------------------------------------------------------------

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Every place for a block, active or not, in network order."""
        bit_choices = self.bits.codes
        slots: list[Slot] = []
        channels = self.first_channels
        side = int(out_side(self.resolution, self.stem_stride))
        for s, stage in enumerate(self.stages):
            for position in range(max(stage.depth)):
                stride = stage.stride if position == 0 else 1
                choices = (stage.kernel, stage.widths(channels), *bit_choices)
                slots.append(
                    Slot(len(slots), s, position, channels, stage.channels, stride, side, choices)
                )
                channels, side = stage.channels, int(out_side(side, stride))
        return tuple(slots)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The genes: ``depth_0 …``, then per slot ``b00_kernel, b00_width, b00_pw_w_bits …``."""
        axes = [
            Axis(f"depth_{s}", "depth", stage.depth, s, None) for s, stage in enumerate(self.stages)
        ]
        for slot in self.slots:
            for name, attribute, choices in zip(slot.genes, ATTRIBUTES, slot.choices, strict=True):
                axes.append(Axis(name, attribute, choices, slot.stage, slot.index))
        return tuple(axes)

    @cached_property
    def cardinalities(self) -> NDArray[np.int16]:
        """Number of choices per axis, shape ``(len(axes),)``."""
        return np.array([len(axis.choices) for axis in self.axes], dtype=np.int16)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the canonical form (its name aside), 16 hex digits."""
        data = {k: v for k, v in self.to_dict().items() if k != "name"}
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def count(self) -> int:
        """Exact number of distinct candidates."""
        total = 1
        for s, stage in enumerate(self.stages):
            per_slot = []
            for slot in (slot for slot in self.slots if slot.stage == s):
                free = math.prod(
                    len(c)
                    for a, c in zip(ATTRIBUTES, slot.choices, strict=True)
                    if a not in self._excluded_attributes
                )
                per_slot.append(free * len(self._valid[slot.index]))
            total *= sum(math.prod(per_slot[:depth]) for depth in stage.depth)
        return total

    # ---- genes -----------------------------------------------------------------------------

    def block_genes(self, genes: Genes) -> Genes:
        """View of the block part of ``genes`` as ``(n, slots, len(ATTRIBUTES))``."""
        return genes[:, len(self.stages) :].reshape(len(genes), len(self.slots), len(ATTRIBUTES))

    def depths(self, genes: Genes) -> NDArray[np.int64]:
        """Depth of every stage, shape ``(n, stages)``."""
        stages = np.arange(len(self.stages))
        depths: NDArray[np.int64] = self._depth_table[stages, genes[:, : len(stages)]]
        return depths

    @cached_property
    def _depth_table(self) -> NDArray[np.int64]:
        """Depth per stage and choice, padded, shape ``(stages, most choices)``."""
        most = max(len(stage.depth) for stage in self.stages)
        return np.array([stage.depth + (0,) * (most - len(stage.depth)) for stage in self.stages])

    def active(self, genes: Genes) -> NDArray[np.bool_]:
        """Which slots run, shape ``(n, slots)``: the leading ``depth`` of each stage."""
        active: NDArray[np.bool_] = self.depths(genes)[:, self._slot_stage] > self._slot_position
        return active

    def canonical(self, genes: Genes) -> Genes:
        """Copy with the genes of skipped slots set to 0, so equal subnets are equal rows."""
        out = genes.copy()
        self.block_genes(out)[~self.active(out)] = 0
        return out

    def repair(self, genes: Genes) -> Genes:
        """Copy in which no block has an excluded combination.

        A forbidden block becomes the allowed one that changes the fewest genes, then the smallest
        number of steps, then keeps the highest choices (deterministic; ours).
        """
        if not self.exclude:
            return genes.copy()
        out = genes.copy()
        blocks = self.block_genes(out)
        for slot in self.slots:
            table = self._nearest_valid[slot.index]
            cols = self._excluded_columns
            blocks[:, slot.index, cols] = table[tuple(blocks[:, slot.index, c] for c in cols)]
        return out

    def is_valid(self, genes: Genes) -> NDArray[np.bool_]:
        """Per row: in range and no active block has an excluded combination, shape ``(n,)``."""
        ok: NDArray[np.bool_] = np.all((genes >= 0) & (genes < self.cardinalities), axis=1)
        safe = np.where(ok[:, None], genes, 0).astype(genes.dtype)
        changed = np.any(self.block_genes(self.repair(safe)) != self.block_genes(safe), axis=2)
        broken: NDArray[np.bool_] = np.any(changed & self.active(safe), axis=1)
        return ok & ~broken

    def sample(self, count: int, rng: np.random.Generator) -> Genes:
        """Draw ``count`` candidates, every gene uniform and independent, blocks only from the
        allowed combinations; canonical rows, shape ``(count, len(axes))``. Repeats may occur."""
        genes = (rng.random((count, len(self.axes))) * self.cardinalities).astype(np.int16)
        if self.exclude:
            blocks = self.block_genes(genes)
            for slot in self.slots:
                valid = self._valid[slot.index]
                pick = valid[rng.integers(len(valid), size=count)]
                blocks[:, slot.index, self._excluded_columns] = pick
        return self.canonical(genes)

    def every_candidate(self, limit: int = 2_000_000) -> Genes:
        """All canonical rows of a small space.

        Raises:
            SpaceError: there are more than ``limit``.
        """
        if self.count() > limit:
            raise SpaceError(f"space {self.name!r} has {self.count():.3g} candidates, over {limit}")
        first = len(self.stages)
        rows: list[NDArray[np.int16]] = []
        for depth_genes in itertools.product(*(range(len(s.depth)) for s in self.stages)):
            depths = [self.stages[s].depth[g] for s, g in enumerate(depth_genes)]
            options = []
            for slot in self.slots:
                used = slot.position < depths[slot.stage]
                sizes = [range(len(c)) if used else range(1) for c in slot.choices]
                options.append(np.array(list(itertools.product(*sizes)), dtype=np.int16))
            index = np.indices([len(o) for o in options]).reshape(len(options), -1)
            genes = np.zeros((index.shape[1], len(self.axes)), dtype=np.int16)
            genes[:, :first] = depth_genes
            for i, (option, pick) in enumerate(zip(options, index, strict=True)):
                self.block_genes(genes)[:, i] = option[pick]
            rows.append(genes[self.is_valid(genes)])
        return np.concatenate(rows)

    # ---- candidates ------------------------------------------------------------------------

    def build(self, row: Sequence[int] | NDArray[np.integer[Any]]) -> Candidate:
        """The candidate that one row of genes describes."""
        genes = np.asarray(row, dtype=np.int16)[None]
        depths = self.depths(genes)[0]
        blocks = self.block_genes(genes)[0]
        stages: list[list[Block]] = [[] for _ in self.stages]
        for slot in self.slots:
            if slot.position < depths[slot.stage]:
                values = [c[g] for c, g in zip(slot.choices, blocks[slot.index], strict=True)]
                bits = Bits(*map(choice_of, values[2:]))
                stages[slot.stage].append(Block(values[0], values[1], bits))
        return Candidate(self.resolution, tuple(tuple(stage) for stage in stages))

    def genes(self, candidates: Sequence[Candidate]) -> Genes:
        """Canonical rows of candidates, shape ``(len(candidates), len(axes))``.

        Raises:
            SpaceError: a candidate does not belong to this space; the message names the field.
        """
        out = np.zeros((len(candidates), len(self.axes)), dtype=np.int16)
        for i, candidate in enumerate(candidates):
            if len(candidate.stages) != len(self.stages):
                raise SpaceError(
                    f"candidate has {len(candidate.stages)} stages, "
                    f"space {self.name!r} has {len(self.stages)}"
                )
            if candidate.resolution != self.resolution:
                raise SpaceError(
                    f"candidate is for {candidate.resolution} px, "
                    f"space {self.name!r} for {self.resolution} px"
                )
            blocks = self.block_genes(out[i : i + 1])[0]
            for s, stage in enumerate(candidate.stages):
                out[i, s] = self._index(self.axes[s], len(stage))
            for slot in self.slots:
                stage = candidate.stages[slot.stage]
                if slot.position < len(stage):
                    block = stage[slot.position]
                    values = (block.kernel, block.width, *block.bits.codes)
                    first = len(self.stages) + slot.index * len(ATTRIBUTES)
                    for a, value in enumerate(values):
                        blocks[slot.index, a] = self._index(self.axes[first + a], value)
        return out

    def _index(self, axis: Axis, value: int) -> int:
        try:
            return axis.choices.index(value)
        except ValueError:
            raise self._refused(axis, value) from None

    def _refused(self, axis: Axis, value: float, where: str = "") -> SpaceError:
        told = f"{value:g}"
        if axis.attribute in BIT_ATTRIBUTES and value in range(1, len(FORMATS)):
            told = str(choice_of(int(value)))
        return SpaceError(
            f"{where}{axis.name} = {told} is not in space {self.name!r}; "
            f"allowed: {list(axis.labels)}"
        )

    def values(self, genes: Genes) -> dict[str, NDArray[Any]]:
        """Columns by axis name: the chosen values, NaN where the slot is skipped.

        An axis with named formats has text instead (``"8"``, ``"ternary"``) and None.
        """
        active = self.active(genes)
        columns: dict[str, NDArray[Any]] = {}
        for j, axis in enumerate(self.axes):
            if axis.named:
                column = np.array([str(label) for label in axis.labels], dtype=object)[genes[:, j]]
            else:
                column = np.array(axis.choices, dtype=np.float64)[genes[:, j]]
            if axis.slot is not None:
                column[~active[:, axis.slot]] = None  # in floats: NaN
            columns[axis.name] = column
        return columns

    def from_values(self, columns: Mapping[str, NDArray[Any]]) -> Genes:
        """Inverse of :meth:`values`. A missing, NaN or None bit column means the highest choice.

        Raises:
            SpaceError: a column is missing or holds a value the axis does not offer.
        """
        missing = [
            a.name for a in self.axes if a.name not in columns and a.attribute not in BIT_ATTRIBUTES
        ]
        if missing:
            raise SpaceError(
                f"columns missing for space {self.name!r}: {', '.join(missing[:6])}"
                + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
            )
        n = len(columns[self.axes[0].name])
        genes = np.zeros((n, len(self.axes)), dtype=np.int16)
        for j, axis in enumerate(self.axes):
            if axis.slot == 0 and axis.attribute == ATTRIBUTES[0]:
                active = self.active(genes)  # depth genes are filled by now
            if axis.name not in columns:
                genes[:, j] = len(axis.choices) - 1
                continue
            given = columns[axis.name]
            column = _codes(given) if axis.named else np.asarray(given, dtype=np.float64)
            order = np.argsort(axis.choices)
            ordered = np.array(axis.choices, dtype=np.float64)[order]
            position = np.minimum(np.searchsorted(ordered, np.nan_to_num(column)), len(order) - 1)
            genes[:, j] = order[position]
            wrong = ordered[position] != column
            if axis.attribute in BIT_ATTRIBUTES:
                absent = np.isnan(column)
                genes[absent, j] = len(axis.choices) - 1
                wrong &= ~absent
            if axis.slot is not None:
                wrong &= active[:, axis.slot]
            if np.any(wrong):
                i = int(np.flatnonzero(wrong)[0])
                raise self._refused(axis, column[i], f"row {i}: ")
        return self.canonical(genes)

    # ---- encoding --------------------------------------------------------------------------

    @cached_property
    def architecture_dims(self) -> int:
        """Columns of the encoding that describe kernels and widths; bit columns follow."""
        return sum(len(a.choices) for a in self.axes if a.attribute in ARCHITECTURE)

    @cached_property
    def encoding_dims(self) -> int:
        """Columns of the whole encoding."""
        return sum(len(a.choices) for a in self.axes if a.slot is not None)

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        offsets = np.zeros((len(self.slots), len(ATTRIBUTES)), dtype=np.int64)
        total = 0
        for a in range(len(ATTRIBUTES)):
            for slot in self.slots:
                offsets[slot.index, a] = total
                total += len(slot.choices[a])
        return offsets

    def hot_columns(self, genes: Genes) -> NDArray[np.int64]:
        """Columns of the encoding that are 1, shape ``(n, slots, len(ATTRIBUTES))``; -1 where a
        slot is skipped. Attribute 0 and 1 are architecture, the rest bits."""
        columns: NDArray[np.int64] = self._offsets + self.block_genes(genes)
        columns[~self.active(genes)] = -1
        return columns

    def encode(self, genes: Genes) -> NDArray[np.float32]:
        """One-hot code of APQ (CVPR 2020, section 3.2), shape ``(n, encoding_dims)``.

        Grouped by attribute: kernels of all slots, widths of all slots, then the four bit
        attributes. A skipped block is all zeros; depth has no columns of its own.
        """
        hot = self.hot_columns(genes).reshape(len(genes), len(self.slots) * len(ATTRIBUTES))
        out = np.zeros((len(genes), self.encoding_dims + 1), dtype=np.float32)
        np.put_along_axis(out, hot, 1.0, axis=1)  # -1 lands in the spare last column
        return out[:, :-1]

    # ---- geometry: the only place where shapes are computed ----------------------------------

    @property
    def fixed_layer_bits(self) -> tuple[int, int]:
        """Bits of weights and activations of the layers every candidate has."""
        weight = self.fixed_weight_bits
        return self.fixed_bits if weight is None else weight, self.fixed_bits

    @cached_property
    def graph(self) -> Graph:
        """The network as nodes that read genes."""
        from apq.space.families import mobilenet_v2

        return mobilenet_v2(self)

    @cached_property
    def sides(self) -> dict[str, int]:
        """Height and width in pixels of every node's output, by its name."""
        return self.graph.sides(self.resolution)

    def graph_of(self, candidate: Candidate) -> Graph:
        """The network of one candidate: numbers in place of genes, only nodes that run."""
        return self.graph.at(self.chosen(candidate))

    def chosen(self, candidate: Candidate) -> dict[str, int]:
        """Chosen value by name of the gene, formats as codes; genes of skipped blocks are missing.

        The candidate is taken to be of this space (:meth:`genes` checks).
        """
        found = {f"depth_{s}": len(stage) for s, stage in enumerate(candidate.stages)}
        for slot in self.slots:
            stage = candidate.stages[slot.stage]
            if slot.position < len(stage):
                block = stage[slot.position]
                values = (block.kernel, block.width, *block.bits.codes)
                found |= zip(slot.genes, values, strict=True)
        return found

    def rows(
        self, nodes: Iterable[Node], values: Mapping[str, Any] | None = None
    ) -> list[LayerArray]:
        """Those of ``nodes`` that hardware prices, as layers.

        Args:
            nodes: Nodes of ``graph``.
            values: Values of the genes they read: numbers, or arrays that broadcast together.
        """
        return [
            self.graph.row(node, self.sides[node.inputs[0]], values)
            for node in nodes
            if node.op in LAYERS
        ]

    @cached_property
    def fixed_layers(self) -> dict[str, Layer]:
        """Layers every candidate has, by name: those of no searched block."""
        fixed = [node for node in self.graph.layers if not node.block]
        rows = self.rows(fixed)
        return {node.name: to_layer(row) for node, row in zip(fixed, rows, strict=True)}

    def block(self, slot: Slot) -> tuple[Node, ...]:
        """Nodes of a slot's block."""
        return tuple(node for node in self.graph.nodes if node.block == slot.name)

    def slot_grid(self, slot: Slot) -> dict[str, NDArray[np.int64]]:
        """A slot's choices as open-mesh arrays by name of the gene, one dimension per gene:
        broadcasting them gives every combination, in the shape of the dense price tables."""
        mesh = np.ix_(*(np.array(c, dtype=np.int64) for c in slot.choices))
        return dict(zip(slot.genes, mesh, strict=True))

    def layers(self, candidate: Candidate) -> tuple[Layer, ...]:
        """Layers of one candidate in the order they run."""
        graph = self.graph_of(candidate)
        return tuple(to_layer(graph.row(node, self.sides[node.inputs[0]])) for node in graph.layers)

    # ---- data ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain data with the field names of the TOML form; inverse of :meth:`from_dict`."""
        return {
            "name": self.name,
            **{
                f.name: getattr(self, f.name)
                for f in fields(self)
                if f.name not in ("name", "stages", "bits", "exclude")
                and getattr(self, f.name) is not None
            },
            "bits": {name: list(getattr(self.bits, name)) for name in BIT_FIELDS},
            "stages": [
                {
                    "channels": s.channels,
                    "stride": s.stride,
                    "depth": list(s.depth),
                    "kernel": list(s.kernel),
                    "expand": [float(e) for e in s.expand],
                    "width_step": s.width_step,
                }
                for s in self.stages
            ],
            "exclude": [dict(sorted(rule.items())) for rule in self.exclude],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Space:
        """Build a space from plain data (TOML, JSON, Parquet metadata).

        Raises:
            SpaceError: a field is unknown, missing, or of the wrong type or range.
        """
        from apq.space.files import space_from_dict

        return space_from_dict(data)

    def require_same(self, other: Space, mine: str, theirs: str) -> None:
        """Raise unless ``other`` is this space.

        Raises:
            SpaceError: they differ; the message sets the two side by side, field by field.
        """
        if self.fingerprint == other.fingerprint:
            return
        table = side_by_side(_flat(self), _flat(other), (mine, theirs))
        raise SpaceError(
            f"{mine} and {theirs} are for different spaces "
            f"({self.fingerprint} and {other.fingerprint}):\n{table}"
        )

    # ---- exclusions --------------------------------------------------------------------------

    @cached_property
    def rules(self) -> tuple[dict[str, int], ...]:
        """``exclude`` as arrays see it: formats as codes.

        Raises:
            SpaceError: a rule names an unknown format.
        """
        return tuple(
            {a: code_of(v) if a in BIT_ATTRIBUTES else int(v) for a, v in rule.items()}
            for rule in self.exclude
        )

    @cached_property
    def _slot_stage(self) -> NDArray[np.int64]:
        return np.array([slot.stage for slot in self.slots])

    @cached_property
    def _slot_position(self) -> NDArray[np.int64]:
        return np.array([slot.position for slot in self.slots])

    @cached_property
    def _excluded_attributes(self) -> tuple[str, ...]:
        return tuple(a for a in ATTRIBUTES if any(a in rule for rule in self.exclude))

    @cached_property
    def _excluded_columns(self) -> list[int]:
        return [ATTRIBUTES.index(a) for a in self._excluded_attributes]

    @cached_property
    def _valid(self) -> list[NDArray[np.int16]]:
        """Per slot the allowed index combinations of the attributes that rules mention."""
        out = []
        for slot in self.slots:
            choices = [slot.choices[c] for c in self._excluded_columns]
            rows = [
                index
                for index in itertools.product(*(range(len(c)) for c in choices))
                if not any(
                    all(
                        choices[self._excluded_attributes.index(a)][
                            index[self._excluded_attributes.index(a)]
                        ]
                        == value
                        for a, value in rule.items()
                    )
                    for rule in self.rules
                )
            ]
            if not rows:
                raise SpaceError(
                    f"space {self.name!r}: exclude leaves nothing to choose in slot "
                    f"b{slot.index:02d}"
                )
            out.append(np.array(rows, dtype=np.int16).reshape(len(rows), len(choices)))
        return out

    @cached_property
    def _nearest_valid(self) -> list[NDArray[np.int16]]:
        """Per slot a table from index combination to the nearest allowed one."""
        out = []
        for slot, valid in zip(self.slots, self._valid, strict=True):
            shape = [len(slot.choices[c]) for c in self._excluded_columns]
            table = np.zeros((*shape, len(shape)), dtype=np.int16)
            for index in np.ndindex(*shape):
                step = np.abs(valid - np.array(index))
                key = np.lexsort((-valid.sum(1), step.sum(1), (step > 0).sum(1)))
                table[index] = valid[key[0]]
            out.append(table)
        return out


def _codes(column: NDArray[Any]) -> NDArray[np.float64]:
    """Codes of formats as values give them, NaN where there is none.

    Raises:
        SpaceError: one is unknown.
    """
    cells = column.tolist()
    known = {v: np.nan if v is None or v != v else float(code_of(v)) for v in set(cells)}
    return np.array([known[v] for v in cells], dtype=np.float64)


def _flat(space: Space) -> dict[str, object]:
    data = space.to_dict()
    flat: dict[str, object] = {k: v for k, v in data.items() if k not in ("stages", "bits")}
    flat |= {f"bits.{k}": v for k, v in data["bits"].items()}
    for s, stage in enumerate(data["stages"]):
        flat |= {f"stages[{s}].{k}": v for k, v in stage.items()}
    return flat


def _check(space: Space) -> None:
    """Refuse numbers that contradict themselves."""

    def need(ok: bool, field: str, value: object, rule: str) -> None:
        if not ok:
            raise SpaceError(f"space {space.name!r}: {field} = {value} must be {rule}")

    for field in ("resolution", "classes", "in_channels", "stem_channels", "stem_stride",
                  "first_channels", "head_channels"):  # fmt: skip
        value = getattr(space, field)
        need(1 <= value <= MOST_CHANNELS, field, value, f"between 1 and {MOST_CHANNELS}")
    need(1 <= space.fixed_bits <= 32, "fixed_bits", space.fixed_bits, "1..32")
    weight = space.fixed_weight_bits
    need(weight is None or 1 <= weight <= 32, "fixed_weight_bits", weight, "1..32")
    need(len(space.stages) > 0, "stages", "[]", "a list with at least one stage")
    for name in BIT_FIELDS:
        bits = getattr(space.bits, name)
        need(bool(bits) and len(set(bits)) == len(bits), f"bits.{name}", list(bits), "distinct")
        for choice in bits if name.endswith("_a") else ():
            known = allowed(activations=True)
            need(FORMATS[code_of(choice)].activations, f"bits.{name}", choice,
                 f"a format of activations: {known} ({choice!r} is one of weights)")  # fmt: skip
    before = space.first_channels
    need(len(space.stages) <= MOST_STAGES, "stages", len(space.stages), f"at most {MOST_STAGES}")
    for s, stage in enumerate(space.stages):
        where = f"stages[{s}]"
        ok = 1 <= stage.channels <= MOST_CHANNELS
        need(ok, f"{where}.channels", stage.channels, f"1..{MOST_CHANNELS}")
        need(1 <= stage.stride <= 8, f"{where}.stride", stage.stride, "1..8")
        for field in ("depth", "kernel", "expand"):
            values = getattr(stage, field)
            ok = values and all(map(math.isfinite, values)) and min(values) > 0
            ok = ok and tuple(sorted(set(values))) == tuple(values)
            need(bool(ok), f"{where}.{field}", list(values), "ascending, positive and finite")
        ok = max(stage.depth) <= MOST_DEPTHS
        need(ok, f"{where}.depth", list(stage.depth), f"at most {MOST_DEPTHS}")
        odd = all(k % 2 == 1 and k <= 31 for k in stage.kernel)
        need(odd, f"{where}.kernel", list(stage.kernel), "odd sizes up to 31")
        need(stage.width_step >= 0, f"{where}.width_step", stage.width_step, "0 or more")
        for channels in dict.fromkeys((before, stage.channels)[: max(stage.depth)]):
            low, high = stage.expand[0] * channels, stage.expand[-1] * channels
            what = f"{where}.expand x {channels} input channels"
            need(round(low) >= 1, what, f"{low:g} … {high:g}", "at least 1 hidden channel")
            need(high <= MOST_CHANNELS, what, f"{low:g} … {high:g}",
                 f"at most {MOST_CHANNELS} hidden channels")  # fmt: skip
            many = (high - low) / stage.width_step + 1 if stage.width_step else len(stage.expand)
            need(many <= MOST_WIDTHS, f"{what} in steps of {stage.width_step}",
                 f"{many:.0f} widths", f"at most {MOST_WIDTHS} widths")  # fmt: skip
        before = stage.channels
    for slot in space.slots:
        widths = slot.choices[1]
        need(
            len(set(widths)) == len(widths) <= MOST_WIDTHS and max(widths) <= MOST_CHANNELS,
            f"hidden widths of slot b{slot.index:02d}", list(widths)[:8], "distinct and sane",
        )  # fmt: skip
    for rule in space.exclude:
        unknown = [a for a in rule if a not in ATTRIBUTES]
        need(bool(rule) and not unknown, "exclude", dict(rule), f"over {', '.join(ATTRIBUTES)}")
    count = sum(
        math.prod(len(slot.choices[c]) for c in space._excluded_columns) for slot in space.slots
    )
    need(count * len(space.exclude) <= MOST_EXCLUDED, "exclude", f"{len(space.exclude)} rules",
         f"over fewer choices: {count:,} combinations would have to be listed")  # fmt: skip
    _ = space._valid  # an exclusion that leaves nothing is refused now, not in a search
