"""What ``docs/json.md`` promises of ``--json``, and whether a document keeps it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).parents[1] / "docs/json.md"
KINDS: dict[str, Any] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list,
    "object": dict, "null": type(None),
}  # fmt: skip


class Promise(NamedTuple):
    """A row of a table: where a value is, its possible kinds, and whether it may be missing."""

    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    optional: bool


def promises() -> dict[str, list[Promise]]:
    """The tables of the page, by command ("lut show")."""
    found = {}
    for section in PAGE.read_text().split("\n## apq ")[1:]:
        rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section, flags=re.MULTILINE)
        found[section.partition("\n")[0]] = [
            Promise(
                tuple(key.replace("[]", ".[]").split(".")),
                tuple(kinds.strip().removesuffix(", optional").split(" or ")),
                kinds.strip().endswith(", optional"),
            )
            for key, kinds in rows
        ]
    return found


OPEN = {
    ("search", ("search",)), ("search", ("blocks", "[]")), ("lut price", ("layers", "[]")),
    ("lut calibrate", ("before",)), ("lut calibrate", ("after",)),
}  # fmt: skip
"""Objects that hold more than their lines name; the page says so."""


def check(command: str, document: Any) -> None:
    """Raise AssertionError where a document is not what its table says."""
    rows = promises()[command]
    where = {row.keys[:n] for row in rows for n in range(len(row.keys))}
    for parent in where:
        n = len(parent)
        listed = {row.keys[n] for row in rows if len(row.keys) > n and row.keys[:n] == parent}
        if listed & {"*", "[]"} or (command, parent) in OPEN:
            continue
        for found in at(document, parent):
            assert set(found) <= listed, (command, parent, set(found) - listed)
    for row in rows:
        for parent in at(document, row.keys[:-1]):
            key = row.keys[-1]
            values = parent.values() if key == "*" else [parent[key]] if key in parent else []
            assert values or row.optional or key == "*", (command, row.keys, "is missing")
            for value in values:
                assert any(_is(value, kind) for kind in row.kinds), (command, row, value)


def at(document: Any, keys: tuple[str, ...]) -> Iterator[Any]:
    """Every value at a place of a document; none where something on the way is missing."""
    if not keys:
        yield document
        return
    key, rest = keys[0], keys[1:]
    if key in ("*", "[]") and document:
        for value in document.values() if key == "*" else document:
            yield from at(value, rest)
    elif isinstance(document, dict) and document.get(key) is not None:
        yield from at(document[key], rest)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, KINDS[kind])
