"""Interface of quantization schemes, and the plan of every layer's bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from apq.errors import ApqError
from apq.space import FORMATS
from apq.space.graph import Graph, number


@dataclass(frozen=True)
class Packed:
    """A quantized weight as a device stores it: ``table[codes] * scale``, or ``codes * unit *
    scale``.

    Attributes:
        codes: Integers in the weight's shape, int16. With a table: indices from 0; else signed.
        scale: One number per output channel, ``(out,)``.
        table: Values the codes stand for, ``(levels,)``; None: the codes are the values.
        bits: Bits one code needs.
        unit: Integer value of one code; more than 1 if few bits leave room in a byte and the bias,
            which has the step of the products, needs a finer one.
    """

    codes: Tensor
    scale: Tensor
    table: Tensor | None
    bits: int
    unit: int = 1

    def values(self) -> Tensor:
        """The values of the codes, in float, before scaling."""
        if self.table is None:
            return self.codes.to(self.scale.dtype) * self.unit
        return self.table[self.codes.long()]

    def dequantize(self) -> Tensor:
        """The rounded weights in float."""
        return self.values() * self.scale.reshape(-1, *(1 for _ in self.codes.shape[1:]))


class Scheme(Protocol):
    """A way to quantize tensors: it builds modules that round weights and activations.

    Those of weights have ``pack(weight) -> Packed``, with ``pack(w).dequantize()`` equal to the
    forward pass, ``levels()``, the values they can take, ``(channels, levels)``, and
    ``fit(weight)``, which sets ranges anew; those of activations ``rounding() -> Rounding``. Ranges
    are buffers (fixed) or parameters (trained), so a state dict holds everything.

    Implemented without inheriting; a frozen dataclass will do.
    """

    @property
    def name(self) -> str:
        """Short name."""
        ...

    @property
    def weight_bits(self) -> tuple[int, ...]:
        """Bitwidths weights may have, ascending."""
        ...

    @property
    def activation_bits(self) -> tuple[int, ...]:
        """Bitwidths activations may have, ascending."""
        ...

    @property
    def operand(self) -> str:
        """Operand of a multiplier, for pricing: ``"fixed"`` (integers times a step), ``"po2"``
        (shifts), ``"ternary"``, ``"binary"`` (-1, 1), ``"binary01"`` (0, 1) or ``"float"``."""
        ...

    def weights(self, weight: Tensor, bits: int) -> nn.Module:
        """Quantizer for a weight ``(out, in / groups, k, k)`` or ``(out, in)``, fitted to it."""
        ...

    def activations(self, sample: Tensor, bits: int, signed: bool) -> nn.Module:
        """Quantizer for the activations that ``sample`` stands for, fitted to it."""
        ...

    def storage_bits(self, weight: Tensor, bits: int) -> int:
        """Bits the quantized weight takes on disk, tables and scales that belong to it included."""
        ...


def require_bits(scheme: Scheme, bits: int, allowed: tuple[int, ...], what: str) -> None:
    """Refuse bitwidths a scheme does not have.

    Raises:
        ApqError: ``bits`` is not in ``allowed``; the message says what is and which scheme has it.
    """
    if bits not in allowed:
        near = min(allowed, key=lambda b: abs(b - bits))
        raise ApqError(
            f"scheme {scheme.name!r} cannot hold {what} in {bits} bits; it offers "
            f"{', '.join(map(str, allowed))} (nearest: {near}). Change the bits of the space, or "
            "choose another scheme."
        )


@dataclass(frozen=True)
class LayerBits:
    """How one layer of a subnet is quantized.

    Attributes:
        name: Path of the module in the subnet, e.g. ``stem``.
        weight: Weight bits.
        activation: Bits of the layer's input; None leaves it alone (the image has 8 bits already).
        signed: Whether the input can be negative: it comes from a linear bottleneck, not a ReLU6.
        searched: Whether the bits were chosen by the search (fixed layers stay uniform).
        weight_scheme, activation_scheme: Names of the schemes that the candidate's formats ask for;
            empty: plain widths.
    """

    name: str
    weight: int
    activation: int | None
    signed: bool = False
    searched: bool = False
    weight_scheme: str = ""
    activation_scheme: str = ""


def layer_plan(graph: Graph) -> tuple[LayerBits, ...]:
    """Bits of every layer of a graph of plain numbers, in the order they run."""
    return tuple(
        LayerBits(
            node.name,
            FORMATS[number(node.weight)].bits,
            None
            if graph.by_name[node.inputs[0]].op == "image"
            else FORMATS[number(node.activation)].bits,
            signed=not graph.positive(node.inputs[0]),
            searched=bool(node.block),
            weight_scheme=FORMATS[number(node.weight)].scheme,
            activation_scheme=FORMATS[number(node.activation)].scheme,
        )
        for node in graph.layers
    )
