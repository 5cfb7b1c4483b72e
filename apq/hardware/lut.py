"""Lookup tables: the prices of layers or whole blocks, as CSV or Parquet with provenance.

A CSV starts with ``# key: value`` lines (device, source, granularity, leaves_out, command, ...);
Parquet keeps the same pairs in its schema metadata. Columns of bits hold plain widths and names of
number formats (``ternary``); in Parquet as text, if there is a name. The lines ``rows`` and
``content`` hold the number of rows and their hash; a table without them can be read too.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import TableError
from apq.files import shipped, whole
from apq.hardware.base import BIT_COLUMNS, CostModel, Prices, list_layers
from apq.hardware.columns import (
    BLOCK_COLUMNS,
    LAYER_COLUMNS,
    METRICS,
    check_units,
    header_price,
    layers_of,
    prices_of,
    read_columns,
)
from apq.hardware.pricing import device_rows
from apq.space import Space
from apq.space.formats import (
    BITS,
    INTEGER_BITS,
    RUNTIME_BITS,
    WIDEST,
    choice_of,
)
from apq.space.layer import LAYER_DTYPE, OPS, LayerArray, to_array, to_layer
from apq.version import __version__


@dataclass(frozen=True)
class LookupTable:
    """A cost model that is a table of layers or blocks and their prices.

    Attributes:
        name: The device.
        source: Where the figures come from.
        granularity: ``"layer"`` or ``"block"``.
        leaves_out: Fixed layers the device's figures do not include.
        layers: The priced layers, one row each, shape (n,).
        prices: ``latency_ms`` and/or ``energy_mj``, each (n,), not negative.
        overhead: Cost of every network beside its rows, per metric (an affine calibration's
            constant).
        runs_at_bits: The width at which the device runs every layer of at most that many bits (8
            for an int8 runtime, 32 for a float one): rows have that width, so that 4-bit layers
            get their real cost. Weights with a table of values (powers of two, codebooks) need a
            float runtime. 0: rows are looked up at their own bits.
        header: Further provenance, preserved when the table is written.
        path: Where it was read from, for messages.

    Raises:
        TableError: the same layer has two rows, a price is negative or not a number.
    """

    name: str
    source: str
    layers: LayerArray
    prices: Prices
    granularity: str = "layer"
    leaves_out: tuple[str, ...] = ()
    overhead: Mapping[str, float] = field(default_factory=dict)
    runs_at_bits: int = 0
    header: Mapping[str, str] = field(default_factory=dict)
    path: str = ""

    def __post_init__(self) -> None:
        where = self.path or self.name
        if not len(self.layers):
            raise TableError(f"{where} has no rows")
        if not self.prices:
            raise TableError(f"{where} has neither {' nor '.join(METRICS)}")
        for metric, values in self.prices.items():
            bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
            if len(bad):
                raise TableError(
                    f"{where}: {metric} of {list_layers(self.layers[bad])} is {values[bad[0]]:g}; "
                    f"prices are finite and not negative ({len(bad)} such rows)"
                )
        if len(self._index) < len(self.layers):
            seen: set[tuple[int, ...]] = set()
            for row in self.layers:
                if row.item() in seen:
                    raise TableError(f"{where} prices {to_layer(row)} twice; keep one row")
                seen.add(row.item())

    @cached_property
    def _index(self) -> dict[Any, int]:
        return {row: i for i, row in enumerate(self.layers.tolist())}

    def find(self, layers: LayerArray) -> NDArray[np.int64]:
        """Row number of each layer, -1 where the table has none; shape as ``layers``."""
        rows = [self._index.get(row, -1) for row in self.as_run(layers).reshape(-1).tolist()]
        return np.array(rows, dtype=np.int64).reshape(layers.shape)

    def as_run(self, layers: LayerArray) -> LayerArray:
        """Layers at the width the device runs them."""
        return at_bits(layers, self.runs_at_bits) if self.runs_at_bits else layers

    def price(self, layers: LayerArray) -> Prices:
        """The table's figures; NaN where it has no row."""
        at = self.find(layers)
        return {m: np.where(at >= 0, values[at], np.nan) for m, values in self.prices.items()}

    def explain(self, layers: LayerArray) -> str:
        """The layers without a row, the nearest rows, and what would add them."""
        where = self.path or f"the table of {self.name}"
        near = [str(to_layer(row)) for row in self.nearest(layers.reshape(-1)[0])]
        made = self.header.get("command")
        add = "Add them with `apq lut import`, or build a table for"
        if made:
            add = f"This table was made by `{made}`; run it for"
        return (
            f"{where} has no row for {list_layers(layers)}.\n"
            f"Nearest rows: {', '.join(near)}.\n"
            f"{add} your space, or narrow the space to what the table covers."
        )

    def nearest(self, layer: np.void, most: int = 3) -> LayerArray:
        """The rows most like ``layer``: same kind first, then shape, then bits (ours)."""
        apart = np.zeros(len(self.layers))
        for name in LAYER_DTYPE.names or ():
            mine, its = self.layers[name].astype(float), float(layer[name])
            if name in BIT_COLUMNS:
                mine, its = BITS[self.layers[name]].astype(float), float(BITS[layer[name]])
            if name == "op":
                apart += 100.0 * (mine != its)
            elif name == "groups":
                apart += 50.0 * ((mine > 1) != (its > 1))
            else:
                weight = 1.0 if name.endswith("bits") else 4.0
                apart += weight * np.abs(np.log2(np.maximum(mine, 1) / max(its, 1)))
        nearest: LayerArray = self.layers[np.argsort(apart, kind="stable")[:most]]
        return nearest

    def describe(self) -> dict[str, str]:
        """Everything the file's header says."""
        known = {
            "device": self.name,
            "source": self.source,
            "granularity": self.granularity,
            "leaves_out": ", ".join(self.leaves_out),
            "runs_at_bits": str(self.runs_at_bits) if self.runs_at_bits else "",
            **{f"overhead_{metric}": repr(value) for metric, value in self.overhead.items()},
        }
        return known | {k: v for k, v in self.header.items() if k not in known}

    def write(self, path: Path | str) -> None:
        """Write CSV or, if the name ends in ``.parquet``, Parquet; atomically.

        Raises:
            TableError: the name ends in neither, or the file cannot be written.
        """
        path = Path(path)
        check_suffix(path)
        try:
            with whole(path) as part:
                self._write(part)
        except OSError as error:
            raise TableError(f"cannot write {path}: {error.strerror}") from error

    def _write(self, path: Path) -> None:
        columns = self._columns()
        header = self.describe() | {"rows": str(len(self.layers)), "content": self.content()}
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pa.table(columns).replace_schema_metadata(header)
            pq.write_table(table, path)
        else:
            text = io.StringIO()
            for key, value in header.items():
                if value:
                    text.write(f"# {key}: {' '.join(value.split())}\n")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*(_cells(c) for c in columns.values()), strict=True))
            path.write_text(text.getvalue(), encoding="utf-8")

    def content(self) -> str:
        """Hash of everything that affects lookups, 16 hex digits: the rows in any order (prices to
        ten digits, as in a CSV) and, from the header, space, granularity, omitted fixed layers,
        overhead and the width at which the device runs."""
        prices = [_cells(values) for _, values in sorted(self.prices.items())]
        rows = sorted(map(repr, zip(self.layers.tolist(), *prices, strict=True)))
        overhead = {m: f"{value:.10g}" for m, value in sorted(self.overhead.items())}
        said = (sorted(self.prices), self.granularity, self.leaves_out, self.runs_at_bits, overhead)
        space = self.header.get("space", "").split()  # a CSV keeps no runs of spaces
        text = "\n".join([repr((*said, space)), *rows])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _columns(self) -> dict[str, Any]:
        names = list(LAYER_COLUMNS) + (list(BLOCK_COLUMNS) if self.granularity == "block" else [])
        columns: dict[str, Any] = {name: self.layers[name] for name in names}
        columns["op"] = [OPS[i] for i in self.layers["op"]]
        for name in BIT_COLUMNS:
            if name in columns and columns[name].max() > WIDEST:
                columns[name] = [str(choice_of(code)) for code in columns[name]]
        return columns | dict(self.prices)

    @classmethod
    def read(cls, path: Path | str, *, changed: bool = False) -> LookupTable:
        """Read a table that apq wrote, or a CSV/Parquet file with the same columns in any order.

        Args:
            path: The file.
            changed: Accept a file whose rows were changed after it was written.

        Raises:
            TableError: the file is missing or malformed; says which row and column. Or its header
                is out of step with its rows: it names another unit, another number of rows, or the
                hash of other rows.
        """
        path = Path(path)
        check_suffix(path)
        header, columns = read_columns(path)
        check_units(header, path)
        table = from_columns(header, columns, str(path))
        why = None if changed else table.out_of_step(header)
        if why:
            raise TableError(f"{path}: {why}")
        return table

    @property
    def margin(self) -> float | None:
        """Largest relative error of latencies on measured networks, a fraction; None: the header
        does not give it."""
        text = self.header.get("calibration_margin")
        return None if text is None else float(text)

    def renamed(self) -> str:
        """A note if the header names another simulated device than the table's name; else empty.
        Prices are looked up anyway, since two tables of one device need two names."""
        words = self.header.get("command", "").replace("=", " ").split()
        if words[:3] != ["apq", "lut", "build"]:
            return ""
        after = words.index("--model") + 1 if "--model" in words else len(words)
        built = words[after] if after < len(words) else "bitfusion-apq"
        if built == self.name:
            return ""
        return f"its header calls the device {self.name!r}, and the command in it builds {built!r}"

    def out_of_step(self, header: Mapping[str, str]) -> str:
        """How a header that was read contradicts these rows; empty: it does not."""
        rows, content = str(len(self.layers)), self.content()
        if (told := header.get("rows", rows).replace(",", "")) != rows:
            why = f"its header says that it has {told} rows, and it has {rows}"
        elif (told := header.get("content", content)) != content:
            why = f"its header has the hash {told!r}, and its rows have {content!r}"
        else:
            return ""
        return (
            f"{why}: it was changed after it was written, or a part was lost. Build or import it "
            "again; if you changed it on purpose, delete the lines '# rows:' and '# content:'."
        )


def check_suffix(path: Path) -> None:
    """Refuse paths without a table's suffix, which tells tables from names of simulated devices.

    Raises:
        TableError: ``path`` ends in neither ``.csv`` nor ``.parquet``.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise TableError(f"{path} cannot be a table: its name must end in .csv or .parquet")


def at_bits(layers: LayerArray, bits: int) -> LayerArray:
    """Copy in which every operand that a runtime multiplies at up to ``bits`` has ``bits``."""
    out = layers.copy()
    for name in BIT_COLUMNS:
        column = out[name]
        column[(column > 0) & (RUNTIME_BITS[column] <= bits)] = bits
    return out


def _cells(column: Any) -> list[Any]:
    if isinstance(column, np.ndarray) and column.dtype.kind == "f":
        return [f"{value:.10g}" for value in column.tolist()]
    return list(column)


def from_columns(
    header: Mapping[str, str], columns: Mapping[str, Sequence[str]], where: str
) -> LookupTable:
    """A table from header pairs and text columns named as in the file format.

    Raises:
        TableError: a column is missing or unknown, or a cell is not what it should be.
    """
    granularity = header.get("granularity", "block" if "mid_channels" in columns else "layer")
    if granularity not in ("layer", "block"):
        raise TableError(f"{where}: granularity is {granularity!r}; allowed: layer, block")
    layers = layers_of(columns, granularity == "block", where)
    prices = prices_of(columns, where)
    overhead = {
        m: header_price(header, f"overhead_{m}", where, signed=True)
        for m in METRICS
        if f"overhead_{m}" in header
    }
    for metric in set(overhead) - set(prices):
        raise TableError(f"{where}: its header says overhead_{metric}, and it has no such column")
    run_bits = header.get("runs_at_bits") or "0"
    if run_bits not in map(str, range(WIDEST + 1)):
        raise TableError(f"{where}: runs_at_bits is {run_bits!r}; allowed: 0 to {WIDEST}")
    if "calibration_margin" in header:
        header_price(header, "calibration_margin", where)
    leaves_out = tuple(n.strip() for n in header.get("leaves_out", "").split(",") if n.strip())
    known = {"device", "source", "granularity", "leaves_out", "runs_at_bits", "rows", "content"}
    known |= {f"overhead_{m}" for m in METRICS}
    return LookupTable(
        header.get("device", Path(where).stem), header.get("source", "not stated"), layers, prices,
        granularity, leaves_out, overhead, int(run_bits),
        {k: v for k, v in header.items() if k not in known}, where,
    )  # fmt: skip


def needed_layers(space: Space, model: CostModel) -> LayerArray:
    """Every distinct layer (or block) a space can need from a device, shape (n,).

    Excluded combinations are left out; a layer that also serves an allowed one stays.
    """
    fixed = [layer for n, layer in space.fixed_layers.items() if n not in model.leaves_out]
    rows = dict.fromkeys(to_array(fixed).tolist())
    for factor in space.factors:
        grid, allowed = space.grid(factor), space.permitted(factor)
        for part, where in device_rows(space, factor, grid, model):
            axes = tuple(i for i, n in enumerate(part.shape) if n == 1 and allowed.shape[i] > 1)
            used = np.any(allowed & where, axis=axes, keepdims=True) if axes else allowed & where
            rows |= dict.fromkeys(part[np.broadcast_to(used, part.shape)].tolist())
    return np.array(list(rows), dtype=LAYER_DTYPE)


@np.errstate(divide="ignore", invalid="ignore")  # the table refuses what is not finite
def read_lut(path: Path | str) -> LookupTable:
    """Read a lookup table: one that apq wrote, or a CSV or Parquet file with the same columns.

    Args:
        path: The file (``.csv`` or ``.parquet``).

    Returns:
        The table, latencies in ms and energies in mJ; a cost model as any other.

    Raises:
        TableError: as :meth:`LookupTable.read`, with row and column.

    Example:
        >>> import apq
        >>> space = apq.load_space("digits")
        >>> apq.build_table(space, apq.load_cost_model("roofline")).write("digits/roofline.csv")
        >>> table = apq.read_lut("digits/roofline.csv")
        >>> table.name, sorted(table.prices)
        ('roofline', ['latency_ms'])
    """
    return LookupTable.read(shipped(path))


def widened_prices(model: CostModel, layers: LayerArray) -> tuple[Prices, NDArray[np.bool_]]:
    """Prices of layers, each ``(n,)``, and a mask of those priced wider. A layer that fits no
    buffer is priced with the next wider activations, then weights, that fit; NaN: none does."""
    prices = {m: values.copy() for m, values in model.price(layers).items()}
    bits: tuple[str, ...] = ("activation_bits", "weight_bits")
    if model.granularity == "block":
        bits += ("dw_activation_bits", "dw_weight_bits")
    wider = layers.copy()
    widened = np.zeros(len(layers), dtype=bool)
    for name in bits:
        for _ in range(3):
            held = INTEGER_BITS[wider[name]]
            todo = np.isnan(np.stack(list(prices.values()))).any(axis=0)
            todo &= (held > 0) & (held < 8)
            if not todo.any():
                break
            wider[name][todo] = np.minimum(8, 2 * held[todo])
            widened |= todo
            for metric, values in model.price(wider[todo]).items():
                prices[metric][todo] = values
    return prices, widened


def build_table(space: Space, model: CostModel, command: str = "") -> LookupTable:
    """Price every layer of a space on a model.

    A layer whose operands fit no buffer is priced with the next wider activations (then weights)
    that do, as a compiler would run it; the header counts such rows (ours).

    Args:
        space: The space.
        model: Any cost model.
        command: The command line that was run, for the header.

    Raises:
        TableError: a layer cannot be priced even at 8 bits.

    Example:
        >>> import apq
        >>> space = apq.load_space("digits")
        >>> table = apq.build_table(space, apq.load_cost_model("bitfusion-apq"))
        >>> len(table.layers) == len(table.prices["latency_ms"])  # a price per layer, in ms
        True
    """
    layers = needed_layers(space, model)
    prices, widened = widened_prices(model, layers)
    todo = np.isnan(np.stack(list(prices.values()))).any(axis=0)
    if todo.any():
        raise TableError(model.explain(layers[todo]))
    header = {"space": f"{space.name} {space.fingerprint}", "apq": __version__}
    if widened.any():
        header["widened"] = (
            f"{int(widened.sum())} rows ({list_layers(layers[widened])}) fit no buffer at their "
            "bits and are priced at the next wider ones"
        )
    if command:
        header["command"] = command
    return LookupTable(
        model.name, model.source, layers, prices, model.granularity, model.leaves_out,
        dict(model.overhead), header=header,
    )  # fmt: skip
