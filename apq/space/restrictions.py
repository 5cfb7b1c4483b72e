"""Textual restrictions of a space: ``bits=8``, ``b0?_width=min,max``."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from apq.errors import ApqError, choose
from apq.space.axes import Axis


def parse(axes: Sequence[Axis], text: str) -> dict[int, tuple[int, ...]]:
    """Choice indices to keep, by index of the axis; see :meth:`apq.space.Space.restrict`.

    Raises:
        ApqError: the text is malformed, or names an axis or a value that the space does not have.
    """
    name, value = split(text)
    return {i: _indices(axes[i], value, text) for i in _places(axes, name)}


def split(text: str) -> tuple[str, str]:
    """Name and value.

    Raises:
        ApqError: one is missing.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name or not value:
        raise ApqError(f"--fix {text!r} is not NAME=VALUE, as in b03_kernel=3 or bits=8")
    return name, value


def _places(axes: Sequence[Axis], name: str) -> list[int]:
    """Indices of the axes that a name, pattern, attribute or group matches."""
    found = [
        i
        for i, axis in enumerate(axes)
        if name == axis.attribute or (name == "bits" and axis.is_format)
    ]
    found = found or [i for i, axis in enumerate(axes) if fnmatch.fnmatchcase(axis.name, name)]
    if not found:
        known = {name for axis in axes for name in (axis.attribute, axis.name)}
        choose(name, {"bits", *known}, "gene")
    return found


def _indices(axis: Axis, value: str, text: str) -> tuple[int, ...]:
    words = [str(label) for label in axis.labels]  # ascending, formats by their bits
    ends = {"min": 0, "max": len(words) - 1}
    out = []
    for word in value.split(","):
        word = word.strip()
        try:
            out.append(ends[word] if word in ends else words.index(word))
        except ValueError:
            raise ApqError(
                f"--fix {text!r}: {axis.name} cannot be {word}; "
                f"allowed: {', '.join(words)}, min, max"
            ) from None
    return tuple(out)
