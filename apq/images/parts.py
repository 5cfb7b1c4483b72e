"""Which part of an image set a file or folder belongs to, by its name."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

_WORDS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
}  # fmt: skip
_PATTERN = re.compile(rf"(?<![a-z])({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?![a-z])")
_CLUTTER = {"__macosx", "thumbs.db", "desktop.ini"}


def part_of(name: str) -> str | None:
    """``"train"``, ``"validation"`` or ``"test"`` if the name has such a word between characters
    that are no letters (``test-0`` has, ``latest`` and ``contest`` have not), else None."""
    found = _PATTERN.search(name.lower())
    return _WORDS[found.group(1)] if found else None


def clutter(name: str) -> bool:
    """Whether a name is one that operating systems and notebooks leave behind: hidden files,
    AppleDouble files, ``__MACOSX``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in _CLUTTER


def composed(name: str) -> str:
    """A name in one form (NFC): systems differ in whether they take an accent apart."""
    return unicodedata.normalize("NFC", name)


def in_any_system(path: Path) -> tuple[str, ...]:
    """Sorts paths alike on every system, whatever order it lists them in."""
    return tuple(map(composed, path.parts))
