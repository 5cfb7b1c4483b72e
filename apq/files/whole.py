"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path in ``path``'s folder that takes its name when the block ends well.

    Readers never see half a file, and if the block fails an older file stays. The temporary name
    begins with a dot, so that Parquet datasets overlook it, and keeps the suffix. Who may read the
    file is what the process's umask says, whoever writes it (safetensors: the owner alone).

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
