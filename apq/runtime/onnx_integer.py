"""ONNX files whose tensors between layers are bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from apq.quantize.integer import IntegerLayer, Rounding, mean_factor, scale_factor
from apq.runtime.onnx_file import OnnxTensor
from apq.runtime.onnx_writer import Writer

ZERO = 128
"""The byte that represents a weight of 0."""


class Bytes(Writer):
    """Tensors between layers are unsigned bytes; what follows is common to two forms."""

    def quantize(self, name: str, x: str, grid: Rounding, scale: str) -> OnnxTensor:
        """Real numbers to a grid, in units of ``scale``; clamped if it does not fill a byte."""
        y = self.node("QuantizeLinear", [x, scale, self.byte(grid.zero)], f"{name}.codes")
        if not grid.fills_byte:
            ends = [self.byte(grid.zero + grid.low), self.byte(grid.zero + grid.high)]
            y = self.node("Clip", [y, *ends], f"{name}.clamped")
        return OnnxTensor(y, grid)

    def byte(self, value: int) -> str:
        """An unsigned byte."""
        return self.constant(f"byte{value}", np.array(value, dtype=np.uint8))

    def scale(self, grid: Rounding) -> str:
        """The step of a grid, one initializer however many tensors share it."""
        return self.scalar(f"step{grid.scale:.9g}", grid.scale)

    def real(self, x: OnnxTensor) -> str:
        """A tensor's real values."""
        assert x.grid is not None
        name = f"{x.name}.real"
        if name not in self.made:
            self.made.add(name)
            self.node(
                "DequantizeLinear", [x.name, self.scale(x.grid), self.byte(x.grid.zero)], name
            )
        return name

    def image(self, grid: Any) -> OnnxTensor:
        """Its bytes."""
        return self.quantize("image", "image", grid, self.scale(grid))

    def regrid(self, name: str, x: OnnxTensor, grid: Rounding) -> OnnxTensor:
        """The same on the grid a layer wants."""
        assert x.grid is not None
        if grid.holds(x.grid):
            return OnnxTensor(x.name, replace(grid, low=x.grid.low, high=x.grid.high))
        if not grid.is_sign:
            return self.quantize(f"{name}.input", self.real(self.held(x)), grid, self.scale(grid))
        positive = self.node("GreaterOrEqual", [x.name, self.byte(x.grid.zero)], f"{name}.positive")
        ends = [self.byte(grid.zero + 1), self.byte(grid.zero - 1)]
        return OnnxTensor(self.node("Where", [positive, *ends], f"{name}.sign"), grid)

    def held(self, x: OnnxTensor) -> OnnxTensor:
        """The same bytes behind a Clip that changes none: of two pairs of quantize and dequantize
        in a row onnxruntime makes one, which rounds otherwise."""
        if not x.name.endswith(".codes"):
            return x
        name = f"{x.name}.held"
        if name not in self.made:
            self.made.add(name)
            self.node("Clip", [x.name, self.byte(0), self.byte(255)], name)
        return OnnxTensor(name, x.grid)

    def concat(self, name: str, inputs: Sequence[OnnxTensor], grid: Any) -> OnnxTensor:
        """Bytes of one step, moved to where the grid has its zero."""
        parts = [x.name for x in inputs]
        if any(x.grid.zero != grid.zero for x in inputs if x.grid is not None):
            step, real = self.scale(grid), [self.real(self.held(x)) for x in inputs]
            parts = [self.quantize(f"{name}.{i}", x, grid, step).name for i, x in enumerate(real)]
        return OnnxTensor(self.node("Concat", parts, name, axis=1), grid)

    def largest(self, name: str, x: OnnxTensor, grid: Any, kernel: int, stride: int) -> OnnxTensor:
        """Max pooling of bytes."""
        x = self.regrid(name, x, grid)
        return OnnxTensor(self.max_pool(name, x.name, kernel, stride), x.grid)

    def curve(self, name: str, x: OnnxTensor, grid: Any, act: str) -> OnnxTensor:
        """Hard swish or hard sigmoid; without a division where that rounds the same."""
        assert x.grid is not None
        y, step = self.curved(name, self.real(x), act), sixfold(x.grid, grid, act)
        if step is not None:
            return self.quantize(name, y, grid, self.scalar(f"step{step:.9g}", step))
        return self.quantize(name, self.sixth(name, y), grid, self.scale(grid))

    def counts(self, x: OnnxTensor) -> str:
        """A tensor's integers, in float. A DequantizeLinear would not do: onnxruntime would then
        quantize the convolution after it, including its weights."""
        from onnx import TensorProto

        assert x.grid is not None
        name = f"{x.name}.counts"
        if name not in self.made:
            self.made.add(name)
            if x.grid.zero == 0:
                self.node("Cast", [x.name], name, to=TensorProto.FLOAT)
            else:
                wide = self.node("Cast", [x.name], f"{x.name}.float", to=TensorProto.FLOAT)
                self.node("Sub", [wide, self.scalar(f"zero{x.grid.zero}", x.grid.zero)], name)
        return name

    def spelled_out(self, name: str, layer: IntegerLayer, x: OnnxTensor) -> OnnxTensor:
        """A layer as integer sums in float, one multiplication, and rounding.

        The multiplication is a DequantizeLinear: optimizers would merge a Mul into the
        convolution's weights, and the sums would no longer be integers. Codebooks hold fractions,
        so they use a Mul.
        """
        from onnx import TensorProto

        w, scale = layer.weight, layer.multiplier.numpy()
        if w.table is None:
            codes = self.constant(f"{name}.weight_codes", w.codes.numpy(), self._kind(w))
            weight = self.node("Cast", [codes], f"{name}.weight", to=TensorProto.FLOAT)
            if w.unit > 1:
                factor = self.scalar(f"unit{w.unit}", w.unit)
                weight = self.node("Mul", [weight, factor], f"{name}.weight_spread")
        else:
            weight = self._from_table(f"{name}.weight", w)
        y = self.conv(name, [self.counts(x), weight], layer)
        bias = layer.bias.numpy().reshape(1, -1, 1, 1)
        if w.table is None:
            y = self.node("Cast", [y], f"{name}.sum", to=TensorProto.INT32)
            added = self.constant(f"{name}.bias", bias.astype(np.int32))
            y = self.node("Add", [y, added], f"{name}.biased")
            scales = self.constant(f"{name}.scale", scale)
            y = self.node("DequantizeLinear", [y, scales], f"{name}.scaled", axis=1)
        else:
            y = self.node(
                "Mul", [y, self.constant(f"{name}.scale", scale.reshape(1, -1, 1, 1))],
                f"{name}.scaled",
            )  # fmt: skip
            bias = bias if layer.output is None else bias / np.float32(layer.output.scale)
            y = self.node("Add", [y, self.constant(f"{name}.bias", bias)], f"{name}.biased")
        if layer.output is None:
            return OnnxTensor(y)
        return self.quantize(name, y, layer.output, self.scalar("one", 1.0))


class Integers(Bytes):
    """The arithmetic of integer kernels in operators that all runtimes compute identically."""

    def read(self, x: OnnxTensor) -> str:
        """Integers in float."""
        return self.counts(x)

    def ended(self, name: str, y: str, grid: Any) -> OnnxTensor:
        """A result in units of its step."""
        return self.quantize(name, y, grid, self.scalar("one", 1.0))

    def layer(self, name: str, layer: Any, x: OnnxTensor) -> OnnxTensor:
        """A convolution of integers."""
        return self.spelled_out(name, layer, self.regrid(name, x, layer.rounding))

    def mean(self, name: str, x: OnnxTensor, grid: Any, pixels: int) -> OnnxTensor:
        """An exact sum and one multiplication."""
        assert x.grid is not None
        axes = self.constant("axes.pixels", np.array([2, 3], dtype=np.int64))
        total = self.node("ReduceSum", [self.counts(x), axes], f"{name}.sum", keepdims=1)
        factor = float(mean_factor(x.grid, grid, pixels))
        y = self.node("Mul", [total, self.scalar(f"{name}.factor", factor)], name)
        return self.ended(name, y, grid)

    def scaled(self, name: str, inputs: Sequence[OnnxTensor], grid: Any) -> OnnxTensor:
        """Exact products and one multiplication."""
        x, factor = inputs
        assert x.grid is not None
        assert factor.grid is not None
        product = self.node("Mul", [self.counts(x), self.counts(factor)], f"{name}.product")
        worth = float(scale_factor(x.grid, factor.grid, grid))
        y = self.node("Mul", [product, self.scalar(f"{name}.factor", worth)], name)
        return self.ended(name, y, grid)


class Pairs(Bytes):
    """QuantizeLinear/DequantizeLinear pairs."""

    def read(self, x: OnnxTensor) -> str:
        """Real numbers."""
        return self.real(x)

    def ended(self, name: str, y: str, grid: Any) -> OnnxTensor:
        """A result as bytes."""
        return self.quantize(name, y, grid, self.scale(grid))

    def layer(self, name: str, layer: Any, x: OnnxTensor) -> OnnxTensor:
        """A convolution of dequantized bytes."""
        x = self.regrid(name, x, layer.rounding)
        if layer.weight.table is not None:
            return self.spelled_out(name, layer, x)
        inputs = [self.weights(name, layer), self.biases(name, layer)]
        if layer.output is None:  # the classifier: runtimes fuse a Gemm with real output
            flat = self.node("Flatten", [x.name], f"{name}.input")
            y = self.node("Gemm", [self.real(OnnxTensor(flat, x.grid)), *inputs], name,
                          output="logits", transB=1)  # fmt: skip
            self.flat = y
            return OnnxTensor(y)
        y = self.conv(name, [self.real(x), *inputs], layer)
        return self.quantize(name, y, layer.output, self.scale(layer.output))

    def weights(self, name: str, layer: IntegerLayer) -> str:
        """Real weights from signed bytes or, if their sums could saturate, from unsigned bytes with
        zero point 128.

        On x86 processors without VNNI, onnxruntime's kernels for signed weights add pairs of
        products in 16 bits; those for unsigned ones are exact on every processor, and slower on
        those with VNNI. Fewer bits are widened first, which runtimes do once, when they load the
        file.
        """
        from onnx import TensorProto

        w, zero = layer.weight, ZERO if layer.may_saturate else 0
        byte, to = (np.uint8, TensorProto.UINT8) if zero else (np.int8, TensorProto.INT8)
        kind, values = self._kind(w), w.codes.numpy()
        if layer.output is None:
            values = values.reshape(values.shape[:2])
        if kind == TensorProto.INT8:
            raised = values.astype(np.int16) * w.unit + zero
            codes = self.constant(f"{name}.weight_codes", raised.astype(byte))
        else:
            codes = self.constant(f"{name}.weight_codes", values, kind)
            steps = [("Mul", "units", w.unit)] if w.unit > 1 else []
            steps += [("Add", "middle", zero)] if zero else []
            if steps:
                codes = self.node("Cast", [codes], f"{name}.weight_wide", to=TensorProto.INT32)
            for op, what, number in steps:
                other = self.constant(f"{what}{number}", np.array(number, dtype=np.int32))
                codes = self.node(op, [codes, other], f"{name}.weight_{op.lower()}")
            codes = self.node("Cast", [codes], f"{name}.weight_bytes", to=to)
        inputs = [codes, self.constant(f"{name}.weight_scale", w.scale.numpy())]
        if zero or layer.output is None:  # the 8-bit Gemm for older processors wants zero points
            zeros = np.full(len(values), zero, dtype=byte)
            inputs.append(self.constant(f"zeros{zero}.{len(values)}", zeros))
        return self.node("DequantizeLinear", inputs, f"{name}.weight", axis=0)

    def biases(self, name: str, layer: IntegerLayer) -> str:
        """Real biases from integers. Their step must equal the product of the input's and weights'
        steps bit for bit, so it is computed on loading."""
        scales = [f"{name}.weight_scale", self.scale(layer.rounding)]
        step = self.node("Mul", scales, f"{name}.bias_scale")
        codes = self.constant(f"{name}.bias_codes", layer.bias.numpy().astype(np.int32))
        return self.node("DequantizeLinear", [codes, step], f"{name}.bias", axis=0)


def sixfold(grid: Rounding, to: Rounding, act: str) -> float | None:
    """The step that maps six times an activation to the activation's integers without a division;
    None if it would round some integer of ``grid`` differently."""
    real = torch.arange(grid.low, grid.high + 1).float() * torch.tensor(grid.scale)
    factor = (real + 3.0).clamp(0.0, 6.0)
    y = real * factor if act == "hswish" else factor
    step = float(torch.tensor(to.scale) * 6.0)
    return step if torch.equal(replace(to, scale=step).codes(y), to.codes(y / 6.0)) else None
