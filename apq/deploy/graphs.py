"""Models of layers, blocks and whole networks as they are exported, with random weights: for timing
and for Arm's compiler. ONNX needs ``apq-nas[onnx]``, TFLite ``apq-nas[litert]``.

``fp32`` is plain float. In ``int8`` everything has 8 bits. Parts of networks take and give what
stands between layers there: bytes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from apq.quantize import Packed
from apq.quantize.integer import IntegerLayer, Rounding, Step, window, within
from apq.quantize.network import FACTORS
from apq.runtime.flatbuffer import FlatBuffer
from apq.runtime.folded import FloatLayer, Steps
from apq.runtime.onnx_file import require_onnx
from apq.runtime.onnx_graph import onnx_model
from apq.runtime.tflite_graph import tflite_model
from apq.space import Candidate, Layer, Space
from apq.space.families.mobilenet_v2 import block_alone
from apq.space.graph import LAYERS, Graph, Node, number
from apq.space.layer import both

Precision = Literal["fp32", "int8"]
BITS: dict[str, int] = {"fp32": 32, "int8": 8}
"""The width every layer really runs at in each precision."""

SIGNED, POSITIVE = Rounding(1 / 64, -128, 127, 8), Rounding(6 / 255, 0, 255, 8)
"""Grids of tensors; those that have no negative values are taken to end at 6."""


Form = Literal["onnx", "tflite"]
"""Who reads a model: onnxruntime and OpenVINO, or LiteRT and Arm's compiler, in 8 bits only."""


def layer_model(
    layer: Layer, precision: Precision = "int8", seed: int = 0, form: Form = "onnx"
) -> bytes:
    """One layer or whole block as a model, with real shapes, batch 1."""
    shape = (1, layer.in_channels, layer.height, layer.width)
    return write_model(layer_steps(layer, precision, seed), shape, form, part=True)


def network_model(
    space: Space, candidate: Candidate, precision: Precision, seed: int = 0, form: Form = "onnx"
) -> bytes:
    """A whole network as it would be deployed, with random weights."""
    graph = space.graph_of(candidate)
    shape = (1, space.in_channels, *both(graph.size))
    return write_model(graph_steps(graph, precision, seed), shape, form)


def empty_model(form: Form = "onnx") -> bytes:
    """A model that does (next to) nothing: what calling the runtime costs."""
    if form == "tflite":
        file = FlatBuffer()
        image = file.tensor("image", (1, 8), "int8", (1.0, 0))
        same = file.tensor("same", (8, 1), "int8", (1.0, 0))
        other = file.constant("shape", np.array([8, 1], dtype=np.int32))
        file.operator("RESHAPE", [image, other], same, "ReshapeOptions", newShape=[8, 1])
        return file.finish(image, same, {})
    onnx = require_onnx()
    helper, shape = onnx.helper, (1, 8)
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in ("image", "same")
    ]
    node = helper.make_node("Identity", ["image"], ["same"])
    graph = helper.make_graph([node], "apq", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 13)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


def write_model(
    steps: Steps, shape: tuple[int, int, int, int], form: Form, part: bool = False
) -> bytes:
    """The bytes of a file; a ``part`` of a network takes and gives what stands between layers."""
    if form == "tflite":
        return tflite_model(steps, shape, {}, part=part).data
    data: bytes = onnx_model(steps, shape, {}, part=part).SerializeToString()
    return data


def _alone(layer: Layer) -> Graph:
    """A network of one layer."""
    image = Node("image", "image", channels=layer.in_channels, side=layer.height)
    act = "relu6" if layer.op == "conv" else ""
    only = Node(
        "layer", layer.op, ("image",), layer.out_channels, layer.kernel, layer.stride,
        layer.groups, act,
    )  # fmt: skip
    return Graph((image, only))


def layer_steps(layer: Layer, precision: Precision, seed: int = 0) -> Steps:
    """One layer or whole block, ready to be written, with random weights."""
    graph = block_alone(layer) if layer.op == "mbconv" else _alone(layer)
    return graph_steps(graph, precision, seed)


def graph_steps(graph: Graph, precision: Precision, seed: int) -> Steps:
    """A candidate's nodes, ready to be written, with random weights."""
    rng = np.random.default_rng(seed)
    if precision == "fp32":
        grids: dict[str, Rounding | None] = dict.fromkeys(graph.by_name)
    else:
        grids = {node.name: _grid(graph, node) for node in graph.nodes}
    return [
        Step(
            node.name, node.op, node.inputs,
            _layer(graph, node, grids, rng) if node.op in LAYERS else None,
            grids[node.name], node.act, window(node),
        )
        for node in graph.nodes
    ]  # fmt: skip


def _grid(graph: Graph, node: Node) -> Rounding | None:
    """Whose integers a node's output holds; a classifier's are real numbers."""
    if node.act == "hsigmoid":
        return FACTORS
    if node.op == "linear" and not graph.readers[node.name]:
        return None
    positive = graph.positive(node.name) and node.name not in graph.streams
    return POSITIVE if positive else within(SIGNED, node.act)


def _layer(
    graph: Graph, node: Node, grids: dict[str, Rounding | None], rng: np.random.Generator
) -> FloatLayer | IntegerLayer:
    groups, kernel, channels = number(node.groups), number(node.kernel), number(node.channels)
    shape = (channels, number(graph.in_channels(node)) // groups, kernel, kernel)
    bias, fan_in = torch.zeros(channels), float(np.prod(shape[1:]))
    padding = kernel // 2 if node.padding < 0 else node.padding
    how: dict[str, Any] = {"stride": node.stride, "padding": padding, "groups": groups}
    grid = grids[node.inputs[0]]
    if grid is None:
        weights = rng.standard_normal(shape, dtype=np.float32) / np.float32(fan_in**0.5)
        return FloatLayer(torch.from_numpy(weights), bias, act=node.act, **how)
    codes: NDArray[np.int16] = rng.integers(-127, 128, shape, dtype=np.int16)
    scale = torch.full((channels,), 1 / (127 * fan_in**0.5))
    packed = Packed(torch.from_numpy(codes), scale, None, 8)
    return IntegerLayer(packed, bias, grid, grids[node.name], act=node.act, **how)
