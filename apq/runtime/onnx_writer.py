"""Nodes of a network as operators of ONNX, which the forms of a file share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apq.quantize.integer import IntegerLayer, Rounding
from apq.runtime.folded import FloatLayer
from apq.runtime.onnx_file import OnnxFile, OnnxTensor


class Writer(OnnxFile):
    """Writes one node after the other.

    A form says how it reads a tensor (:meth:`read`) and what it does with a result (:meth:`ended`),
    and computes in its own way what differs otherwise. ``grid`` is that of the node's output; None:
    real numbers.
    """

    def image(self, grid: Rounding | None) -> OnnxTensor:
        """The input."""
        raise NotImplementedError

    def layer(self, name: str, layer: IntegerLayer | FloatLayer, x: OnnxTensor) -> OnnxTensor:
        """A convolution; a linear layer is a 1x1 one."""
        raise NotImplementedError

    def read(self, x: OnnxTensor) -> str:
        """The numbers to compute with."""
        return x.name

    def ended(self, name: str, y: str, grid: Any) -> OnnxTensor:
        """A result on its grid."""
        return OnnxTensor(y)

    def activated(self, name: str, y: str, act: str) -> str:
        """A result after its activation, unless its grid ends where that does."""
        return y

    def mean(self, name: str, x: OnnxTensor, grid: Any, pixels: int) -> OnnxTensor:
        """Mean over all pixels."""
        return self.ended(name, self.node("GlobalAveragePool", [self.read(x)], name), grid)

    def add(self, name: str, inputs: Sequence[OnnxTensor], grid: Any, act: str) -> OnnxTensor:
        """Two tensors or more, added one after the other."""
        total, *others = map(self.read, inputs)
        for i, x in enumerate(others):
            last = i == len(others) - 1
            total = self.node("Add", [total, x], name if last else f"{name}.part{i}")
        return self.ended(name, self.activated(name, total, act), grid)

    def concat(self, name: str, inputs: Sequence[OnnxTensor], grid: Any) -> OnnxTensor:
        """The channels of all inputs."""
        y = self.node("Concat", [self.read(x) for x in inputs], name, axis=1)
        return self.ended(name, y, grid)

    def largest(self, name: str, x: OnnxTensor, grid: Any, kernel: int, stride: int) -> OnnxTensor:
        """Max pooling; odd kernels are padded by half."""
        return self.ended(name, self.max_pool(name, self.read(x), kernel, stride), grid)

    def curve(self, name: str, x: OnnxTensor, grid: Any, act: str) -> OnnxTensor:
        """Hard swish or hard sigmoid."""
        return self.ended(name, self.sixth(name, self.curved(name, self.read(x), act)), grid)

    def scaled(self, name: str, inputs: Sequence[OnnxTensor], grid: Any) -> OnnxTensor:
        """Every channel times a factor."""
        return self.ended(name, self.node("Mul", [self.read(x) for x in inputs], name), grid)

    def max_pool(self, name: str, x: str, kernel: int, stride: int) -> str:
        """Max pooling; odd kernels are padded by half."""
        pads = [kernel // 2 if kernel % 2 else 0] * 4
        size: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads}
        return self.node("MaxPool", [x], name, **size)

    def curved(self, name: str, x: str, act: str) -> str:
        """Six times hard swish or hard sigmoid, in basic operators: those of that name round
        differently."""
        y = self.node("Add", [x, self.scalar("three", 3.0)], f"{name}.shifted")
        ends = [self.scalar("zero", 0.0), self.scalar("six", 6.0)]
        y = self.node("Clip", [y, *ends], f"{name}.clipped")
        return self.node("Mul", [x, y], f"{name}.product") if act == "hswish" else y

    def sixth(self, name: str, x: str) -> str:
        """The output of ``curved``, divided by 6."""
        return self.node("Div", [x, self.scalar("six", 6.0)], name)
