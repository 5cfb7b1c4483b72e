"""Energy per operation and per memory access, 45 nm.

Operation energies follow Horowitz (ISSCC 2014) as fitted by QTools (google/qkeras; Coelho et al.,
arXiv:2006.10159): a multiply is quadratic in the geometric mean of the operand bits, an add linear.
Two memories: ``physical`` interpolates Horowitz's SRAM figures; ``qtools-compat`` reproduces
QTools, which multiplies a polynomial in pJ per *bit* by the number of 64-bit *words* and so reports
SRAM 64 times too low. All energies in pJ unless a name says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apq.hardware.base import Prices, Simulator, list_layers, single_layers
from apq.space.formats import BITS, FORMATS, SHIFTS, TABLE_BITS, WIDEST
from apq.space.layer import LayerArray, macs, out_side, weight_count

Kind = Literal["fixed", "po2", "ternary", "binary", "bit", "float"]
Memory = Literal["physical", "qtools-compat"]
Place = Literal["sram", "dram", "fixed"]

DRAM_PJ_PER_BIT = 1300 / 64
_FLOAT = {16: (0.4, 1.1), 32: (0.9, 3.7)}
"""(add, multiply) of floating point."""


@dataclass(frozen=True)
class Operand:
    """Number type of one side of a multiplication.

    Attributes:
        kind: ``fixed`` point, ``po2`` powers of two, ``ternary``, ``binary`` (+-1), ``bit`` (0/1)
            or ``float``.
        bits: Width, sign included; 2 for ternary, 1 for binary and bit, 16 or 32 for float.
        signed: Whether it has a sign.
        max_exponent: po2 only: largest exponent; None: what the bits allow.
    """

    kind: Kind
    bits: int
    signed: bool = True
    max_exponent: int | None = None

    @property
    def magnitude(self) -> int:
        """Bits of the value written as a fixed-point number, sign excluded."""
        if self.kind == "po2":
            half = 1 << (self.bits - self.signed - 1)
            top = half - 1 if self.max_exponent is None else min(half - 1, self.max_exponent)
            return half + top
        return self.bits - self.signed if self.bits > 1 else self.bits - (self.kind == "binary")


@dataclass(frozen=True)
class Mac:
    """One multiply-accumulate: the circuit, its width, and energies in pJ."""

    circuit: Literal["mul", "shifter", "add", "mux", "xor", "and"]
    gate_factor: float
    gate_bits: float
    accumulator_bits: int
    multiply_pj: float
    accumulate_pj: float

    @property
    def total_pj(self) -> float:
        """Multiply and accumulate."""
        return self.multiply_pj + self.accumulate_pj


def add_pj(bits: ArrayLike) -> NDArray[np.float64]:
    """Fixed-point addition of ``bits``."""
    return 0.003125 * np.asarray(bits, dtype=np.float64)


def multiply_pj(bits: ArrayLike) -> NDArray[np.float64]:
    """Fixed-point multiplication; ``bits`` is the geometric mean of the two widths."""
    b = np.asarray(bits, dtype=np.float64)
    return 0.002994791667 * b**2 + 0.001041666667 * b


def mac(weight: Operand, activation: Operand, fan_in: int, bias: bool = False) -> Mac:
    """Energy of one multiply-accumulate as QTools counts it.

    Args:
        weight, activation: Number types.
        fan_in: Products summed per output.
        bias: Whether a bias is added to that sum: one more bit in the accumulator (a bias with
            more fraction bits than the products would add those too; not modelled).

    Returns:
        The circuit that the two types need and its energies.
    """
    grow = math.ceil(math.log2(fan_in)) + bias
    if "float" in (weight.kind, activation.kind):
        bits = max(o.bits for o in (weight, activation) if o.kind == "float")
        add, multiply = _FLOAT[bits]
        return Mac("mul", 1.0, bits, bits, multiply, add)
    kinds = {weight.kind, activation.kind}
    sign = weight.signed or activation.signed
    if "bit" in kinds:
        other = activation if weight.kind == "bit" else weight
        wide = 2 if other.kind == "binary" else other.bits
        held = other.magnitude + other.signed if other.kind == "po2" else wide
        return _gate("and", 0.1, wide, held + grow)
    if kinds == {"binary"}:
        return _gate("xor", 0.3, 1, 1 + grow)
    if kinds & {"ternary", "binary"}:
        select = weight if weight.kind in ("ternary", "binary") else activation
        other = activation if select is weight else weight
        factor = 0.6 if select.kind == "ternary" else 0.3
        held = max(1, other.magnitude + 1)
        return _gate("mux", factor, other.bits, held + grow)
    if kinds == {"po2"}:
        wide = max(weight.bits, activation.bits) + 1
        tops = [o.max_exponent for o in (weight, activation)]
        top = None if None in tops else sum(t for t in tops if t is not None)
        held = Operand("po2", wide, sign, top).magnitude + sign
        return _gate("add", 1.0, wide, held + grow)
    held = weight.magnitude + activation.magnitude + sign
    if "po2" in kinds:
        power, fixed = (weight, activation) if weight.kind == "po2" else (activation, weight)
        root = math.sqrt(2**power.bits * fixed.bits)
        return _gate("shifter", 1.0, root * math.log10(root), held + grow)
    mean, held = math.sqrt(weight.bits * activation.bits), held + grow
    return Mac("mul", 1.0, mean, held, float(multiply_pj(mean)), float(add_pj(held)))


def _gate(
    circuit: Literal["shifter", "add", "mux", "xor", "and"], factor: float, bits: float, held: int
) -> Mac:
    energy = factor * float(add_pj(bits))
    return Mac(circuit, factor, bits, held, energy, float(add_pj(held)))


def sram_pj(bits: ArrayLike, memory: Memory = "physical", min_bits: int = 0) -> NDArray[np.float64]:
    """Energy of moving a tensor of ``bits`` once through an SRAM of its own size.

    Args:
        bits: Size of the tensor.
        memory: ``physical``: pJ per bit interpolated log-log through Horowitz's 8 KB, 32 KB and
            1 MB, slope 1/2 outside (ours). ``qtools-compat``: its cubic in log2(bits) times
            ceil(bits / 64).
        min_bits: The SRAM is at least this large.
    """
    size = np.asarray(bits, dtype=np.float64)
    z = np.log2(np.maximum(np.maximum(size, min_bits), 1))
    if memory == "qtools-compat":
        per_bit = 9.02427321e-4 * z**3 - 2.68847858e-2 * z**2 + 2.08900804e-1 * z
        return np.ceil(size / 64) * np.maximum(per_bit, 0)
    knots = np.array([16.0, 18.0, 23.0])  # log2 bits of 8 KB, 32 KB, 1 MB
    values = np.log2([0.15625, 0.3125, 1.5625])
    inside = np.interp(z, knots, values)
    outside = 0.5 * (np.minimum(z - knots[0], 0) + np.maximum(z - knots[-1], 0))
    physical: NDArray[np.float64] = size * 2.0 ** (inside + outside)
    return physical


def move_pj(
    bits: ArrayLike,
    place: Place,
    memory: Memory = "physical",
    min_sram_bits: int = 0,
    staged: bool = True,
) -> NDArray[np.float64]:
    """Energy of reading (or writing) a tensor once.

    ``place``: ``"fixed"`` costs nothing (weights wired in). ``staged``: what comes from DRAM also
    passes an SRAM (QTools' rd_wr_on_io).
    """
    size = np.asarray(bits, dtype=np.float64)
    if place == "fixed":
        return np.zeros_like(size)
    if place == "sram":
        return sram_pj(size, memory, min_sram_bits)
    extra = sram_pj(size, memory, min_sram_bits) if staged else 0.0
    return DRAM_PJ_PER_BIT * size + extra


@dataclass(frozen=True)
class Horowitz(Simulator):
    """Energy of layers: operations plus each tensor moved once; no latency.

    Compulsory accesses only, no tiling, registers or control: good for comparing quantizations of
    one network, not for absolute figures.

    Attributes:
        weight_kind, activation_kind: Number types of plain widths, which come from the layers
            (ternary and binary have their own, float is the 16 or 32 that holds the layer's bits).
            Layers with schemes define their own types; a sum of powers of two is priced as shifts
            and additions.
        weights_in, activations_in: Where tensors are stored.
        bias_bits: Width of the bias that every layer adds, kept with the weights; 0: none.
        memory: See :func:`sram_pj`.
        min_sram_bits: Smallest SRAM.
        staged: DRAM traffic also passes an SRAM.
        count_outputs: Add writing the output; QTools charges it to the next layer's input.
    """

    name: str = "horowitz"
    source: str = (
        "Horowitz, ISSCC 2014 (45 nm) with QTools' operation energies; SRAM interpolated (ours)"
    )
    weight_kind: Kind = "fixed"
    activation_kind: Kind = "fixed"
    weights_in: Place = "dram"
    activations_in: Place = "sram"
    bias_bits: int = 32
    memory: Memory = "physical"
    min_sram_bits: int = 0
    staged: bool = True
    count_outputs: bool = True

    def price(self, layers: LayerArray) -> Prices:
        """``energy_mj``; NaN for whole blocks."""
        single = single_layers(layers)
        rows = layers[single]
        f = {name: rows[name].astype(np.float64) for name in rows.dtype.names or ()}
        fan_in = rows["in_channels"] // rows["groups"] * rows["kernel"].astype(np.int64) ** 2
        keys = np.stack([rows["weight_bits"], rows["activation_bits"], fan_in], axis=1)
        unique, back = np.unique(keys.reshape(-1, 3), axis=0, return_inverse=True)
        each = np.array([self._mac_pj(int(w), int(a), int(n)) for w, a, n in unique])
        pixels = out_side(rows["height"], rows["stride"]) * out_side(rows["width"], rows["stride"])
        activation_bits = BITS[rows["activation_bits"]]
        formats = rows["weight_bits"]
        table = np.where(SHIFTS[formats] > 0, 0, TABLE_BITS[formats])  # exponents are read as such
        weights = weight_count(rows) * BITS[formats] + table
        inputs = f["in_channels"] * f["height"] * f["width"] * activation_bits
        tensors = [
            (weights, self.weights_in),
            (f["out_channels"] * self.bias_bits, self.weights_in),
            (inputs, self.activations_in),
        ]
        if self.count_outputs:
            outputs = f["out_channels"] * pixels * activation_bits
            tensors.append((outputs, self.activations_in))
        total = macs(rows) * each[back.reshape(-1)]
        for bits, place in tensors:
            total = total + move_pj(bits, place, self.memory, self.min_sram_bits, self.staged)
        out = np.full(layers.shape, np.nan)
        out[single] = total / 1e9
        return {"energy_mj": out}

    def _mac_pj(self, weight: int, activation: int, fan_in: int) -> float:
        terms = max(1, FORMATS[weight].shifts)
        w = _operand(weight, self.weight_kind)
        w = replace(w, bits=w.bits // terms)
        a = _operand(activation, self.activation_kind, signed=False)
        return terms * mac(w, a, fan_in, self.bias_bits > 0).total_pj

    def explain(self, layers: LayerArray) -> str:
        """Only whole blocks have no price."""
        return f"{self.name} cannot price {list_layers(layers)}: it prices single layers."


_KINDS: dict[str, Kind] = {"binary01": "bit"}
"""QTools' names of operands that differ from ours."""


def _operand(code: int, plain: Kind, signed: bool = True) -> Operand:
    """The number type of a format; ``plain``: of plain widths."""
    f = FORMATS[code]
    kind = plain if code <= WIDEST else _KINDS.get(f.operand, cast(Kind, f.operand))
    own = {"ternary": 2, "binary": 1, "bit": 1, "float": 16 if f.bits <= 16 else 32}
    return Operand(kind, own.get(kind, f.bits), signed)


def horowitz_qtools() -> Horowitz:
    """QTools' numbers with its SRAM error, for comparison with published AutoQKeras figures."""
    return Horowitz(
        name="horowitz-qtools",
        source="QTools (google/qkeras), process 'horowitz'; its SRAM energy is 64 times too low",
        memory="qtools-compat",
        weights_in="sram",
        activations_in="sram",
        bias_bits=8,
        min_sram_bits=8 * 16 * 1024 * 1024,
        staged=False,
        count_outputs=False,
    )
