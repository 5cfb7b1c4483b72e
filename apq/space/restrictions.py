"""Restrictions of a space as people write them: ``bits=8``, ``b0?_width=min,max``."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from apq.errors import ApqError, choose

if TYPE_CHECKING:
    from apq.space.base import Space


def parse(space: Space, text: str) -> dict[int, tuple[int, ...]]:
    """Choice indices to keep, by place of the axis; see :meth:`Space.restrict`.

    Raises:
        ApqError: the text is malformed, or names an axis or a value that the space does not have.
    """
    name, value = split(text)
    return {axis: _indices(space, axis, value, text) for axis in _axes(space, name)}


def split(text: str) -> tuple[str, str]:
    """Name and value.

    Raises:
        ApqError: one is missing.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name or not value:
        raise ApqError(f"--fix {text!r} is not NAME=VALUE, as in b03_kernel=3 or bits=8")
    return name, value


def _axes(space: Space, name: str) -> list[int]:
    """Axes that a name, pattern, attribute or group stands for."""
    attributes = {axis.attribute for axis in space.axes}
    found = [
        i
        for i, axis in enumerate(space.axes)
        if name == axis.attribute or (name == "bits" and axis.is_format)
    ]
    found = found or [
        i for i, axis in enumerate(space.axes) if fnmatch.fnmatchcase(axis.name, name)
    ]
    if not found:
        choose(name, {"bits", *attributes, *space.place}, "gene")
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
