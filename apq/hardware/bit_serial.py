"""A bit-serial accelerator in the shape of HAQ's published table.

Read off the table of Wang et al., HAQ (CVPR 2019): every cost is proportional to activation bits,
weight bits matter only where a layer has more output channels than fit the columns, and depthwise
layers ignore weight bits. The formula and its constants are ours; against the table (3,392
entries) its median error is 2.4 %, its 90th percentile 15 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apq.hardware.base import Prices, Simulator, as_integers
from apq.space.layer import OPS, LayerArray, out_side, weight_count


@dataclass(frozen=True)
class BitSerial(Simulator):
    """Cost model of a bit-serial array; latency only.

        dense     : B O^2 a ceil(K^2 IC / lanes) max(1, OC w / column_bits)
        depthwise : B O^2 a ceil(C / depthwise_lanes)
        both      : + weights w / weight_bits_per_cycle   (loaded before they are used)

    Attributes:
        lanes: Products that a column sums per cycle and bit.
        column_bits: Weight bits processed in parallel (output channels x bits).
        depthwise_lanes: Channels of a depthwise layer processed in parallel.
        weight_bits_per_cycle: Weight bits loaded per cycle.
        frequency_mhz: HAQ states none; only ratios are meaningful.
        batch: Images per run; figures are for the whole batch.
    """

    name: str = "bit-serial"
    source: str = (
        "formula (ours) fitted to HAQ's published MobileNetV2 table (Wang et al., CVPR 2019); "
        "clock assumed"
    )
    lanes: int = 192
    column_bits: int = 256
    depthwise_lanes: int = 16
    weight_bits_per_cycle: float = 25.6
    frequency_mhz: float = 100.0
    batch: int = 1

    takes = "it prices single dense and depthwise layers."

    def price(self, layers: LayerArray) -> Prices:
        """``latency_ms``; NaN for whole blocks, groups other than depthwise, and non-integer
        weights."""
        rows = as_integers(layers)
        f = {name: rows[name].astype(np.float64) for name in rows.dtype.names or ()}
        c, w, a = f["in_channels"], f["weight_bits"], f["activation_bits"]
        pixels = out_side(layers["height"], layers["stride"]) * out_side(
            layers["width"], layers["stride"]
        )
        depthwise = (f["groups"] > 1) & (f["groups"] == c)
        folds = np.ceil(c * f["kernel"] ** 2 / self.lanes)
        dense = folds * np.maximum(1, f["out_channels"] * w / self.column_bits)
        steps = np.where(depthwise, np.ceil(c / self.depthwise_lanes), dense)
        cycles = self.batch * pixels * a * steps
        cycles = cycles + weight_count(layers) * w / self.weight_bits_per_cycle
        ok = (f["op"] != OPS.index("mbconv")) & ((f["groups"] == 1) | depthwise) & (w > 0)
        return {"latency_ms": np.where(ok, cycles / (self.frequency_mhz * 1e3), np.nan)}
