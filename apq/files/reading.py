"""Read bounded JSON and TOML into schemas; every such file of a user is read here.

A text is rejected if it is too long, nested too deeply, or has a number that no field can hold;
the rest is checked strictly against a pydantic schema: no text for a number, no fraction for an
integer, nothing infinite. The error names the file, the field, what was found and what is allowed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError

from apq.errors import ApqError
from apq.files.limits import MOST_BYTES, MOST_DEPTH, MOST_DIGITS, MOST_ITEMS, MOST_TEXT

Text = Annotated[str, StringConstraints(max_length=MOST_TEXT)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, le=1)]

_Item = TypeVar("_Item")
Items = Annotated[tuple[_Item, ...], Field(strict=False, max_length=MOST_ITEMS)]
"""A tuple that is a list in the file."""
Named = Annotated[dict[Text, _Item], Field(max_length=MOST_ITEMS)]
"""A table with arbitrary names."""


class Schema(BaseModel):
    """A strict table: no unknown fields, no conversions, finite numbers only."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class CostTable(Schema):
    """Cost of making something, as :class:`apq.cost.Stopwatch` measures it."""

    wall_s: Annotated[float, Field(ge=0)]
    cpu_s: Annotated[float, Field(ge=0)]
    device: Text
    accelerators: Annotated[
        dict[Text, Annotated[float, Field(ge=0)]], Field(max_length=MOST_ITEMS)
    ] = Field(default_factory=dict)


class Document(Schema):
    """The contents of one kind of file. Unknown fields are kept only in :attr:`said`.

    Attributes:
        what: The kind of file and what writes it, for messages: "a supernet of apq …".
        remedy: What a user can do about a broken one.
        error: Class of the error that is raised.
        root: Name of the field that is the whole text, of files that are no table of fields.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)

    what: ClassVar[str]
    remedy: ClassVar[str] = "Make it again, or take another copy."
    error: ClassVar[type[ApqError]] = ApqError
    root: ClassVar[str] = ""

    _said: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def said(self) -> dict[str, Any]:
        """Everything in the file, as plain data."""
        return self._said

    @classmethod
    def of(cls, data: Any, where: str, context: Mapping[str, Any] | None = None) -> Self:
        """Validate plain data as a document; ``context`` is passed to its validators.

        Raises:
            ApqError: it does not fit the schema (of the class :attr:`error`).
        """
        data = {cls.root: data} if cls.root else data
        made = check(data, cls, where, cls.error, context)
        made._said.update(data if isinstance(data, dict) else {})
        return made


class Sealed(Document):
    """A document with a checksum of its other fields; files of older versions have none.

    Attributes:
        checksum: Hash of all other fields.
    """

    checksum: Text | None = None

    @classmethod
    def of(cls, data: Any, where: str, context: Mapping[str, Any] | None = None) -> Self:
        """Validate plain data as a document.

        Raises:
            ApqError: it does not fit the schema, or its checksum does not match.
        """
        made = super().of(data, where, context)
        if made.checksum is not None and made.checksum != _checksum(data):
            problem = "it was changed after it was written, or damaged: its checksum is another"
            raise cls.error(_refusal(cls, where, problem))
        return made


D = TypeVar("D", bound=Document)
S = TypeVar("S", bound=Schema)


def check(
    data: Any,
    schema: type[S],
    where: str,
    error: type[ApqError] = ApqError,
    context: Mapping[str, Any] | None = None,
) -> S:
    """Validate plain data against a schema.

    Raises:
        ApqError: it does not fit (of the class ``error``); says where and what is allowed.
    """
    try:
        _require_bounded(data)
        return schema.model_validate(data, context=context)
    except ValidationError as wrong:
        problem = in_words(wrong, schema)
    except _TooMuch as wrong:
        problem = str(wrong)
    raise error(_refusal(schema, where, problem))


def parse_json(text: str | bytes, schema: type[D], where: str) -> D:
    """Parse a JSON text as a document.

    Raises:
        ApqError: it is not JSON within the limits, or does not fit the schema.
    """
    try:
        data = bounded_json(text)
    except ValueError as error:
        raise schema.error(_refusal(schema, where, str(error))) from None
    return schema.of(data, where)


def read_json(path: Path, schema: type[D], absent: str = "") -> D:
    """Read a JSON file as a document.

    Args:
        path: The file.
        schema: Schema of the document.
        absent: Message if there is no such file.

    Raises:
        ApqError: it cannot be read, is not JSON within the limits, or does not fit the schema.
    """
    return parse_json(_read_text(path, schema.error, absent), schema, str(path))


def read_toml(path: Path, schema: type[D], context: Mapping[str, Any] | None = None) -> D:
    """Read a TOML file as a document; ``context`` is passed to its validators.

    Raises:
        ApqError: it cannot be read, is not TOML within the limits, or does not fit the schema.
    """
    return schema.of(toml_data(path, schema.error), str(path), context)


def toml_data(path: Path, kind: type[ApqError]) -> dict[str, Any]:
    """Plain data of a TOML file, not yet validated.

    Raises:
        ApqError: it cannot be read or is not TOML (of the class ``kind``).
    """
    text = _read_text(path, kind)
    try:
        return tomllib.loads(text.decode("utf-8-sig").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        raise kind(f"{path} is not valid TOML: {_short(str(error), 200)}") from None


def bounded_json(text: str | bytes) -> Any:
    """Plain data of a JSON text.

    Raises:
        ValueError: it is not JSON, names a field twice, or exceeds a limit; says which.
    """
    if len(text) > MOST_BYTES:
        raise _TooMuch(f"it has {len(text):,} bytes, at most {MOST_BYTES:,} are read")
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        data = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise _TooMuch(f"it is nested more than {MOST_DEPTH} levels deep") from None
    _require_bounded(data)
    return data


def to_json(data: Any, **options: Any) -> str:
    """JSON that :func:`bounded_json` reads: non-finite numbers become null."""
    return json.dumps(_finite(data), allow_nan=False, **options)


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data to be written: with its ``checksum``, and null for non-finite numbers."""
    plain: dict[str, Any] = bounded_json(to_json(data))
    return plain | {"checksum": _checksum(plain)}


def _checksum(data: Mapping[str, Any]) -> str:
    """Hash of plain data without its own ``checksum``, 16 hex digits."""
    text = json.dumps({k: v for k, v in data.items() if k != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _TooMuch(ValueError):
    """A limit was exceeded."""


def _read_text(path: Path, kind: type[ApqError], absent: str = "") -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise kind(absent or f"cannot read {path}: {error.strerror}") from error
    except OSError as error:
        raise kind(f"cannot read {path}: {error.strerror}") from error
    if len(text) > MOST_BYTES:
        raise kind(f"{path} has more than {MOST_BYTES:,} bytes, which is no file of this kind")
    return text


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {_short(repr(twice))} stands there twice")
    return data


def _require_bounded(data: Any) -> None:
    """Reject deep nesting, huge integers and non-finite numbers, without recursion."""
    todo = [("", data, 1)]
    while todo:
        place, value, depth = todo.pop()
        if isinstance(value, dict | list | tuple):
            if depth > MOST_DEPTH:
                raise _TooMuch(f"it is nested more than {MOST_DEPTH} levels deep")
            if isinstance(value, dict):
                todo.extend((f"{place}.{k}"[-80:], v, depth + 1) for k, v in value.items())
            else:
                todo.extend((f"{place}[{i}]", v, depth + 1) for i, v in enumerate(value))
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise _TooMuch(f"{place.lstrip('.')} is {value}, must be a finite number")
        elif isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
            raise _TooMuch(f"{place.lstrip('.')} has more than {MOST_DIGITS} digits")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- refusals in words -------------------------------------------------------------------------

_MUST_BE = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "none_required": "null",
    "finite_number": "a finite number",
}
_FORMS: dict[str, str] = {r"\S": "text that is more than blanks"}
"""Descriptions of the patterns of texts."""
_BOUNDED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda c: f"more than {c['gt']}",
    "greater_than_equal": lambda c: f"at least {c['ge']}",
    "less_than": lambda c: f"less than {c['lt']}",
    "less_than_equal": lambda c: f"at most {c['le']}",
    "too_long": lambda c: f"at most {c['max_length']:,}",
    "too_short": lambda c: f"at least {c['min_length']:,}",
    "string_too_long": lambda c: f"of at most {c['max_length']} characters",
    "string_too_short": lambda c: f"of at least {c['min_length']} characters",
    "literal_error": lambda c: f"one of {c['expected']}",
    "string_pattern_mismatch": lambda c: _FORMS.get(c["pattern"], f"text like {c['pattern']}"),
}


def _refusal(schema: type[Schema], where: str, problem: str) -> str:
    if not issubclass(schema, Document):
        return f"{where}: {problem}"
    return f"{where} is not {schema.what}: {problem.rstrip('.')}. {schema.remedy}".rstrip()


def in_words(error: ValidationError, schema: type[Schema], most: int = 3) -> str:
    """Describe the first few problems; missing fields of one table are reported together."""
    problems: dict[str, list[str]] = {}
    for one in error.errors(include_url=False):
        if one["type"] == "too_short" and len(one["input"]) >= one["ctx"]["min_length"]:
            continue  # follows from errors of single entries, which are reported themselves
        place = _place(one["loc"])
        if one["type"] == "missing":
            problems.setdefault(f"{_place(one['loc'][:-1]) or 'it'} lacks ", []).append(
                str(one["loc"][-1])
            )
            continue
        if one["type"] == "extra_forbidden":
            text = _unknown(
                str(one["loc"][-1]), _place(one["loc"][:-1]), _names(schema, one["loc"])
            )
        elif one["type"] == "value_error":
            text = ": ".join(filter(None, (place, str(one["ctx"]["error"]).rstrip("."))))
        else:
            bound = _BOUNDED.get(one["type"])
            wanted = bound(one["ctx"]) if bound else _MUST_BE.get(one["type"])
            wanted = f"must be {wanted}" if wanted else one["msg"]
            found = f"is {_short(repr(one['input']))}"
            if one["type"] in ("too_long", "too_short"):
                found = f"has {len(one['input']):,} entries"
            text = f"{place or 'it'} {found}, {wanted}"
        problems.setdefault(text, [])
    lines = [head + ", ".join(names) for head, names in problems.items()]
    more = len(lines) - most
    return "; ".join(lines[:most]) + (f"; and {more} more" if more > 0 else "")


def _place(loc: tuple[int | str, ...]) -> str:
    """A place in a document as text: ``stages[0].kernel``."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{_short(p)}" for p in loc)
    return "".join(parts).lstrip(".")


def _names(schema: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Fields of the table that contains a place."""
    here: Any = schema
    for part in loc[:-1]:
        if isinstance(part, str) and isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(part)
            found = _model_in(field.annotation) if field is not None else None
            here = found if found is not None else here
    return [*here.model_fields]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The schema in an annotation, which may be a list or an optional of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(part) for part in getattr(annotation, "__args__", ()))
    return next((found for found in inner if found is not None), None)


def _unknown(name: str, place: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    inside = f" in {place}" if place else ""
    return f"unknown field {_short(repr(name))}{inside}.{hint} Allowed: {', '.join(known)}"


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
