"""Spaces from names, files and plain data, with errors a person can act on."""

from __future__ import annotations

from pathlib import Path

from apq.errors import SpaceError, choose
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
        return Space(read_family(toml_data(path, SpaceError), str(path)))
    except SpaceError as error:
        raise error if str(path) in str(error) else SpaceError(f"{path}: {error}") from error
