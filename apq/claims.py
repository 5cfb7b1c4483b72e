"""Which process measures what: claims on places of a folder of samples, held by locks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from apq.errors import SamplesError
from apq.plan import covered


def missing(folder: Path, start: int, stop: int) -> list[tuple[int, int]]:
    """Places from ``start`` to before ``stop`` that no part holds: the first and the one after the
    last of each run."""
    have = covered(folder, stop)[start:]
    edges = np.flatnonzero(np.diff(have, prepend=True, append=True)).reshape(-1, 2) + start
    return [(int(first), int(last)) for first, last in edges]


@contextlib.contextmanager
def claim(folder: Path, start: int, stop: int) -> Iterator[bool]:
    """Whether these places are this process's until the context ends. No two processes hold places
    in common, however long their chunks are; a claim dies with its process.

    Raises:
        SamplesError: the folder cannot be written to.
    """
    locks = folder / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SamplesError(f"cannot write to {folder}: {error.strerror or error}") from error
    own = FileLock(locks / f"{start:06d}-{stop:06d}.lock")
    with FileLock(locks / "claims.lock"):
        free = not any(
            first < stop and start < last and _held(path) for path, first, last in _claims(locks)
        )
        if free:
            own.acquire()
    try:
        yield free
    finally:
        if free:
            own.release()


def _claims(locks: Path) -> Iterator[tuple[Path, int, int]]:
    """Files of claims, held or not, and their places."""
    for path in locks.glob("*-*.lock"):
        start, _, stop = path.stem.partition("-")
        if start.isdecimal() and stop.isdecimal():
            yield path, int(start), int(stop)


def _held(path: Path) -> bool:
    """Whether some process holds this lock."""
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
