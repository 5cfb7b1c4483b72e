"""Files that are replaced and told apart as a whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path in ``path``'s folder that is renamed to ``path`` when the block succeeds.

    Readers never see a partial file, and if the block fails an older file is kept. The temporary
    name begins with a dot, so that Parquet datasets ignore it, and keeps the suffix. Permissions
    follow the process's umask, whatever library writes the file (safetensors alone would make it
    readable by its owner only).

    Raises:
        OSError: from the block, or because the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256, by which artefacts name what they came from."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
