"""Joint search of the network and its accelerator.

The knobs of the accelerator are genes besides the network's own, and every price table has their
dimensions too. Costs therefore stay exact sums, limits are exact, and every algorithm of apq
searches both at once. QUIDAM (Inci et al., arXiv:2206.15463) co-explores in the same sense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError, SpaceError
from apq.hardware.designs import FACTS, Designs, LayerPrices, simulate_layers
from apq.hardware.pricing import PRICED, PricedSpace, counts
from apq.search.problem import Accuracy
from apq.space import Axis, Factor, Genes, Space
from apq.space.graph import there
from apq.space.layer import to_array

Floats = NDArray[np.float64]
DEVICE = "device_"
"""Prefix of the names of the accelerator's genes."""


@dataclass(frozen=True)
class CodesignSpace(Space):
    """A space of networks with the knobs of an accelerator as further genes, ``device_rows`` …

    The type of processing element (PE) comes first; :meth:`snap` replaces formats that it does not
    support by the nearest supported one.

    Attributes:
        designs: The accelerators.
    """

    designs: Designs | None = None

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """Depths, genes of several blocks, those of the accelerator, then slot by slot."""
        own = self._written.axes
        first = next((i for i, axis in enumerate(own) if axis.slot is not None), len(own))
        device = [
            Axis(DEVICE + name, DEVICE + name, _numbers(menu)) for name, menu in self.knobs.items()
        ]
        return (*own[:first], *device, *own[first:])

    @property
    def knobs(self) -> Mapping[str, tuple[Any, ...]]:
        """The accelerator's knobs and their choices."""
        assert self.designs is not None
        return self.designs.knobs

    @cached_property
    def device(self) -> tuple[int, ...]:
        """Axes of the accelerator's genes."""
        return tuple(self.place[DEVICE + name] for name in self.knobs)

    @cached_property
    def network(self) -> NDArray[np.int64]:
        """Axes of the network's genes, in the order of its own space."""
        others = (i for i in range(len(self.axes)) if i not in self.device)
        return np.fromiter(others, dtype=np.int64)

    def design(self, genes: Genes) -> NDArray[np.int64]:
        """Indices of the rows' accelerators among all designs, ``(n,)``."""
        assert self.designs is not None
        chosen = tuple(genes[:, list(self.device)].T)
        found: NDArray[np.int64] = np.ravel_multi_index(chosen, self.designs.shape)
        return found

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """The network's factors, which also read the accelerator's genes, and one factor for the
        fixed layers and the accelerator itself."""
        plain = Space(self.family).factors
        moved = [
            replace(f, axes=(*self.network[list(f.axes)].tolist(), *self.device)) for f in plain
        ]
        return (*moved, Factor("device", (), self.device))

    @cached_property
    def legal(self) -> NDArray[np.bool_]:
        """Which choices of every gene a type of PE supports, ``(types, axes, most choices)``.

        Raises:
            SpaceError: a type supports none of the formats of a gene.
        """
        assert self.designs is not None
        (name, types), *_ = self.knobs.items()
        most = int(self.cardinalities.max())
        legal = np.ones((len(types), len(self.axes), most), dtype=bool)
        formats = [i for i, axis in enumerate(self.axes) if axis.is_format]
        if name != "pe" or not formats:
            return legal
        every = sorted({c for i in formats for c in self.axes[i].choices})
        weights = [i for i in formats if self.axes[i].attribute.endswith("w_bits")]
        of_weights = sorted({c for i in weights for c in self.axes[i].choices}) or every
        of_inputs = sorted({c for i in {*formats} - {*weights} for c in self.axes[i].choices})
        pairs = np.array([
            [self.designs.takes(w, a) for a in of_inputs or every] for w in of_weights
        ])  # fmt: skip
        for i in formats:
            codes, axis = (of_weights, 1) if i in weights else (of_inputs or every, 0)
            ok: NDArray[np.bool_] = np.any(pairs, axis=axis)
            for c, code in enumerate(self.axes[i].choices):
                legal[:, i, c] = ok[codes.index(code)]
            if not legal[:, i, : len(self.axes[i].choices)].any(axis=1).all():
                raise SpaceError(f"a type of PE takes no choice of {self.axes[i].name}")
        return legal

    @cached_property
    def _taken(self) -> NDArray[np.int16]:
        """Nearest choice that a type of PE supports, ``(types, axes, most choices)``."""
        step = np.abs(np.arange(self.legal.shape[2])[:, None] - np.arange(self.legal.shape[2]))
        far = np.where(self.legal[:, :, None, :], step, 10_000)
        nearest: NDArray[np.int16] = far.argmin(axis=3).astype(np.int16)
        return nearest

    def snap(self, genes: Genes, canonical: bool = True) -> Genes:
        """As :meth:`Space.snap`; unsupported formats become the nearest that the PE supports."""
        out = super().snap(genes, canonical=False)
        if not self.legal.all():
            pe = out[:, [self.device[0]]]
            out = self._taken[pe, np.arange(out.shape[1]), out]
        return self.canonical(out) if canonical else out

    def permitted(self, factor: Factor) -> NDArray[np.bool_]:
        """As :meth:`Space.permitted`, without formats that the PE does not support."""
        mask = super().permitted(factor)
        if self.legal.all():
            return mask
        pe = factor.axes.index(self.device[0])
        for dim, i in enumerate(factor.axes):
            if not self.axes[i].is_format:
                continue
            shape = [1] * mask.ndim
            shape[pe], shape[dim] = mask.shape[pe], mask.shape[dim]
            ok = self.legal[:, i, : mask.shape[dim]]
            mask &= (ok if pe < dim else ok.T).reshape(shape)
        return mask

    def networks(self, design: int) -> Space:
        """The networks that a design runs, restricted as this space is."""
        assert self.designs is not None
        pe = int(np.unravel_index(design, self.designs.shape)[0])
        kept = {
            at: [c for c in self.allowed[i] if self.legal[pe, i, c]]
            for at, i in enumerate(self.network)
        }
        return Space(self.family).narrowed(kept, f"what {self.designs.name} runs")


def _numbers(menu: tuple[Any, ...]) -> tuple[int, ...]:
    """A knob's choices as values of a gene: integers as they are, others by their index."""
    return menu if all(isinstance(c, int) for c in menu) else tuple(range(len(menu)))


def price_designs(space: Space, designs: Designs, prices: LayerPrices | None = None) -> PricedSpace:
    """A space with the accelerator's knobs among its genes, priced on every design.

    Args:
        space: The space of networks.
        designs: Accelerators; types of PE that cannot run the space's fixed layers are left out.
        prices: Costs of every layer on every design, e.g. from a surrogate; None: simulated.

    Returns:
        A priced :class:`CodesignSpace`, with ``latency_ms``, ``energy_mj``, ``area_mm2``,
        ``power_mw`` (peak), ``size_mb`` and ``bitops_g``.

    Raises:
        ApqError: no design can run the space.
    """
    prices = prices or simulate_layers(space, designs)
    designs, prices = _able(space, designs, prices)
    fixed = prices.fixed(space, designs.models[0])
    joint = _joint(space, designs)
    tables = _tables(space, joint, designs, prices)
    tables |= _facts(space, joint, designs)
    for metric, cost in fixed.items():
        tables[metric].append(cost.reshape(designs.shape))
    source = f"{designs.name}: {designs.models[0].source}, {len(designs)} designs (simulated)"
    nothing = dict.fromkeys((*tables, "peak_memory_kb"), 0.0)  # all costs are in the tables
    return PricedSpace(joint, nothing, {m: tuple(t) for m, t in tables.items()}, (source,))


def _able(space: Space, designs: Designs, prices: LayerPrices) -> tuple[Designs, LayerPrices]:
    """The designs whose type of PE runs the fixed layers, and their prices.

    Raises:
        ApqError: there is none.
    """
    (first, types), *_ = designs.knobs.items()
    lacking = np.isnan(prices.fixed(space, designs.models[0])["latency_ms"])
    able = [not row.any() for row in lacking.reshape(len(types), -1)]
    kept = [t for t, ok in zip(types, able, strict=True) if ok]
    if not kept:
        raise ApqError(
            f"no {first} of {designs.name} takes the formats of what every network of space "
            f"{space.name!r} has (fixed_bits = {space.family.fixed_bits})"
        )
    rows = np.repeat(able, len(designs) // len(types))
    fewer = LayerPrices(prices.layers, {m: p[rows] for m, p in prices.prices.items()})
    return designs.narrowed({first: kept}), fewer


def _joint(space: Space, designs: Designs) -> CodesignSpace:
    """The joint space, restricted as the space of networks is."""
    joint = CodesignSpace(space.family, (), designs)
    kept = {int(i): menu for i, menu in zip(joint.network, space.allowed, strict=True)}
    return cast(CodesignSpace, joint.narrowed(kept, "the space"))


def _tables(
    space: Space, joint: CodesignSpace, designs: Designs, prices: LayerPrices
) -> dict[str, list[Floats]]:
    """Costs of the network's factors on every design.

    Raises:
        ApqError: a design cannot run a format that its type of PE supports.
    """
    tables: dict[str, list[Floats]] = {metric: [] for metric in prices.prices}
    for factor, wide in zip(space.factors, joint.factors, strict=False):
        mask = joint.permitted(wide)
        for metric, cost in prices.factor(space, factor, designs.models[0]).items():
            moved = np.moveaxis(cost, 0, -1)
            table = moved.reshape(*moved.shape[:-1], *designs.shape)
            if np.isnan(table[mask]).any():
                where = np.argwhere(np.isnan(table) & mask)[0][-len(designs.shape) :]
                design = designs.values(int(np.ravel_multi_index(tuple(where), designs.shape)))
                raise ApqError(
                    f"{designs.name} with {design} cannot run every choice of {factor.name} in "
                    f"space {space.name!r}; give it larger buffers or fewer rows and columns"
                )
            tables[metric].append(table)
    return tables


def _facts(space: Space, joint: CodesignSpace, designs: Designs) -> dict[str, list[Floats]]:
    """Costs that do not depend on the network, and costs that do not depend on the design."""
    facts = [designs.facts(model) for model in designs.models]
    tables: dict[str, list[Floats]] = {metric: [] for metric in (*FACTS, *COUNTED)}
    for factor, wide in zip(space.factors, joint.factors, strict=False):
        full = [len(joint.axes[i].choices) for i in wide.axes]
        for metric in FACTS:
            tables[metric].append(np.broadcast_to(0.0, full))
        grid = space.grid(factor)
        totals: dict[str, Any] = dict.fromkeys(COUNTED, 0.0)
        for node, layers in space.rows(factor.nodes, grid):
            for metric, values in counts(layers).items():
                if metric in COUNTED:
                    totals[metric] = totals[metric] + values * there(node, grid)
        for metric, total in totals.items():
            own = np.broadcast_to(total, full[: len(factor.axes)])
            own = own.reshape(*own.shape, *[1] * len(designs.shape))
            tables[metric].append(np.broadcast_to(own, full))
    for metric in FACTS:
        tables[metric].append(np.array([f[metric] for f in facts]).reshape(designs.shape))
    always = counts(to_array(list(space.fixed_layers.values())))
    for metric in COUNTED:
        tables[metric].append(np.broadcast_to(float(always[metric].sum()), designs.shape))
    return tables


COUNTED = ("size_mb", "bitops_g")
"""Costs that do not depend on the design."""
METRICS = (*PRICED, *FACTS, *COUNTED)
"""Metrics of networks with their accelerators."""


def of_network(space: Space, accuracy: Accuracy) -> Accuracy:
    """Extend a predictor for networks to the joint genes of network and accelerator.

    Args:
        space: The joint space.
        accuracy: Predicts from genes of the network alone.
    """
    network = joint_of(space).network

    def predict(genes: Genes) -> tuple[Floats, Floats]:
        return accuracy(np.ascontiguousarray(genes[:, network]))

    return predict


def joint_of(space: Space) -> CodesignSpace:
    """The space, if it is a joint space of networks and accelerators.

    Raises:
        ApqError: it is not.
    """
    if not isinstance(space, CodesignSpace):
        raise ApqError(f"space {space.name!r} has no accelerator to choose: price it on designs")
    return space
