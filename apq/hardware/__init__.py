"""What a candidate costs: cost models, lookup tables and pricing of whole spaces (numpy only)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from apq.errors import choose
from apq.hardware.base import CostModel, Prices
from apq.hardware.bitfusion import bitfusion_apq, bitfusion_ideal_dw, bitfusion_public
from apq.hardware.lut import LookupTable, build_table, needed_layers
from apq.hardware.pricing import PricedSpace, price_space

COST_MODELS: dict[str, Callable[[], CostModel]] = {
    "bitfusion-public": bitfusion_public,
    "bitfusion-apq": bitfusion_apq,
    "bitfusion-ideal-dw": bitfusion_ideal_dw,
}
"""Simulated devices by name; a measured device is a table in ``lut/``."""


def load_cost_model(name_or_path: str) -> CostModel:
    """A simulated device by name, or a table by path (``.csv`` or ``.parquet``).

    Raises:
        ApqError: unknown model.
        TableError: the table is missing or malformed.
    """
    if Path(name_or_path).suffix in (".csv", ".parquet"):
        return LookupTable.read(Path(name_or_path))
    return COST_MODELS[choose(name_or_path, COST_MODELS, "cost model or table (.csv, .parquet)")]()


__all__ = [
    "COST_MODELS", "CostModel", "LookupTable", "PricedSpace", "Prices", "build_table",
    "load_cost_model", "needed_layers", "price_space",
]  # fmt: skip
