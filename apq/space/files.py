"""Load spaces by name or from files.

A file may narrow the space it describes: ``restrict = ["b03_kernel=3,5", "depth=max"]``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apq.errors import ApqError, SpaceError, choose
from apq.files.reading import toml_data
from apq.space.base import Space
from apq.space.presets import PRESETS
from apq.space.tables import read_family


def load_space(name_or_path: str) -> Space:
    """A preset by name, or a TOML file by path (anything that ends in ``.toml``).

    Raises:
        ApqError: unknown preset.
        SpaceError: the file is missing, is not TOML, or does not describe a space.
    """
    if not name_or_path.endswith(".toml"):
        return PRESETS[choose(name_or_path, PRESETS, "space")]()
    path = Path(name_or_path)
    try:
        data = toml_data(path, SpaceError)
        texts = data.pop("restrict", [])
        return _restricted(Space(read_family(data, str(path))), texts)
    except SpaceError as error:
        raise error if str(path) in str(error) else SpaceError(f"{path}: {error}") from error


def _restricted(space: Space, texts: Any) -> Space:
    """The space restricted by a file's ``restrict``.

    Raises:
        SpaceError: it is not a list of restrictions, or one of them does not fit the space.
    """
    most = 10 * len(space.axes)
    ok = isinstance(texts, list) and len(texts) <= most
    if not (ok and all(isinstance(text, str) for text in texts)):
        raise SpaceError(
            f"restrict must be a list of at most {most} texts as --fix takes them, such as "
            '["b03_kernel=3,5", "bits=8"]'
        )
    try:
        return space.restrict(*texts)
    except ApqError as error:
        raise SpaceError(str(error).replace("--fix", "restrict", 1)) from error
