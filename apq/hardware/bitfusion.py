"""Bit Fusion: a spatial accelerator whose multipliers are composed from 2-bit bricks.

Tiling, loop orders, buffer residency, cycles and energy follow the public performance model of
Sharma et al., "Bit Fusion" (ISCA 2018); ``BITFUSION_APQ`` adds the changes that reproduce the
lookup table published with APQ (Wang et al., CVPR 2020). The reference is a simulator, not
silicon.

Letters in this module: K kernel, S stride, O output side, IC/OC channels, B batch; lowercase for a
tile; N rows (input channels) and M columns (output channels) of the array; P products a fusion
unit computes per cycle. L counts layers, T tiles.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from apq.hardware.base import Prices, Simulator, as_integers, list_layers, why_no_integers
from apq.space.layer import OPS, LayerArray, out_side, to_layer

Ints = NDArray[np.int64]

FIGURES = (
    "cycles", "compute_cycles", "input_bits", "weight_bits", "output_bits", "energy_nj",
    "tile_side", "tile_in", "tile_out",
)  # fmt: skip
"""Figures of a simulated layer; bits are DRAM traffic, outputs one way."""

_LOOPS = ("B", "OW", "OH", "IC", "OC")
_DEPENDS = {
    "input": {"B", "OW", "OH", "IC"},
    "weight": {"IC", "OC"},
    "output": {"B", "OW", "OH", "OC"},
}


@dataclass(frozen=True)
class BufferEnergy:
    """Energies of one Bit Fusion configuration, 45 nm.

    Attributes:
        core_nj: Per compute cycle, nJ, whole array.
        static_nj: Per cycle, nJ (leakage).
        dram_pj: Per bit moved, pJ.
        weight_pj, input_pj, output_pj: (read, write) per bit of each buffer, pJ.
        shared_reads: An input is read once per array row and broadcast over the columns, and a
            unit reads at most 8 weight bits per cycle; otherwise every product reads its operands.
    """

    core_nj: float
    static_nj: float = 0.0
    dram_pj: float = 15.0
    weight_pj: tuple[float, float] = (0.02136565625, 0.02891615625)
    input_pj: tuple[float, float] = (0.059474375, 0.1137040625)
    output_pj: tuple[float, float] = (0.0331553125, 0.0730840625)
    shared_reads: bool = False


@dataclass(frozen=True)
class BitFusion(Simulator):
    """Cost model of one Bit Fusion configuration, by default at batch size 1.

    Attributes:
        name, source: See :class:`apq.hardware.base.CostModel`.
        rows, columns: The array: input-channel lanes x output channels.
        frequency_mhz: Clock.
        dram_bits_per_cycle: Interface shared by reads and writes.
        weight_kb, input_kb, output_kb: Buffers in KiB; half of each is usable (double buffering).
        max_bits, min_bits: Operand range of a fusion unit.
        psum_bits: Width of partial sums, in the buffer and in DRAM.
        write_activations: Final outputs leave at activation bits and the first read of zero
            partial sums is skipped; otherwise outputs are read and written as partial sums.
        pad_traffic: DRAM moves weights padded to full rows and outputs padded to full columns.
        pad_buffers: Buffers hold every operand padded to rows, columns and a power of two of bits.
        depthwise: How a depthwise convolution of C channels is mapped: ``"dense-block"`` as
            ceil(C/8P) dense convolutions of 8P channels, ``"per-channel"`` as C convolutions of one
            channel, ``"columns"`` as one input channel and C output channels (ideal), ``"dense"``.
        objective: Order of criteria for the tile: cycles, then energy; or energy, then cycles.
        energy: Energies; None: energy is not priced.
        batch: Images per run; figures are for the whole batch.
    """

    name: str
    source: str
    rows: int = 16
    columns: int = 32
    frequency_mhz: float = 500.0
    dram_bits_per_cycle: int = 192
    weight_kb: int = 64
    input_kb: int = 32
    output_kb: int = 16
    max_bits: int = 8
    min_bits: int = 2
    psum_bits: int = 32
    write_activations: bool = False
    pad_traffic: bool = False
    pad_buffers: bool = True
    depthwise: Literal["dense-block", "per-channel", "columns", "dense"] = "dense-block"
    objective: Literal["cycles", "energy"] = "cycles"
    energy: BufferEnergy | None = None
    batch: int = 1

    def price(self, layers: LayerArray) -> Prices:
        """``latency_ms`` and, if the configuration has energies, ``energy_mj``; NaN where a layer
        is not a square dense or depthwise convolution, is too wide, or fits no buffer."""
        runs = self.run(layers)
        out = {"latency_ms": runs["cycles"] / (self.frequency_mhz * 1e3)}
        if self.energy is not None:
            out["energy_mj"] = runs["energy_nj"] / 1e6
        return out

    def explain(self, layers: LayerArray) -> str:
        """Name the layers and the reason."""
        row = layers.reshape(-1)[:1]
        layer, held, most = to_layer(row[0]), as_integers(row)[0], self.max_bits
        bits = int(held["weight_bits"]), int(held["activation_bits"])
        if layer.op == "mbconv":
            why = "it prices single layers, not whole blocks."
        elif layer.height != layer.width:
            why = "it prices square inputs."
        elif layer.groups not in (1, layer.in_channels):
            why = "it prices dense and depthwise convolutions, not other groups."
        elif no_integers := why_no_integers(row):
            why = no_integers
        elif max(bits) > most:
            why = f"its units take operands of at most {most} bits, not of {max(bits)}."
        else:
            why = (
                "no tile fits its buffers. `apq lut build` prices such a layer with wider "
                "activations; or exclude the combination in the space file ([[exclude]])."
            )
        return f"{self.name} cannot price {list_layers(layers)}: {why}"

    def run(self, layers: LayerArray) -> dict[str, NDArray[np.float64]]:
        """Simulate layers, each figure in the shape of ``layers``, NaN where infeasible.

        Returns:
            A column per name of FIGURES, summed over the convolutions that a depthwise layer is
            mapped to.
        """
        flat = layers.reshape(-1)
        shape, count = self._map(flat)
        ok = count > 0
        unique, back = np.unique(shape[ok], axis=0, return_inverse=True)
        figures = simulate(self, unique)
        out = {}
        for name, values in figures.items():
            column = np.full(len(flat), np.nan)
            repeats = 1 if name.startswith("tile") else count[ok]
            column[ok] = values[back.reshape(-1)] * repeats
            out[name] = column.reshape(layers.shape)
        return out

    def products(self, weight_bits: Ints, activation_bits: Ints) -> Ints:
        """P: products per unit and cycle; bits are rounded up to a power of two of bricks."""
        w, a = (np.maximum(power_of_two(b), self.min_bits) for b in (weight_bits, activation_bits))
        rate: Ints = (self.max_bits // w) * (self.max_bits // a)
        return rate

    def _map(self, layers: LayerArray) -> tuple[Ints, Ints]:
        """Dense convolutions that implement each layer: rows (K, S, O, IC, OC, w, a, im2col), and
        their number; 0 where the layer cannot be priced."""
        rows = as_integers(layers)
        f = {name: rows[name].astype(np.int64) for name in rows.dtype.names or ()}
        c, groups, w, a = f["in_channels"], f["groups"], f["weight_bits"], f["activation_bits"]
        depthwise = (groups > 1) & (groups == c) & (f["out_channels"] == c)
        fits = (f["op"] != OPS.index("mbconv")) & (f["height"] == f["width"])
        fits &= ((groups == 1) | depthwise) & (np.maximum(w, a) <= self.max_bits) & (w > 0)
        block = 8 * self.products(np.minimum(w, self.max_bits), np.minimum(a, self.max_bits))
        ones = np.ones_like(c)
        ic, oc, many = {
            "dense-block": (block, block, -(-c // block)),
            "per-channel": (ones, ones, c),
            "columns": (ones, c, ones),
            "dense": (c, c, ones),
        }[self.depthwise]
        # An image has too few channels to fill the rows, so kernel taps are laid out along them.
        im2col = ~depthwise & (f["kernel"] > 1) & (c < self.rows)
        shape = np.stack(
            [
                f["kernel"],
                f["stride"],
                out_side(f["height"], f["stride"]),
                np.where(depthwise, ic, c),
                np.where(depthwise, oc, f["out_channels"]),
                w,
                a,
                im2col,
            ],
            axis=1,
        ).astype(np.int64)
        return shape, np.where(fits, np.where(depthwise, many, 1), 0)

    @cached_property
    def _orders(self) -> list[tuple[str, ...]]:
        """Distinct loop orders, innermost first: OW and OH are interchangeable, and with a batch of
        one its loop is trivial."""
        loops = _LOOPS if self.batch > 1 else _LOOPS[1:]
        orders = itertools.permutations(loops)
        return [order for order in orders if order.index("OW") < order.index("OH")]


def power_of_two(bits: Ints) -> Ints:
    """Bits rounded up to 1, 2, 4, 8, 16, 32."""
    return (2 ** np.ceil(np.log2(np.maximum(bits, 1)))).astype(np.int64)


def simulate(
    model: BitFusion, shapes: Ints, chunk: int = 1 << 18
) -> dict[str, NDArray[np.float64]]:
    """Best tiling of dense convolutions.

    Args:
        model: The configuration.
        shapes: Rows (K, S, O, IC, OC, weight bits, activation bits, im2col), shape (L, 8).
        chunk: Tiles evaluated together; bounds memory.

    Returns:
        A column per name of FIGURES, each of shape (L,); NaN where no tile fits.
    """
    _, _, side, ic, oc, _, _, im2col = shapes.T
    first = np.where(im2col > 0, 1, model.columns)
    steps = np.stack([_doublings(side, 1), _doublings(ic, 1), _doublings(oc, first)], axis=1)
    out = {name: np.full(len(shapes), np.nan) for name in FIGURES}
    for many in np.unique(steps, axis=0):
        rows = np.flatnonzero((steps == many).all(axis=1))
        at_once = max(1, chunk // int(np.prod(many + 1)))
        for part in np.split(rows, range(at_once, len(rows), at_once)):
            for name, values in _simulate_alike(model, shapes[part], many).items():
                out[name][part] = values
    return out


def _doublings(size: Ints, first: int | Ints) -> Ints:
    """Number of doublings of ``first`` until it covers ``size``."""
    return np.ceil(np.log2(np.maximum(size / first, 1))).astype(np.int64)


@dataclass(frozen=True)
class _Tiles:
    """Tile candidates of layers, arrays that broadcast to ``(layers, candidates)``.

    Attributes:
        side, inputs, outputs, batch: Size of a tile: pixels along a side, channels, images.
        trips: How often each loop runs.
        count: How many tiles there are.
        moved: Bits of a tile of each tensor, as DRAM moves it.
        held: The same as the buffers hold it.
        compute: Cycles of the array for the whole layer.
    """

    side: Ints
    inputs: Ints
    outputs: Ints
    batch: Ints
    trips: dict[str, Ints]
    count: Ints
    moved: dict[str, Ints]
    held: dict[str, Ints]
    compute: Ints


def _tiles(model: BitFusion, layer: tuple[Ints, ...], many: Ints) -> _Tiles:
    """Every tile whose sizes are doublings: ``many`` of side, input and output channels."""
    k, s, side, ic, oc, w, a, im2col = layer
    n, m = model.rows, model.columns
    batches = np.minimum(2 ** np.arange(int(_doublings(np.array(model.batch), 1)) + 1), model.batch)
    grid = np.meshgrid(*(np.arange(x + 1) for x in many), batches, indexing="ij")
    at_side, at_in, at_out, b = (g.reshape(1, -1) for g in grid)
    o = np.minimum(2**at_side, side)
    i = np.minimum(2**at_in, ic)
    c = np.minimum(np.where(im2col > 0, 1, m) * 2**at_out, oc)
    lanes = n * model.products(w, a)
    columns = -(-c // m) * m
    window = np.where(im2col > 0, o * o * k * k, (k + (o - 1) * s) ** 2)
    packed = -(-(k * k * i) // lanes) * lanes  # weights of one output, padded to full rows
    moved = {
        "input": window * i * b * a,
        "weight": (packed if model.pad_traffic else k * k * i) * c * w,
        "output": o * o * (columns if model.pad_traffic else c) * b * model.psum_bits,
    }
    held = moved
    if model.pad_buffers:
        rows_held = -(-i // lanes) * lanes
        dense_weights = np.where(im2col > 0, packed, k * k * rows_held)
        held = {
            "input": window * np.where(im2col > 0, i, rows_held) * b * power_of_two(a),
            "weight": dense_weights * columns * power_of_two(w),
            "output": o * o * columns * b * model.psum_bits,
        }
    trips = {"B": -(-model.batch // b), "OW": -(-side // o), "IC": -(-ic // i), "OC": -(-oc // c)}
    trips["OH"] = trips["OW"]
    count = trips["B"] * trips["OW"] ** 2 * trips["IC"] * trips["OC"]
    steps = np.where(im2col > 0, -(-(k * k * i) // lanes), k * k * -(-i // lanes))
    compute = count * b * o * o * -(-c // m) * steps
    return _Tiles(o, i, c, b, trips, count, moved, held, compute)


def _simulate_alike(model: BitFusion, shapes: Ints, many: Ints) -> dict[str, NDArray[np.float64]]:
    """Simulate layers with the same numbers of tile candidates ``many`` (side, in, out)."""
    layer = tuple(column[:, None] for column in shapes.T)
    tiles = _tiles(model, layer, many)
    kilobytes = {"input": model.input_kb, "weight": model.weight_kb, "output": model.output_kb}
    half = {name: kb * 1024 * 8 // 2 for name, kb in kilobytes.items()}
    fits = np.ones(tiles.side.shape, dtype=bool)
    for name, size in tiles.held.items():
        fits = fits & (size <= half[name])
    best, (major, minor) = _best_order(model, layer, tiles, half, fits)
    ties = major == major.min(axis=1, keepdims=True)
    pick = np.where(ties, minor, np.inf).argmin(axis=1)[:, None]

    def at(values: NDArray[np.generic]) -> NDArray[np.float64]:
        full = np.broadcast_to(values, fits.shape)
        chosen = np.take_along_axis(full, pick, axis=1)[:, 0].astype(np.float64)
        return np.where(np.take_along_axis(fits, pick, axis=1)[:, 0], chosen, np.nan)

    found = {
        "cycles": best["cycles"], "compute_cycles": tiles.compute, "input_bits": best["input"],
        "weight_bits": best["weight"], "output_bits": best["output"], "energy_nj": best["energy"],
        "tile_side": tiles.side, "tile_in": tiles.inputs, "tile_out": tiles.outputs,
    }  # fmt: skip
    return {name: at(values) for name, values in found.items()}


def _best_order(
    model: BitFusion, layer: tuple[Ints, ...], tiles: _Tiles, half: dict[str, int],
    fits: NDArray[np.bool_],
) -> tuple[dict[str, NDArray[Any]], list[NDArray[np.float64]]]:  # fmt: skip
    """Per tile candidate the figures of its best loop order, and what ranks it: the objective,
    then the other of cycles and energy."""
    k, _, side, ic, oc, w, a, _ = layer
    pixels = tiles.batch * tiles.side * tiles.side
    tile = {
        "products": pixels * k * k * tiles.inputs * tiles.outputs,
        "outputs": pixels * tiles.outputs,
    }
    once = tiles.moved["output"] * tiles.count // tiles.trips["IC"]
    shape = (k, side, ic, oc, w, a)
    operands = _operand_energy_nj(model, tile, tiles.count, tiles.compute, shape)
    best: dict[str, NDArray[Any]] = {}
    best_rank = [np.full(fits.shape, np.inf), np.full(fits.shape, np.inf)]
    for order in model._orders:
        moved, kept = {}, {}
        for name in tiles.moved:
            sizes = tiles.moved[name], tiles.held[name], half[name]
            moved[name], kept[name] = _promote(order, name, sizes, tiles.trips)
        cycles, traffic = _cycles(model, moved, kept, once, tiles.compute, a)
        energy = operands + _movement_energy_nj(model, moved, traffic, cycles, tiles.compute)
        cycles, energy = np.where(fits, cycles, np.inf), np.where(fits, energy, np.inf)
        rank = (cycles, energy) if model.objective == "cycles" else (energy, cycles)
        better = (rank[0] < best_rank[0]) | ((rank[0] == best_rank[0]) & (rank[1] < best_rank[1]))
        best_rank = [np.where(better, new, old) for new, old in zip(rank, best_rank, strict=True)]
        for name, values in (("cycles", cycles), ("energy", energy), *moved.items()):
            best[name] = np.where(better, values, best.get(name, 0))
    return best, best_rank


def _promote(
    order: tuple[str, ...], tensor: str, sizes: tuple[Ints, Ints, int], trips: dict[str, Ints]
) -> tuple[Ints, Ints]:
    """Walk the loops outwards: DRAM bits a tensor moves one way, and bits that stay resident.

    While a tensor is resident, loops it does not depend on cost nothing and the others enlarge it;
    once it outgrows half its buffer, every further loop moves it again. ``sizes``: bits of a tile
    as moved and as held in the buffer, and the bits that may be held.
    """
    size, held, limit = sizes
    moved, kept = size, size
    resident: NDArray[np.bool_] = np.ones(np.broadcast_shapes(size.shape, held.shape), dtype=bool)
    for loop in order:
        n = trips[loop]
        if loop in _DEPENDS[tensor]:
            held = held * n
            resident = resident & (held <= limit)
            moved = moved * n
            kept = np.where(resident, moved, kept)
        else:
            moved = np.where(resident, moved, moved * n)
    return moved, kept


def _cycles(
    model: BitFusion,
    moved: dict[str, Ints],
    kept: dict[str, Ints],
    once: Ints,
    compute: Ints,
    activation_bits: Ints,
) -> tuple[Ints, Ints]:
    """Cycles and DRAM bits; transfers overlap compute except the first load and the last store.

    ``once`` is every output moved one time as partial sums, in bits.
    """
    load = store = kept["output"]
    outputs = 2 * moved["output"]
    if model.write_activations:
        outputs = 2 * (moved["output"] - once) + once * activation_bits // model.psum_bits
        load, store = np.zeros_like(load), store * activation_bits // model.psum_bits
    traffic = moved["input"] + moved["weight"] + outputs
    begin = kept["input"] + kept["weight"] + load
    wide = model.dram_bits_per_cycle
    exposed = -(-begin // wide) + -(-store // wide)
    hidden = -(-(traffic - begin - store) // wide)
    return compute + np.maximum(0, hidden - compute) + exposed, traffic


def _operand_energy_nj(
    model: BitFusion, tile: dict[str, Ints], tiles: Ints, compute: Ints, layer: tuple[Ints, ...]
) -> NDArray[np.float64]:
    """Energy of reading operands from the buffers and of accumulating, whole layer, nJ.

    Output-stationary: a tile reads and writes its partial sums once. The public model also weighs
    input- and weight-stationary orders; output-stationary wins in every run it published.
    """
    energy = model.energy
    if energy is None:
        return np.zeros(compute.shape)
    k, side, ic, oc, w, a = layer
    macs = k * k * side * side * ic * oc * model.batch
    if energy.shared_reads:
        weights = np.minimum(macs * w, model.rows * model.columns * 8 * compute)
        inputs = k * k * side * side * ic * -(-oc // model.columns) * model.batch * a
        shared: NDArray[np.float64] = weights * energy.weight_pj[0] + inputs * energy.input_pj[0]
        return shared / 1e3
    reads = tile["products"] * tiles * (a * energy.input_pj[0] + w * energy.weight_pj[0])
    sums = tile["outputs"] * tiles * model.psum_bits * sum(energy.output_pj)
    nano: NDArray[np.float64] = (reads + sums) / 1e3
    return nano


def _movement_energy_nj(
    model: BitFusion, moved: dict[str, Ints], traffic: Ints, cycles: Ints, compute: Ints
) -> NDArray[np.float64]:
    """DRAM, buffer fills and drains, array and leakage, nJ."""
    energy = model.energy
    if energy is None:
        return traffic.astype(np.float64)  # only used to break ties
    pico = traffic * energy.dram_pj
    pico = pico + moved["input"] * energy.input_pj[1] + moved["weight"] * energy.weight_pj[1]
    pico = pico + moved["output"] * sum(energy.output_pj)
    nano: NDArray[np.float64] = pico / 1e3 + cycles * energy.static_nj + compute * energy.core_nj
    return nano


_SHARMA = "Sharma et al., Bit Fusion, ISCA 2018 (public performance model)"

_PUBLIC_ENERGY = BufferEnergy(core_nj=0.235104)
_APQ_ENERGY = BufferEnergy(core_nj=0.4698, static_nj=0.4408, shared_reads=True)
"""Core and static energy are fitted to APQ's published table (two constants); the public
synthesis figures give 2 x 0.235104 and 0.42497 instead."""


def bitfusion_public() -> BitFusion:
    """The unmodified public model: 16x32 units, 500 MHz, 12 GB/s, no leakage."""
    return BitFusion(
        "bitfusion-public",
        _SHARMA + "; depthwise as dense blocks (ours)",
        pad_traffic=True,
        pad_buffers=False,
        energy=_PUBLIC_ENERGY,
    )


def bitfusion_apq() -> BitFusion:
    """The device of APQ's published table: same array, traffic unpadded, buffers padded."""
    return BitFusion(
        "bitfusion-apq",
        _SHARMA + " with the changes that reproduce APQ's published table; core and static "
        "energy fitted to it",
        energy=_APQ_ENERGY,
    )


def bitfusion_ideal_dw() -> BitFusion:
    """As ``bitfusion-apq`` with an ideal depthwise mapping and outputs at activation bits: shows
    how far conclusions depend on the depthwise rule (ours)."""
    return BitFusion(
        "bitfusion-ideal-dw",
        _SHARMA + "; depthwise channels on columns, outputs at activation bits (ours)",
        write_activations=True,
        depthwise="columns",
        energy=_APQ_ENERGY,
    )
