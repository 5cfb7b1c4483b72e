"""What a file says of a space and of a candidate, as the types other schemas are made of.

Types, names and lengths of lists are checked here; which numbers a space may have is the matter of
its family, whoever builds one.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
    create_model,
)

from apq.errors import ApqError, SpaceError, choose
from apq.files import Document, Schema, check
from apq.files.limits import MOST_TEXT, MOST_WIDTHS
from apq.files.reading import in_words
from apq.space.base import Space
from apq.space.candidate import Candidate
from apq.space.families import DEFAULT_FAMILY, FAMILIES
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
    """The type a field has in a file; a list needs an entry unless ``may_be_empty``."""
    if hint == Choice:
        return Format
    if isinstance(hint, type) and is_dataclass(hint):
        return Annotated[table_of(hint), AfterValidator(lambda table: _build(hint, table))]
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
    """A number as the list of it."""
    return value if isinstance(value, list | tuple) else [value]


def _one(values: tuple[int, ...]) -> Sides:
    """A list of one number as that number."""
    return values[0] if len(values) == 1 else values


def _build(kind: type, table: Schema) -> Any:
    try:
        return kind(**dict(table))
    except SpaceError as error:
        raise ValueError(str(error)) from error


def read_space(data: Any, where: str) -> Space:
    """The space that plain data describes.

    Raises:
        SpaceError: a field is unknown, missing, or of the wrong type or range.
    """
    kind, rest = _family(data)
    return Space(_build(kind, check(rest, table_of(kind), where, SpaceError)))


def _family(data: Any) -> tuple[type, Any]:
    """Which family data is of, and its fields."""
    if not isinstance(data, Mapping):
        return FAMILIES[DEFAULT_FAMILY], data
    rest = {**data}
    name = rest.pop("family", DEFAULT_FAMILY)
    try:
        return FAMILIES[choose(str(name), FAMILIES, "family")], rest
    except ApqError as error:
        raise SpaceError(str(error)) from error


def _space(data: Any) -> Space:
    try:
        kind, rest = _family(data)
        return Space(_build(kind, table_of(kind).model_validate(rest)))
    except ValidationError as wrong:
        raise ValueError(in_words(wrong, table_of(kind))) from None
    except SpaceError as error:
        raise ValueError(str(error)) from error


def _candidate(data: Any) -> Candidate:
    try:
        return Candidate.from_dict(data)
    except SpaceError as error:
        raise ValueError(str(error)) from error


if TYPE_CHECKING:
    SpaceField = Space
    CandidateField = Candidate
else:  # a table in the file is the object itself in a schema
    SpaceField = Annotated[Any, PlainValidator(_space)]
    CandidateField = Annotated[Any, PlainValidator(_candidate)]
