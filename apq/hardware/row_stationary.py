"""A row-stationary accelerator with the knobs of QAPPA, QADAM and QUIDAM.

Processing elements (PE) of five types, scratchpads, a global buffer, number of PEs and bandwidth
determine latency, energy and area. The papers (Inci et al., arXiv:2205.08648, 2205.13045,
2206.15463) publish no coefficients, so these are ours: PE energies and areas follow Horowitz (ISSCC
2014), QTools' operation energies and the PE synthesis published with Bit Fusion; SRAM areas its
CACTI rows; LightPE areas are estimates. Access counts follow Eyeriss (Chen et al., ISCA 2016) in
simplified form. Compare designs with it; do not quote its absolute figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import choose
from apq.hardware.base import Prices, Simulator, list_layers, single_layers
from apq.hardware.horowitz import DRAM_PJ_PER_BIT, sram_pj
from apq.space.formats import BITS, INTEGER_BITS, SHIFTS, WIDEST
from apq.space.layer import LayerArray, macs, out_side, weight_count


@dataclass(frozen=True)
class ProcessingElement:
    """One PE type: operand and accumulator widths in bits, energy per MAC, area of its datapath.

    ``shifts``: number of shifted inputs summed per product; 0: it has a multiplier.
    """

    weight_bits: int
    activation_bits: int
    psum_bits: int
    mac_pj: float
    area_um2: float
    shifts: int = 0

    def takes(self, weights: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Which number formats (codes) of weights it supports, same shape.

        A multiplier supports integers, a shifter stored powers of two. Plain widths are supported
        by every PE.
        """
        fits: NDArray[np.bool_] = (INTEGER_BITS[weights] > 0) & (
            INTEGER_BITS[weights] <= self.weight_bits
        )
        if not self.shifts:
            return fits
        shifted = (SHIFTS[weights] > 0) & (SHIFTS[weights] <= self.shifts)
        return np.where(weights <= WIDEST, fits, shifted & (BITS[weights] <= self.weight_bits))


PE_TYPES: dict[str, ProcessingElement] = {
    "FP32": ProcessingElement(32, 32, 32, 4.6, 11_900.0),
    "INT16": ProcessingElement(16, 16, 40, 0.91, 1_680.0),
    "INT8": ProcessingElement(8, 8, 24, 0.28, 511.0),
    "LightPE-1": ProcessingElement(4, 8, 24, 0.11, 200.0, shifts=1),
    "LightPE-2": ProcessingElement(8, 8, 24, 0.20, 350.0, shifts=2),
}
"""LightPE-1 multiplies by one power of two (a shift), LightPE-2 by the sum of two."""

SCRATCHPAD_UM2_PER_BYTE = 11.7
BUFFER_UM2_PER_BYTE = 7.0
WIRE_PJ_PER_BIT = 0.02
"""Area of 128 B and 2-16 KB SRAM banks (CACTI, 45 nm); moving a bit to a neighbour PE (ours)."""


@dataclass(frozen=True)
class RowStationary(Simulator):
    """Cost model of one design.

    Attributes:
        pe: A name of PE_TYPES; layers with more weight or activation bits have no price, narrower
            ones cost the same as at full width.
        rows, columns: PE array. Filter rows lie along rows, output rows along columns.
        input_words, weight_words, psum_words: Scratchpads of a PE, in operands.
        buffer_kb: Global buffer, KiB; half holds inputs, half weights.
        dram_bits_per_cycle: Interface.
        frequency_mhz: Clock.
    """

    pe: str = "INT8"
    rows: int = 12
    columns: int = 14
    input_words: int = 12
    weight_words: int = 224
    psum_words: int = 24
    buffer_kb: int = 108
    dram_bits_per_cycle: int = 64
    frequency_mhz: float = 200.0
    name: str = "row-stationary"
    source: str = (
        "row-stationary model (ours) after Eyeriss with the knobs of QUIDAM; 45 nm constants from "
        "Horowitz and the synthesis published with Bit Fusion"
    )

    def __post_init__(self) -> None:
        choose(self.pe, PE_TYPES, "PE type")

    @property
    def element(self) -> ProcessingElement:
        """The PE."""
        return PE_TYPES[self.pe]

    @property
    def scratchpad_bits(self) -> int:
        """Scratchpads of one PE."""
        e = self.element
        return (
            self.input_words * e.activation_bits
            + self.weight_words * e.weight_bits
            + self.psum_words * e.psum_bits
        )

    @property
    def area_mm2(self) -> float:
        """PEs with scratchpads, and the global buffer; no control, no interface."""
        pads = self.scratchpad_bits / 8 * SCRATCHPAD_UM2_PER_BYTE
        elements = self.rows * self.columns * (self.element.area_um2 + pads)
        return (elements + self.buffer_kb * 1024 * BUFFER_UM2_PER_BYTE) / 1e6

    def price(self, layers: LayerArray) -> Prices:
        """``latency_ms`` and ``energy_mj``; NaN for whole blocks and operands the PE does not
        take."""
        e = self.element
        ok = single_layers(layers) & e.takes(layers["weight_bits"])
        ok &= layers["activation_bits"] <= e.activation_bits
        figures = self.run(layers[ok])
        latency, energy = np.full(layers.shape, np.nan), np.full(layers.shape, np.nan)
        latency[ok] = figures["cycles"] / (self.frequency_mhz * 1e3)
        energy[ok] = figures["energy_pj"] / 1e9
        return {"latency_ms": latency, "energy_mj": energy}

    def run(self, layers: LayerArray) -> dict[str, NDArray[np.float64]]:
        """``cycles``, ``energy_pj``, ``dram_bits``, ``utilization`` of plain layers.

        A set of K x O PEs (folded to the array) convolves one (input, output) channel pair; as many
        sets run side by side as fit. Each PE interleaves q inputs and p outputs as its scratchpads
        allow, which is what the buffer traffic is divided by.
        """
        e = self.element
        f = {name: layers[name].astype(np.int64) for name in layers.dtype.names or ()}
        k, ic, oc = f["kernel"], f["in_channels"] // f["groups"], f["out_channels"]
        out_rows = out_side(f["height"], f["stride"])
        out_columns = out_side(f["width"], f["stride"])
        inputs = f["in_channels"] * f["height"] * f["width"] * e.activation_bits
        weights = weight_count(layers) * e.weight_bits
        outputs = oc * out_rows * out_columns

        high = np.minimum(k, self.rows)
        wide = np.minimum(out_rows, self.columns)
        sets = np.maximum(1, self.rows // high) * np.maximum(1, self.columns // wide)
        folds = -(-k // high) * -(-out_rows // wide)
        compute = -(-(ic * oc) // sets) * folds * out_columns * k

        q = np.clip(self.input_words // k, 1, ic)
        p = np.clip(np.minimum(self.psum_words, self.weight_words // (q * k)), 1, oc)
        half = self.buffer_kb * 1024 * 8 // 2
        strips, groups = -(-inputs // half), -(-weights // half)
        again = np.where((strips > 1) & (groups > 1), 1, 0)
        reload = np.minimum(again * (strips - 1) * weights, again * (groups - 1) * inputs)
        dram = inputs + weights + reload + outputs * e.activation_bits
        cycles = np.maximum(compute, -(-dram // self.dram_bits_per_cycle))

        work = macs(layers)
        depth = -(-ic // q)  # times a partial sum leaves its PE column
        buffer = inputs * -(-oc // (p * f["groups"])) + weights * -(-out_rows // wide)
        buffer = buffer + outputs * (2 * (depth - 1) * e.psum_bits + e.activation_bits)
        wires = outputs * depth * (k - 1) * e.psum_bits
        pads = work * (e.activation_bits + e.weight_bits + 2 * e.psum_bits)
        energy = work * e.mac_pj + dram * DRAM_PJ_PER_BIT + wires * WIRE_PJ_PER_BIT
        energy = energy + buffer * _per_bit(self.buffer_kb * 8192)
        energy = energy + pads * _per_bit(self.scratchpad_bits / 3)
        return {
            "cycles": cycles.astype(np.float64),
            "energy_pj": energy,
            "dram_bits": dram.astype(np.float64),
            "utilization": work / (cycles * self.rows * self.columns),
        }

    def explain(self, layers: LayerArray) -> str:
        """Name the layers and what the PE takes."""
        e = self.element
        what = f"sums of {e.shifts} or fewer powers of two" if e.shifts else "integers"
        return (
            f"{self.name} cannot price {list_layers(layers)}: its {self.pe} elements take single "
            f"layers of at most w{e.weight_bits}a{e.activation_bits}; weights with a scheme must "
            f"be {what}."
        )


def _per_bit(bits: float) -> float:
    """pJ per bit of an SRAM of this size."""
    return float(sram_pj(bits)) / bits


def figures(design: RowStationary, layers: LayerArray) -> dict[str, float]:
    """Figures of a design on a network: ``latency_ms``, ``energy_mj``, ``area_mm2`` and
    ``performance_per_area`` (inferences per second and mm^2)."""
    prices = design.price(layers)
    latency = float(prices["latency_ms"].sum())
    return {
        "latency_ms": latency,
        "energy_mj": float(prices["energy_mj"].sum()),
        "area_mm2": design.area_mm2,
        "performance_per_area": 1e3 / latency / design.area_mm2,
    }
