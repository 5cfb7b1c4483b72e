"""Meaning of the columns of tables measured elsewhere, to train predictors on them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from apq.errors import ApqError, SamplesError, choose
from apq.files import Document, Schema, read_toml
from apq.files.limits import MOST_TEXT
from apq.files.reading import Items, Text
from apq.predictor.features import Groups, Inputs
from apq.space import BitChoices, MobileNetV2, Space, Stage, load_space
from apq.space.layer import macs, weight_count


@dataclass(frozen=True)
class Columns:
    """Meaning of the columns of a table measured elsewhere.

    Attributes:
        target: The measured accuracy.
        choices: Patterns, one per kind of choice (``"ks_*"``); a pattern's columns, in the
            order of their numbers, hold numbers, 0 where a choice is absent.
        costs: Columns of positive numbers whose logarithm is used (MACs, parameters).
        unit: Factor from the target's unit to fractions, e.g. 0.01 for percent.
        group: Column that is equal for repeats of one candidate; empty: rows are compared.
        space: The network that the choices build, if its multiply-accumulates and weights are to be
            counted stage by stage; only its stages and sides matter.
        kernel, expand: With ``space``: patterns of the columns, one per block slot, that hold
            kernel sizes and hidden widths as multiples of a block's input channels.
    """

    target: str
    choices: tuple[str, ...]
    costs: tuple[str, ...] = ()
    unit: float = 1.0
    group: str = ""
    space: Space | None = None
    kernel: str = ""
    expand: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as :class:`ColumnsTable` reads it."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}
        if self.space is not None:
            data["space"] = self.space.to_dict()
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}


def _once_for_all() -> Space:
    """The blocks of Once-for-All MobileNetV3 (arXiv:1908.09791), but for squeeze-and-excitation."""

    def stage(channels: int, stride: int) -> Stage:
        return Stage(channels, stride, (2, 3, 4), (3, 5, 7), expand=(3, 4, 6), width_step=0)

    network = MobileNetV2(
        name="ofa-mobilenet-v3",
        resolution=224,
        classes=1000,
        stem_channels=16,
        stem_stride=2,
        first_channels=16,
        head_channels=960,
        stages=(stage(24, 2), stage(40, 2), stage(80, 2), stage(112, 1), stage(160, 2)),
        bits=BitChoices((8,), (8,), (8,), (8,)),
    )
    return Space(network)


COLUMNS: dict[str, Columns] = {
    # DyNAS-T's logs of Once-for-All MobileNetV3 sub-networks
    "ofa-mobilenet-v3": Columns(
        "top1", ("d_[0-9]*", "ks_[0-9]*", "e_[0-9]*"), ("macs", "params"), 0.01, "arch_id",
        _once_for_all(), "ks_[0-9]*", "e_[0-9]*",
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
    return read_toml(path, ColumnsTable, {"beside": path.parent}).build()


def _space(value: Any, info: ValidationInfo) -> Space | None:
    """A space by a preset's name, by path relative to the file, or as a table."""
    try:
        if isinstance(value, str) and value:
            beside = (info.context or {}).get("beside", Path())
            return load_space(str(beside / value) if value.endswith(".toml") else value)
        if isinstance(value, Mapping):
            return Space.from_dict(value)
    except ApqError as error:
        raise ValueError(str(error)) from error
    if value is None or value == "":
        return None
    raise ValueError(f"{value!r} must be a preset's name or the path of a space's .toml file")


_Name = Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]


class ColumnsTable(Document):
    """Columns as TOML and a predictor's file hold them."""

    model_config = Schema.model_config
    what = "a description of columns"
    remedy = ""
    error = SamplesError

    target: _Name
    choices: Annotated[Items[_Name], Field(min_length=1)]
    costs: Items[_Name] = ()
    unit: Annotated[float, Field(gt=0)] = 1.0
    group: Text = ""
    space: Annotated[Any, BeforeValidator(_space)] = None
    kernel: Text = ""
    expand: Text = ""

    @model_validator(mode="after")
    def _together(self) -> Self:
        together = {name: getattr(self, name) for name in ("space", "kernel", "expand")}
        missing = [name for name, value in together.items() if not value]
        if 0 < len(missing) < len(together):
            raise ValueError(f"it lacks {' and '.join(missing)}: {', '.join(together)} go together")
        return self

    def build(self) -> Columns:
        """The columns."""
        return Columns(**dict(self))


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
    frame = read_cells(path)
    needed = [*columns.costs, *([columns.target] if target else [])]
    needed += [columns.group] if columns.group else []
    missing = [name for name in needed if name not in frame.columns]
    missing += [p for p in columns.choices if not any(fnmatchcase(c, p) for c in frame.columns)]
    if missing:
        raise SamplesError(
            f"{path} has no column {', '.join(missing)}. It has: {', '.join(frame.columns[:20])}"
        )
    if not len(frame):
        raise SamplesError(f"{path} has no rows")
    numeric = [*columns.costs, *([columns.target] if target else [])]
    numeric += [c for p in columns.choices for c in in_order(frame.columns, p)]
    frame = frame.assign(**{name: numbers(frame[name], path) for name in dict.fromkeys(numeric)})
    if target:
        check_accuracies(frame[columns.target], columns.unit, path)
    return frame


def read_cells(path: Path) -> pd.DataFrame:
    """A Parquet or CSV table as it stands.

    Raises:
        SamplesError: it cannot be read, or its first line does not name the columns.
    """
    return _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SamplesError(
            f"cannot read table {path} as Parquet (names of CSV files end in .csv): {error}"
        ) from error


def _read_csv(path: Path) -> pd.DataFrame:
    """A CSV file, its cells as they stand.

    Raises:
        SamplesError: it cannot be read, is not separated by commas, has a column twice, or a row
            with more cells than there are columns.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise SamplesError(f"{path} is UTF-16 text, as spreadsheets save it; use UTF-8")
        _check_names(pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].tolist(), path)
        # a row that is too long would make the first column an index and shift the others
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, index_col=False)
    except pd.errors.ParserWarning:
        raise SamplesError(
            f"{path} has rows with more cells than there are columns; a number with a decimal "
            "comma counts as two cells"
        ) from None
    except (OSError, ValueError) as error:
        raise SamplesError(f"cannot read table {path}: {error}") from error
    return frame.rename(columns=lambda name: str(name).strip())


def _check_names(cells: Sequence[Any], path: Path) -> None:
    """Refuse a first line that does not name columns, or one of them twice.

    Raises:
        SamplesError: as said.
    """
    names = [str(cell).strip() for cell in cells if not pd.isna(cell)]
    if len(cells) == 1 and (mark := next((m for m in ";\t|" if m in names[0]), "")):
        raise SamplesError(
            f"{path} separates its columns by {mark!r}; save it with commas, and decimal points"
        )
    if names and names[0].startswith(("#", "sep=")):
        raise SamplesError(
            f"{path} begins with {names[0][:40]!r}; its first line must name the columns"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SamplesError(f"{path} has column {', '.join(twice)} twice; keep one")


def in_order(names: Iterable[str], pattern: str) -> list[str]:
    """The names that match a pattern, in the natural order of their numbers: ``ks_2`` before
    ``ks_10``, wherever they stand in a table."""

    def key(name: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", name)
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    return sorted((name for name in names if fnmatchcase(name, pattern)), key=key)


def numbers(column: pd.Series[Any], path: Path) -> pd.Series[Any]:
    """A column as finite numbers.

    Raises:
        SamplesError: a cell holds none; names row, column and value.
    """
    plain = pd.to_numeric(column.astype(str).str.strip(), errors="coerce")
    if column.dtype == bool:
        plain = column.astype(float)
    wrong = np.flatnonzero(~np.isfinite(plain.to_numpy(dtype=float)))
    if len(wrong):
        row, value = int(wrong[0]), column.iloc[wrong[0]]
        told = (
            "nothing" if pd.isna(value) else repr(value.item() if hasattr(value, "item") else value)
        )
        raise SamplesError(
            f"{path}: column {column.name!r} has {told} in row {row}, which is no finite number "
            f"({len(wrong)} such rows). Write plain numbers as in 0.713 or 460e6, and number words."
        )
    return plain


def check_accuracies(
    column: pd.Series[Any],
    unit: float,
    path: Path,
    percent: str = "say unit = 0.01 in the TOML file of --columns",
) -> None:
    """Refuse values that are not accuracies; ``percent`` says what to do about percentages.

    Raises:
        SamplesError: a value times ``unit`` is not above 0 and at most 1.
    """
    values = column.to_numpy(dtype=float) * unit
    wrong = np.flatnonzero((values <= 0) | (values > 1))
    if not len(wrong):
        return
    row = int(wrong[0])
    why = "0 and less usually mark a failed run: leave such rows out"
    if values[row] > 1:
        why = f"if these are per cent, {percent}"
    raise SamplesError(
        f"{path}: column {column.name!r} has {column.iloc[row]:g} in row {row} (times the unit "
        f"{unit:g}), and accuracies lie between 0 and 1; {why}"
    )


class TableFeatures:
    """Features of the rows of a foreign table.

    One-hot columns per choice and, as smooth columns, the choices as numbers, their sums per kind
    and the logarithms of the costs, of each stage too if it is known what the stages are; the
    counterpart of ``SpaceFeatures``.

    Args:
        columns: What the table's columns mean.
        values: The values each choice column can have, by column name.
        smooth: Whether to add the smooth columns.

    Raises:
        SamplesError: the kernels or hidden widths are not one column per block slot of the space.
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
        groups.append(("sums", len(self._kinds) + sum(len(h) for h in self._histograms)))
        if columns.costs:
            groups.append(("costs", len(columns.costs)))
        if columns.space is not None:
            self._blocks = [self._slots(columns.space, p) for p in (columns.kernel, columns.expand)]
            groups.append(("costs by stage", 2 * len(columns.space.stages)))
        self.arch_groups: Groups = tuple(groups) if smooth else ()
        self.bits_groups: Groups = ()

    def _slots(self, space: Space, pattern: str) -> list[str]:
        """The columns of a pattern, one per block slot."""
        found = [name for name in self.values if fnmatchcase(name, pattern)]
        if len(found) != len(space.slots):
            raise SamplesError(
                f"space {space.name!r} has {len(space.slots)} block slots, and {len(found)} "
                f"columns of choices match {pattern!r}"
            )
        return found

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Columns, *, smooth: bool = True) -> TableFeatures:
        """Features whose choices are those found in a table."""
        values = {
            c: sorted(float(v) for v in frame[c].unique())
            for p in columns.choices  # kind by kind, so that a kind's columns stay together
            for c in in_order(frame.columns, p)
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
        parts = [*kinds, *sums, np.log(costs)]
        if self.columns.space is not None:
            kernel, ratio = (frame[names].to_numpy(np.float64) for names in self._blocks)
            counts = stage_counts(self.columns.space, kernel, ratio)
            parts.append(np.log1p(counts).reshape(len(frame), -1))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as :class:`~apq.predictor.schema.TableFeaturesTable` has it."""
        columns = self.columns.to_dict()
        return {"kind": "table", "smooth": self.smooth, "columns": columns, "values": self.values}


def stage_counts(
    space: Space, kernel: NDArray[np.float64], ratio: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Multiply-accumulates and weights of the blocks of every stage.

    Args:
        space: Says what the block slots are.
        kernel: Depthwise kernel sizes ``(n, slots)``; 0 where there is no block.
        ratio: Hidden widths as multiples of the blocks' input channels, ``(n, slots)``; likewise.

    Returns:
        Shape ``(n, stages, 2)``.
    """
    counts = np.zeros((len(kernel), len(space.stages), 2))
    for slot in space.slots:
        nodes = space.block(slot)
        channels = space.graph.in_channels(nodes[0])
        there = (kernel[:, slot.index] > 0) & (ratio[:, slot.index] > 0)
        size = kernel[there, slot.index].astype(np.int64)
        hidden = np.rint(ratio[there, slot.index] * channels).astype(np.int64)
        known = {"kernel": size, "width": hidden}
        values = {g: known.get(a, 8) for g, a in zip(slot.genes, slot.attributes, strict=True)}
        for _, layers in space.rows(nodes, values):
            counts[there, slot.stage, 0] += macs(layers)
            counts[there, slot.stage, 1] += weight_count(layers)
    return counts
