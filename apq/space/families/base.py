"""Families of networks: a description as plain data that writes a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Protocol

from pydantic import Field, StringConstraints

from apq.errors import SpaceError
from apq.files.limits import (
    MOST_CHANNELS,
    MOST_DEPTHS,
    MOST_RULES,
    MOST_STAGES,
    MOST_TEXT,
    MOST_WIDTHS,
)
from apq.space.families.builder import Builder
from apq.space.formats import FORMATS, Choice, allowed, code_of, ordered

Name = Annotated[str, StringConstraints(pattern=r"\S", max_length=MOST_TEXT)]
Rules = Annotated[tuple[Mapping[str, Choice], ...], Field(max_length=MOST_RULES)]
"""Combinations of choices that no block may have, e.g. ``({"kernel": 7, "dw_a_bits": 4},)``."""

Sides = int | tuple[int, ...]
"""Height and width of images in pixels: one number, or several, ascending, of which a candidate
has one."""


class Family(Protocol):
    """A description of networks: a frozen dataclass of numbers, texts, tuples and dataclasses.

    Its fields are those of the space's TOML and JSON form. It is compared by value.

    Attributes:
        name: Name of the space.
        classes: Outputs of the classifier.
        fixed_bits: Bits of activations between blocks, and of all that is not searched.
        exclude: Combinations no block may have.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def classes(self) -> int: ...  # noqa: D102
    @property
    def fixed_bits(self) -> int: ...  # noqa: D102
    @property
    def exclude(self) -> tuple[Mapping[str, Choice], ...]: ...  # noqa: D102

    def check(self) -> None:
        """Refuse numbers that contradict themselves.

        Raises:
            SpaceError: they do; names the field and what is allowed.
        """

    def write(self) -> Builder:
        """The graph and its genes."""


class _Formats:
    """Fields that hold number formats to choose from."""

    def __post_init__(self) -> None:
        for name, choices in vars(self).copy().items():
            object.__setattr__(self, name, ordered(choices))

    def codes(self, name: str) -> tuple[int, ...]:
        """Codes of one field's choices."""
        return tuple(map(code_of, getattr(self, name)))


@dataclass(frozen=True)
class WeightBits(_Formats):
    """Number formats a block may use for its weights and inputs; see :class:`BitChoices`."""

    w: tuple[Choice, ...] = (4, 6, 8)
    a: tuple[Choice, ...] = (4, 6, 8)


@dataclass(frozen=True)
class BitChoices(_Formats):
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


class Checks:
    """Checks of a description; their error messages name the space.

    Args:
        name: Name of the space.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def need(self, ok: bool, field: str, value: object, rule: str) -> None:
        """Refuse a field's value unless ``ok``.

        Raises:
            SpaceError: it is not; says the rule.
        """
        if not ok:
            raise SpaceError(f"space {self.name!r}: {field} = {value} must be {rule}")

    def channels(self, **fields: int) -> None:
        """Counts of channels, pixels and classes."""
        for field, value in fields.items():
            least = 2 if field == "classes" else 1  # with one class every answer is right
            rule = f"between {least} and {MOST_CHANNELS}"
            self.need(least <= value <= MOST_CHANNELS, field, value, rule)

    def resolution(self, sides: Sides) -> None:
        """Pixels of an image's side: one number, or several to choose from."""
        if isinstance(sides, int):
            self.channels(resolution=sides)
            return
        self.widths("resolution", sides)
        two = len(sides) > 1
        self.need(two, "resolution", list(sides), "one number, or at least two to choose from")

    def formats(self, bits: _Formats) -> None:
        """Distinct formats, and activation formats for activations."""
        for name, choices in vars(bits).items():
            distinct = bool(choices) and len(set(choices)) == len(choices)
            self.need(distinct, f"bits.{name}", list(choices), "distinct")
            for choice in choices if name.split("_")[-1] == "a" else ():
                known = allowed(activations=True)
                ok = FORMATS[code_of(choice)].activations
                rule = f"a format of activations: {known} ({choice!r} is one of weights)"
                self.need(ok, f"bits.{name}", choice, rule)

    def ascending(self, field: str, values: Sequence[float]) -> None:
        """Distinct choices in ascending order."""
        ok = bool(values) and all(map(math.isfinite, values)) and min(values) > 0
        ok = ok and tuple(sorted(set(values))) == tuple(values)
        self.need(ok, field, list(values), "ascending, positive and finite")

    def stages(self, stages: Sequence[Any]) -> None:
        """Allowed numbers of stages, strides, depths, and odd kernels."""
        self.count("stages", stages)
        for s, stage in enumerate(stages):
            where = f"stages[{s}]"
            if isinstance(stage.channels, int):
                ok = 1 <= stage.channels <= MOST_CHANNELS
                self.need(ok, f"{where}.channels", stage.channels, f"1..{MOST_CHANNELS}")
            self.need(1 <= stage.stride <= 8, f"{where}.stride", stage.stride, "1..8")
            self.ascending(f"{where}.depth", stage.depth)
            deep = max(stage.depth) <= MOST_DEPTHS
            self.need(deep, f"{where}.depth", list(stage.depth), f"at most {MOST_DEPTHS}")
            self.kernels(f"{where}.kernel", stage.kernel)

    def count(self, field: str, items: Sequence[Any]) -> None:
        """At least one, and not too many to list."""
        self.need(len(items) > 0, field, "[]", "a list with at least one entry")
        self.need(len(items) <= MOST_STAGES, field, len(items), f"at most {MOST_STAGES}")

    def widths(self, field: str, widths: Sequence[int]) -> None:
        """Numbers of channels to choose from."""
        self.ascending(field, widths)
        ok = len(widths) <= MOST_WIDTHS and max(widths) <= MOST_CHANNELS
        self.need(ok, field, f"{len(widths)} up to {max(widths)}",
                  f"at most {MOST_WIDTHS}, each up to {MOST_CHANNELS}")  # fmt: skip

    def kernels(self, field: str, kernels: Sequence[int]) -> None:
        """Odd kernel sizes."""
        self.ascending(field, kernels)
        odd = all(k % 2 == 1 and k <= 31 for k in kernels)
        self.need(odd, field, list(kernels), "odd sizes up to 31")


def divisible(value: float, step: int = 8) -> int:
    """Round to a multiple of ``step``, never more than 10 % down (MobileNet's rule)."""
    rounded = max(step, int(value + step / 2) // step * step)
    return rounded + step if rounded < 0.9 * value else rounded


def plain(family: Family) -> dict[str, Any]:
    """A description's fields as plain data; those that are None are left out."""
    data: dict[str, Any] = asdict(family)  # type: ignore[call-overload]
    return {name: _lists(value) for name, value in data.items() if value is not None}


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _lists(v) for k, v in sorted(value.items())}
    return [_lists(v) for v in value] if isinstance(value, list | tuple) else value
