"""ONNX files written by hand, as other frameworks write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Written:
    """A graph under construction; every method gives the name of a value.

    Args:
        shape: Of the input; a text where it is open.
        apart: Whether weights are Constant nodes instead of initializers.
        opset: Version of the operators.
    """

    def __init__(self, shape: list[Any], apart: bool = False, opset: int = 13) -> None:
        self.shape, self.apart, self.opset = shape, apart, opset
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.random = np.random.default_rng(0)

    def constant(self, value: Any) -> str:
        array = np.asarray(value, None if isinstance(value, np.ndarray) else np.int64)
        name = f"c{len(self.nodes)}_{len(self.weights)}"
        tensor = numpy_helper.from_array(array, name)
        if self.apart:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(tensor)
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def weight(self, *shape: int) -> str:
        return self.constant(self.random.normal(0, 0.5, shape).astype(np.float32))

    def node(self, op: str, *inputs: str, count: int = 1, **attributes: Any) -> str:
        name = f"{op}.{len(self.nodes)}"
        outputs = [f"v{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name, **attributes))
        return outputs[0]

    def conv(self, x: str, cin: int, cout: int, kernel: int = 1, **attributes: Any) -> str:
        weight = self.weight(cout, cin // attributes.get("group", 1), kernel, kernel)
        side = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4}
        return self.node("Conv", x, weight, **{**side, **attributes})

    def norm(self, x: str, channels: int) -> str:
        numbers = [self.weight(channels) for _ in range(3)]
        var = self.constant(self.random.uniform(0.5, 1.5, channels).astype(np.float32))
        return self.node("BatchNormalization", x, *numbers, var)

    def biased(self, x: str, channels: int) -> str:
        shape = self.constant([1, channels, 1, 1])
        bias = self.node("Reshape", self.weight(channels), shape)
        return self.node("Add", x, bias)

    def hard_swish(self, x: str) -> str:
        clipped = self.node("Clip", self.node("Add", x, self.number(3)), self.number(0),
                            self.number(6))  # fmt: skip
        return self.node("Div", self.node("Mul", x, clipped), self.number(6))

    def model(self, result: str) -> Any:
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        gives = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "made", [given], [gives], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)],
                                 ir_version=8)  # fmt: skip

    def save(self, folder: Path, result: str) -> Path:
        path = folder / "made.onnx"
        onnx.save(self.model(result), path)
        return path


def lines(folder: Path, apart: bool = True) -> Path:
    """A small network as Paddle writes one: squeeze-and-excitation, activations spelled out, biases
    apart, sizes computed, a scale in place of dropout, a softmax at the end."""
    net = Written(["n", 1, "h", "w"], apart, 11)
    x = net.hard_swish(net.norm(net.conv("x", 1, 16, 3, strides=[2, 2]), 16))
    y = net.node("Relu", net.norm(net.conv(x, 16, 16, 3, group=16), 16))
    squeezed = net.biased(net.conv(net.node("GlobalAveragePool", y), 16, 8), 8)
    gate = net.biased(net.conv(net.node("Relu", squeezed), 8, 16), 16)
    y = net.node("Mul", y, net.node("HardSigmoid", gate, alpha=0.25, beta=0.5))
    x = net.node("Add", x, net.norm(net.conv(y, 16, 16), 16))
    x = net.hard_swish(net.norm(net.conv(x, 16, 32), 32))
    x = net.node("Mul", net.node("GlobalAveragePool", x), net.number(0.8))
    sizes = net.node("Cast", net.node("Shape", x), to=TensorProto.INT64)
    count = net.node("Slice", sizes, net.constant([0]), net.constant([1]), net.constant([0]))
    target = net.node("Concat", count, net.constant([32]), axis=0)
    x = net.node("MatMul", net.node("Reshape", x, target), net.weight(32, 10))
    x = net.node("Softmax", net.node("Add", x, net.weight(10)), axis=1)
    return net.save(folder, net.node("Identity", x))
