"""Accelerator designs to choose from: the knobs of a simulated device, and the designs' figures.

The knobs are those of QAPPA, QADAM and QUIDAM (Inci et al., arXiv:2205.08648, 2205.13045,
2206.15463): the type of processing element with the formats it supports, rows, columns, buffers and
bandwidth. Latency and energy come from our simulators, area and peak power from published synthesis
at 45 nm; nothing is measured on silicon.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError, choose
from apq.hardware.base import CostModel
from apq.hardware.bitfusion import BitFusion, BufferEnergy, bitfusion_apq
from apq.hardware.horowitz import DRAM_PJ_PER_BIT, sram_pj
from apq.hardware.lut import needed_layers, widened_prices
from apq.hardware.pricing import device_rows
from apq.hardware.row_stationary import BUFFER_UM2_PER_BYTE, RowStationary
from apq.space import Factor, Layer, Space
from apq.space.layer import LayerArray, to_array

Floats = NDArray[np.float64]

FACTS = ("area_mm2", "power_mw")
"""Figures of a design that do not depend on the network: area in mm^2, and peak power in mW, with
every element multiplying in every cycle and the memory interface at its full rate."""


@dataclass(frozen=True, eq=False)
class Designs:
    """Every combination of some knobs of a simulated accelerator.

    Attributes:
        name: Name of the model.
        knobs: Name of each knob and its choices, in order.
        build: From one value per knob, by name, to the cost model of that design.
        facts: From a design to :data:`FACTS`.

    Example:
        >>> small = DESIGNS["row-stationary"]().narrowed({"pe": ["INT8"], "rows": [8, 12]})
        >>> len(small), small.values(0)["rows"]
        (54, 8)
    """

    name: str
    knobs: Mapping[str, tuple[Any, ...]]
    build: Callable[..., CostModel]
    facts: Callable[[Any], dict[str, float]]

    def __len__(self) -> int:
        return int(np.prod(self.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of choices."""
        return tuple(map(len, self.knobs.values()))

    def values(self, index: int) -> dict[str, Any]:
        """The knobs of one design, by its place among all (the last knob changes fastest)."""
        chosen = np.unravel_index(index, self.shape)
        return {name: menu[i] for (name, menu), i in zip(self.knobs.items(), chosen, strict=True)}

    @cached_property
    def models(self) -> tuple[CostModel, ...]:
        """All designs, in the order of :meth:`values`."""
        every = itertools.product(*self.knobs.values())
        return tuple(self.build(**dict(zip(self.knobs, row, strict=True))) for row in every)

    def narrowed(self, kept: Mapping[str, Any]) -> Designs:
        """With other choices for some knobs.

        Raises:
            ApqError: there is no such knob, or a knob is left without a choice.
        """
        for name, menu in kept.items():
            choose(name, self.knobs, f"knob of {self.name}")
            if not len(menu):
                raise ApqError(f"knob {name} of {self.name} needs at least one choice")
        return replace(self, knobs={n: tuple(kept.get(n, m)) for n, m in self.knobs.items()})

    def takes(self, weight: int, activation: int) -> NDArray[np.bool_]:
        """Which types of the first knob run a layer of these formats (codes), ``(choices,)``."""
        row = to_array([Layer("conv", 8, 8, 8, 8, 1, 1, 1, weight, activation)])
        first, *others = self.knobs.items()
        rest = {name: menu[-1] for name, menu in others}
        priced = (self.build(**{first[0]: c}, **rest).price(row) for c in first[1])
        return np.array([not np.isnan(np.stack([*p.values()])).any() for p in priced])


@dataclass(frozen=True, eq=False)
class LayerPrices:
    """Costs on every design of every layer that a space may need.

    Attributes:
        layers: ``(layers,)``.
        prices: Per metric ``(designs, layers)``; NaN where a design cannot run a layer.
    """

    layers: LayerArray
    prices: Mapping[str, Floats]

    def factor(self, space: Space, factor: Factor, model: CostModel) -> dict[str, Floats]:
        """A factor's costs, each ``(designs, *choices of its genes)``."""
        place = {row: i for i, row in enumerate(self.layers.tolist())}
        allowed, grid = space.permitted(factor), space.grid(factor)
        count = len(next(iter(self.prices.values())))
        totals = {metric: np.zeros((count, *allowed.shape)) for metric in self.prices}
        for part, where in device_rows(space, factor, grid, model):
            index = np.array([place.get(row, -1) for row in part.reshape(-1).tolist()])
            for metric, prices in self.prices.items():
                cost = np.where(index >= 0, prices[:, index], np.nan).reshape(count, *part.shape)
                totals[metric] += np.where(where, cost, 0.0)
        return totals

    def fixed(self, space: Space, model: CostModel) -> dict[str, Floats]:
        """Costs that depend on no gene, ``(designs,)`` each."""
        place = {row: i for i, row in enumerate(self.layers.tolist())}
        kept = [layer for n, layer in space.fixed_layers.items() if n not in model.leaves_out]
        index = [place[row] for row in to_array(kept).tolist()]
        return {metric: prices[:, index].sum(axis=1) for metric, prices in self.prices.items()}


def simulate_layers(space: Space, designs: Designs) -> LayerPrices:
    """Price every layer of a space on every design with its simulator.

    Operands that fit no buffer are priced wider, as :func:`apq.hardware.lut.build_table` does.
    """
    layers = needed_layers(space, designs.models[0])
    found = [widened_prices(model, layers)[0] for model in designs.models]
    return LayerPrices(layers, {m: np.stack([p[m] for p in found]) for m in found[0]})


# ---- the designs ---------------------------------------------------------------------------------


def row_stationary_designs() -> Designs:
    """Designs of :class:`~apq.hardware.row_stationary.RowStationary`: 162 with two types of PE.

    LightPE-1 and LightPE-2 are available too (``narrowed({"pe": …})``). They shift instead of
    multiply; a predictor trained on other formats does not know how their weights affect accuracy.
    """
    knobs = {
        "pe": ("INT16", "INT8"), "rows": (8, 12, 16), "columns": (8, 14, 20),
        "buffer_kb": (32, 64, 128), "dram_bits_per_cycle": (32, 64, 128),
    }  # fmt: skip
    return Designs("row-stationary", knobs, RowStationary, _row_stationary_facts)


def _row_stationary_facts(design: RowStationary) -> dict[str, float]:
    e, pads = design.element, design.scratchpad_bits / 3
    moved = e.activation_bits + e.weight_bits + 2 * e.psum_bits
    element = e.mac_pj + moved * float(sram_pj(pads)) / pads
    cycle = design.rows * design.columns * element + design.dram_bits_per_cycle * DRAM_PJ_PER_BIT
    return {"area_mm2": design.area_mm2, "power_mw": cycle * design.frequency_mhz / 1e3}


FUSIBLE: Mapping[str, tuple[int, float, float, float]] = {
    "fixed-8": (8, 510.7, 0.2034, 16.1),
    "fusible-8": (2, 1734.6, 0.4592, 59.3),
}
"""Processing elements of 8 bits in the synthesis published with Bit Fusion (45 nm, 500 MHz): the
narrowest operand that makes them faster, area in um^2, pJ per cycle, leakage in uW. The first
multiplies once per cycle whatever the bits; the second up to 16 times with 2 bits."""


def bitfusion_designs() -> Designs:
    """Designs of :class:`~apq.hardware.bitfusion.BitFusion` as APQ's table has it: 162.

    ``buffer_kb`` is the weight buffer; those of inputs and outputs are a half and a quarter of it.
    """
    knobs = {
        "pe": tuple(FUSIBLE), "rows": (4, 8, 16), "columns": (8, 16, 32),
        "buffer_kb": (64, 128, 256), "dram_bits_per_cycle": (96, 192, 384),
    }  # fmt: skip
    return Designs("bitfusion", knobs, _bitfusion, _bitfusion_facts)


def _bitfusion(
    pe: str, rows: int, columns: int, buffer_kb: int, dram_bits_per_cycle: int
) -> BitFusion:
    base = bitfusion_apq()
    assert base.energy is not None
    narrowest, _, dynamic_pj, leakage_uw = FUSIBLE[choose(pe, FUSIBLE, "PE type")]
    units = rows * columns
    larger = float(sram_pj(buffer_kb * 8192) / buffer_kb) / float(sram_pj(64 * 8192) / 64)

    def scaled(ends: tuple[float, float]) -> tuple[float, float]:
        return ends[0] * larger, ends[1] * larger

    energy = BufferEnergy(
        core_nj=units * dynamic_pj / 1e3, static_nj=units * leakage_uw / base.frequency_mhz / 1e3,
        weight_pj=scaled(base.energy.weight_pj), input_pj=scaled(base.energy.input_pj),
        output_pj=scaled(base.energy.output_pj), shared_reads=True,
    )  # fmt: skip
    return replace(
        base, name="bitfusion", rows=rows, columns=columns, weight_kb=buffer_kb,
        input_kb=buffer_kb // 2, output_kb=buffer_kb // 4, min_bits=narrowest,
        dram_bits_per_cycle=dram_bits_per_cycle, energy=energy,
    )  # fmt: skip


def _bitfusion_facts(design: BitFusion) -> dict[str, float]:
    assert design.energy is not None
    kind = next(pe for pe in FUSIBLE.values() if pe[0] == design.min_bits)
    kilobytes = design.weight_kb + design.input_kb + design.output_kb
    area = design.rows * design.columns * kind[1] + kilobytes * 1024 * BUFFER_UM2_PER_BYTE
    cycle = 1e3 * (design.energy.core_nj + design.energy.static_nj)
    cycle += design.dram_bits_per_cycle * design.energy.dram_pj
    return {"area_mm2": area / 1e6, "power_mw": cycle * design.frequency_mhz / 1e3}


DESIGNS: dict[str, Callable[[], Designs]] = {
    "row-stationary": row_stationary_designs,
    "bitfusion": bitfusion_designs,
}
"""Accelerators with knobs, by name."""
