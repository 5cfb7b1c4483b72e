"""Labels of any column type as class numbers, and the classes of several files as one list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from apq.errors import ImagesError
from apq.images.parts import composed

Labels = NDArray[np.int64]

MOST_CLASSES = 65_536
"""Classes an image set may have."""


@dataclass(frozen=True)
class Named:
    """Labels of one file or folder.

    Attributes:
        where: What to call it in messages.
        labels: Indices into ``names``, ``(n,)``.
        names: Its classes.
        declared: Whether the file lists its classes; else they are those that occur in it.
    """

    where: str
    labels: Labels
    names: tuple[str, ...]
    declared: bool


def read_labels(column: pa.ChunkedArray, declared: Sequence[str], where: str) -> Named:
    """Labels of a Parquet column.

    Whole numbers (as integers, floats or digits in text) are indices into the classes that the file
    declares; without such a list every distinct number or word is a class. Blanks around a word do
    not count.

    Raises:
        ImagesError: a label is missing, negative, a fraction, a list, or has no name; names the
            file, the row and the value.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_temporal(kind):
        raise ImagesError(
            f"{where}: labels are of type {kind}; give one class per image, as a whole number or a "
            "word (of a one-hot list the index of its 1)"
        )
    values = column.to_pylist()
    numbers = [_number(value, row, where) for row, value in enumerate(values)]
    if any(isinstance(number, str) for number in numbers):
        words = [str(value) for value in values]
        if declared and set(words) <= set(declared):
            return _indexed(where, words, tuple(declared), declared=True)
        words = [composed(word.strip()) for word in words]
        return _indexed(where, words, tuple(sorted(set(words))), declared=False)
    found = np.array(numbers, dtype=np.int64)
    if declared:
        if found.max() >= len(declared):
            row = int(found.argmax())
            raise ImagesError(
                f"{where}: label {found[row]} has no name (row {row}); the schema lists "
                f"{len(declared)} classes"
            )
        return Named(where, found, tuple(declared), True)
    ids, labels = np.unique(found, return_inverse=True)
    return Named(where, labels.astype(np.int64), tuple(str(i) for i in ids), False)


def _indexed(where: str, words: list[str], names: tuple[str, ...], declared: bool) -> Named:
    index = {name: i for i, name in enumerate(names)}
    return Named(where, np.array([index[w] for w in words], dtype=np.int64), names, declared)


def _number(value: Any, row: int, where: str) -> int | str:
    """A label as a whole number, or the word it is."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            raise ImagesError(f"{where}: the label in row {row} is empty")
        if text in ("nan", "NaN", "<NA>"):
            raise ImagesError(
                f"{where}: the label in row {row} is {text!r}, which is how a missing label is "
                "written as text"
            )
        if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 18:
            return text
        value = int(text)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ImagesError(f"{where}: the label in row {row} is missing")
    if isinstance(value, float) and not value.is_integer():
        raise ImagesError(f"{where}: the label in row {row} is {value:g}, not a whole number")
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise ImagesError(f"{where}: the label in row {row} is {value!r}") from None
    if number >= 2**63:
        raise ImagesError(f"{where}: the label in row {row} is {number}; labels are below 2^63")
    if number < 0:
        raise ImagesError(
            f"{where}: the label in row {row} is {number}; labels are 0 or more (-1 often means "
            "that a test part has no labels)"
        )
    return number


def one_list(parts: Sequence[Named]) -> tuple[str, ...]:
    """The classes of several files of one part.

    Raises:
        ImagesError: two files declare different classes, or there are too many.
    """
    declared = [part for part in parts if part.declared]
    for part in declared[1:]:
        if set(part.names) != set(declared[0].names):
            odd = sorted(set(part.names) ^ set(declared[0].names))[:5]
            raise ImagesError(
                f"{declared[0].where} and {part.where} declare different classes: {', '.join(odd)}"
            )
    occurring = {name for part in parts if not part.declared for name in part.names}
    names = declared[0].names if declared else tuple(sorted(occurring, key=_natural))
    if declared and not occurring <= set(names):
        odd = sorted(occurring - set(names))[:5]
        raise ImagesError(f"{parts[0].where} and others: no class is named {', '.join(odd)}")
    if len(names) > MOST_CLASSES:
        raise ImagesError(
            f"{parts[0].where}: {len(names):,} different labels, more than {MOST_CLASSES:,}; are "
            "they numbers of images rather than classes?"
        )
    return names


def _natural(name: str) -> tuple[int, int, str]:
    """Sorts numbers by value, before words."""
    return (0, int(name), "") if name.isascii() and name.isdigit() else (1, 0, name)


def renumbered(part: Named, classes: tuple[str, ...], what: str) -> Labels:
    """Labels as indices into ``classes``, matched by name.

    Raises:
        ImagesError: a class that occurs is not among them.
    """
    index = {name: i for i, name in enumerate(classes)}
    used = np.unique(part.labels)
    odd = [part.names[i] for i in used if part.names[i] not in index]
    if odd:
        raise ImagesError(
            f"{part.where}: the {what} part has classes that the training part lacks: "
            f"{', '.join(odd[:5])}"
        )
    table = np.array([index.get(name, -1) for name in part.names], dtype=np.int64)
    return table[part.labels]
