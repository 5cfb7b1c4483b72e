"""Inspect a table: coverage, ranges, dominant kinds of layers, and oddities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.files.shipped import shipped
from apq.hardware.base import BIT_COLUMNS, CostModel
from apq.hardware.columns import read_columns
from apq.hardware.lut import LookupTable, needed_layers
from apq.hardware.pricing import device_rows
from apq.space import Candidate, Space
from apq.space.formats import WIDEST, choice_of, ordered
from apq.space.layer import LAYER_DTYPE, OPS, LayerArray, to_layer

KINDS = ("pointwise", "depthwise", "dense", "linear", "mbconv")


def describe_table(
    file: str | Path, space: Space | None = None, seed: int = 0
) -> tuple[dict[str, Any], LayerArray | None]:
    """The contents of ``apq lut show`` for a table.

    Args:
        file: A table, ``.csv`` or ``.parquet``; a name of a shipped one is found too.
        space: The space for coverage and shares.
        seed: Random seed of the candidates for shares.

    Returns:
        Plain data: ``header``, ``rows``, ``metrics``, ``weight_bits``, ``activation_bits``,
        ``ranges`` (:func:`ranges`), ``oddities`` (:func:`oddities`), ``out_of_step`` and
        ``renamed`` (what does not fit in the file, in words, or None); with a space also
        ``missing`` (how many rows) and, if none are, ``shares`` (:func:`shares`). Then the missing
        rows, or None.

    Raises:
        TableError: the file is no table.
    """
    path = shipped(Path(file))
    table = LookupTable.read(path, changed=True)
    report: dict[str, Any] = {
        "header": table.describe(),
        "rows": len(table.layers),
        "metrics": list(table.prices),
        "weight_bits": _formats(table, "weight_bits"),
        "activation_bits": _formats(table, "activation_bits"),
        "ranges": ranges(table),
        "oddities": oddities(table),
        "out_of_step": table.out_of_step(read_columns(path)[0]),
        "renamed": table.renamed(),
    }
    if space is None:
        return report, None
    lacking = missing(table, space)
    report["missing"] = len(lacking)
    if not len(lacking):
        report["shares"] = shares(space, table, seed=seed)
    return report, lacking


def _formats(table: LookupTable, column: str) -> list[int | str]:
    return list(ordered(choice_of(code) for code in set(table.layers[column].tolist())))


def kinds(layers: LayerArray) -> NDArray[np.int64]:
    """Index into KINDS of each layer: 1x1, depthwise, other convolutions, linear, whole blocks."""
    out = np.where(layers["kernel"] == 1, 0, 2)
    out = np.where((layers["groups"] > 1) & (layers["groups"] == layers["in_channels"]), 1, out)
    out = np.where(layers["op"] == OPS.index("linear"), 3, out)
    return np.where(layers["op"] == OPS.index("mbconv"), 4, out)


def ranges(table: LookupTable) -> dict[str, dict[str, Any]]:
    """Per kind of layer: how many rows, and smallest, median and largest price."""
    found = kinds(table.layers)
    out: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(KINDS):
        if np.any(found == i):
            out[name] = {"rows": int(np.sum(found == i))} | {
                metric: [float(f(values[found == i])) for f in (np.min, np.median, np.max)]
                for metric, values in table.prices.items()
            }
    return out


def shares(space: Space, table: CostModel, count: int = 200, seed: int = 0) -> dict[str, Any]:
    """Mean share of each kind of layer in the cost of random candidates, per metric."""
    genes = space.sample(count, np.random.default_rng(seed))
    out: dict[str, dict[str, float]] = {}
    for row in genes:
        layers = priced_layers(space, space.build(row), table)
        found = kinds(layers)
        for metric, values in table.price(layers).items():
            share = np.bincount(found, values, len(KINDS)) / values.sum() / count
            for name, value in zip(KINDS, share, strict=True):
                if value:
                    held = out.setdefault(metric, {})
                    held[name] = held.get(name, 0.0) + float(value)
    return out


def priced_layers(space: Space, candidate: Candidate, device: CostModel) -> LayerArray:
    """The rows a device prices for one candidate, in the order they run, shape (n,)."""
    chosen = space.chosen(candidate)
    at = {node.name: i for i, node in enumerate(space.graph.nodes)}
    fixed = [n for n in space.graph.layers if n.name in space.fixed_layers]
    rows = [(at[n.name], row) for n, row in space.rows(fixed) if n.name not in device.leaves_out]
    runs = space.active(space.genes([candidate]))[0]
    for factor in space.factors:
        if factor.nodes and (factor.slot is None or runs[factor.slot]):
            values = {name: chosen[name] for name in space.grid(factor)}
            parts = device_rows(space, factor, values, device)
            first = at[factor.nodes[0].name]
            rows += [(first, part) for part, where in parts if where]
    rows.sort(key=lambda item: item[0])
    return np.array([row.reshape(1)[0] for _, row in rows], dtype=LAYER_DTYPE)


def missing(table: LookupTable, space: Space) -> LayerArray:
    """Layers the space can need and the table lacks, at the width the device runs them."""
    needed = needed_layers(space, table)
    lacking = table.as_run(needed[table.find(needed) < 0])
    return np.array(list(dict.fromkeys(lacking.tolist())), dtype=LAYER_DTYPE)


ODD_FIELDS: Mapping[str, str] = {
    "weight_bits": "more weight bits",
    "activation_bits": "more activation bits",
    "dw_weight_bits": "more depthwise weight bits",
    "dw_activation_bits": "more depthwise activation bits",
    "kernel": "a larger kernel",
    "out_channels": "more output channels",
    "in_channels": "more input channels",
    "mid_channels": "more hidden channels",
}


def oddities(table: LookupTable) -> list[dict[str, Any]]:
    """Neighbouring rows where a larger layer costs less: prices need not be monotone.

    Returns:
        Per metric and field: ``pairs`` of neighbours, how many are ``cheaper``, the worst fall and
        an example. Depthwise channels count as input channels.
    """
    layers = table.layers.copy()
    depthwise = kinds(layers) == 1
    for name in ("out_channels", "groups"):
        layers[name][depthwise] = 0
    out = []
    for name, words in ODD_FIELDS.items():
        others = [n for n in LAYER_DTYPE.names or () if n != name]
        order = np.lexsort([layers[name], *(layers[n] for n in others)])
        rows = layers[order]
        same = np.all([rows[n][1:] == rows[n][:-1] for n in others], axis=0)
        if name in BIT_COLUMNS:  # codes of schemes follow those of plain widths
            same &= rows[name][1:] <= WIDEST
        if not same.any():
            continue
        for metric, values in table.prices.items():
            prices = values[order]
            change = np.where(same, prices[1:] / np.maximum(prices[:-1], 1e-300) - 1, 0.0)
            worst = int(np.argmin(change))
            cheaper = int(np.sum(change < -1e-9))
            if cheaper:
                pair = [str(to_layer(table.layers[order[worst + i]])) for i in (0, 1)]
                out.append(
                    {
                        "metric": metric,
                        "what": words,
                        "pairs": int(same.sum()),
                        "cheaper": cheaper,
                        "worst": float(change[worst]),
                        "example": f"{pair[0]} -> {pair[1]}",
                    }
                )
    return out
