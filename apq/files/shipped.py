"""Files that are installed with apq: the data and tables of CIFAR-10."""

from __future__ import annotations

import shutil
from pathlib import Path

IN_A_WHEEL = Path(__file__).parents[1] / "_shipped"
"""Where an installed package holds ``data/`` and ``lut/``."""
IN_A_CLONE = Path(__file__).parents[2]
"""Where a clone of the repository holds them, including an editable install."""


def shipped(path: Path | str) -> Path:
    """A path to read, or the file or folder that is installed with apq under that name.

    Commands and readers call it, so that ``--lut lut/x86-onnxruntime-int8-cifar10.csv`` works in
    any folder. A file of your own with that name takes precedence.

    Args:
        path: Any path; apq installs ``data/cifar10/…`` and ``lut/…``.

    Returns:
        The installed path; ``path`` itself if it exists or nothing of that name is installed.

    Example:
        >>> import apq
        >>> apq.shipped("data/cifar10/fp32").is_dir()
        True
        >>> apq.shipped("no/such.csv").as_posix()
        'no/such.csv'
    """
    path = Path(path)
    if path.exists() or path.is_absolute() or path.parts[:1] not in (("data",), ("lut",)):
        return path
    if ".." in path.parts:
        return path
    root = IN_A_CLONE if (IN_A_CLONE / "pyproject.toml").is_file() else IN_A_WHEEL
    return root / path if (root / path).exists() else path


def own_copy(folder: Path) -> bool:
    """Copy a folder installed with apq to the path where a command will add to it.

    Returns:
        Whether it was copied; it is not if the folder exists, or none of that name is installed.
    """
    source = shipped(folder)
    if source == folder:
        return False
    shutil.copytree(source, folder)
    return True
