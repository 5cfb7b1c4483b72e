"""Checks before a table overwrites an existing file."""

from __future__ import annotations

from pathlib import Path

from apq.errors import TableError, side_by_side
from apq.hardware.lut import LookupTable
from apq.space import Space

MEND = "Give another --out, or --force to overwrite it."


def _there(path: Path) -> LookupTable | None:
    """The table at a path; None if there is no file.

    Raises:
        TableError: the file is no table.
    """
    if not path.exists():
        return None
    try:
        return LookupTable.read(path)
    except TableError as error:
        raise TableError(
            f"{path} exists and is no table as apq writes it: {error}\n{MEND}"
        ) from None


def require_same_table(path: Path, table: LookupTable) -> None:
    """Refuse to overwrite anything but an older copy of a table.

    Raises:
        TableError: there is a file at ``path`` that is no table, or one of another space or device
            (shows both).
    """
    older = _there(path)
    if older is None:
        return
    told, new = (
        {
            key: found.describe().get(key, "(not stated)")
            for key in ("space", "device", "source", "calibration")
        }
        for found in (older, table)
    )
    if told != new:
        both = side_by_side(told, new, ("there", "to be built"))
        raise TableError(f"{path} is the table of another space or device:\n{both}\n{MEND}")


def require_own_table(path: Path, device: str, space: Space) -> None:
    """Refuse to measure into a file that is no table of this device and space.

    Raises:
        TableError: it is not; says whose it is.
    """
    older = _there(path)
    if older is None:
        return
    there = older.header.get("space", "(not stated)")
    if (older.name, " ".join(there.split())) != (device, f"{space.name} {space.fingerprint}"):
        raise TableError(
            f"{path} is the table of device {older.name!r}, space {there!r}, not of {device!r}, "
            f"'{space.name} {space.fingerprint}'. {MEND}"
        )
