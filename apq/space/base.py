"""The search space: a graph with its genes, and the arrays that follow from it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError, SpaceError, choose, side_by_side
from apq.files.limits import MOST_EXCLUDED
from apq.space.axes import Axis, SearchedStage, Slot, is_format
from apq.space.candidate import Candidate
from apq.space.families import DEFAULT_FAMILY, FAMILIES, Family
from apq.space.families.base import plain
from apq.space.families.builder import Builder
from apq.space.formats import FORMATS, Choice, choice_of, code_of, ordered
from apq.space.graph import LATER, Graph, Node, is_priced, number
from apq.space.layer import Layer, LayerArray, Size, size_of, to_layer
from apq.space.restrictions import parse as parse_restriction
from apq.space.tables import read_family

Genes = NDArray[np.int16]


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
class _Rules:
    """Exclusions that concern the same number of genes in several slots, as flat tables.

    Attributes:
        axes: Per slot the genes that the exclusions concern, ``(slots, k)``.
        strides, offsets: Map choices to a row of the tables, ``(slots, k)`` and ``(slots,)``.
        nearest: Per combination the permitted one that changes the fewest genes, then the smallest
            number of steps, then keeps the highest choices (ours); ``(combinations, k)``.
        permitted: Per slot the permitted combinations, ``(count, k)`` each.
    """

    axes: NDArray[np.int64]
    strides: NDArray[np.int64]
    offsets: NDArray[np.int64]
    nearest: NDArray[np.int16]
    permitted: tuple[Genes, ...]


@dataclass(frozen=True)
class Space:
    """A search space: the networks of a family, as a graph and its genes.

    A space may be restricted (:meth:`restrict`): its genes keep their meaning, and drawing,
    counting and :meth:`snap` use permitted choices only.

    Attributes:
        family: The description from which everything else is derived.
        allowed: Per axis the permitted choice indices, ascending; empty: all.

    Raises:
        SpaceError: the numbers contradict each other, or exclusions leave a slot without a choice;
            the message names the field.

    Example:
        >>> from apq.space import load_space
        >>> space = load_space("digits").restrict("bits=8", "kernel=3")
        >>> space.count()
        49280
    """

    family: Family
    allowed: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        self.family.check()
        if not self.allowed:
            every = tuple(tuple(range(len(axis.choices))) for axis in self.axes)
            object.__setattr__(self, "allowed", every)
        _check_rules(self)
        _ = self._rules  # exclusions that leave no choice are refused now, not in a search

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

    # ---- structure -------------------------------------------------------------------------

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

    @cached_property
    def whole(self) -> Genes:
        """The last choice of every gene, or the nearest that is permitted, ``(1, axes)``: in the
        space of a traced network that network itself."""
        return self.snap(self.cardinalities[None] - 1)

    def own(self, slot: Slot) -> tuple[int, ...]:
        """Places of a slot's genes."""
        return tuple(self.place[name] for name in slot.genes)

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

    def count(self) -> int:
        """Exact number of distinct candidates."""
        total = math.prod(len(self.allowed[i]) for i in self.shared)
        ruled = {
            int(axes[0]): len(rows)
            for rules in self._rules
            for axes, rows in zip(rules.axes, rules.permitted, strict=True)
        }
        covered = {int(i) for rules in self._rules for i in rules.axes.ravel()}
        sizes = [
            math.prod(len(self.allowed[i]) for i in self.own(slot) if i not in covered)
            * math.prod(ruled.get(i, 1) for i in self.own(slot))
            for slot in self.slots
        ]
        for s, stage in enumerate(self.stages):
            depths = [stage.depth[g] for g in self.allowed[s]]
            total *= sum(math.prod(sizes[i] for i in stage.slots[:depth]) for depth in depths)
        return total

    # ---- genes -----------------------------------------------------------------------------

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

    def snap(self, genes: Genes, canonical: bool = True) -> Genes:
        """Copy in which every gene is permitted and no block is excluded.

        A gene becomes the nearest permitted one; an excluded block the permitted one that changes
        the fewest genes, then the smallest number of steps, then keeps the highest choices
        (deterministic; ours).

        Args:
            genes: In range, ``(n, axes)``.
            canonical: Whether genes of skipped slots are set to 0.
        """
        free = self.free.all()
        out: Genes = genes.copy() if free else self._nearest[np.arange(genes.shape[1]), genes]
        for rules in self._rules:
            chosen = out[:, rules.axes]
            index = rules.offsets + (chosen * rules.strides).sum(axis=2)
            out[:, rules.axes] = rules.nearest[index]
        return self.canonical(out) if canonical else out

    def contains(self, genes: Genes) -> NDArray[np.bool_]:
        """Which rows are canonical and permitted, shape ``(n,)``."""
        same: NDArray[np.bool_] = np.all(self.snap(genes) == genes, axis=1)
        return same

    def is_valid(self, genes: Genes) -> NDArray[np.bool_]:
        """Which rows are in range, with no excluded block that runs, shape ``(n,)``."""
        ok: NDArray[np.bool_] = np.all((genes >= 0) & (genes < self.cardinalities), axis=1)
        safe = np.where(ok[:, None], genes, 0).astype(genes.dtype)
        return ok & self.contains(self.canonical(safe))

    def draw(self, count: int, rng: np.random.Generator) -> Genes:
        """``count`` rows, every gene uniform over its permitted choices; exclusions are ignored."""
        genes = (rng.random((count, len(self.allowed))) * self._counts).astype(np.int16)
        return np.take_along_axis(self._choices, genes.T, axis=1).T

    def redraw(self, axes: NDArray[np.int64], rng: np.random.Generator) -> Genes:
        """A permitted choice for each of these axes, uniform; shape as ``axes``."""
        places = (rng.random(len(axes)) * self._counts[axes]).astype(np.int64)
        genes: Genes = self._choices[axes, places]
        return genes

    def sample(self, count: int, rng: np.random.Generator) -> Genes:
        """Draw ``count`` candidates, every gene uniform and independent, blocks only from the
        permitted combinations; canonical rows, shape ``(count, len(axes))``. Repeats may occur."""
        genes = self.draw(count, rng)
        ruled = [
            (int(axes.min()), axes, rows)
            for rules in self._rules
            for axes, rows in zip(rules.axes, rules.permitted, strict=True)
        ]
        for _, axes, rows in sorted(ruled, key=lambda item: item[0]):
            genes[:, axes] = rows[rng.integers(len(rows), size=count)]
        return self.canonical(genes)

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """Which axes are not restricted, shape ``(axes,)``."""
        free: NDArray[np.bool_] = self._counts == self.cardinalities
        return free

    @cached_property
    def free_count(self) -> int:
        """Number of axes with more than one permitted choice."""
        return sum(len(a) > 1 for a in self.allowed)

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return np.array([len(a) for a in self.allowed])

    @cached_property
    def _choices(self) -> NDArray[np.int16]:
        """Permitted indices per axis, padded, shape ``(axes, most choices)``."""
        table = np.zeros((len(self.allowed), int(self._counts.max())), dtype=np.int16)
        for axis, allowed in enumerate(self.allowed):
            table[axis, : len(allowed)] = allowed
        return table

    @cached_property
    def _nearest(self) -> NDArray[np.int16]:
        """Nearest permitted index per axis and index, shape ``(axes, most choices)``."""
        table = np.zeros((len(self.allowed), int(self.cardinalities.max())), dtype=np.int16)
        for axis, allowed in enumerate(self.allowed):
            choices = np.array(allowed)
            gap = np.abs(np.arange(table.shape[1])[:, None] - choices)
            table[axis] = choices[gap.argmin(axis=1)]
        return table

    def every_candidate(self, limit: int = 2_000_000) -> Genes:
        """All canonical rows of a small space.

        Raises:
            SpaceError: there are more than ``limit``.
        """
        if self.count() > limit:
            raise SpaceError(f"space {self.name!r} has {self.count():.3g} candidates, over {limit}")
        rows: list[NDArray[np.int16]] = []
        outside = len(self.stages) + len(self.shared)
        for leading in itertools.product(*self.allowed[:outside]):
            base = np.zeros((1, len(self.axes)), dtype=np.int16)
            base[0, :outside] = leading
            runs = self.active(base)[0]
            options = []
            for slot in self.slots:
                sizes = [self.allowed[i] if runs[slot.index] else (0,) for i in self.own(slot)]
                options.append(np.array(list(itertools.product(*sizes)), dtype=np.int16))
            index = np.indices([len(o) for o in options]).reshape(len(options), -1)
            genes = np.repeat(base, index.shape[1], axis=0)
            for slot, option, pick in zip(self.slots, options, index, strict=True):
                genes[:, list(self.own(slot))] = option[pick]
            rows.append(genes[self.is_valid(genes)])
        return np.concatenate(rows)

    # ---- restrictions ----------------------------------------------------------------------

    def restrict(self, *texts: str) -> Space:
        """This space with fewer choices; texts as ``apq search --fix`` takes them.

        Each is ``NAME=VALUE[,VALUE…]``, and they narrow each other. NAME is an axis
        (``b03_kernel``, ``depth_0``), a pattern (``b0?_width``), an attribute (``kernel``,
        ``pw_w_bits``), ``depth`` or ``bits``. VALUE is a choice, ``min`` or ``max``.

        Raises:
            ApqError: a text is malformed, or names an axis or a value that the space does not have.
            SpaceError: exclusions leave a slot nothing to choose.
        """
        space = self
        for text in texts:
            space = space.narrowed(parse_restriction(self.axes, text), text)
        return space

    def keep(self, candidate: Candidate, part: str) -> Space:
        """This space with the architecture or the bits of a candidate.

        Genes of its skipped slots stay free: they cost nothing unless the depth is searched too.

        Args:
            candidate: A candidate of this space.
            part: ``"architecture"`` or ``"bits"``.

        Raises:
            SpaceError: the candidate is of another space.
        """
        row = self.genes([candidate])
        decides = self.decides(row)[0]
        wanted = {
            i: (int(row[0, i]),)
            for i, axis in enumerate(self.axes)
            if decides[i] and axis.is_format == (part == "bits")
        }
        return self.narrowed(wanted, f"{part} of a candidate")

    def narrowed(self, wanted: Mapping[int, Sequence[int]], told: str) -> Space:
        """This space with only the ``wanted`` choices of some axes.

        Args:
            wanted: Indices of choices to keep, by index of the axis.
            told: Source of the restriction, for messages.

        Raises:
            SpaceError: a gene is left without a choice.
        """
        allowed = list(self.allowed)
        for i, indices in wanted.items():
            allowed[i] = tuple(c for c in allowed[i] if c in indices)
            if not allowed[i]:
                raise SpaceError(f"{told!r} contradicts an earlier one on {self.axes[i].name}")
        narrower = replace(self, allowed=tuple(allowed))
        for name in ("_written", "graph", "axes", "slots", "stages", "place", "factors", "alike"):
            if name in self.__dict__:  # restrictions do not change these cached values
                narrower.__dict__.setdefault(name, self.__dict__[name])
        return narrower

    def with_(self, **changes: Any) -> Space:
        """The space of the same family's description with other values for some fields."""
        return Space(replace(self.family, **changes))  # type: ignore[type-var]

    def permitted(self, factor: Factor) -> NDArray[np.bool_]:
        """Which combinations of a factor's genes may be chosen (dense, boolean)."""
        mask = np.ones([len(self.axes[i].choices) for i in factor.axes], dtype=bool)
        for dim, i in enumerate(factor.axes):
            keep = np.zeros(len(self.axes[i].choices), dtype=bool)
            keep[list(self.allowed[i])] = True
            mask &= keep.reshape([-1 if d == dim else 1 for d in range(mask.ndim)])
        for rules in self._rules:
            for axes, rows in zip(rules.axes, rules.permitted, strict=True):
                if not {*axes} <= {*factor.axes}:
                    continue
                dims = [factor.axes.index(i) for i in axes]
                shape = [n if d in dims else 1 for d, n in enumerate(mask.shape)]
                ok = np.zeros([mask.shape[d] for d in dims], dtype=bool)
                ok[tuple(rows.T)] = True
                mask &= ok.transpose(np.argsort(np.argsort(dims))).reshape(shape)
        return mask

    # ---- candidates ------------------------------------------------------------------------

    def build(self, row: Sequence[int] | NDArray[np.integer[Any]]) -> Candidate:
        """The candidate that one row of genes describes."""
        genes = np.asarray(row, dtype=np.int16)
        decides = self.decides(genes[None])[0]
        return Candidate(
            tuple(
                (axis.name, axis.labels[gene])
                for axis, gene, runs in zip(self.axes, genes.tolist(), decides, strict=True)
                if runs
            )
        )

    def genes(self, candidates: Sequence[Candidate]) -> Genes:
        """Canonical rows of candidates, shape ``(len(candidates), len(axes))``.

        Raises:
            SpaceError: a candidate does not belong to this space; the message names the gene.
        """
        out = np.zeros((len(candidates), len(self.axes)), dtype=np.int16)
        for i, candidate in enumerate(candidates):
            unknown = [name for name in candidate.by_name if name not in self.place]
            if unknown:
                raise SpaceError(
                    f"the candidate chooses {unknown[0]}, which space {self.name!r} does not have: "
                    "it was made for another space"
                )
            values = {
                name: code_of(choice) if self.axis(name).is_format else int(choice)
                for name, choice in candidate.choices
            }
            for name, value in values.items():
                out[i, self.place[name]] = self._index(self.axis(name), value)
            decides = self.decides(out[i : i + 1])[0]
            for axis, runs in zip(self.axes, decides, strict=True):
                if runs and axis.name not in values:
                    raise SpaceError(
                        f"the candidate lacks {axis.name}, which space {self.name!r} chooses in it"
                    )
                if not runs and axis.name in values:
                    raise SpaceError(
                        f"the candidate chooses {axis.name}, but its depths skip that block"
                    )
        return out

    def _index(self, axis: Axis, value: int) -> int:
        try:
            return axis.choices.index(value)
        except ValueError:
            raise self._refused(axis, value) from None

    def _refused(self, axis: Axis, value: float, where: str = "") -> SpaceError:
        told = f"{value:g}"
        if axis.is_format and value in range(1, len(FORMATS)):
            told = str(choice_of(int(value)))
        return SpaceError(
            f"{where}{axis.name} = {told} is not in space {self.name!r}; "
            f"allowed: {list(axis.labels)}"
        )

    def values(self, genes: Genes) -> dict[str, NDArray[Any]]:
        """Columns by axis name: the chosen values, NaN where the slot is skipped.

        An axis with named formats has text instead (``"8"``, ``"ternary"``) and None.
        """
        decides = self.decides(genes)
        columns: dict[str, NDArray[Any]] = {}
        for j, axis in enumerate(self.axes):
            if axis.named:
                column = np.array([str(label) for label in axis.labels], dtype=object)[genes[:, j]]
            else:
                column = np.array(axis.choices, dtype=np.float64)[genes[:, j]]
            if axis.slot is not None:
                column[~decides[:, j]] = None  # in floats: NaN
            columns[axis.name] = column
        return columns

    def from_values(self, columns: Mapping[str, NDArray[Any]]) -> Genes:
        """Inverse of :meth:`values`. A missing, NaN or None bit column means the highest choice.

        Raises:
            SpaceError: a column is missing or holds a value the axis does not offer.
        """
        missing = [a.name for a in self.axes if a.name not in columns and not a.is_format]
        if missing:
            raise SpaceError(
                f"columns missing for space {self.name!r}: {', '.join(missing[:6])}"
                + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
            )
        n = len(columns[self.axes[0].name])
        genes = np.zeros((n, len(self.axes)), dtype=np.int16)
        for j, axis in enumerate(self.axes):
            if j == len(self.stages) + len(self.shared):
                decides = self.decides(genes)  # depth genes are filled by now
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
            if axis.is_format:
                absent = np.isnan(column)
                genes[absent, j] = len(axis.choices) - 1
                wrong &= ~absent
            if axis.slot is not None:
                wrong &= decides[:, j]
            if np.any(wrong):
                i = int(np.flatnonzero(wrong)[0])
                raise self._refused(axis, column[i], f"row {i}: ")
        return self.canonical(genes)

    # ---- factors ---------------------------------------------------------------------------

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

    # ---- encoding --------------------------------------------------------------------------

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """The attributes besides depth, in the order of the encoding: architecture, then number
        formats, each in order of first occurrence in the graph."""
        names = dict.fromkeys(axis.attribute for axis in self.axes if not axis.is_depth)
        return tuple(sorted(names, key=is_format))

    @cached_property
    def encoded(self) -> tuple[int, ...]:
        """Indices of the axes in the order of the encoding: attribute by attribute."""
        order = {name: i for i, name in enumerate(self.attributes)}
        places = (i for i, axis in enumerate(self.axes) if not axis.is_depth)
        return tuple(sorted(places, key=lambda i: order[self.axes[i].attribute]))

    @cached_property
    def architecture_dims(self) -> int:
        """Columns of the encoding that describe the architecture; bit columns follow."""
        kept = (a for a in self.axes if not (a.is_format or a.is_depth))
        return sum(len(axis.choices) for axis in kept)

    @cached_property
    def encoding_dims(self) -> int:
        """Columns of the whole encoding."""
        return sum(len(self.axes[i].choices) for i in self.encoded)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First column of every axis in the encoding."""
        offsets = np.zeros(len(self.axes), dtype=np.int64)
        total = 0
        for i in self.encoded:
            offsets[i] = total
            total += len(self.axes[i].choices)
        return offsets

    def hot_columns(self, genes: Genes) -> NDArray[np.int64]:
        """Columns of the encoding that are 1, shape as ``genes``; -1 for depths and where a slot is
        skipped."""
        columns: NDArray[np.int64] = self.starts + genes
        columns[~self.decides(genes)] = -1
        columns[:, : len(self.stages)] = -1
        return columns

    def encode(self, genes: Genes) -> NDArray[np.float32]:
        """One-hot code of APQ (CVPR 2020, section 3.2), shape ``(n, encoding_dims)``.

        Grouped by attribute: kernels of all slots, widths of all slots, then the four bit
        attributes. A skipped block is all zeros; depth has no columns of its own.
        """
        out = np.zeros((len(genes), self.encoding_dims + 1), dtype=np.float32)
        np.put_along_axis(out, self.hot_columns(genes), 1.0, axis=1)  # -1 is the spare last column
        return out[:, :-1]

    # ---- geometry ----------------------------------------------------------------------------

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

    def block(self, slot: Slot) -> tuple[Node, ...]:
        """Nodes of a slot's block."""
        return tuple(node for node in self.graph.nodes if node.block == slot.name)

    def grid(self, factor: Factor) -> dict[str, NDArray[np.int64]]:
        """Choices of a factor's genes as open-mesh arrays by name of the gene, one dimension per
        gene: broadcasting them gives every combination, in the shape of the dense price tables."""
        axes = [self.axes[i] for i in factor.axes]
        mesh = np.ix_(*(np.array(axis.choices, dtype=np.int64) for axis in axes))
        return {axis.name: m for axis, m in zip(axes, mesh, strict=True)}

    def layers(self, candidate: Candidate) -> tuple[Layer, ...]:
        """Layers of one candidate in the order they run."""
        graph = self.graph_of(candidate)
        sides = graph.sides()
        return tuple(to_layer(graph.row(node, sides[node.inputs[0]])) for node in graph.priced)

    # ---- data ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain data with the field names of the TOML form; inverse of :meth:`from_dict`.
        Restrictions are no part of it."""
        kind = next(name for name, kind in FAMILIES.items() if isinstance(self.family, kind))
        about = {} if kind == DEFAULT_FAMILY else {"family": kind}
        return about | plain(self.family)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Space:
        """Build a space from plain data (TOML, JSON, Parquet metadata).

        Raises:
            SpaceError: a field is unknown, missing, or of the wrong type or range.
        """
        return cls(read_family(data, "this"))

    def require_same(self, other: Space, mine: str, theirs: str, formats: bool = True) -> None:
        """Raise unless ``other`` is this space.

        Args:
            other: The other space.
            mine, theirs: Names of the two in the message.
            formats: Whether number formats must be the same too.

        Raises:
            SpaceError: they differ; the message compares them field by field.
        """
        if self.fingerprint == other.fingerprint:
            return
        if not formats and self.architecture == other.architecture:
            return
        table = side_by_side(_flat(self.to_dict()), _flat(other.to_dict()), (mine, theirs))
        raise SpaceError(
            f"{mine} and {theirs} are for different spaces "
            f"({self.fingerprint} and {other.fingerprint}):\n{table}"
        )

    # ---- exclusions --------------------------------------------------------------------------

    @cached_property
    def _rules(self) -> tuple[_Rules, ...]:
        """The exclusions, grouped by the number of genes that they concern."""
        groups: dict[int, list[tuple[tuple[int, ...], Genes, tuple[int, ...]]]] = {}
        for slot in self.slots:
            rules = [rule for rule in self.exclude if {*rule} <= {*slot.attributes}]
            names = [a for a in slot.attributes if any(a in rule for rule in rules)]
            if not names:
                continue
            axes = tuple(self.place[f"{slot.name}_{name}"] for name in names)
            ok = np.ones([len(self.axes[i].choices) for i in axes], dtype=bool)
            for dim, i in enumerate(axes):
                shut = np.ones(len(self.axes[i].choices), dtype=bool)
                shut[list(self.allowed[i])] = False
                ok[(slice(None),) * dim + (shut,)] = False
            for rule in rules:
                where: list[Any] = [slice(None)] * len(axes)
                for name, value in rule.items():
                    code = code_of(value) if is_format(name) else int(value)
                    dim = names.index(name)
                    where[dim] = np.array(self.axes[axes[dim]].choices) == code
                hit = np.ix_(*(np.arange(n)[w] for n, w in zip(ok.shape, where, strict=True)))
                ok[hit] = False
            if not ok.any():
                fixed = "" if self.free[list(axes)].all() else " with what is fixed"
                raise SpaceError(
                    f"space {self.name!r}: exclude leaves nothing to choose in slot {slot.name}"
                    f"{fixed}; it has {[dict(rule) for rule in self.exclude]}"
                )
            groups.setdefault(len(axes), []).append(
                (axes, np.argwhere(ok).astype(np.int16), ok.shape)
            )
        return tuple(map(_as_tables, groups.values()))


def _as_tables(slots: Sequence[tuple[tuple[int, ...], Genes, tuple[int, ...]]]) -> _Rules:
    """From axes, permitted combinations and numbers of choices of each slot."""
    tables, strides, offsets, total = [], [], [], 0
    for _, valid, shape in slots:
        table = np.zeros((*shape, len(shape)), dtype=np.int16)
        for index in np.ndindex(*shape):
            step = np.abs(valid - np.array(index))
            key = np.lexsort((-valid.sum(1), step.sum(1), (step > 0).sum(1)))
            table[index] = valid[key[0]]
        tables.append(table.reshape(-1, len(shape)))
        strides.append([int(np.prod(shape[i + 1 :])) for i in range(len(shape))])
        offsets.append(total)
        total += len(tables[-1])
    axes, permitted, _ = zip(*slots, strict=True)
    return _Rules(
        np.array(axes), np.array(strides), np.array(offsets), np.concatenate(tables), permitted
    )


def _codes(column: NDArray[Any]) -> NDArray[np.float64]:
    """Codes of formats as values give them, NaN where there is none.

    Raises:
        SpaceError: one is unknown.
    """
    cells = column.tolist()
    known = {v: np.nan if v is None or v != v else float(code_of(v)) for v in set(cells)}
    return np.array([known[v] for v in cells], dtype=np.float64)


def _flat(data: Mapping[str, Any]) -> dict[str, object]:
    """Nested plain data by dotted path: ``stages[0].kernel``."""
    flat: dict[str, object] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{k}": v for k, v in _flat(value).items()}
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for i, item in enumerate(value):
                flat |= {f"{name}[{i}].{k}": v for k, v in _flat(item).items()}
        else:
            flat[name] = value
    return flat


def _shape_of(node: Node) -> dict[str, Any]:
    """A node's fields, without unused ones that were added later, so that old hashes stay valid."""
    said = asdict(node)
    return {k: v for k, v in said.items() if k not in LATER or v != getattr(_PLAIN, k)}


_PLAIN = Node("", "")


def _check_rules(space: Space) -> None:
    """Refuse exclusions of attributes that no block has, and more exclusions than can be listed.

    Raises:
        SpaceError: an exclusion is empty, names something unknown, or there are too many.
    """
    attributes = dict.fromkeys(a for slot in space.slots for a in slot.attributes)
    for rule in space.exclude:
        for name, value in rule.items():
            try:
                choose(name, attributes, "field of exclude")
            except ApqError as error:
                raise SpaceError(f"space {space.name!r}: {error}") from error
            offered = {
                label for axis in space.axes if axis.attribute == name for label in axis.labels
            }
            known = choice_of(code_of(value)) if is_format(name) else value
            if known not in offered:
                choices = ", ".join(
                    map(str, ordered(offered) if is_format(name) else sorted(offered))
                )
                raise SpaceError(
                    f"space {space.name!r}: exclude {name} = {value!r} is what no block can "
                    f"choose; its choices: {choices}"
                )
        if not rule or not any({*rule} <= {*slot.attributes} for slot in space.slots):
            raise SpaceError(
                f"space {space.name!r}: exclude = {dict(rule)} must be over {', '.join(attributes)}"
            )
    about = {name for rule in space.exclude for name in rule}
    count = sum(
        math.prod(len(c) for a, c in zip(slot.attributes, slot.choices, strict=True) if a in about)
        for slot in space.slots
    )
    if count * len(space.exclude) > MOST_EXCLUDED:
        raise SpaceError(
            f"space {space.name!r}: exclude = {len(space.exclude)} rules must be over fewer "
            f"choices: {count:,} combinations would have to be listed"
        )
