"""Pictures that stay encoded where they are, and are decoded when they are asked for."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from apq.errors import ImagesError
from apq.images.decode import Pixels, decode
from apq.images.inspect import Item, encoded
from apq.space.layer import Size, both
from apq.workers import ahead, default_workers

Index = NDArray[np.integer[Any]]
WINDOW = 128 * 2**20
"""Encoded bytes of Parquet row groups that are held at once, and shuffled together."""
CHUNK = 32
"""Pictures that a worker process decodes at a time."""


class Pictures(Protocol):
    """uint8 images ``(n, height, width, channels)``: an array in memory, or a :class:`Streamed`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, height, width, channels)``."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class Source(Protocol):
    """Where encoded pictures lie."""

    def read(self, index: Index) -> list[Item]:
        """The pictures at these places."""
        ...

    def shards(self) -> NDArray[np.int64] | None:
        """Which shard each picture is in, ``(n,)``; None: any order is as fast as another."""
        ...


@dataclass(frozen=True)
class Files:
    """A file per picture, or several in each at known places (tar).

    Attributes:
        paths: The files.
        which: Which of them each picture is in, ``(n,)``.
        offset, size: Where in it; size -1: all of it.
    """

    paths: tuple[str, ...]
    which: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]

    def read(self, index: Index) -> list[Item]:
        """Where they lie; a worker process reads them."""
        paths = [Path(self.paths[file]) for file in self.which[index]]
        places = zip(self.offset[index].tolist(), self.size[index].tolist(), strict=True)
        return [
            path if size < 0 else (path, offset, size)
            for path, (offset, size) in zip(paths, places, strict=True)
        ]

    def shards(self) -> None:
        """Any order is as fast as another."""


@dataclass(frozen=True)
class RowGroups:
    """Rows of Parquet files.

    Attributes:
        paths: The files.
        columns: The column of pictures in each.
        groups: Per row group its file and its number in it, ``(g, 2)``.
        first: Number of each row group's first row in its file, ``(g,)``.
        group, row: Row group and place in it of each picture, ``(n,)``.
        weight: Encoded bytes per row group, ``(g,)``.
    """

    paths: tuple[Path, ...]
    columns: tuple[str, ...]
    groups: NDArray[np.int64]
    first: NDArray[np.int64]
    group: NDArray[np.int64]
    row: NDArray[np.int64]
    weight: NDArray[np.int64]
    _held: OrderedDict[int, list[bytes | Path]] = field(
        default_factory=OrderedDict, repr=False, compare=False
    )

    def read(self, index: Index) -> list[Item]:
        """Their bytes (or paths); row groups that were read last are kept, up to ``WINDOW``."""
        return [self._rows(int(self.group[i]))[self.row[i]] for i in index.tolist()]

    def shards(self) -> NDArray[np.int64]:
        """The row groups, several together up to ``WINDOW``."""
        return self.group

    def _rows(self, group: int) -> list[bytes | Path]:
        if group not in self._held:
            from apq.images.parquet import read_group

            file, number = (int(v) for v in self.groups[group])
            while self._held and self._size() + self.weight[group] > WINDOW:
                self._held.popitem(last=False)
            self._held[group] = read_group(
                self.paths[file], self.columns[file], number, int(self.first[group])
            )
        self._held.move_to_end(group)
        return self._held[group]

    def _size(self) -> int:
        return int(sum(self.weight[group] for group in self._held))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict()}


@dataclass(frozen=True)
class Streamed:
    """Images that are decoded when they are asked for.

    What cannot be decoded after all (:func:`apq.images.inspect.inspect` has left out what can be
    told from a file's beginning and end) is grey all over.

    Attributes:
        source: Where the encoded pictures lie.
        index: Which of them these are, ``(n,)``.
        size, channels: Of the images.
        fit: Key of :data:`apq.images.decode.FITS`.
        kept: Whether decoded images are kept in a temporary file when all are read again and again.
    """

    source: Source = field(repr=False)
    index: Index = field(repr=False)
    size: Size
    channels: int
    fit: str = "squash"
    kept: bool = False
    _file: list[str] = field(default_factory=list, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, height, width, channels)``."""
        return (len(self.index), *both(self.size), self.channels)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Any, /) -> Pixels:
        """Decoded images at a slice or an array of places, ``(k, height, width, channels)``."""
        where = np.arange(len(self))[index]
        found = [*self.batches(np.array_split(where, max(1, -(-len(where) // 256))))]
        return np.concatenate(found) if found else np.empty((0, *self.shape[1:]), np.uint8)

    def part(self, index: Index, kept: bool = False) -> Streamed:
        """These of the images."""
        return replace(self, index=self.index[index], kept=kept, _file=[])

    def order(self, rng: np.random.Generator, chance: NDArray[np.float64] | None = None) -> Index:
        """All places in a random order, or as many drawn by chance, with repetition. Where pictures
        lie in shards that are read whole, shards are shuffled, and the pictures of as many as
        ``WINDOW`` holds."""
        shards = self.source.shards()
        if shards is None:
            return any_order(len(self), rng, chance)
        assert isinstance(self.source, RowGroups)
        own, weight = shards[self.index], self.source.weight
        mixed = rng.permutation(np.unique(own))
        window = np.zeros(len(weight), dtype=np.int64)
        held = number = 0
        for shard in mixed.tolist():
            if held and held + weight[shard] > WINDOW:
                held, number = 0, number + 1
            held += int(weight[shard])
            window[shard] = number
        places = any_order(len(self), rng, chance)
        return places[np.argsort(window[own[places]], kind="stable")]

    def batches(self, places: Sequence[Index]) -> Iterator[Pixels]:
        """Batches of decoded images, made ahead by worker processes, a few batches at most; or out
        of the temporary file of what is kept.

        Args:
            places: Of each batch.
        """
        yield from map(self._stored, places) if self.kept else self._decoded(places)

    def _decoded(self, places: Sequence[Index]) -> Iterator[Pixels]:
        workers, most = default_workers(), max(map(len, places), default=0)
        depth = workers + max(2, -(-most // CHUNK))
        chunks = ((batch, start) for batch in places for start in range(0, len(batch), CHUNK))
        with shared_block((depth, CHUNK, *self.shape[1:])) as (path, block):
            jobs = (
                (
                    self.source.read(self.index[batch[start : start + CHUNK]]),
                    self.fit, path, block.shape, number % depth,
                )
                for number, (batch, start) in enumerate(chunks)
            )  # fmt: skip
            made = enumerate(ahead(decode_into, jobs, workers, depth))
            for batch in places:
                out = np.empty((len(batch), *self.shape[1:]), dtype=np.uint8)
                for start in range(0, len(batch), CHUNK):
                    number, count = next(made)  # its place is written again after the next ones
                    out[start : start + count] = block[number % depth, :count]
                yield out

    def __getstate__(self) -> dict[str, Any]:
        if self.kept:
            self._stored(np.arange(0))  # other processes read what this one has decoded
        return dict(self.__dict__)

    def _stored(self, where: Index) -> Pixels:
        """Images out of the temporary file, which is made the first time, also on each machine."""
        if self._file and not Path(self._file[0]).exists():
            self._file.clear()
        if not self._file:
            handle, name = tempfile.mkstemp(prefix="apq-images-", suffix=".u8")
            with os.fdopen(handle, "wb") as file:
                every = np.arange(len(self))
                for pixels in self._decoded(np.array_split(every, max(1, len(every) // 256))):
                    file.write(pixels.tobytes())
            weakref.finalize(self.source, _remove, name, os.getpid())
            self._file.append(name)
        size = int(np.prod(self.shape[1:]))
        out = np.empty((len(where), *self.shape[1:]), dtype=np.uint8)
        with open(self._file[0], "rb") as file:
            for row, place in enumerate(where.tolist()):
                file.seek(place * size)
                file.readinto(out[row].data)
        return out


def _remove(name: str, owner: int) -> None:
    if os.getpid() == owner:
        Path(name).unlink(missing_ok=True)


def any_order(
    count: int, rng: np.random.Generator, chance: NDArray[np.float64] | None = None
) -> Index:
    """All of ``range(count)`` in a random order, or as many drawn by the chance of each."""
    if chance is None:
        return rng.permutation(count)
    return rng.choice(count, count, p=chance)


@contextlib.contextmanager
def shared_block(shape: tuple[int, ...]) -> Iterator[tuple[str, Pixels]]:
    """An array that worker processes write into, and the file it lies in: in memory where there is
    room for it, else in the temporary folder, whose pages are hardly ever written."""
    size, memory = math.prod(shape), Path("/dev/shm")
    fast = memory.is_dir() and shutil.disk_usage(memory).free > 4 * size
    handle, path = tempfile.mkstemp(prefix="apq-batches-", dir=memory if fast else None)
    try:
        os.truncate(handle, size)
        os.close(handle)
        yield path, block_at(path, shape)
    finally:
        with contextlib.suppress(OSError):  # a system that keeps files which somebody has open
            os.unlink(path)


@lru_cache(maxsize=4)
def block_at(path: str, shape: tuple[int, ...]) -> Pixels:
    """The array of :func:`shared_block` in another process."""
    return np.memmap(path, np.uint8, "r+", shape=shape)


def decode_into(
    items: Sequence[Item], fit: str, path: str, shape: tuple[int, ...], place: int
) -> int:
    """Decode some pictures into a place of a shared block; what a worker process does.

    Returns:
        How many.
    """
    out = block_at(path, shape)[place]
    size, channels = (shape[2], shape[3]), shape[4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row, item in enumerate(items):
            try:
                data = item if isinstance(item, Path) else encoded(item)
                out[row] = decode(data, "a picture", size, channels, fit)
            except (ImagesError, OSError):
                out[row] = 128
    return len(items)
