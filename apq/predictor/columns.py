"""Learning from a table someone else measured: which columns mean what."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq.errors import SamplesError, choose
from apq.predictor.features import Groups, Inputs


@dataclass(frozen=True)
class Columns:
    """What the columns of a foreign table mean.

    Attributes:
        target: The measured accuracy (or anything else that is to be predicted).
        choices: Patterns, one per kind of choice (``"ks_*"``); a pattern's columns, in the
            table's order, hold numbers, 0 where a choice is absent.
        costs: Columns of positive numbers whose logarithm is used (MACs, parameters).
        unit: Factor from the target's unit to fractions, e.g. 0.01 for percent.
        group: Column that is equal for repeats of one candidate; empty: rows are compared.
    """

    target: str
    choices: tuple[str, ...]
    costs: tuple[str, ...] = ()
    unit: float = 1.0
    group: str = ""


COLUMNS: dict[str, Columns] = {
    # DyNAS-T's logs of Once-for-All MobileNetV3 sub-networks
    "ofa-mobilenet-v3": Columns(
        "top1", ("d_[0-9]*", "ks_[0-9]*", "e_[0-9]*"), ("macs", "params"), 0.01, "arch_id"
    ),
    # Accel-NASBench (DAC 2024): MnasNet-like, one choice per stage
    "accel-nasbench": Columns(
        "top1", ("b[0-9]_e", "b[0-9]_k", "b[0-9]_l", "b[0-9]_se"), ("macs_m", "params_m"), 0.01,
        "arch_id",
    ),
}  # fmt: skip
"""Known tables. Others are described in a TOML file with the same fields."""


def load_columns(name_or_path: str) -> Columns:
    """A known table's columns by name, or a TOML file by path.

    Raises:
        ApqError: unknown name.
        SamplesError: the file cannot be read or does not describe columns.
    """
    if not name_or_path.endswith(".toml"):
        return COLUMNS[choose(name_or_path, COLUMNS, "table")]
    path = Path(name_or_path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SamplesError(f"cannot read {path}: {error}") from error
    return columns_from_dict(data, str(path))


def columns_from_dict(data: Mapping[str, Any], where: str) -> Columns:
    """Check plain data and build :class:`Columns`.

    Raises:
        SamplesError: a field is unknown, missing or of the wrong type.
    """
    names = [f.name for f in fields(Columns)]
    for key, value in data.items():
        if key not in names:
            raise SamplesError(f"{where}: unknown field {key!r}. Allowed: {', '.join(names)}.")
        if key in ("choices", "costs"):
            fits = isinstance(value, list) and all(isinstance(v, str) for v in value)
            wanted = "a list of column names or patterns"
        elif key == "unit":
            fits = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
            wanted = "a positive number"
        else:
            fits, wanted = isinstance(value, str), "the name of a column"
        if not fits:
            raise SamplesError(f"{where}: {key} = {value!r} must be {wanted}")
    missing = [key for key in ("target", "choices") if not data.get(key)]
    if missing:
        raise SamplesError(f"{where} lacks {' and '.join(missing)}")
    return Columns(
        target=data["target"],
        choices=tuple(data["choices"]),
        costs=tuple(data.get("costs", ())),
        unit=float(data.get("unit", 1.0)),
        group=data.get("group", ""),
    )


def read_table(path: Path | str, columns: Columns, *, target: bool = True) -> pd.DataFrame:
    """Read a Parquet or CSV table and check that the described columns are there.

    Args:
        path: The file.
        columns: What its columns mean.
        target: Whether the measured column has to be there (not for scoring new candidates).

    Raises:
        SamplesError: unreadable, a column is missing, or a value is not a number.
    """
    path = Path(path)
    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SamplesError(f"cannot read table {path}: {error}") from error
    needed = [*columns.costs, *([columns.target] if target else [])]
    needed += [columns.group] if columns.group else []
    missing = [name for name in needed if name not in frame.columns]
    missing += [p for p in columns.choices if not any(fnmatchcase(c, p) for c in frame.columns)]
    if missing:
        raise SamplesError(
            f"{path} has no column {', '.join(missing)}. It has: {', '.join(frame.columns[:20])}"
        )
    return frame


class TableFeatures:
    """Features of the rows of a foreign table.

    One-hot columns per choice and, as smooth columns, the choices as numbers, their sums per kind
    and the logarithms of the costs; the counterpart of ``SpaceFeatures``.

    Args:
        columns: What the table's columns mean.
        values: The values each choice column can have, by column name.
        smooth: Whether to add the smooth columns.
    """

    def __init__(
        self, columns: Columns, values: Mapping[str, list[float]], *, smooth: bool = True
    ) -> None:
        self.columns, self.values, self.smooth = columns, dict(values), smooth
        self._kinds = [[c for c in values if fnmatchcase(c, p)] for p in columns.choices]
        self.arch_hot_groups: Groups = tuple(
            (f"{p} choices", sum(len(values[c]) for c in kind))
            for p, kind in zip(columns.choices, self._kinds, strict=True)
        )
        self.bits_hot_groups: Groups = ()
        groups = [(p, len(k)) for p, k in zip(columns.choices, self._kinds, strict=True)]
        self._histograms = [sorted({v for c in kind for v in values[c]}) for kind in self._kinds]
        sums = len(self._kinds) + sum(len(h) for h in self._histograms)
        self.arch_groups: Groups = (
            (*groups, ("sums", sums), *([("costs", len(columns.costs))] if columns.costs else []))
            if smooth
            else ()
        )
        self.bits_groups: Groups = ()

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Columns, *, smooth: bool = True) -> TableFeatures:
        """Features whose choices are those found in a table."""
        values = {
            c: sorted(float(v) for v in frame[c].unique())
            for p in columns.choices  # kind by kind, so that a kind's columns stay together
            for c in frame.columns
            if fnmatchcase(c, p)
        }
        return cls(columns, values, smooth=smooth)

    def inputs(self, candidates: pd.DataFrame) -> Inputs:
        """Inputs of n rows. A value never seen in training has no one-hot column.

        Raises:
            SamplesError: a column is missing or a cost is not a positive number.
        """
        n = len(candidates)
        missing = [c for c in (*self.values, *self.columns.costs) if c not in candidates.columns]
        if missing:
            raise SamplesError(f"the table lacks column(s) {', '.join(missing)}")
        hot = np.full((n, len(self.values)), -1, dtype=np.int64)
        start = 0
        for j, (name, values) in enumerate(self.values.items()):
            column = candidates[name].to_numpy(np.float64)
            place = np.clip(np.searchsorted(values, column), 0, len(values) - 1)
            hot[:, j] = np.where(np.asarray(values)[place] == column, start + place, -1)
            start += len(values)
        arch = self._smooth(candidates) if self.smooth else np.zeros((n, 0), dtype=np.float32)
        empty = np.zeros((n, 0))
        return Inputs(hot, empty.astype(np.int64), arch, empty.astype(np.float32))

    def _smooth(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        kinds = [frame[kind].to_numpy(np.float64) for kind in self._kinds]
        sums = [kind.sum(axis=1, keepdims=True) for kind in kinds]
        for kind, values in zip(kinds, self._histograms, strict=True):
            sums.extend((kind == value).sum(axis=1, keepdims=True) for value in values)
        costs = frame[list(self.columns.costs)].to_numpy(np.float64)
        for j, name in enumerate(self.columns.costs):
            bad = np.flatnonzero(~(costs[:, j] > 0))
            if len(bad):
                raise SamplesError(
                    f"row {bad[0]}: {name} = {costs[bad[0], j]} must be a positive number"
                )
        return np.concatenate([*kinds, *sums, np.log(costs)], axis=1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; inverse of :meth:`from_dict`."""
        fields_ = asdict(self.columns).items()
        columns = {k: list(v) if isinstance(v, tuple) else v for k, v in fields_}
        return {"kind": "table", "smooth": self.smooth, "columns": columns, "values": self.values}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TableFeatures:
        """Inverse of :meth:`to_dict`."""
        columns = columns_from_dict(data["columns"], "the predictor's columns")
        return cls(columns, data["values"], smooth=bool(data["smooth"]))
