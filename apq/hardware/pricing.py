"""Price a whole space once, then any number of candidates by table lookup."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import SpaceError, TableError
from apq.hardware.base import CostModel
from apq.space import Factor, Genes, Space
from apq.space.families.mobilenet_v2 import whole_block
from apq.space.graph import LAYERS, Node, channelwise, there
from apq.space.layer import LayerArray, bitops, macs, size_bits, to_array

COUNTED = ("macs_m", "bitops_g", "size_mb", "peak_memory_kb")
"""Metrics that depend on shapes and bits only; every space has them."""

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
    :meth:`apq.space.graph.Graph.peak_bits`. Their output counts at the space's fixed bits."""
    sides = space.sides(values)
    return space.graph.peak_bits(nodes, sides, values, space.family.fixed_bits) / 8e3


@dataclass(frozen=True, eq=False)
class PricedSpace:
    """Dense prices of every factor of a space, per metric.

    Attributes:
        space: The space; choices that a restriction forbids are priced too (:meth:`within`).
        fixed: Per metric, the cost of the layers that depend on no gene.
        tables: Per metric and factor (``Space.factors``) an array over its genes (shape of
            ``Space.grid``); NaN marks excluded combinations.
        sources: Where each device's figures come from.
        margins: Per cost of a measured table its largest error on whole networks, a fraction.
    """

    space: Space
    fixed: dict[str, float]
    tables: dict[str, tuple[NDArray[np.float64], ...]]
    sources: tuple[str, ...] = ()
    margins: Mapping[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the costs this space is priced in."""
        return tuple(self.tables)

    def with_margin(self, limits: Mapping[str, float]) -> dict[str, float]:
        """Limits divided by 1 + margin, the known largest error of a measured table, so that the
        given limits hold on the device."""
        return {
            metric: limit / (1 + self.margins.get(metric, 0)) for metric, limit in limits.items()
        }

    def within(self, space: Space) -> PricedSpace:
        """The same prices, of a restriction of the space."""
        return replace(self, space=space)

    @cached_property
    def permitted(self) -> tuple[NDArray[np.bool_], ...]:
        """Per factor which combinations may be chosen, in the shape of the price tables."""
        return tuple(self.space.permitted(factor) for factor in self.space.factors)

    @cached_property
    def _flat(self) -> dict[str, NDArray[np.float64]]:
        return {m: np.concatenate([t.ravel() for t in ts]) for m, ts in self.tables.items()}

    def combinations(self, genes: Genes) -> NDArray[np.int64]:
        """Index of each factor's chosen combination into its flattened table, ``(n, factors)``."""
        return self.space.combinations(genes)

    def costs(
        self, genes: Genes, metrics: Iterable[str] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Costs of n candidates, one array of shape ``(n,)`` per metric.

        Sums over what runs plus what is fixed; ``peak_memory_kb`` is a maximum instead.
        """
        index = self.space.combinations(genes) + self.space.table_offsets
        skipped = ~self.space.counted(genes)
        out = {}
        for metric in self.metrics if metrics is None else metrics:
            values = self._flat[metric][index]
            values[skipped] = 0.0
            if metric == "peak_memory_kb":
                out[metric] = np.maximum(values.max(axis=1, initial=0), self.fixed[metric])
            else:
                out[metric] = values.sum(axis=1) + self.fixed[metric]
        return out

    def reach(self, metric: str) -> tuple[float, float]:
        """Exact smallest and largest cost over the permitted candidates."""
        return self.extreme(metric)[0], self.extreme(metric, largest=True)[0]

    def extreme(
        self, metric: str, largest: bool = False, canonical: bool = True
    ) -> tuple[float, Genes]:
        """The exact smallest (or largest) cost of permitted candidates, and a row that has it.

        Every factor is first minimised over the genes that only it reads. The genes that factors
        share and the depths are then eliminated one after the other (Dechter, 1999, "Bucket
        elimination"); with depths only, this is one choice per stage.

        Returns:
            The cost, and genes of shape ``(1, axes)``; skipped slots hold their best block too
            unless ``canonical``.
        """
        key = (metric, largest)
        if key not in self._extremes:
            self._extremes[key] = _best_row(self, metric, largest)
        row: Genes = self._extremes[key].copy()
        if canonical:
            row = self.space.canonical(row)
        return float(self.costs(row, [metric])[metric][0]), row

    @cached_property
    def _extremes(self) -> dict[tuple[str, bool], Genes]:
        """Rows found before, by metric and whether the largest was asked for."""
        return {}

    @cached_property
    def bound(self) -> tuple[int, ...]:
        """Places of the genes that several factors read."""
        readers = np.zeros(len(self.space.axes), dtype=int)
        for factor in self.space.factors:
            readers[list(factor.axes)] += 1
        return tuple(int(i) for i in np.flatnonzero(readers > 1))


def _best_row(priced: PricedSpace, metric: str, largest: bool) -> Genes:
    """The row of the extreme cost, skipped slots with their best block."""
    space, worst = priced.space, -np.inf if largest else np.inf
    best = np.nanargmax if largest else np.nanargmin
    join = np.maximum if metric == "peak_memory_kb" else np.add
    row = np.array([[allowed[0] for allowed in space.allowed]], dtype=np.int16)

    private: list[tuple[tuple[int, ...], tuple[int, ...], NDArray[np.int64], tuple[int, ...]]] = []
    functions: list[tuple[tuple[int, ...], NDArray[np.float64]]] = []
    for factor, table, mask in zip(
        space.factors, priced.tables[metric], priced.permitted, strict=True
    ):
        kept = tuple(i for i in factor.axes if i in priced.bound)
        own = tuple(i for i in factor.axes if i not in priced.bound)
        order = [factor.axes.index(i) for i in (*kept, *own)]
        values = np.where(mask, table, worst).transpose(order)
        shape = values.shape[len(kept) :]
        values = values.reshape(*values.shape[: len(kept)], -1)
        pick = best(values, axis=-1)
        reduced = np.take_along_axis(values, pick[..., None], axis=-1)[..., 0]
        private.append((kept, own, pick, shape))
        depth = () if factor.slot is None else (space.slots[factor.slot].stage,)
        if depth:
            stage, position = space.stages[depth[0]], space.slots[factor.slot or 0].position
            runs = np.array([d > position for d in stage.depth])
            runs = runs.reshape(-1, *[1] * reduced.ndim)
            reduced = np.where(runs, reduced[None], 0.0)
        functions.append(((*depth, *kept), reduced))
    for variable, choice in _eliminate(space, functions, join, largest):
        row[0, variable] = choice(row[0])
    for kept, own, pick, shape in private:
        if own:
            row[0, list(own)] = np.unravel_index(int(pick[tuple(row[0, list(kept)])]), shape)
    return row


Function = tuple[tuple[int, ...], NDArray[np.float64]]
"""Places of genes, and a value for every combination of their choices."""


def _eliminate(
    space: Space, functions: list[Function], join: np.ufunc, largest: bool
) -> list[tuple[int, Callable[[NDArray[np.int16]], int]]]:
    """Best choice of every variable as a function of those chosen before it, in the order in which
    to choose.

    Raises:
        SpaceError: factors share so many genes that a joint table would be too large.
    """
    best = np.argmax if largest else np.argmin
    picks: list[tuple[int, Callable[[NDArray[np.int16]], int]]] = []
    left = {i for scope, _ in functions for i in scope}
    sizes = space.cardinalities.tolist()
    while left:
        joint = {v: {i for s, _ in functions if v in s for i in s} for v in left}
        listed = {v: math.prod(sizes[i] for i in scope) for v, scope in joint.items()}
        variable = min(left, key=lambda v, listed=listed: (listed[v], v))  # type: ignore[misc]
        if listed[variable] > MOST_JOINT:
            raise SpaceError(
                f"space {space.name!r}: {space.axes[variable].name} is priced together with so "
                f"many other genes that {listed[variable]:,} combinations would have to be "
                f"listed, at most {MOST_JOINT:,}. Let fewer blocks share widths."
            )
        mine = [f for f in functions if variable in f[0]]
        scope = tuple(sorted({i for s, _ in mine for i in s if i != variable}))
        full = (*scope, variable)
        total: Any = None
        for own, table in mine:
            order = sorted(range(len(own)), key=lambda dim, own=own: full.index(own[dim]))  # type: ignore[misc]
            shape = [len(space.axes[i].choices) if i in own else 1 for i in full]
            part = table.transpose(order).reshape(shape)
            total = part if total is None else join(total, part)
        allowed = list(space.allowed[variable])
        total = np.broadcast_to(total, [len(space.axes[i].choices) for i in full])[..., allowed]
        chosen = np.array(allowed)[best(total, axis=-1)]

        def choice(
            row: NDArray[np.int16], scope: tuple[int, ...] = scope, chosen: Any = chosen
        ) -> int:
            return int(chosen[tuple(row[list(scope)])])

        picks.append((variable, choice))
        functions = [f for f in functions if variable not in f[0]]
        functions.append((scope, total.max(axis=-1) if largest else total.min(axis=-1)))
        left.remove(variable)
    return picks[::-1]


MOST_JOINT = 50_000_000
"""Largest joint table, in combinations of choices, when finding an extreme."""


def price_space(space: Space, models: CostModel | Sequence[CostModel] = ()) -> PricedSpace:
    """Price every factor of a space once.

    Args:
        space: The space.
        models: A cost model, or several: then each device's metrics carry its name, as in
            ``latency_ms@bitfusion-apq``. Without any: counted costs
            only (MACs, BitOps, bytes).

    Returns:
        Prices in ms, mJ, 10^6 MACs, 10^9 BitOps, 10^6 bytes of weights and 10^3 bytes of memory,
        as the ends of the names say.

    Raises:
        TableError: a combination the space allows has no price (names it and what is near), or
            two devices have one name.

    Example:
        >>> import apq
        >>> space = apq.load_space("digits")
        >>> priced = apq.price_space(space, apq.load_cost_model("roofline"))
        >>> genes = space.genes([space.build([0] * len(space.axes))])  # its smallest candidate
        >>> costs = priced.costs(genes)
        >>> sorted(costs)
        ['bitops_g', 'latency_ms', 'macs_m', 'peak_memory_kb', 'size_mb']
        >>> low, high = priced.reach("latency_ms")  # of all candidates, exactly
        >>> bool(low <= costs["latency_ms"][0] <= high)
        True
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
    margins: dict[str, float] = {}
    fixed_layers = to_array(list(space.fixed_layers.values()))
    for metric, values in counts(fixed_layers).items():
        fixed[metric] = float(values.sum())
    first = [node for node in space.graph.layers[:1] if node.name in space.fixed_layers]
    fixed["peak_memory_kb"] = float(peak_memory_kb(space, first, {})) if first else 0.0
    for factor in space.factors:
        grid = space.grid(factor)
        parts = dict.fromkeys(("macs_m", "bitops_g", "size_mb"), 0.0)
        for node, layers in space.rows(factor.nodes, grid):
            for metric, values in counts(layers).items():
                parts[metric] = parts[metric] + values * there(node, grid)
        shape = tuple(m.size for m in grid.values())
        for metric, total in parts.items():
            tables.setdefault(metric, []).append(np.zeros(shape) + total)
        peak = peak_memory_kb(space, factor.nodes, grid)
        tables.setdefault("peak_memory_kb", []).append(np.broadcast_to(peak, shape))
    for device in devices:
        suffix = f"@{device.name}" if len(devices) > 1 else ""
        _price_device(space, device, suffix, fixed, tables)
        margin = getattr(device, "margin", None)
        if margin is not None:
            margins[f"latency_ms{suffix}"] = margin
    return PricedSpace(
        space,
        fixed,
        {m: tuple(t) for m, t in tables.items()},
        tuple(f"{d.name}: {d.source}" for d in devices),
        margins,
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
    for factor in space.factors:
        grid, allowed = space.grid(factor), space.permitted(factor)
        parts = device_rows(space, factor, grid, device)
        priced = [(part, where, device.price(part)) for part, where in parts]
        for metric in prices:
            total = np.zeros(allowed.shape)
            for part, where, price in priced:
                total = total + np.where(where, price[metric], 0.0)
                bad = np.broadcast_to(np.isnan(price[metric]) & where, allowed.shape) & allowed
                if bad.any():
                    cell = np.argwhere(bad)[0]
                    at = tuple(c if n > 1 else 0 for c, n in zip(cell, part.shape, strict=True))
                    raise TableError(device.explain(part[at].reshape(1)))
            tables.setdefault(metric + suffix, []).append(np.where(allowed, total, np.nan))


def device_rows(
    space: Space, factor: Factor, values: Mapping[str, Any], device: CostModel
) -> list[tuple[LayerArray, NDArray[np.bool_] | np.bool_]]:
    """The rows that a device prices for a factor (its layers, or the whole block as one row), and
    for which values of its genes each runs.

    Raises:
        TableError: the device prices whole blocks, and this is not one that it supports.
    """
    nodes = [node for node in factor.nodes if node.name not in device.leaves_out]
    if device.granularity == "block" and factor.slot is not None:
        convolutions = [node for node in nodes if node.op in LAYERS]
        first = convolutions[0]
        kinds = [(n.op, channelwise(n)) for n in convolutions]
        if kinds != [("conv", False), ("conv", True), ("conv", False)]:
            raise TableError(
                f"{device.name} prices whole inverted residuals, and block {factor.name} of space "
                f"{space.name!r} is none; use a table of single layers (--granularity layer)"
            )
        side = space.sides(values)[first.inputs[0]]
        return [(whole_block(space.graph, nodes, side, values), np.True_)]
    return [(row, there(node, values)) for node, row in space.rows(nodes, values)]
