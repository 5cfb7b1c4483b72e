"""Common form of the operator timings that device tools write."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from apq.errors import TableError
from apq.space import Layer
from apq.space.layer import LAYER_FIELDS, OPS

MOST_BYTES = 64 * 2**20
LONGEST_MS = 1e9
KEY = re.compile(r"apq_(" + "|".join(OPS) + r")((?:_\d{1,9}){12})(?!\d)")


@dataclass(frozen=True)
class Timed:
    """One operator of one profile.

    Attributes:
        name: As the tool calls it.
        milliseconds: Time per inference; NaN where the file holds cycles.
        cycles: The same in cycles; NaN where it holds a time.
        layer: Its layer, if the tool reports shapes.
    """

    name: str
    milliseconds: float = math.nan
    cycles: float = math.nan
    layer: Layer | None = None


@dataclass(frozen=True)
class Profile:
    """One file: its operators, and a description of its figures."""

    rows: tuple[Timed, ...]
    figures: str


@dataclass(frozen=True)
class Reader:
    """One tool's format.

    Attributes:
        tool: Its name, for messages.
        knows: Whether a file's text is of this kind.
        read: The profile, from text and the name for messages. Raises TableError.
    """

    tool: str
    knows: Callable[[str], bool]
    read: Callable[[str, str], Profile]


def key_of(layer: Layer) -> str:
    """A layer as a name that every tool preserves: letters, digits and underscores."""
    return "_".join(["apq", layer.op, *(str(getattr(layer, n)) for n in LAYER_FIELDS[1:])])


def layer_of(name: str) -> Layer | None:
    """The layer encoded anywhere in a name; None: none, or not a valid one."""
    found = KEY.search(name)
    if found is None:
        return None
    numbers = [int(n) for n in found[2].split("_")[1:]]
    return Layer(found[1], *numbers) if all(numbers[:7]) else None


def read_text(path: Path) -> str:
    """A file's text: UTF-8 or UTF-16, with or without a byte-order mark, any line ends.

    Raises:
        TableError: missing, empty, too large or not text.
    """
    if not path.is_file():
        raise TableError(f"no file at {path}")
    if path.stat().st_size > MOST_BYTES:
        raise TableError(f"{path} is larger than {MOST_BYTES // 2**20} MiB; no profile is")
    raw = path.read_bytes()
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is not text: {error}") from error
    if "\0" in text or not text.strip():
        raise TableError(f"{path} is {'not text' if text.strip() else 'empty'}")
    return "\n".join(text.splitlines())


def number(cell: str, what: str, where: str, comma: bool = False) -> float:
    """A figure that is finite and not negative; ``comma``: decimals may have one.

    Raises:
        TableError: it is not; says where.
    """
    text = cell.strip()
    text = text.replace(",", ".") if comma and text.count(",") == 1 and "." not in text else text
    plain = re.fullmatch(r"\+?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", text)
    if plain is None or not float(text) <= LONGEST_MS * 1e3:
        raise TableError(f"{where}: {what} is {cell!r}; it must be a number that is not negative")
    return float(text)


def rows_of(
    lines: list[str], where: str, need: tuple[str, ...]
) -> tuple[list[dict[str, str]], bool]:
    """Rows of a CSV by column, and whether decimals may have a comma. The last column takes what
    unquoted commas of a name would split off.

    Raises:
        TableError: a column is missing or twice, a row is cut short, or there is none.
    """
    mark = next((m for m in (";", "\t") if m in lines[0]), ",")
    try:
        body = [row for row in csv.reader(lines, delimiter=mark) if any(c.strip() for c in row)]
    except csv.Error as error:
        raise TableError(f"{where} is no CSV: {error}") from error
    names = [name.strip() for name in body[0]]
    names = names[:-1] if not names[-1] else names
    missing = [name for name in need if name not in names]
    if missing:
        raise TableError(f"{where} lacks column {', '.join(missing)}; it has {', '.join(names)}")
    if len(set(names)) < len(names):
        raise TableError(f"{where} has a column twice: {', '.join(names)}")
    if len(body) == 1:
        raise TableError(f"{where} has a header and no rows: nothing was profiled")
    found = []
    for i, row in enumerate(body[1:], 1):
        cells = [cell.strip() for cell in row]
        if mark == "," and len(cells) > len(names):
            cells = [*cells[: len(names) - 1], ", ".join(cells[len(names) - 1 :])]
        if len(cells) not in (len(names), len(names) + (mark != ",")):
            raise TableError(f"{where}, row {i} has {len(cells)} cells for {len(names)} columns")
        found.append(dict(zip(names, cells, strict=False)))
    return found, mark != ","


def named(row: dict[str, str], column: str, where: str) -> str:
    """A row's name.

    Raises:
        TableError: it is empty.
    """
    if not row[column]:
        raise TableError(f"{where}: a row has no {column}")
    return row[column]
