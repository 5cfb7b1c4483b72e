"""Columns of a table's file: CSV or Parquet as text, and its cells as numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apq.errors import SpaceError, TableError
from apq.hardware.base import BIT_COLUMNS
from apq.space.formats import AS_PRICED, WIDEST, code_of
from apq.space.layer import LAYER_DTYPE, OPS, LayerArray

METRICS = ("latency_ms", "energy_mj")
BLOCK_COLUMNS = ("mid_channels", "dw_weight_bits", "dw_activation_bits")
"""Layer columns that only block rows use; tables of layers omit them."""
LAYER_COLUMNS = tuple(name for name in LAYER_DTYPE.names or () if name not in BLOCK_COLUMNS)
HIGHEST_PRICE = 1e12
"""Milliseconds or millijoules; no layer takes 30 years or a gigajoule."""
_OWN_UNITS = {"ms", "mj", "millisecond", "milliseconds", "millijoule", "millijoules"}
_OTHER_UNITS = {
    "s", "sec", "second", "seconds", "us", "µs", "μs", "microsecond", "microseconds", "ns",
    "nanosecond", "nanoseconds", "cycles", "j", "joule", "joules", "uj", "µj", "μj", "microjoule",
    "microjoules", "nj", "nanojoule", "nanojoules", "pj", "picojoule", "picojoules",
}  # fmt: skip
"""Names of units in a header, in lower case."""


def read_columns(
    path: Path, encoding: str = "utf-8"
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Header pairs and columns (as text) of a CSV or Parquet table.

    Raises:
        TableError: missing, not text, ragged, without rows, or with a column twice.
    """
    if not path.is_file():
        raise TableError(
            f"no table at {path}. Build one: apq lut build --model bitfusion-apq --space SPACE "
            f"--out {path}"
        )
    if path.suffix == ".parquet":
        from apq.files.tables import read_parquet

        table = read_parquet(path, TableError, "Build it again, or take another copy.")
        pairs = (table.schema.metadata or {}).items()
        try:
            header = {k.decode(): v.decode() for k, v in pairs if not k.startswith(b"ARROW")}
        except UnicodeDecodeError as error:
            raise TableError(f"{path} is damaged: its metadata: {error}") from error
        columns = {n: [str(v) for v in table[n].to_pylist()] for n in table.column_names}
    else:
        header, columns = _read_csv(path, encoding)
    if not columns or not len(next(iter(columns.values()))):
        raise TableError(f"{path} has no rows")
    return header, columns


def _read_csv(path: Path, encoding: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    lines = _text(path, encoding).splitlines()
    start = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    header: dict[str, str] = {}
    for line in lines[:start]:
        key, colon, value = (part.strip() for part in line.lstrip("# ").partition(":"))
        if colon and header.setdefault(key, value) != value:
            raise TableError(
                f"{path}: its header says {key} twice, {header[key]!r} and {value!r}; keep the "
                "line that belongs to these rows"
            )
    try:
        rows = list(csv.reader(lines[start:]))
    except csv.Error as error:
        raise TableError(f"{path} is no CSV: {error}") from error
    if not rows:
        raise TableError(f"{path} has no rows")
    names = [name.strip() for name in rows[0]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TableError(f"{path} has column {', '.join(twice)} twice")
    if len(names) == 1 and (mark := next((m for m in ";\t|" if m in names[0]), "")):
        raise TableError(f"{path} separates its columns by {mark!r}; save it with commas")
    body = [row for row in rows[1:] if row]
    for i, row in enumerate(body):
        if len(row) != len(names):
            raise TableError(
                f"{path}, row {i + 1} has {len(row)} cells where the header has {len(names)}"
            )
    return header, {name: [row[j].strip() for row in body] for j, name in enumerate(names)}


def _text(path: Path, encoding: str) -> str:
    """A file's text, or how to save or import one in another encoding."""
    raw = path.read_bytes()
    if raw.startswith(b"\xef\xbb\xbf") and encoding == "utf-8":
        raise TableError(
            f"{path} starts with a byte-order mark; save it as UTF-8 without BOM, "
            "or import it with --encoding utf-8-sig"
        )
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) and encoding == "utf-8":
        raise TableError(
            f"{path} is UTF-16 text, as spreadsheets save it; save it as UTF-8, or import it with "
            "apq lut import --encoding utf-16"
        )
    try:
        return raw.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise TableError(
            f"{path} is not {encoding} text ({error}); "
            "import it with --encoding NAME if it is in another"
        ) from error


def check_units(header: Mapping[str, str], path: Path) -> None:
    """Refuse a header that names units in which prices are not kept.

    Raises:
        TableError: names the line, and how the table is converted.
    """
    for key, value in header.items():
        if not re.search(r"(?<![a-z])units?(?![a-z])", key.lower().replace("_", " ")):
            continue
        words = set(re.findall(r"[a-zµμ]+", value.lower()))
        if words & _OTHER_UNITS and not words <= _OWN_UNITS | {"latency", "energy"}:
            raise TableError(
                f"{path}: its header says {key}: {value}, and the columns latency_ms and energy_mj "
                "hold milliseconds and millijoules. Name the columns latency and energy and "
                "convert them: apq lut import FILE --unit latency=UNIT --unit energy=UNIT"
            )


def layers_of(columns: Mapping[str, Sequence[str]], block: bool, where: str) -> LayerArray:
    """The layers that text columns describe, ``(n,)``.

    Raises:
        TableError: a column is missing or unknown, or a cell is not what it should be.
    """
    need = LAYER_COLUMNS + (BLOCK_COLUMNS if block else ())
    missing = [name for name in need if name not in columns]
    if missing:
        raise TableError(f"{where} lacks column {', '.join(missing)}; it has {', '.join(columns)}")
    odd = [n for n in columns if n not in (*LAYER_COLUMNS, *BLOCK_COLUMNS, *METRICS)]
    if odd or not {*METRICS} & {*columns}:
        problem = f"unknown column {', '.join(odd)}" if odd else "no price column"
        raise TableError(
            f"{where}: {problem}. Prices are latency_ms and energy_mj; for other names, units or "
            "notes use `apq lut import --column NAME=NAME --unit NAME=UNIT`"
        )
    layers = np.zeros(len(columns["op"]), dtype=LAYER_DTYPE)
    for name in need:
        layers[name] = _parse_layer_column(columns[name], name, where)
    held = np.any(layers["op"] == OPS.index("mbconv"))
    if held and not block:
        raise TableError(f"{where} has mbconv rows; its header must say `# granularity: block`")
    if block and not held:
        raise TableError(
            f"{where}: its header says granularity block and it has no mbconv row; a table of "
            "layers says `# granularity: layer`"
        )
    return layers


def prices_of(columns: Mapping[str, Sequence[str]], where: str) -> dict[str, NDArray[np.float64]]:
    """The prices in text columns, ``(n,)`` each.

    Raises:
        TableError: a cell is no price, or a whole column is 0.
    """
    prices = {m: _parse_prices(columns[m], m, where) for m in METRICS if m in columns}
    for metric, values in prices.items():
        if not values.any():
            raise TableError(
                f"{where}: {metric} is 0 in all of its {len(values):,} rows, so it says nothing; "
                "give prices, or remove the column"
            )
    return prices


def _parse_layer_column(cells: Sequence[str], name: str, where: str) -> NDArray[np.int64]:
    out = np.zeros(len(cells), dtype=np.int64)
    for i, cell in enumerate(cells):
        try:
            out[i] = _parse_layer_cell(cell, name)
        except (ValueError, SpaceError) as error:
            raise TableError(f"{where}, row {i + 1}: {name} is {cell!r}; {error}") from None
    return out


def _parse_layer_cell(cell: str, name: str) -> int:
    """The integer that a layer array holds.

    Raises:
        ValueError, SpaceError: it cannot be read; says what it must be.
    """
    if name == "op":
        if cell not in OPS:
            raise ValueError(f"allowed: {', '.join(OPS)}")
        return OPS.index(cell)
    low, named = 0 if name in BLOCK_COLUMNS else 1, name in BIT_COLUMNS
    try:
        number = float("-1" if "_" in cell else cell)
    except ValueError:
        number = -1.0
    if low <= number <= (WIDEST if named else 2**31 - 1) and number == int(number):
        return int(number)
    if named:
        return int(AS_PRICED[code_of(cell)])
    raise ValueError(f"it must be a whole number from {low}")


def _parse_prices(cells: Sequence[str], name: str, where: str) -> NDArray[np.float64]:
    out = np.zeros(len(cells))
    for i, cell in enumerate(cells):
        try:
            out[i] = _parse_price(cell)
        except ValueError as error:
            raise TableError(f"{where}, row {i + 1}: {name} is {cell!r}; {error}") from None
    return out


def header_price(header: Mapping[str, str], name: str, where: str, signed: bool = False) -> float:
    """A price in a header; errors as :func:`prices_of`."""
    try:
        return _parse_price(header[name], signed)
    except ValueError as error:
        raise TableError(f"{where}: its header says {name} {header[name]!r}; {error}") from None


def _parse_price(cell: str, signed: bool = False) -> float:
    """A price as a number.

    Raises:
        ValueError: it is none, negative (unless ``signed``), or not finite; says how to write it.
    """
    try:
        value = float("nan" if "_" in cell else cell)
    except ValueError:
        value = np.nan
        number = cell.lstrip("+-").strip()
        if re.fullmatch(r"\d*,\d+|\d{1,3}([.,\s'’]\d{3})+([.,]\d+)?", number):
            raise ValueError(
                "prices have a decimal point and no marks between thousands, as in 1234.5"
            ) from None
        if re.fullmatch(r"\d+\.?\d*([eE][+-]?\d+)?\s*[^\W\d]+", number):
            raise ValueError(
                "prices are plain numbers, the unit stands in the column's name"
            ) from None
    if not np.isfinite(value) or (value < 0 and not signed):
        raise ValueError("prices are finite and not negative")
    if abs(value) > HIGHEST_PRICE:
        raise ValueError(
            f"prices are at most {HIGHEST_PRICE:g} (ms or mJ); is the unit another, or is it a "
            "mark for something that could not be measured? Remove such rows"
        )
    return value
