"""Layers as rows: the units that devices are priced by and torch runs.

A population's layers are numpy structured arrays of :data:`LAYER_DTYPE`, so counting and pricing
are array expressions. :class:`Layer` is the readable form of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apq.space.formats import BITS, TABLE_BITS, in_words

LayerArray = NDArray[np.void]

Size = int | tuple[int, int]
"""Height and width: one number for both, or one for each."""

OPS: tuple[str, ...] = ("conv", "linear", "mbconv")
"""Codes of the ``op`` field, by position. ``mbconv`` is a whole inverted residual block."""


@dataclass(frozen=True)
class Layer:
    """One layer as a device sees it; the columns of a lookup table.

    ``height`` and ``width`` are the input's, in pixels; channels are counts. A convolution of every
    channel alone is a ``conv`` with as many ``groups`` as channels. Fields with ``bits`` in their
    name hold the code of a number format (:mod:`apq.space.formats`); a plain width is its own code,
    and a space gives codes that hardware distinguishes (``AS_PRICED``). The last three fields are
    only used by ``mbconv`` rows (0 elsewhere), where ``weight_bits`` and ``activation_bits`` are
    those of the two pointwise convolutions.
    """

    op: str
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    weight_bits: int = 8
    activation_bits: int = 8
    mid_channels: int = 0
    dw_weight_bits: int = 0
    dw_activation_bits: int = 0

    def __str__(self) -> str:
        """Short form for messages, e.g. ``conv1x1/s1 16->32 @16px w4a8`` (or ``w(ternary)a8``)."""
        shape = f"{self.in_channels}->{self.out_channels} @{self.height}px"
        bits = f"w{in_words(self.weight_bits)}a{in_words(self.activation_bits)}"
        if self.op == "linear":
            return f"linear {self.in_channels}->{self.out_channels} {bits}"
        if self.op == "mbconv":
            return (
                f"mbconv{self.kernel}x{self.kernel}/s{self.stride} mid {self.mid_channels} {shape} "
                f"pw {bits} dw w{in_words(self.dw_weight_bits)}a{in_words(self.dw_activation_bits)}"
            )
        kind = "dwconv" if self.groups > 1 and self.groups == self.in_channels else "conv"
        return f"{kind}{self.kernel}x{self.kernel}/s{self.stride} {shape} {bits}"


LAYER_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(Layer))
LAYER_DTYPE = np.dtype(
    [("op", np.int8)] + [(name, np.int32) for name in LAYER_FIELDS if name != "op"]
)


def layer_array(**columns: ArrayLike) -> LayerArray:
    """Build a structured array from columns that broadcast together.

    Args:
        columns: A value or array per field of :class:`Layer`; ``op`` as its name. Missing fields
            take the dataclass default.

    Returns:
        Array of :data:`LAYER_DTYPE` in the columns' broadcast shape (shape ``()`` for scalars).
    """
    op = columns.pop("op")
    if isinstance(op, str):
        op = OPS.index(op)
    defaults = {f.name: f.default for f in fields(Layer)}
    values = {name: np.asarray(columns.get(name, defaults[name])) for name in LAYER_FIELDS[1:]}
    shape = np.broadcast_shapes(np.shape(op), *(v.shape for v in values.values()))
    out = np.empty(shape, dtype=LAYER_DTYPE)
    out["op"] = op
    for name, value in values.items():
        out[name] = value
    return out


def to_layer(row: np.void | LayerArray) -> Layer:
    """Turn one row (or an array of shape ``()``) into a readable :class:`Layer`."""
    values = {name: int(row[name]) for name in LAYER_FIELDS[1:]}
    return Layer(op=OPS[int(row["op"])], **values)


def to_array(layers: list[Layer] | tuple[Layer, ...]) -> LayerArray:
    """Turn layers into a structured array of shape ``(len(layers),)``."""
    rows = [
        (OPS.index(layer.op), *(getattr(layer, name) for name in LAYER_FIELDS[1:]))
        for layer in layers
    ]
    return np.array(rows, dtype=LAYER_DTYPE)


def both(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def size_of(numbers: int | Sequence[int]) -> Size:
    """One number where height and width are the same, else both."""
    height, width = map(int, both(numbers))
    return height if height == width else (height, width)


def out_side(side: ArrayLike, stride: ArrayLike) -> NDArray[np.int64]:
    """Output height or width of an odd kernel with padding ``kernel // 2``."""
    size, step = np.asarray(side, dtype=np.int64), np.asarray(stride, dtype=np.int64)
    return -(-size // step)


def weight_count(layers: LayerArray) -> NDArray[np.int64]:
    """Weights per layer, biases and normalisation excluded. ``mbconv`` rows count all three."""
    f = {name: layers[name].astype(np.int64) for name in LAYER_FIELDS[1:]}
    plain = f["in_channels"] // f["groups"] * f["out_channels"] * f["kernel"] ** 2
    block = f["mid_channels"] * (f["in_channels"] + f["kernel"] ** 2 + f["out_channels"])
    return np.where(layers["op"] == OPS.index("mbconv"), block, plain)


def channel_count(layers: LayerArray) -> NDArray[np.int64]:
    """Output channels of all convolutions in each row; each has one bias and one scale."""
    hidden = 2 * layers["mid_channels"].astype(np.int64)
    is_block = layers["op"] == OPS.index("mbconv")
    return layers["out_channels"].astype(np.int64) + np.where(is_block, hidden, 0)


def _plain(layers: LayerArray) -> None:
    if np.any(layers["op"] == OPS.index("mbconv")):
        raise ValueError("MACs and bits are counted on layers, not on whole mbconv blocks")


def macs(layers: LayerArray) -> NDArray[np.int64]:
    """Multiply-accumulates of one image, per layer."""
    _plain(layers)
    pixels = out_side(layers["height"], layers["stride"]) * out_side(
        layers["width"], layers["stride"]
    )
    return weight_count(layers) * pixels


def bitops(layers: LayerArray) -> NDArray[np.int64]:
    """MACs x stored weight bits x activation bits, per layer (the BitOps of APQ's tables)."""
    product = BITS[layers["weight_bits"]] * BITS[layers["activation_bits"]]
    ops: NDArray[np.int64] = macs(layers) * product
    return ops


def size_bits(layers: LayerArray) -> NDArray[np.int64]:
    """Size in bits of a deployed quantized layer: packed weights, their codebook if they have one
    and, per output channel, a 32-bit bias (batch norm folded) and a 32-bit scale."""
    _plain(layers)
    weights: NDArray[np.int64] = weight_count(layers) * BITS[layers["weight_bits"]]
    bits: NDArray[np.int64] = weights + TABLE_BITS[layers["weight_bits"]]
    return bits + 64 * channel_count(layers)
