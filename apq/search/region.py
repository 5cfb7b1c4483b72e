"""Which candidates a search may use: the space, narrowed by fixed genes, and its exact extremes."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError, SpaceError, choose
from apq.hardware.pricing import PricedSpace, allowed_combinations
from apq.search.best import read_candidate
from apq.space import ATTRIBUTES, BIT_ATTRIBUTES, Genes, Space

Rows = NDArray[np.int64]

SLACK = 1e-12
"""A cost may exceed its limit by this share: equal sums, added up in another order, differ by less
than that, and no table has so many digits."""


def within(
    costs: Mapping[str, NDArray[np.float64]], limits: Mapping[str, float]
) -> NDArray[np.bool_] | np.bool_:
    """Which candidates keep every limit, ``(n,)``.

    Args:
        costs: At least the limited ones, each ``(n,)``.
        limits: Largest value per cost.
    """
    ok: NDArray[np.bool_] | np.bool_ = np.True_
    for metric, limit in limits.items():
        ok = ok & (costs[metric] <= limit * (1 + SLACK))
    return ok


@dataclass(frozen=True, eq=False)
class Region:
    """A priced space in which some genes are fixed or restricted.

    Attributes:
        priced: The space and its prices.
        allowed: Per axis the permitted choice indices, ascending and not empty.

    Raises:
        ApqError: the restrictions and the space's exclusions leave a slot without any block.
    """

    priced: PricedSpace
    allowed: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for slot, mask in zip(self.space.slots, self.permitted, strict=True):
            if not mask.any():
                raise ApqError(
                    f"the fixed genes leave no block for slot b{slot.index:02d}: the space "
                    f"excludes {[dict(rule) for rule in self.space.exclude]}"
                )

    @property
    def space(self) -> Space:
        """The space."""
        return self.priced.space

    @cached_property
    def permitted(self) -> tuple[NDArray[np.bool_], ...]:
        """Per slot which combinations may be chosen, in the shape of the price tables."""
        first = len(self.space.stages)
        masks = []
        for slot in self.space.slots:
            mask = allowed_combinations(self.space, slot)
            for a in range(len(ATTRIBUTES)):
                keep = np.zeros(len(slot.choices[a]), dtype=bool)
                keep[list(self.allowed[first + slot.index * len(ATTRIBUTES) + a])] = True
                mask &= keep.reshape([-1 if i == a else 1 for i in range(len(ATTRIBUTES))])
            masks.append(mask)
        return tuple(masks)

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """Which axes have more than one permitted choice, shape ``(axes,)``."""
        return np.array([len(a) > 1 for a in self.allowed])

    @cached_property
    def _nearest(self) -> NDArray[np.int16]:
        """Nearest permitted index per axis and index, shape ``(axes, most choices)``."""
        table = np.zeros((len(self.allowed), int(self.space.cardinalities.max())), dtype=np.int16)
        for axis, allowed in enumerate(self.allowed):
            choices = np.array(allowed)
            gap = np.abs(np.arange(table.shape[1])[:, None] - choices)
            table[axis] = choices[gap.argmin(axis=1)]
        return table

    @cached_property
    def _excluded(self) -> tuple[list[int], Rows, Rows, NDArray[np.int16]] | None:
        """Exclusions as one flat table: columns, strides and offsets per slot, and per combination
        of those columns the nearest permitted one (fewest genes, fewest steps, highest)."""
        names = {name for rule in self.space.exclude for name in rule}
        columns = [a for a, name in enumerate(ATTRIBUTES) if name in names]
        if not columns:
            return None
        other = tuple(a for a in range(len(ATTRIBUTES)) if a not in columns)
        tables, strides, offsets, total = [], [], [], 0
        for mask in self.permitted:
            reduced = mask.any(axis=other)
            valid = np.argwhere(reduced)
            table = np.zeros((*reduced.shape, len(columns)), dtype=np.int16)
            for index in np.ndindex(*reduced.shape):
                step = np.abs(valid - np.array(index))
                order = np.lexsort((-valid.sum(1), step.sum(1), (step > 0).sum(1)))
                table[index] = valid[order[0]]
            tables.append(table.reshape(-1, len(columns)))
            strides.append([int(np.prod(reduced.shape[i + 1 :])) for i in range(reduced.ndim)])
            offsets.append(total)
            total += len(tables[-1])
        return columns, np.array(strides), np.array(offsets), np.concatenate(tables)

    def snap(self, genes: Genes, canonical: bool = True) -> Genes:
        """Copy in which every gene is permitted and no block is excluded; skipped slots are set
        to 0 unless ``canonical`` is False."""
        out: Genes = genes if self.free.all() else self._nearest[np.arange(genes.shape[1]), genes]
        out = out.copy()
        if self._excluded is not None:
            columns, strides, offsets, table = self._excluded
            blocks = self.space.block_genes(out)
            index = offsets + sum(blocks[:, :, c] * strides[:, i] for i, c in enumerate(columns))
            for i, c in enumerate(columns):
                blocks[:, :, c] = table[index, i]
        if canonical:
            self.space.block_genes(out)[~self.space.active(out)] = 0
        return out

    def sample(self, count: int, rng: np.random.Generator, canonical: bool = True) -> Genes:
        """``count`` random permitted rows: every gene uniform over its permitted choices, then
        exclusions repaired."""
        return self.snap(self.draw(count, rng), canonical)

    def draw(self, count: int, rng: np.random.Generator) -> Genes:
        """``count`` rows, every gene uniform over its permitted choices; exclusions may be hit."""
        genes = (rng.random((count, len(self.allowed))) * self._counts).astype(np.int16)
        return np.take_along_axis(self._choices, genes.T, axis=1).T

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

    def contains(self, genes: Genes) -> NDArray[np.bool_]:
        """Which rows are canonical and permitted, shape ``(n,)``."""
        same: NDArray[np.bool_] = np.all(self.snap(genes) == genes, axis=1)
        return same

    def extreme(
        self, metric: str, largest: bool = False, canonical: bool = True
    ) -> tuple[float, Genes]:
        """The exact smallest (or largest) cost in the region, and a row that has it.

        Blocks are independent given the depths, so the best block of every slot and the best
        depth of every stage give the optimum (dynamic programming over slots; ours).

        Returns:
            The cost, and genes of shape ``(1, axes)``; skipped slots hold their best block too
            unless ``canonical``.
        """
        space, sign = self.space, -1.0 if largest else 1.0
        join = np.maximum.accumulate if metric == "peak_memory_kb" else np.cumsum
        row = np.zeros((1, len(space.axes)), dtype=np.int16)
        blocks = space.block_genes(row)[0]
        best = np.zeros(len(space.slots))
        for slot, table, mask in zip(
            space.slots, self.priced.tables[metric], self.permitted, strict=True
        ):
            values = np.where(mask, sign * table, np.inf)
            where = int(np.argmin(values))
            best[slot.index] = sign * values.ravel()[where]
            blocks[slot.index] = np.unravel_index(where, values.shape)
        for s, stage in enumerate(space.stages):
            slots = [slot.index for slot in space.slots if slot.stage == s]
            totals = join(best[slots])
            row[0, s] = min(self.allowed[s], key=lambda g: sign * totals[stage.depth[g] - 1])
        if canonical:
            row = space.canonical(row)
        return float(self.priced.costs(row, [metric])[metric][0]), row


def everything(priced: PricedSpace, fix: Sequence[str] = ()) -> Region:
    """The region that ``--fix`` texts leave.

    Each text is ``NAME=VALUE[,VALUE…]``; texts narrow each other. NAME is an axis
    (``b03_kernel``, ``depth_0``), a pattern (``b0?_width``), an attribute of all blocks
    (``kernel``, ``pw_w_bits``) or ``depth`` or ``bits``. VALUE is a choice, ``min`` or ``max``.
    ``architecture=FILE`` and ``bits=FILE`` keep those of a ``best.json``.

    Raises:
        ApqError: a text is malformed, or names an axis or a value that the space does not have.
    """
    space = priced.space
    allowed = [tuple(range(len(axis.choices))) for axis in space.axes]
    for text in fix:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name or not value:
            raise ApqError(f"--fix {text!r} is not NAME=VALUE, as in b03_kernel=3 or bits=8")
        if name in ("architecture", "bits") and value.endswith(".json"):
            picked = _of_candidate(space, name, Path(value))
        else:
            picked = {axis: _indices(space, axis, value, text) for axis in _axes(space, name)}
        for axis, indices in picked.items():
            both = tuple(i for i in allowed[axis] if i in indices)
            if not both:
                name = space.axes[axis].name
                raise ApqError(f"--fix {text!r} contradicts an earlier one on {name}")
            allowed[axis] = both
    return Region(priced, tuple(allowed))


def _axes(space: Space, name: str) -> list[int]:
    """Axes that a name, pattern, attribute or group stands for."""
    groups = {"bits": BIT_ATTRIBUTES, "depth": ("depth",), **{a: (a,) for a in ATTRIBUTES}}
    if name in groups:
        return [i for i, axis in enumerate(space.axes) if axis.attribute in groups[name]]
    names = [axis.name for axis in space.axes]
    found = [i for i, axis in enumerate(names) if fnmatch.fnmatchcase(axis, name)]
    if not found:
        choose(name, [*groups, *names], "gene")
    return found


def _indices(space: Space, axis: int, value: str, text: str) -> tuple[int, ...]:
    words = [str(label) for label in space.axes[axis].labels]  # ascending, formats by their bits
    ends = {"min": 0, "max": len(words) - 1}
    out = []
    for word in value.split(","):
        word = word.strip()
        try:
            out.append(ends[word] if word in ends else words.index(word))
        except ValueError:
            raise ApqError(
                f"--fix {text!r}: {space.axes[axis].name} cannot be {word}; "
                f"allowed: {', '.join(words)}, min, max"
            ) from None
    return tuple(out)


def _of_candidate(space: Space, part: str, path: Path) -> Mapping[int, tuple[int, ...]]:
    """The architecture or the bits of the candidate in a ``best.json``. A slot that is skipped
    there is left open: it costs nothing unless its stage's depth is searched too."""
    try:
        candidate = read_candidate(path).candidate
    except SpaceError as error:
        raise ApqError(f"--fix {part}={path}: {error}") from error
    row = space.genes([candidate])
    active = space.active(row)[0]
    wanted = BIT_ATTRIBUTES if part == "bits" else ("depth", "kernel", "width")
    return {
        i: (int(row[0, i]),)
        for i, axis in enumerate(space.axes)
        if axis.attribute in wanted and (axis.slot is None or active[axis.slot])
    }


def combinations(mask: NDArray[np.bool_]) -> Genes:
    """Genes of all permitted combinations of a slot, shape ``(n, len(ATTRIBUTES))``."""
    return np.argwhere(mask).astype(np.int16)


def count(region: Region) -> int:
    """Exact number of distinct candidates in the region."""
    total = 1
    for s, stage in enumerate(region.space.stages):
        sizes = [
            int(m.sum())
            for slot, m in zip(region.space.slots, region.permitted, strict=True)
            if slot.stage == s
        ]
        products = list(itertools.accumulate(sizes, lambda a, b: a * b))
        total *= sum(products[stage.depth[g] - 1] for g in region.allowed[s])
    return total
