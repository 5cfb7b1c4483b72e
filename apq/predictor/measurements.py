"""Accuracies measured elsewhere, in a table with the columns of a space."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from apq.errors import SamplesError, SpaceError
from apq.predictor.columns import check_accuracies, numbers, read_cells
from apq.samples import MEASURED, Samples
from apq.space import Space


def is_measured_elsewhere(path: Path) -> bool:
    """Whether a file is a table that ``apq collect`` did not write."""
    if not path.is_file():
        return False
    try:
        return path.suffix.lower() == ".csv" or b"apq" not in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False


def read_measurements(path: Path | str, space: Space) -> Samples:
    """Read accuracies that were measured elsewhere, e.g. by training every network in full.

    Args:
        path: A CSV or Parquet file, one row per network: ``accuracy`` (a fraction) and a column
            per choice of the space, named as ``apq space show`` and the samples of ``apq collect``
            name them. Cells of blocks that a row does not have may be empty, and columns of blocks
            that no row has may be missing. Without any column
            of number formats the rows count as measured in full precision, else as quantized.
        space: The space that was measured.

    Raises:
        SamplesError: the file cannot be read, lacks a column (names them, and the nearest that is
            there), or has a row that is no candidate of the space or no accuracy.

    Example:
        >>> import apq, pathlib
        >>> space = apq.load_space("digits")
        >>> row = space.build([0] * len(space.axes)).to_dict() | {"accuracy": 0.9}
        >>> text = ",".join(row) + "\\n" + ",".join(map(str, row.values()))
        >>> _ = pathlib.Path("measured.csv").write_text(text)
        >>> apq.read_measurements("measured.csv", space).accuracy
        array([0.9])
    """
    path = Path(path)
    frame = read_cells(path)
    if "accuracy" not in frame.columns:
        raise SamplesError(_lacks(path, ["accuracy"], space, frame))
    if not len(frame):
        raise SamplesError(f"{path} has no rows")
    accuracy = numbers(frame["accuracy"], path)
    check_accuracies(accuracy, 1.0, path, "divide them by 100")
    given = [axis for axis in space.axes if axis.name in frame.columns]
    cells = {
        axis.name: frame[axis.name]
        if axis.named
        else pd.to_numeric(frame[axis.name], errors="coerce")
        for axis in given
    }
    precision = "quantized" if any(axis.is_format for axis in given) else "fp32"
    told = {name: None for name, _ in MEASURED} | {"accuracy": accuracy, "precision": precision}
    absent = {axis.name: np.nan for axis in space.axes if axis not in given}
    samples = Samples(space, pd.DataFrame(told | cells | absent, index=frame.index), {})
    try:
        _ = samples.genes
    except SpaceError as error:
        lacking = [axis.name for axis in space.axes if axis not in given and not axis.is_format]
        why = _lacks(path, lacking, space, frame) if lacking else f"{path}: {error}"
        raise SamplesError(why) from error
    return samples


def _lacks(path: Path, lacking: list[str], space: Space, frame: pd.DataFrame) -> str:
    """Which columns are missing, and the nearest of those that are there."""
    names = list(map(str, frame.columns))
    alike = get_close_matches(lacking[0], names, 1)
    return (
        f"{path} lacks {len(lacking)} column(s) of space {space.name!r}: "
        f"{', '.join(lacking[:6])}{', …' if len(lacking) > 6 else ''}. "
        + (f"Is {alike[0]!r} meant for {lacking[0]}? " if alike else "")
        + f"It has: {', '.join(names[:12])}"
    )
