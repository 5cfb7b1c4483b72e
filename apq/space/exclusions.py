"""Combinations of choices that no block may have, as tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError, SpaceError, choose
from apq.files.limits import MOST_EXCLUDED
from apq.space.axes import is_format
from apq.space.formats import choice_of, code_of, ordered
from apq.space.structure import Genes, Structure


@dataclass(frozen=True)
class Rules:
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

    def by_slot(self) -> Iterator[tuple[NDArray[np.int64], Genes]]:
        """Axes and permitted combinations of every slot."""
        yield from zip(self.axes, self.permitted, strict=True)


def rules_of(space: Structure, allowed: Sequence[Sequence[int]]) -> tuple[Rules, ...]:
    """The exclusions of a space, grouped by the number of genes that they concern.

    Args:
        space: Whose they are.
        allowed: Per axis the permitted choice indices.

    Raises:
        SpaceError: a slot is left without a choice.
    """
    groups: dict[int, list[tuple[tuple[int, ...], Genes, tuple[int, ...]]]] = {}
    for slot in space.slots:
        rules = [rule for rule in space.exclude if {*rule} <= {*slot.attributes}]
        names = [a for a in slot.attributes if any(a in rule for rule in rules)]
        if not names:
            continue
        axes = tuple(space.place[f"{slot.name}_{name}"] for name in names)
        choices = [np.array(space.axes[i].choices) for i in axes]
        ok = np.zeros([len(own) for own in choices], dtype=bool)
        ok[np.ix_(*(allowed[i] for i in axes))] = True
        for rule in rules:
            where = [np.ones(len(own), dtype=bool) for own in choices]
            for name, value in rule.items():
                dim = names.index(name)
                where[dim] = choices[dim] == (code_of(value) if is_format(name) else int(value))
            ok[np.ix_(*where)] = False
        if not ok.any():
            free = all(len(allowed[i]) == len(space.axes[i].choices) for i in axes)
            raise SpaceError(
                f"space {space.name!r}: exclude leaves nothing to choose in slot {slot.name}"
                f"{'' if free else ' with what is fixed'}; "
                f"it has {[dict(rule) for rule in space.exclude]}"
            )
        groups.setdefault(len(axes), []).append((axes, np.argwhere(ok).astype(np.int16), ok.shape))
    return tuple(map(_as_tables, groups.values()))


def _as_tables(slots: Sequence[tuple[tuple[int, ...], Genes, tuple[int, ...]]]) -> Rules:
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
    return Rules(
        np.array(axes), np.array(strides), np.array(offsets), np.concatenate(tables), permitted
    )


def require_known(space: Structure) -> None:
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
                choices = ordered(offered) if is_format(name) else sorted(offered)
                raise SpaceError(
                    f"space {space.name!r}: exclude {name} = {value!r} is what no block can "
                    f"choose; its choices: {', '.join(map(str, choices))}"
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
