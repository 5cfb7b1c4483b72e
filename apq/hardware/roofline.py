"""A roofline model from peak rate and bandwidth, and the complexity metric BOPS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq.hardware.base import (
    Prices,
    Simulator,
    as_integers,
    single_layers,
)
from apq.space.layer import LayerArray, macs, out_side, weight_count


def speedup(bits: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rate of an operand relative to 8 bits when a unit splits by powers of two: 4 at 2 bits, 2 at
    4, 1 at 6 and 8, 1/2 at 16 (Bit Fusion's composition, without its limits)."""
    return 8.0 / 2.0 ** np.ceil(np.log2(np.maximum(bits, 2)))


def integer_layers(layers: LayerArray) -> tuple[LayerArray, NDArray[np.bool_]]:
    """Single layers of integers: the rows as such a device runs them, and which rows those are."""
    rows = as_integers(layers)
    ok = single_layers(layers) & (rows["weight_bits"] > 0) & (rows["activation_bits"] > 0)
    return rows, ok


def traffic_bits(layers: LayerArray, output_bits: int | None = None) -> NDArray[np.float64]:
    """Bits moved if every tensor moves once: weights, inputs, outputs.

    ``output_bits``: width at which outputs are both read and written as partial sums; None: they
    leave once at activation bits.
    """
    f = {name: layers[name].astype(np.float64) for name in layers.dtype.names or ()}
    side = [out_side(layers[d], layers["stride"]) for d in ("height", "width")]
    inputs = f["in_channels"] * f["height"] * f["width"] * f["activation_bits"]
    width = f["activation_bits"] if output_bits is None else 2.0 * output_bits
    outputs = f["out_channels"] * side[0] * side[1] * width
    return weight_count(layers) * f["weight_bits"] + inputs + outputs


@dataclass(frozen=True)
class Roofline(Simulator):
    """latency = max(MACs / (peak x utilization), bits moved / bandwidth).

    It ignores the low utilisation of an array by small layers: on APQ's published table its rank
    correlation (Spearman) is 0.64, because depthwise layers are far slower than it predicts.

    Attributes:
        peak_gmacs: 10^9 multiply-accumulates per second at 8 x 8 bits.
        bandwidth_gb: Memory bandwidth, 10^9 bytes per second.
        low_bits_faster: Whether fewer bits raise the peak (see :func:`speedup`).
        utilization, depthwise_utilization: Share of the peak that dense / depthwise layers reach.
        psum_bits: Outputs are read and written once at this width; 0: written once at activation
            bits.
        compute_pj, memory_pj: Energy per 8 x 8-bit MAC (scaled with the bits) and per bit moved;
            both 0: no energy.
    """

    name: str = "roofline"
    source: str = "roofline with the peak and bandwidth of Bit Fusion's 16x32 array (set your own)"
    peak_gmacs: float = 256.0
    bandwidth_gb: float = 12.0
    low_bits_faster: bool = True
    utilization: float = 1.0
    depthwise_utilization: float = 1.0
    psum_bits: int = 32
    compute_pj: float = 0.0
    memory_pj: float = 0.0

    def price(self, layers: LayerArray) -> Prices:
        """``latency_ms`` and, with energies given, ``energy_mj``; NaN for whole blocks and weights
        that are not integers."""
        rows, single = integer_layers(layers)
        rows = np.where(single, rows, np.zeros_like(rows))
        rows["groups"][~single] = rows["stride"][~single] = 1
        work = macs(rows).astype(np.float64)
        moved = traffic_bits(rows, self.psum_bits or None)
        rate = np.where(rows["groups"] > 1, self.depthwise_utilization, self.utilization)
        if self.low_bits_faster:
            rate = rate * speedup(rows["weight_bits"]) * speedup(rows["activation_bits"])
        seconds = np.maximum(
            work / (rate * self.peak_gmacs * 1e9), moved / (8 * self.bandwidth_gb * 1e9)
        )
        out = {"latency_ms": np.where(single, seconds * 1e3, np.nan)}
        if self.compute_pj or self.memory_pj:
            bits = rows["weight_bits"] * rows["activation_bits"] / 64
            energy = (work * bits * self.compute_pj + moved * self.memory_pj) / 1e9
            out["energy_mj"] = np.where(single, energy, np.nan)
        return out


def bops(layers: LayerArray) -> NDArray[np.float64]:
    """Bit operations of the hardware-aware complexity metric, shape as ``layers``.

        MACs x (b_a b_w + b_a + b_w + log2(n k^2)),  n input channels per group

    The last term is the growth of the accumulator (arXiv:2004.08906; UNIQ, arXiv:1804.10969). Not
    the BitOps of APQ's tables, which are MACs x b_a x b_w.
    """
    fan_in = layers["in_channels"] // layers["groups"] * layers["kernel"].astype(np.float64) ** 2
    w, a = layers["weight_bits"].astype(np.float64), layers["activation_bits"]
    per_mac: NDArray[np.float64] = a * w + a + w + np.log2(np.maximum(fan_in, 1))
    return macs(layers) * per_mac


@dataclass(frozen=True)
class Bops(Simulator):
    """latency = max(BOPS / peak, bits moved once / bandwidth): a chip whose area is spent on
    processing elements that grow with BOPS, fed by one memory (arXiv:2004.08906).

    Attributes:
        peak_gbops: 10^9 bit operations per second.
        bandwidth_gb: Memory bandwidth, 10^9 bytes per second.
    """

    name: str = "bops"
    source: str = "BOPS roofline (arXiv:2004.08906); rates of a 256 GMAC/s 8-bit device"
    peak_gbops: float = 256 * 90.0
    bandwidth_gb: float = 12.0

    def price(self, layers: LayerArray) -> Prices:
        """``latency_ms``; NaN for whole blocks and weights that are not integers."""
        rows, single = integer_layers(layers)
        out = np.full(layers.shape, np.nan)
        rows = rows[single]
        seconds = np.maximum(
            bops(rows) / (self.peak_gbops * 1e9), traffic_bits(rows) / (8 * self.bandwidth_gb * 1e9)
        )
        out[single] = seconds * 1e3
        return {"latency_ms": out}
