"""What apq raises when it cannot go on, and how its messages are built.

    ApqError                  anything a user can mend; the command line shows it, exit code 1
    ├── SpaceError            a space that contradicts itself, or two spaces that should be one
    ├── SamplesError          a samples folder or file that is missing, broken or of another space
    ├── TableError            a lookup table that is malformed or lacks a row
    ├── ImagesError           an image set that cannot be read
    ├── ModelError            a supernet, predictor or model file that is broken or of another space
    └── BudgetError           a budget that nothing can meet

Messages say what was wrong, what is allowed, the nearest thing that exists, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class ApqError(Exception):
    """Base of everything apq raises on purpose.

    Example:
        >>> import apq
        >>> try:
        ...     apq.load_space("digit")
        ... except apq.ApqError as error:
        ...     print(error)
        unknown space 'digit'. Did you mean 'digits'? Known: ...
    """


class SpaceError(ApqError):
    """A space is malformed, or an artefact was made for another space."""


class SamplesError(ApqError):
    """A samples folder or file is missing, broken, or holds unusable rows."""


class TableError(ApqError):
    """A lookup table is malformed or lacks a row that is needed."""


class ImagesError(ApqError):
    """An image set is missing or cannot be decoded."""


class ModelError(ApqError):
    """A supernet, predictor or model file is missing, broken, or of another space."""


class BudgetError(ApqError):
    """A budget is negative, not a number, or below what the space can reach."""


def choose(name: str, options: Iterable[str], what: str) -> str:
    """Return ``name`` if it is one of ``options``; otherwise raise with the nearest ones.

    Raises:
        ApqError: ``name`` is unknown; the message lists what exists.
    """
    known = sorted(options)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ApqError(f"unknown {what} {name!r}.{hint} Known: {', '.join(known)}.")


def side_by_side(
    left: Mapping[str, object], right: Mapping[str, object], names: tuple[str, str]
) -> str:
    """Render the fields in which two mappings differ, one line per field."""
    lines = [f"  {'field':<22} {names[0]:<34} {names[1]}"]
    for key in sorted(set(left) | set(right)):
        a, b = left.get(key, "(absent)"), right.get(key, "(absent)")
        if a != b:
            lines.append(f"  {key:<22} {a!s:<34} {b}")
    return "\n".join(lines)
