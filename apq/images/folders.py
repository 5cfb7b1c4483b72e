"""Image sets in folders: one folder per class, optionally below ``train``, ``val`` and ``test``."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from apq.errors import ImagesError
from apq.images.labels import Named
from apq.images.parts import clutter, composed, in_any_system, part_of

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm",
    ".pgm", ".pbm", ".pnm", ".avif",
)  # fmt: skip
"""Endings of file names that are taken for pictures, in any case."""


def find_parts(path: Path) -> dict[str, Path]:
    """The folders whose sub-folders are classes, by part.

    Raises:
        ImagesError: there are none, or a part for training is missing.
    """
    inside = _folders(path)
    named = {d: part_of(d.name) for d in inside if part_of(d.name) and _folders(d)}
    parts = {part: d for d, part in reversed(named.items()) if part}
    if len(parts) < len(named):
        raise ImagesError(f"{path} holds several folders of one part: {_names(list(named))}")
    if "train" in parts:
        return parts
    if parts:
        raise ImagesError(f"{path} has a folder {_names(list(named))} but none named 'train'")
    if not inside:
        raise ImagesError(f"{path} holds neither Parquet files nor one folder per class")
    return {"train": path}


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, in the order of their names.

    Raises:
        ImagesError: one is a link to a folder that it lies in, or to another of them.
    """
    found = [d for d in path.iterdir() if d.is_dir() and not clutter(d.name)]
    for folder in found:
        if folder.is_symlink() and path.resolve().is_relative_to(folder.resolve()):
            raise ImagesError(f"{folder} is a link to a folder that it lies in; remove it")
    real: dict[Path, Path] = {}
    for folder in sorted(found, key=in_any_system):
        if other := real.get(folder.resolve()):
            raise ImagesError(f"{folder} and {other} are the same folder; remove the link")
        real[folder.resolve()] = folder
    return list(real.values())


def _names(folders: list[Path]) -> str:
    return ", ".join(sorted(d.name for d in folders))


def find_pictures(root: Path) -> tuple[list[Path], Named, Counter[str]]:
    """Pictures and labels below ``root``, and how many files were skipped, by the ending of their
    names.

    Raises:
        ImagesError: a class folder holds no picture.
    """
    names: list[str] = []
    files: list[Path] = []
    labels: list[int] = []
    skipped: Counter[str] = Counter()
    for number, folder in enumerate(_folders(root)):
        found, left = _pictures(folder)
        skipped += left
        if not found:
            raise ImagesError(
                f"no images ({', '.join(SUFFIXES)}) in the class folder {folder}. Remove it, or "
                "give it some."
            )
        if composed(folder.name) in names:
            raise ImagesError(
                f"{root} has two class folders that are both called {composed(folder.name)!r}, "
                "with accents written in two ways; join them"
            )
        names.append(composed(folder.name))
        files += found
        labels += [number] * len(found)
    skipped += Counter(
        f.suffix.lower() or f.name for f in root.iterdir() if f.is_file() and not clutter(f.name)
    )
    named = Named(str(root), np.array(labels, dtype=np.int64), tuple(names), True)
    return files, named, skipped


def _pictures(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Pictures in a folder and its sub-folders (links to folders are not followed)."""
    found: list[Path] = []
    skipped: Counter[str] = Counter()

    def refuse(error: OSError) -> None:
        raise ImagesError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    for where, inside, files in os.walk(folder, onerror=refuse):
        inside[:] = sorted(name for name in inside if not clutter(name))
        for name in files:
            suffix = Path(name).suffix.lower()
            if clutter(name):
                continue
            if suffix in SUFFIXES:
                found.append(Path(where) / name)
            else:
                skipped[suffix or name] += 1
    return sorted(found, key=in_any_system), skipped
