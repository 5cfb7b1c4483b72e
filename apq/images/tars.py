"""Image sets in tar files: one picture and one label per name, as WebDataset writes its shards."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from apq.errors import ImagesError
from apq.files import bounded_json
from apq.images.folders import SUFFIXES
from apq.images.labels import Named, read_labels
from apq.images.parts import clutter, in_any_system, part_of

LABELS = ("cls", "label", "json")
"""Endings that hold the label beside a picture: a number or a word; in JSON its ``cls`` or
``label``."""
MOST_LABEL = 1 << 20
"""Bytes that a label's file may have."""


@dataclass(frozen=True)
class Shard:
    """The pictures of a tar file, in its order.

    Attributes:
        path: The file.
        offset, size: Where the bytes of each picture lie in it.
        labels: Theirs.
    """

    path: Path
    offset: tuple[int, ...]
    size: tuple[int, ...]
    labels: Named


def find_shards(path: Path) -> dict[Path, str]:
    """The tar files of a set and the part each belongs to, by its name; none: it has no tars."""
    files = [path] if path.is_file() else sorted(path.glob("**/*.tar"), key=in_any_system)
    files = [f for f in files if f.suffix.lower() == ".tar" and not clutter(f.name)]
    return {f: part_of(f.stem) or part_of(f.parent.name) or "train" for f in files}


def read_shard(path: Path) -> Shard:
    """Where pictures and labels lie in a tar file; pictures are not read.

    Raises:
        ImagesError: it is no plain tar, or a picture has no label.
    """
    pictures: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = Path(member.name)
                if not member.isfile() or clutter(name.name):
                    continue
                stem, _, ending = name.name.partition(".")
                key, ending = str(name.with_name(stem)), ending.lower()
                if f".{ending}" in SUFFIXES:
                    if key in pictures:
                        raise ImagesError(f"{path} has two pictures that are called {key!r}")
                    pictures[key] = member.offset_data, member.size
                elif ending in LABELS and member.size <= MOST_LABEL:
                    file = tar.extractfile(member)
                    text = file.read() if file else b""
                    if ending != "json" or key not in labels:
                        labels[key] = _label(text, ending, f"{path}: {member.name}")
    except (tarfile.TarError, OSError) as error:
        raise ImagesError(
            f"{path} is not a plain tar file that can be read: {error}. Compressed ones are read "
            "from no place but their beginning: unpack them (gunzip)."
        ) from error
    missing = [key for key in pictures if key not in labels]
    if missing or not pictures:
        what = f"{missing[0]!r} has no label" if missing else "there are no pictures"
        raise ImagesError(
            f"{path}: {what}; each picture needs a file of the same name that ends in "
            f"{', '.join('.' + ending for ending in LABELS)} and holds its class"
        )
    column = pa.chunked_array([[labels[key] for key in pictures]])
    places = pictures.values()
    return Shard(
        path,
        tuple(offset for offset, _ in places),
        tuple(size for _, size in places),
        read_labels(column, (), str(path)),
    )


def _label(text: bytes, ending: str, where: str) -> str:
    try:
        if ending != "json":
            return text.decode().strip()
        data = bounded_json(text)
        found = data.get("cls", data.get("label")) if isinstance(data, dict) else None
        return "" if found is None else str(found)
    except ValueError as error:
        raise ImagesError(f"{where} holds no label: {error}") from None
