"""What an image set consists of, before anything is decoded: sources of pictures, and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apq.errors import ImagesError
from apq.images import folders, parquet, tars
from apq.images.inspect import inspect_all
from apq.images.labels import Named
from apq.images.streamed import Files, RowGroups, Source
from apq.workers import ahead, default_workers


@dataclass(frozen=True)
class Gathered:
    """One part of a set.

    Attributes:
        source: Its pictures.
        named: Labels of its files, in the order of the pictures.
        where: What to call a picture in messages.
    """

    source: Source
    named: Sequence[Named]
    where: Callable[[int], str]

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return sum(len(named.labels) for named in self.named)

    def inspected(self) -> tuple[NDArray[np.uint64], list[str], list[tuple[str, ...]]]:
        """:func:`apq.images.inspect.inspect_all` of all of them, by worker processes."""
        hashes: list[NDArray[np.uint64]] = []
        wrong: list[str] = []
        unusual: list[tuple[str, ...]] = []
        pieces = np.array_split(np.arange(self.count), max(1, -(-self.count // 256)))
        jobs = ((self.source.read(index),) for index in pieces)
        workers = default_workers()
        for seen, bad, traits in ahead(inspect_all, jobs, workers, depth=2 * workers):
            hashes.append(seen)
            wrong += bad
            unusual += traits
        return np.concatenate(hashes), wrong, unusual


def gather(path: Path, columns: Mapping[str, str]) -> tuple[dict[str, Gathered], tuple[str, ...]]:
    """The parts of the set at a path, and notes on what was skipped.

    Args:
        path: A Parquet or tar file, or a folder of either, or of class folders.
        columns: Names of the Parquet columns ``image`` and ``label``, where chosen.

    Raises:
        ImagesError: there is no set, or its labels cannot be read.
    """
    shards = tars.find_shards(path)
    files = [] if path.is_file() and shards else parquet.find_files(path)
    if files:
        return _tables(files, path, columns), ()
    if columns:
        raise ImagesError(f"{path} holds no Parquet files, so it has no columns to choose")
    return (_tars(shards, path), ()) if shards else _folders(path)


def _by_part(where: Mapping[Path, str], path: Path) -> dict[str, list[Path]]:
    if "train" not in where.values():
        others = " and ".join(sorted(set(where.values())))
        raise ImagesError(
            f"{path} has only {others} files; a file without such a word in its name is needed"
        )
    parts: dict[str, list[Path]] = {}
    for file, part in where.items():
        parts.setdefault(part, []).append(file)
    return parts


def _tables(
    files: Sequence[Path], path: Path, columns: Mapping[str, str]
) -> dict[str, Gathered]:  # fmt: skip
    parts = _by_part({file: parquet.file_part(file, path) for file in files}, path)
    return {
        part: _row_groups([parquet.read_table(f, columns, str(path)) for f in own])
        for part, own in parts.items()
    }


def _row_groups(tables: Sequence[parquet.Table]) -> Gathered:
    """All rows of some Parquet files."""
    groups = [(file, n) for file, table in enumerate(tables) for n in range(len(table.rows))]
    rows = np.array([tables[file].rows[n] for file, n in groups], dtype=np.int64)
    size = np.array([tables[file].bytes[n] for file, n in groups], dtype=np.int64)
    firsts = np.array([sum(tables[file].rows[:n]) for file, n in groups], dtype=np.int64)
    source = RowGroups(
        tuple(table.path for table in tables),
        tuple(table.image for table in tables),
        np.array(groups, dtype=np.int64),
        firsts,
        np.repeat(np.arange(len(groups)), rows),
        np.concatenate([np.arange(n) for n in rows]),
        size,
    )

    def where(i: int) -> str:
        group = int(source.group[i])
        return f"{source.paths[groups[group][0]]} row {int(firsts[group] + source.row[i])}"

    return Gathered(source, [table.labels for table in tables], where)


def _tars(shards: Mapping[Path, str], path: Path) -> dict[str, Gathered]:
    parts = _by_part(shards, path)
    return {part: _members([tars.read_shard(file) for file in own]) for part, own in parts.items()}


def _members(shards: Sequence[tars.Shard]) -> Gathered:
    """All pictures of some tar files."""
    counts = [len(shard.offset) for shard in shards]
    source = Files(
        tuple(str(shard.path) for shard in shards),
        np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        np.concatenate([np.array(shard.offset, dtype=np.int64) for shard in shards]),
        np.concatenate([np.array(shard.size, dtype=np.int64) for shard in shards]),
    )

    def where(i: int) -> str:
        return f"{source.paths[source.which[i]]} at byte {int(source.offset[i])}"

    return Gathered(source, [shard.labels for shard in shards], where)


def _folders(path: Path) -> tuple[dict[str, Gathered], tuple[str, ...]]:
    parts: dict[str, Gathered] = {}
    skipped: Counter[str] = Counter()
    for part, root in folders.find_parts(path).items():
        files, named, left = folders.find_pictures(root)
        parts[part] = _whole_files(files, named)
        skipped += left
    notes: tuple[str, ...] = ()
    if skipped:
        told = ", ".join(f"{suffix} {n}" for suffix, n in skipped.most_common(8))
        notes = (f"note: skipped {skipped.total()} files that are no pictures ({told})",)
    return parts, notes


def _whole_files(files: Sequence[Path], named: Named) -> Gathered:
    """A picture per file."""
    paths = tuple(map(str, files))
    alone = np.full(len(paths), -1, dtype=np.int64)
    source = Files(paths, np.arange(len(paths), dtype=np.int32), np.zeros_like(alone), alone)
    return Gathered(source, [named], paths.__getitem__)
