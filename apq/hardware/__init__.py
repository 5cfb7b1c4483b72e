"""Costs of candidates: cost models, lookup tables and pricing of whole spaces (numpy only)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path

from apq.errors import ApqError, choose
from apq.files import shipped
from apq.hardware.base import CostModel, Prices
from apq.hardware.bit_serial import BitSerial
from apq.hardware.bitfusion import bitfusion_apq, bitfusion_ideal_dw, bitfusion_public
from apq.hardware.horowitz import Horowitz, horowitz_qtools
from apq.hardware.lut import LookupTable, build_table, needed_layers, read_lut
from apq.hardware.pricing import PricedSpace, price_space
from apq.hardware.roofline import Bops, Roofline
from apq.hardware.row_stationary import RowStationary

COST_MODELS: dict[str, Callable[[], CostModel]] = {
    "bitfusion-public": bitfusion_public,
    "bitfusion-apq": bitfusion_apq,
    "bitfusion-ideal-dw": bitfusion_ideal_dw,
    "bit-serial": BitSerial,
    "row-stationary": RowStationary,
    "roofline": Roofline,
    "bops": Bops,
    "horowitz": Horowitz,
    "horowitz-qtools": horowitz_qtools,
}
"""Simulated devices by name; a measured device is a table in ``lut/``."""


def load_cost_model(name_or_path: str) -> CostModel:
    """A simulated device by name, or a table by path (``.csv``, ``.parquet``), shipped or yours.

    Raises:
        ApqError: unknown model.
        TableError: the table is missing or malformed.

    Example:
        >>> import apq
        >>> print(apq.load_cost_model("roofline").source)  # where its figures come from
        roofline with the peak and bandwidth of Bit Fusion's 16x32 array (set your own)
    """
    if Path(name_or_path).suffix in (".csv", ".parquet"):
        return LookupTable.read(shipped(name_or_path))
    return COST_MODELS[choose(name_or_path, COST_MODELS, "cost model or table (.csv, .parquet)")]()


def configure(model: CostModel, settings: Mapping[str, str]) -> CostModel:
    """A model with some of its numbers changed, e.g. ``{"frequency_mhz": "800"}``; its source says
    which.

    Raises:
        ApqError: no such number, or the text does not fit its type.
    """
    if not settings:
        return model
    known = {f.name: getattr(model, f.name) for f in fields(model)}  # type: ignore[arg-type]
    known = {k: v for k, v in known.items() if isinstance(v, int | float | str)}
    values: dict[str, object] = {}
    for name, text in settings.items():
        kind = type(known[choose(name, known, f"parameter of {model.name}")])
        try:
            value = text.lower() in ("1", "true", "yes") if kind is bool else kind(text)
        except ValueError as error:
            raise ApqError(f"{name} of {model.name} takes {kind.__name__}, got {text!r}") from error
        if isinstance(value, int | float) and not 0 <= value < float("inf"):
            raise ApqError(f"{name} of {model.name} cannot be {text}: finite, not negative")
        values[name] = value
    told = ", ".join(f"{k}={v}" for k, v in values.items())
    values.setdefault("source", f"{model.source}; set {told}")
    return replace(model, **values)  # type: ignore[type-var]


__all__ = [
    "COST_MODELS", "CostModel", "LookupTable", "PricedSpace", "Prices", "build_table", "configure",
    "load_cost_model", "needed_layers", "price_space", "read_lut",
]  # fmt: skip
