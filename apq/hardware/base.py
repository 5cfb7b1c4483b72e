"""Interface of cost models: prices for arrays of layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from apq.space import FORMATS, LayerArray
from apq.space.formats import INTEGER_BITS
from apq.space.layer import OPS, to_layer

Prices = dict[str, NDArray[np.float64]]
"""``latency_ms`` and/or ``energy_mj``, each in the shape of the layers; NaN: cannot be priced."""


class CostModel(Protocol):
    """Prices layers on one device. A lookup table is one; a simulator is another.

    Attributes:
        name: Short name, used in file names and messages.
        source: Where the numbers come from, in one line.
        granularity: ``"layer"`` prices single layers, ``"block"`` whole ``mbconv`` blocks.
        leaves_out: Names from ``Space.fixed_layers`` that this device's figures do not include
            (a published table may stop at the last convolution); they cost nothing here.
        overhead: Per metric a constant cost of every network in addition to its layers, e.g. the
            intercept of an affine calibration; usually empty.
    """

    @property
    def name(self) -> str: ...  # noqa: D102  (described above)

    @property
    def source(self) -> str: ...  # noqa: D102

    @property
    def granularity(self) -> str: ...  # noqa: D102

    @property
    def leaves_out(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def overhead(self) -> Mapping[str, float]: ...  # noqa: D102

    def price(self, layers: LayerArray) -> Prices:
        """Prices of each layer; NaN where the model has none."""
        ...

    def explain(self, layers: LayerArray) -> str:
        """Why these layers have no price, what is near, and which command would add them."""
        ...


class Simulator:
    """What simulated devices have in common: they price single layers, all of them, and nothing
    beside them; most multiply integers alone."""

    name: str
    granularity = "layer"
    leaves_out = ()
    overhead: Mapping[str, float] = {}
    takes = "it prices single layers."

    def explain(self, layers: LayerArray) -> str:
        """The layers, and what can be priced."""
        why = why_no_integers(layers) or self.takes
        return f"{self.name} cannot price {list_layers(layers)}: {why}"


BIT_COLUMNS = ("weight_bits", "activation_bits", "dw_weight_bits", "dw_activation_bits")
"""Columns of a layer that hold codes of number formats."""


def single_layers(layers: LayerArray) -> NDArray[np.bool_]:
    """Which rows are single layers, not whole blocks."""
    single: NDArray[np.bool_] = layers["op"] != OPS.index("mbconv")
    return single


def as_integers(layers: LayerArray) -> LayerArray:
    """Layers on a device that only multiplies integers: every operand at the width of the integers
    that hold its values (2 for ternary, 8 for 4-bit powers of two), 0 where no integers do. Copy,
    shape as ``layers``."""
    out = layers.copy()
    for name in BIT_COLUMNS:
        out[name] = INTEGER_BITS[layers[name]]
    return out


def why_no_integers(layers: LayerArray) -> str:
    """Formats among the weights that are not integers, for a device's ``explain``; empty: none."""
    odd = [FORMATS[c].name for c in np.unique(layers["weight_bits"]) if not INTEGER_BITS[c]]
    if not odd:
        return ""
    return (
        f"it multiplies integers, which {', '.join(odd)} weights are not. Take them off the bit "
        "axes of the space, or price their energy with --model horowitz."
    )


def list_layers(layers: LayerArray, most: int = 3) -> str:
    """The first few distinct layers in words, and how many more there are."""
    names = list(dict.fromkeys(str(to_layer(row)) for row in layers.reshape(-1)))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
