"""What every cost model offers: prices for arrays of layers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from apq.space import LayerArray

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
    """

    name: str
    source: str
    granularity: str
    leaves_out: tuple[str, ...]

    def price(self, layers: LayerArray) -> Prices:
        """Prices of each layer; NaN where the model has none."""
        ...

    def explain(self, layers: LayerArray) -> str:
        """Why these layers have no price, what is near, and which command would add them."""
        ...
