"""Reading a space's description from a file: the fields of its family.

Types, names and lengths of lists are checked here; the allowed numbers are checked by the family
whenever a space is built.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    create_model,
)

from apq.errors import ApqError, SpaceError, choose
from apq.files import Document, Schema, check
from apq.files.limits import MOST_TEXT, MOST_WIDTHS
from apq.space.families import DEFAULT_FAMILY, FAMILIES, Family
from apq.space.families.base import Sides
from apq.space.formats import Choice, choice_of, code_of

Text = Annotated[str, Field(max_length=MOST_TEXT)]


def _format(value: Any) -> Choice:
    try:
        return choice_of(code_of(value))
    except SpaceError as error:
        raise ValueError(str(error)) from error


Format = Annotated[int | str, BeforeValidator(_format)]
"""A number format: a plain width, its digits, or a name."""


class _SpaceTable(Document):
    """A space as TOML, JSON and Parquet metadata hold it: the fields of its family."""

    model_config = Schema.model_config
    what = "a space"
    remedy = ""
    error = SpaceError


@cache
def table_of(kind: type) -> type[Schema]:
    """The schema of a description: its fields by their types, lists in place of tuples."""
    hints = get_type_hints(kind, include_extras=True)
    known: dict[str, Any] = {}
    for field in fields(kind):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = ... if default is MISSING else default
        known[field.name] = (_in_file(hints[field.name], default == ()), default)
    base = _SpaceTable if kind in FAMILIES.values() else Schema
    return create_model(f"{kind.__name__}Table", __base__=base, **known)


def _in_file(hint: Any, may_be_empty: bool = False) -> Any:
    """The type of a field in a file; a list needs an entry unless ``may_be_empty``."""
    if hint == Choice:
        return Format
    if isinstance(hint, type) and is_dataclass(hint):
        return Annotated[table_of(hint), AfterValidator(lambda table: build(hint, table))]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated and get_origin(inner[0]) is tuple:
        return Annotated[_in_file(inner[0], may_be_empty), *inner[1:]]
    if origin is tuple:
        some = Field(strict=False, min_length=int(not may_be_empty), max_length=MOST_WIDTHS)
        return Annotated[tuple[_in_file(inner[0]), ...], some]  # type: ignore[misc]
    if origin is Mapping or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return dict[inner[0], _in_file(inner[1])]  # type: ignore[valid-type, misc]
    if hint == Sides:
        return Annotated[_in_file(inner[1]), BeforeValidator(_several), AfterValidator(_one)]
    if origin is types.UnionType:
        union = _in_file(inner[0])
        for other in inner[1:]:
            union = union | _in_file(other)
        return union
    return hint


def _several(value: Any) -> Any:
    """A single number as a list."""
    return value if isinstance(value, list | tuple) else [value]


def _one(values: tuple[int, ...]) -> Sides:
    """A one-element list as a single number."""
    return values[0] if len(values) == 1 else values


def build(kind: type, table: Schema) -> Any:
    """The description that a checked table holds."""
    try:
        return kind(**dict(table))
    except SpaceError as error:
        raise ValueError(str(error)) from error


def read_family(data: Any, where: str) -> Family:
    """The description that plain data holds.

    Raises:
        SpaceError: a field is unknown, missing, or of the wrong type or range.
    """
    kind, rest = family_of(data)
    found: Family = build(kind, check(rest, table_of(kind), where, SpaceError))
    return found


def family_of(data: Any) -> tuple[type, Any]:
    """The family that data belongs to, and its fields."""
    if not isinstance(data, Mapping):
        return FAMILIES[DEFAULT_FAMILY], data
    rest = {**data}
    name = rest.pop("family", DEFAULT_FAMILY)
    try:
        return FAMILIES[choose(str(name), FAMILIES, "family")], rest
    except ApqError as error:
        raise SpaceError(str(error)) from error
