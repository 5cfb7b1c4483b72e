"""Inverted residuals between a fixed beginning and end: APQ's family of networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apq.space.formats import AS_PRICED
from apq.space.graph import Graph, Node
from apq.space.layer import LayerArray, layer_array

if TYPE_CHECKING:
    from apq.space.base import Slot, Space


def mobilenet_v2(space: Space) -> Graph:
    """The graph of a space: a 3x3 stem, one depthwise-separable block, the searched blocks, a 1x1
    convolution, the mean over all pixels, a linear classifier."""
    weight, activation = space.fixed_layer_bits

    def fixed(name: str, op: str, x: str, channels: int, act: str = "", **more: Any) -> Node:
        return Node(name, op, (x,), channels, act=act, weight=weight, activation=activation, **more)

    stem = space.stem_channels
    nodes = [
        Node("image", "image", channels=space.in_channels),
        fixed("stem", "conv", "image", stem, "relu6", kernel=3, stride=space.stem_stride),
        fixed("first.0", "conv", "stem", stem, "relu6", kernel=3, groups=stem),
        fixed("first.1", "conv", "first.0", space.first_channels),
    ]
    for slot in space.slots:
        nodes += _block(space, slot, nodes[-1].name)
    last = nodes[-1].name
    return Graph((
        *nodes,
        fixed("head", "conv", last, space.head_channels, "relu6"),
        Node("pool", "pool", ("head",), space.head_channels),
        fixed("classifier", "linear", "pool", space.classes),
    ))  # fmt: skip


def _block(space: Space, slot: Slot, x: str) -> list[Node]:
    """Expand, depthwise, project, and the input added where shapes allow."""
    block, path = f"b{slot.index:02d}", f"blocks.{slot.index}"
    width, kernel = f"{block}_width", f"{block}_kernel"
    depths = space.stages[slot.stage].depth
    longer = tuple(d for d in depths if d > slot.position)
    when = () if longer == depths else ((f"depth_{slot.stage}", longer),)
    pointwise: dict[str, Any] = {"weight": f"{block}_pw_w_bits", "activation": f"{block}_pw_a_bits"}
    depthwise: dict[str, Any] = {"weight": f"{block}_dw_w_bits", "activation": f"{block}_dw_a_bits"}
    nodes = [
        Node(f"{path}.expand", "conv", (x,), width, act="relu6", **pointwise),
        Node(f"{path}.depthwise", "conv", (f"{path}.expand",), width, kernel, slot.stride, width,
             act="relu6", **depthwise),
        Node(f"{path}.project", "conv", (f"{path}.depthwise",), slot.out_channels, **pointwise),
    ]  # fmt: skip
    nodes = [Node(**vars(node) | {"when": when, "block": block}) for node in nodes]
    if slot.shortcut:
        inputs = (x, f"{path}.project")
        nodes.append(Node(f"{path}.add", "add", inputs, slot.out_channels, block=block))
    return nodes


def whole_block(
    slot: Slot, kernel: Any, width: Any, pw_w: Any, pw_a: Any, dw_w: Any, dw_a: Any
) -> LayerArray:
    """A block as one ``mbconv`` row, for tables of measured blocks; arguments broadcast, formats
    as codes."""
    pw_w, pw_a, dw_w, dw_a = AS_PRICED[pw_w], AS_PRICED[pw_a], AS_PRICED[dw_w], AS_PRICED[dw_a]
    return layer_array(
        op="mbconv", in_channels=slot.in_channels, out_channels=slot.out_channels,
        height=slot.side, width=slot.side, kernel=kernel, stride=slot.stride,
        weight_bits=pw_w, activation_bits=pw_a, mid_channels=width,
        dw_weight_bits=dw_w, dw_activation_bits=dw_a,
    )  # fmt: skip
