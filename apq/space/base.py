"""The search space: a graph with its genes, and the choices that are permitted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import SpaceError, side_by_side
from apq.space.candidate import Candidate
from apq.space.columns import Written
from apq.space.encoding import Encoded
from apq.space.exclusions import Rules, require_known, rules_of
from apq.space.factors import Factor, Factored
from apq.space.restrictions import parse as parse_restriction
from apq.space.structure import Genes
from apq.space.tables import read_family


@dataclass(frozen=True)
class Space(Encoded, Factored, Written):
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

    allowed: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        self.family.check()
        if not self.allowed:
            every = tuple(tuple(range(len(axis.choices))) for axis in self.axes)
            object.__setattr__(self, "allowed", every)
        require_known(self)
        _ = self._rules  # exclusions that leave no choice are refused now, not in a search

    @cached_property
    def _rules(self) -> tuple[Rules, ...]:
        return rules_of(self, self.allowed)

    @cached_property
    def whole(self) -> Genes:
        """The last choice of every gene, or the nearest that is permitted, ``(1, axes)``: in the
        space of a traced network that network itself."""
        return self.snap(self.cardinalities[None] - 1)

    def count(self) -> int:
        """Exact number of distinct candidates."""
        total = math.prod(len(self.allowed[i]) for i in self.shared)
        ruled = {int(axes[0]): len(rows) for rules in self._rules for axes, rows in rules.by_slot()}
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
        ruled = [item for rules in self._rules for item in rules.by_slot()]
        for axes, rows in sorted(ruled, key=lambda item: int(item[0].min())):
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
            for axes, rows in rules.by_slot():
                if not {*axes} <= {*factor.axes}:
                    continue
                dims = [factor.axes.index(i) for i in axes]
                shape = [n if d in dims else 1 for d, n in enumerate(mask.shape)]
                ok = np.zeros([mask.shape[d] for d in dims], dtype=bool)
                ok[tuple(rows.T)] = True
                mask &= ok.transpose(np.argsort(np.argsort(dims))).reshape(shape)
        return mask

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
