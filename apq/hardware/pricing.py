"""Price a whole space once, then any number of candidates by gathering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import TableError
from apq.hardware.base import CostModel
from apq.space import ATTRIBUTES, Genes, Slot, Space
from apq.space.families import whole_block
from apq.space.graph import Node
from apq.space.layer import LayerArray, bitops, macs, size_bits, to_array

COUNTED = ("macs_m", "bitops_g", "size_mb", "peak_memory_kb")
"""Metrics that follow from geometry and bits alone; every space has them."""

PRICED = ("latency_ms", "energy_mj")
"""Metrics a device's cost model gives."""


def counts(layers: LayerArray) -> dict[str, NDArray[np.float64]]:
    """Device-independent costs per layer: ``macs_m`` (10^6), ``bitops_g`` (10^9),
    ``size_mb`` (10^6 bytes). Shape as ``layers``."""
    return {
        "macs_m": macs(layers) / 1e6,
        "bitops_g": bitops(layers) / 1e9,
        "size_mb": size_bits(layers) / 8e6,
    }


def peak_memory_kb(
    space: Space, nodes: Sequence[Node], values: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Largest activation memory while nodes run, 10^3 bytes, in the values' broadcast shape; see
    :meth:`apq.space.graph.Graph.peak_bits`. What they hand on counts at the space's fixed bits."""
    return space.graph.peak_bits(nodes, space.sides, values, space.fixed_bits) / 8e3


@dataclass(frozen=True)
class PricedSpace:
    """Dense prices of every block of a space, per metric.

    Attributes:
        space: The space.
        fixed: Per metric the cost of the layers every candidate has.
        tables: Per metric and slot an array over the slot's choices (shape of
            ``Space.slot_grid``); NaN marks excluded combinations.
        sources: Where each device's figures come from.
    """

    space: Space
    fixed: dict[str, float]
    tables: dict[str, tuple[NDArray[np.float64], ...]]
    sources: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the costs this space is priced in."""
        return tuple(self.tables)

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        sizes = [int(np.prod([len(c) for c in slot.choices])) for slot in self.space.slots]
        return np.concatenate([[0], np.cumsum(sizes)[:-1]])

    @cached_property
    def _strides(self) -> NDArray[np.int64]:
        rows = []
        for slot in self.space.slots:
            sizes = [len(c) for c in slot.choices]
            rows.append([int(np.prod(sizes[i + 1 :])) for i in range(len(sizes))])
        return np.array(rows, dtype=np.int64)

    @cached_property
    def _flat(self) -> dict[str, NDArray[np.float64]]:
        return {m: np.concatenate([t.ravel() for t in ts]) for m, ts in self.tables.items()}

    def combinations(self, genes: Genes) -> NDArray[np.int64]:
        """Index of each slot's chosen combination into its flattened table, ``(n, slots)``."""
        blocks = self.space.block_genes(genes).astype(np.int64)
        index: NDArray[np.int64] = np.einsum("nsa,sa->ns", blocks, self._strides)
        return index

    def costs(
        self, genes: Genes, metrics: Iterable[str] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Costs of n candidates, one array of shape ``(n,)`` per metric.

        Sums over active blocks plus the fixed layers; ``peak_memory_kb`` is a maximum instead.
        """
        index = self.combinations(genes) + self._offsets
        skipped = ~self.space.active(genes)
        out = {}
        for metric in self.metrics if metrics is None else metrics:
            values = self._flat[metric][index]
            values[skipped] = 0.0
            if metric == "peak_memory_kb":
                out[metric] = np.maximum(values.max(axis=1), self.fixed[metric])
            else:
                out[metric] = values.sum(axis=1) + self.fixed[metric]
        return out

    def reach(self, metric: str) -> tuple[float, float]:
        """Exact smallest and largest cost over the whole space.

        Blocks are independent given the depths, so the best of each slot and the best depth of
        each stage give the optimum (dynamic programming over slots; ours).
        """
        ends: list[float] = []
        for best, pick in ((np.nanmin, min), (np.nanmax, max)):
            slot_best = [float(best(t)) for t in self.tables[metric]]
            stage_best = []
            for s, stage in enumerate(self.space.stages):
                values = [slot_best[slot.index] for slot in self.space.slots if slot.stage == s]
                join = max if metric == "peak_memory_kb" else sum
                stage_best.append(pick(join(values[:depth]) for depth in stage.depth))
            if metric == "peak_memory_kb":
                ends.append(max(max(stage_best), self.fixed[metric]))
            else:
                ends.append(sum(stage_best) + self.fixed[metric])
        return ends[0], ends[1]


def price_space(space: Space, models: CostModel | Sequence[CostModel] = ()) -> PricedSpace:
    """Price every block of a space once.

    Args:
        space: The space.
        models: A cost model, or several: then each device's metrics carry its name, as in
            ``latency_ms@bitfusion-apq``.

    Raises:
        TableError: a combination the space allows has no price (names it and what is near), or
            two devices have one name.
    """
    devices = list(models) if isinstance(models, Sequence) else [models]
    names = [device.name for device in devices]
    for name in names:
        if names.count(name) > 1:
            raise TableError(
                f"two cost models call their device {name!r}; give each once, or change the "
                "`# device:` line of one table"
            )
    fixed: dict[str, float] = {}
    tables: dict[str, list[NDArray[np.float64]]] = {}
    fixed_layers = to_array(list(space.fixed_layers.values()))
    for metric, values in counts(fixed_layers).items():
        fixed[metric] = float(values.sum())
    fixed["peak_memory_kb"] = float(peak_memory_kb(space, space.graph.layers[:1], {}))
    for slot in space.slots:
        shape, grid = tuple(len(c) for c in slot.choices), space.slot_grid(slot)
        parts = [counts(layers) for layers in space.rows(space.block(slot), grid)]
        for metric in ("macs_m", "bitops_g", "size_mb"):
            total = sum((np.broadcast_to(p[metric], shape) for p in parts), np.zeros(shape))
            tables.setdefault(metric, []).append(total)
        peak = peak_memory_kb(space, space.block(slot), grid)
        tables.setdefault("peak_memory_kb", []).append(np.broadcast_to(peak, shape))
    for device in devices:
        suffix = f"@{device.name}" if len(devices) > 1 else ""
        _price_device(space, device, suffix, fixed, tables)
    return PricedSpace(
        space,
        fixed,
        {m: tuple(t) for m, t in tables.items()},
        tuple(f"{d.name}: {d.source}" for d in devices),
    )


def _price_device(
    space: Space,
    device: CostModel,
    suffix: str,
    fixed: dict[str, float],
    tables: dict[str, list[NDArray[np.float64]]],
) -> None:
    """Add one device's metrics to ``fixed`` and ``tables``."""
    kept = [layer for n, layer in space.fixed_layers.items() if n not in device.leaves_out]
    rows = to_array(kept)
    prices = device.price(rows)
    if not prices:
        raise TableError(f"{device.name} prices neither {' nor '.join(PRICED)}")
    for metric, values in prices.items():
        if np.isnan(values).any():
            raise TableError(device.explain(rows[np.isnan(values)]))
        fixed[metric + suffix] = float(values.sum()) + device.overhead.get(metric, 0.0)
    for slot in space.slots:
        shape = tuple(len(c) for c in slot.choices)
        grid = space.slot_grid(slot)
        allowed = allowed_combinations(space, slot)
        parts = device_rows(space, slot, grid, device)
        priced = [device.price(part) for part in parts]
        for metric in prices:
            total = sum((np.broadcast_to(p[metric], shape) for p in priced), np.zeros(shape))
            if np.isnan(total[allowed]).any():
                where = np.argwhere(np.isnan(total) & allowed)[0]
                for part, price in zip(parts, priced, strict=True):
                    at = tuple(w if n > 1 else 0 for w, n in zip(where, part.shape, strict=True))
                    if np.isnan(price[metric][at]):
                        raise TableError(device.explain(part[at].reshape(1)))
            tables.setdefault(metric + suffix, []).append(np.where(allowed, total, np.nan))


def device_rows(
    space: Space, slot: Slot, values: Mapping[str, Any], device: CostModel
) -> list[LayerArray]:
    """What a device prices of a block: its layers, or all of it as one row."""
    if device.granularity == "block":
        return [whole_block(slot, *values.values())]
    return space.rows(space.block(slot), values)


def allowed_combinations(space: Space, slot: Slot) -> NDArray[np.bool_]:
    """Which combinations of a slot's choices the space does not exclude (dense, boolean)."""
    allowed = np.ones(tuple(len(c) for c in slot.choices), dtype=bool)
    grid = dict(zip(ATTRIBUTES, space.slot_grid(slot).values(), strict=True))
    for rule in space.rules:
        hit = np.ones((), dtype=bool)
        for attribute, value in rule.items():
            hit = hit & (grid[attribute] == value)
        allowed &= ~hit
    return allowed
