"""Import published tables (APQ's JSON, HAQ's array), and CSV or Parquet with declared units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from apq.errors import TableError, choose
from apq.files import Document, Schema, read_json
from apq.files.reading import Named
from apq.hardware.columns import BLOCK_COLUMNS, LAYER_COLUMNS, read_columns
from apq.hardware.lut import LookupTable, from_columns, needed_layers
from apq.space import Layer, Space
from apq.space.layer import OPS, macs, to_array

UNITS: dict[str, dict[str, float]] = {
    "latency": {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6, "cycles": float("nan")},
    "energy": {"J": 1e3, "mJ": 1.0, "uJ": 1e-3, "nJ": 1e-6, "pJ": 1e-9},
}
"""Factors to milliseconds and millijoules; cycles need a clock frequency."""

_KNOWN = (*LAYER_COLUMNS, *BLOCK_COLUMNS)
_STORED = {"latency": "latency_ms", "energy": "energy_mj"}

_NUMBERS = ", ".join([r"(\d{1,6})"] * 7)
_APQ_KEY = re.compile(rf"\({_NUMBERS}\)-W(\d{{1,2}})A(\d{{1,2}})")


class ApqRow(Schema):
    """Latency in ms and energy in mJ of a layer."""

    model_config = Schema.model_config | {"extra": "ignore"}

    latency: Annotated[float, Field(ge=0)]
    energy: Annotated[float, Field(ge=0)]


class ApqTable(Document):
    """APQ's table: rows by a text that describes the layer."""

    what = "APQ's table (JSON)"
    remedy = "It should be an object of layers, each with numbers 'latency' and 'energy'."
    error = TableError

    root = "rows"

    rows: Annotated[Named[ApqRow], Field(min_length=1)]


def import_apq_json(path: Path) -> LookupTable:
    """APQ's published Bit Fusion table (``BitFusion_new.b1.dict``, JSON).

    ``head`` is its stem convolution at 224 px and ``tail`` the last 1x1 convolution; the fixed
    first block and the classifier are in neither, so the table leaves them out.

    Raises:
        TableError: not such a file.
    """
    data = read_json(path, ApqTable)
    named = {
        "head": Layer("conv", 3, 32, 224, 224, 3, 2, 1, 8, 8),
        "tail": Layer("conv", 320, 1280, 7, 7, 1, 1, 1, 8, 8),
    }
    layers: list[Layer] = []
    prices: dict[str, list[float]] = {"latency_ms": [], "energy_mj": []}
    for key, value in data.rows.items():
        layer = named.get(key)
        if layer is None:
            match = _APQ_KEY.fullmatch(key)
            if match is None:
                form = "(in, out, side, kernel, stride, pad, groups)-WwAa"
                raise TableError(f"{path}: key {key!r} is not {form!r}")
            i, o, side, kernel, stride, _, groups, w, a = map(int, match.groups())
            layer = Layer("conv", i, o, side, side, kernel, stride, groups, w, a)
        prices["latency_ms"].append(value.latency)
        prices["energy_mj"].append(value.energy)
        layers.append(layer)
    return LookupTable(
        name="bitfusion-b1",
        source="Wang et al., APQ, CVPR 2020, BitFusion_new.b1.dict (simulated, batch 1)",
        layers=to_array(layers),
        prices={m: np.array(v) for m, v in prices.items()},
        leaves_out=("first.0", "first.1", "classifier"),
        path=str(path),
    )


def mobilenet_v2_layers(classes: int) -> list[Layer]:
    """The 52 convolutions and the classifier of MobileNetV2-1.0 at 224 px, in order."""
    layers = [
        Layer("conv", 3, 32, 224, 224, 3, 2),
        Layer("conv", 32, 32, 112, 112, 3, 1, 32),
        Layer("conv", 32, 16, 112, 112),
    ]
    channels, side = 16, 112
    stages = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
    for out, repeats, first_stride in stages:
        for r in range(repeats):
            stride = first_stride if r == 0 else 1
            hidden = 6 * channels
            layers.append(Layer("conv", channels, hidden, side, side))
            layers.append(Layer("conv", hidden, hidden, side, side, 3, stride, hidden))
            side //= stride
            layers.append(Layer("conv", hidden, out, side, side))
            channels = out
    layers.append(Layer("conv", channels, 1280, side, side))
    return [*layers, Layer("linear", 1280, classes, 1, 1)]


def import_haq_npy(path: Path, frequency_mhz: float, batch: int = 16) -> LookupTable:
    """HAQ's published cycles of MobileNetV2 (classes 100), shape (53, 8, 8) = layer, w-1, a-1.

    HAQ states no clock; only ratios are meaningful. Figures are per image.

    Raises:
        TableError: not such an array, or ``frequency_mhz`` is not positive.
    """
    try:
        cycles = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TableError(f"{path} is not a readable .npy array of numbers") from error
    if cycles.shape != (53, 8, 8):
        raise TableError(f"{path} has shape {cycles.shape}; HAQ's table is (53, 8, 8)")
    _positive_clock(frequency_mhz)
    rows: dict[Layer, float] = {}
    for i, layer in enumerate(mobilenet_v2_layers(100)):
        for w, a in np.ndindex(8, 8):
            key = replace(layer, weight_bits=w + 1, activation_bits=a + 1)
            if rows.setdefault(key, float(cycles[i, w, a])) != float(cycles[i, w, a]):
                raise TableError(f"{path} prices {key} twice with different cycles")
    cost = np.array(list(rows.values())) / (frequency_mhz * 1e3) / batch
    return LookupTable(
        name="haq-bit-serial",
        source=f"Wang et al., HAQ, CVPR 2019, published cycles at batch {batch}; "
        f"clock {frequency_mhz:g} MHz assumed",
        layers=to_array(list(rows)),
        prices={"latency_ms": cost},
        path=str(path),
    )


def _positive_clock(frequency_mhz: float) -> None:
    if not frequency_mhz > 0:
        raise TableError(
            f"cycles need the clock: --frequency-mhz must be positive, got {frequency_mhz:g}"
        )


def import_columns(
    path: Path,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    constants: Mapping[str, int | str] | None = None,
    frequency_mhz: float = 0.0,
    encoding: str = "utf-8",
) -> LookupTable:
    """A CSV or Parquet file with columns in any order.

    Args:
        path: The file. ``# key: value`` lines at its start become the header.
        columns: Our name -> the file's name, e.g. ``{"in_channels": "cin", "latency": "t"}``.
        units: ``{"latency": "us", "energy": "nJ"}``; not needed where the file's column name ends
            in the unit (``latency_us``).
        constants: Layer columns the file lacks, e.g. ``{"groups": 1}``. A missing ``width`` is the
            height.
        frequency_mhz: The clock, for latency in cycles.
        encoding: Text encoding of a CSV.

    Raises:
        TableError: a column or unit is missing or ambiguous; the message says how to declare it.
    """
    if not path.is_file():
        raise TableError(f"no file at {path}")
    header, found = read_columns(path, encoding)
    units = dict(units or {})
    for name in units:
        choose(name, UNITS, "quantity")
    found = _renamed(path, found, columns or {})
    table: dict[str, list[str]] = {}
    factors: dict[str, float] = {}
    for name, cells in found.items():
        quantity, _, suffix = name.partition("_")
        if name in _KNOWN:
            table[name] = cells
        elif quantity in UNITS:
            metric = _STORED[quantity]
            if metric in table:
                raise TableError(f"{path} has more than one {quantity} column")
            unit = _unit(path, quantity, suffix, units.get(quantity))
            if unit == "cycles":
                _positive_clock(frequency_mhz)
            factors[metric] = (
                1 / (frequency_mhz * 1e3) if unit == "cycles" else UNITS[quantity][unit]
            )
            table[metric] = cells
        else:
            raise TableError(
                f"{path}: unknown column {name!r}. Name its meaning (--column OURS={name}) or "
                f"remove it. Columns are {', '.join(_KNOWN)}, latency, energy."
            )
    for name in set(units) - {metric.split("_")[0] for metric in factors}:
        raise TableError(f"{path} has no {name} column, but a unit is declared for it")
    _complete(path, table, constants or {}, found)
    read = from_columns(header, table, str(path))
    return replace(read, prices={m: values * factors[m] for m, values in read.prices.items()})


def _renamed(
    path: Path, found: dict[str, list[str]], columns: Mapping[str, str]
) -> dict[str, list[str]]:
    """The file's columns under our names, as declared."""
    for ours, theirs in columns.items():
        if ours.partition("_")[0] not in UNITS:
            choose(ours, (*_KNOWN, *UNITS), "column of a table")
        if theirs not in found:
            raise TableError(f"{path} has no column {theirs!r}; it has {', '.join(found)}")
        if ours in found and ours != theirs:
            raise TableError(f"{path} has both {ours!r} and {theirs!r}; which one is meant?")
        found = {ours if name == theirs else name: cells for name, cells in found.items()}
    return {"latency_cycles" if n == "cycles" else n: cells for n, cells in found.items()}


def _complete(
    path: Path, table: dict[str, list[str]], constants: Mapping[str, int | str],
    found: Mapping[str, list[str]],
) -> None:  # fmt: skip
    """Add columns that have one value for all rows, in place.

    Raises:
        TableError: the file has such a column, or lacks one still; says how to give it.
    """
    rows = len(next(iter(table.values())))
    for name, value in constants.items():
        if name in table:
            raise TableError(f"{path} has a column {name}; --set is for columns it lacks")
        table[choose(name, _KNOWN, "layer column")] = [str(value)] * rows
    if "height" in table:
        table.setdefault("width", table["height"])
    missing = [name for name in LAYER_COLUMNS if name not in table]
    if missing:
        raise TableError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(found)}. Say which column that "
            f"is (--column {missing[0]}=THEIRS), or give one value for all rows "
            f"(--set {missing[0]}={'conv' if missing[0] == 'op' else 1})."
        )


def _unit(path: Path, quantity: str, suffix: str, declared: str | None) -> str:
    """The unit of a price column from its name and from what the user declared."""
    allowed = {unit.lower(): unit for unit in UNITS[quantity]}
    if declared is not None and declared.lower() not in allowed:
        raise TableError(
            f"unknown unit {declared!r} for {quantity}; allowed: {', '.join(UNITS[quantity])}"
        )
    if suffix and suffix.lower() not in allowed:
        raise TableError(
            f"{path}: column {quantity}_{suffix} ends in no known unit; "
            f"allowed: {', '.join(UNITS[quantity])}"
        )
    if suffix and declared and suffix.lower() != declared.lower():
        raise TableError(
            f"{path}: column {quantity}_{suffix} contradicts the declared unit {declared!r}"
        )
    unit = suffix or declared
    if not unit:
        raise TableError(
            f"{path}: the unit of {quantity} is not stated; add --unit {quantity}=UNIT "
            f"({', '.join(UNITS[quantity])})"
        )
    return allowed[unit.lower()]


def check_import(table: LookupTable, space: Space | None = None) -> None:
    """Refuse a table that cannot be right, or that does not cover a space.

    Raises:
        TableError: the median layer runs at less than 10^5 or more than 10^15 MAC/s (a wrong unit),
            or ``space`` needs layers the table lacks.
    """
    plain = table.layers["op"] != OPS.index("mbconv")
    if "latency_ms" in table.prices and plain.any():
        seconds = np.maximum(table.prices["latency_ms"][plain], 1e-12) / 1e3
        rate = float(np.median(macs(table.layers[plain]) / seconds))
        if not 1e5 <= rate <= 1e15:
            raise TableError(
                f"{table.path}: the median layer would run at {rate:.1e} MAC/s; "
                "is the declared unit of latency right?"
            )
    if space is not None:
        missing = needed_layers(space, table)
        missing = missing[table.find(missing) < 0]
        if len(missing):
            raise TableError(
                f"{table.path} lacks {len(missing):,} of the layers that space {space.name!r} "
                f"can need.\n{table.explain(missing)}"
            )
