"""ONNX graphs of layers, blocks and whole networks, with random weights: for timing only.

``fp32`` is plain float; ``int8`` is what runtimes execute as 8-bit: per-channel int8 weights,
uint8 activations, quantize/dequantize pairs that the runtime fuses. Needs ``apq[onnx]``.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from apq.runtime.session import require_onnx
from apq.space import Candidate, Layer, Space
from apq.space.graph import Node, number, walk

Precision = Literal["fp32", "int8"]
BITS: dict[str, int] = {"fp32": 32, "int8": 8}
"""The width every layer really runs at in each precision."""


_Tensor = tuple[str, float]
"""A tensor's name, and its step."""


class _Graph:
    """A chain of layers under construction. ``x`` names the current tensor: float in fp32, its
    dequantized form in int8."""

    def __init__(self, shape: tuple[int, ...], precision: Precision, seed: int) -> None:
        self.onnx = require_onnx()
        self.precision = precision
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        kind = self.onnx.TensorProto.UINT8 if precision == "int8" else self.onnx.TensorProto.FLOAT
        self.scale = 1.0
        self.input = self.onnx.helper.make_tensor_value_info("input", kind, shape)
        self.x = self._dequantize("input", 1 / 64, 128) if precision == "int8" else "input"

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, value: NDArray[Any] | np.generic) -> str:
        """Add an initializer and return its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _dequantize(self, x: str, scale: float, zero: int) -> str:
        self.scale = scale  # of the current tensor; a bias must have this times the weights'
        pair = [self.constant(np.float32(scale)), self.constant(np.uint8(zero))]
        return self.node("DequantizeLinear", [x, *pair])

    def _requantize(self, x: str, relu6: bool = False) -> str:
        if self.precision == "fp32":
            return x
        scale, zero = (6 / 255, 0) if relu6 else (1 / 64, 128)
        pair = [self.constant(np.float32(scale)), self.constant(np.uint8(zero))]
        return self._dequantize(self.node("QuantizeLinear", [x, *pair]), scale, zero)

    def _weights(self, shape: tuple[int, ...]) -> list[str]:
        """Weights and biases as inputs of a Conv or Gemm."""
        if self.precision == "fp32":
            fan_in = float(np.prod(shape[1:]))
            weight = self.rng.standard_normal(shape, dtype=np.float32) / np.float32(fan_in**0.5)
            return [self.constant(weight), self.constant(np.zeros(shape[0], dtype=np.float32))]
        codes = self.rng.integers(-127, 128, shape, dtype=np.int8)
        scale = np.full(shape[0], 1 / 127, dtype=np.float32)
        zero = self.constant(np.zeros(shape[0], dtype=np.int8))
        names = [self.constant(codes), self.constant(scale), zero]
        bias_scale = scale * np.float32(self.scale)
        biases = [self.constant(np.zeros(shape[0], np.int32)), self.constant(bias_scale)]
        return [
            self.node("DequantizeLinear", names, axis=0),
            self.node("DequantizeLinear", biases, axis=0),
        ]

    def conv(self, c: int, out: int, kernel: int, stride: int, groups: int, relu: bool) -> None:
        """Convolution with bias (batch norm folded) and, if told, ReLU6."""
        pad = kernel // 2
        weights = self._weights((out, c // groups, kernel, kernel))
        y = self.node(
            "Conv", [self.x, *weights], kernel_shape=[kernel, kernel], strides=[stride, stride],
            pads=[pad] * 4, group=groups,
        )  # fmt: skip
        if relu and self.precision == "fp32":
            y = self.node("Clip", [y, self.constant(np.float32(0)), self.constant(np.float32(6))])
        self.x = self._requantize(y, relu)  # whose range is that of ReLU6

    def block(self, layer: Layer) -> None:
        """Inverted residual: expand unless the width is the input's, depthwise, project, add."""
        before, mid = self.x, layer.mid_channels
        if mid != layer.in_channels:
            self.conv(layer.in_channels, mid, 1, 1, 1, relu=True)
        self.conv(mid, mid, layer.kernel, layer.stride, mid, relu=True)
        self.conv(mid, layer.out_channels, 1, 1, 1, relu=False)
        if layer.stride == 1 and layer.in_channels == layer.out_channels:
            self.add(before, self.x)

    def add(self, a: str, b: str) -> None:
        """Sum of two tensors."""
        self.x = self._requantize(self.node("Add", [a, b]))

    def linear(self, c: int, out: int) -> None:
        """Fully connected layer on (1, c)."""
        y = self.node("Gemm", [self.x, *self._weights((out, c))], transB=1)
        self.x = self._requantize(y)

    def pool(self) -> None:
        """Global average pooling, flattened; behind a ReLU6."""
        x = self._requantize(self.node("GlobalAveragePool", [self.x]), relu6=True)
        self.x = self._requantize(self.node("Flatten", [x], axis=1), relu6=True)

    def serialize(self, rank: int) -> bytes:
        """The checked model; its output has ``rank`` dimensions."""
        helper, kind = self.onnx.helper, self.onnx.TensorProto
        last, output_kind = self.x, kind.FLOAT
        if self.precision == "int8":  # the last dequantize is the reader's
            last, output_kind = self.nodes.pop().input[0], kind.UINT8
        self.nodes.append(helper.make_node("Identity", [last], ["output"], "output"))
        output = helper.make_tensor_value_info("output", output_kind, [None] * rank)
        graph = helper.make_graph(self.nodes, "apq", [self.input], [output], self.constants)
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        self.onnx.checker.check_model(model)
        data: bytes = model.SerializeToString()
        return data


def layer_model(layer: Layer, precision: Precision, seed: int = 0) -> bytes:
    """One layer or whole block as a model, with real shapes, batch 1."""
    if layer.op == "linear":
        graph = _Graph((1, layer.in_channels), precision, seed)
        graph.linear(layer.in_channels, layer.out_channels)
        return graph.serialize(2)
    graph = _Graph((1, layer.in_channels, layer.height, layer.width), precision, seed)
    if layer.op == "mbconv":
        graph.block(layer)
    else:
        graph.conv(
            layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.groups,
            relu=True,
        )  # fmt: skip
    return graph.serialize(4)


def empty_model() -> bytes:
    """A model that does nothing: what calling the runtime costs."""
    graph = _Graph((1, 8), "fp32", 0)
    graph.x = graph.node("Identity", [graph.x])
    return graph.serialize(2)


def network_model(space: Space, candidate: Candidate, precision: Precision, seed: int = 0) -> bytes:
    """A whole network as it would be deployed, with random weights."""
    chosen = space.graph_of(candidate)
    side = number(chosen.side)
    graph = _Graph((1, space.in_channels, side, side), precision, seed)

    def write(node: Node, *inputs: _Tensor) -> _Tensor:
        graph.x, graph.scale = inputs[0]
        if node.op == "conv":
            cin, cout, kernel = chosen.in_channels(node), node.channels, node.kernel
            graph.conv(
                number(cin),
                number(cout),
                number(kernel),
                node.stride,
                number(node.groups),
                bool(node.act),
            )
        elif node.op == "linear":
            graph.linear(number(chosen.in_channels(node)), number(node.channels))
        elif node.op == "pool":
            graph.pool()
        elif node.op == "maxpool":
            kernel = number(node.kernel)
            pads = [kernel // 2 if kernel % 2 else 0] * 4
            size = {"kernel_shape": [kernel] * 2, "strides": [node.stride] * 2, "pads": pads}
            graph.x = graph._requantize(graph.node("MaxPool", [graph.x], **size))
        elif node.op == "act":
            kind = {"hswish": "HardSwish", "hsigmoid": "HardSigmoid"}[node.act]
            graph.x = graph._requantize(graph.node(kind, [graph.x]), relu6=node.act == "hsigmoid")
        elif node.op == "scale":
            shape = graph.constant(np.array([1, -1, 1, 1], dtype=np.int64))
            factor = graph.node("Reshape", [inputs[1][0], shape])
            graph.x = graph._requantize(graph.node("Mul", [graph.x, factor]))
        elif node.op == "concat":
            graph.x = graph._requantize(graph.node("Concat", [x for x, _ in inputs], axis=1))
        else:
            for x, _ in inputs[1:]:
                graph.add(graph.x, x)
        return graph.x, graph.scale

    walk(chosen.nodes, (graph.x, graph.scale), write)
    return graph.serialize(2)
