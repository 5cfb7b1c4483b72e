"""What every cost model offers: prices for arrays of layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from apq.space import LayerArray
from apq.space.layer import to_layer

Prices = dict[str, NDArray[np.float64]]
"""``latency_ms`` and/or ``energy_mj``, each in the shape of the layers; NaN: cannot be priced."""


NOTHING: Mapping[str, float] = {}
"""The overhead of a model that has none."""


class CostModel(Protocol):
    """Prices layers on one device. A lookup table is one; a simulator is another.

    Attributes:
        name: Short name, used in file names and messages.
        source: Where the numbers come from, in one line.
        granularity: ``"layer"`` prices single layers, ``"block"`` whole ``mbconv`` blocks.
        leaves_out: Names from ``Space.fixed_layers`` that this device's figures do not include
            (a published table may stop at the last convolution); they cost nothing here.
        overhead: Per metric what every network costs beside its layers, e.g. the constant of an
            affine calibration; usually empty.
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


def list_layers(layers: LayerArray, most: int = 3) -> str:
    """The first few distinct layers in words, and how many more there are."""
    names = list(dict.fromkeys(str(to_layer(row)) for row in layers.reshape(-1)))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
