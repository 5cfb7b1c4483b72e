"""ONNX files of real numbers, plain or behind Quant nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from apq.errors import ApqError
from apq.quantize import Packed
from apq.quantize.integer import Rounding
from apq.runtime.onnx_file import OnnxTensor
from apq.runtime.onnx_writer import Writer

QONNX_DOMAIN = "qonnx.custom_op.general"


class Reals(Writer):
    """A network of real numbers."""

    def image(self, grid: Rounding | None) -> OnnxTensor:
        """As it is."""
        return OnnxTensor("image")

    def layer(self, name: str, layer: Any, x: OnnxTensor) -> OnnxTensor:
        """A convolution with real weights."""
        weight = self.constant(f"{name}.weight", layer.weight.numpy())
        bias = self.constant(f"{name}.bias", layer.bias.numpy())
        y = self.conv(name, [x.name, weight, bias], layer)
        return OnnxTensor(self.activated(name, y, layer.act))

    def activated(self, name: str, y: str, act: str) -> str:
        """A result after its activation."""
        if act == "relu":
            return self.node("Relu", [y], f"{name}.relu")
        ends = [self.scalar("zero", 0.0), self.scalar("six", 6.0)]
        return self.node("Clip", [y, *ends], f"{name}.relu6") if act else y


class Qonnx(Reals):
    """Real numbers behind Quant nodes."""

    def __init__(self, int2: bool = False) -> None:
        super().__init__(int2)
        self.domains[QONNX_DOMAIN] = 1

    def quant(self, name: str, x: OnnxTensor, grid: Rounding) -> OnnxTensor:
        """A tensor on a grid."""
        if x.grid is not None and grid.holds(x.grid):
            return x
        if grid.is_sign:
            raise ApqError(
                f"{name}: binary activations can be exported as 'onnx', 'onnx-integer' or 'torch'"
            )
        signed, zero = int(grid.low < 0), 0
        if grid.low < 0 and grid.high + grid.low not in (0, -1):  # the image: not around 0
            signed, zero = 0, -grid.low
        inputs = [
            x.name, self.scalar(f"step{grid.scale:.9g}", grid.scale),
            self.scalar(f"zero{zero}", zero), self.scalar(f"bits{grid.bits}", grid.bits),
        ]  # fmt: skip
        y = self.node(
            "Quant", inputs, f"{name}.rounded", domain=QONNX_DOMAIN, signed=signed,
            narrow=int(signed and grid.high == -grid.low), rounding_mode="ROUND",
        )  # fmt: skip
        return OnnxTensor(y, grid)

    def ended(self, name: str, y: str, grid: Rounding) -> OnnxTensor:
        """A result behind a Quant node."""
        return self.quant(name, OnnxTensor(y), grid)

    def image(self, grid: Any) -> OnnxTensor:
        """Behind a Quant node."""
        return self.quant("image", OnnxTensor("image"), grid)

    def layer(self, name: str, layer: Any, x: OnnxTensor) -> OnnxTensor:
        """A convolution with rounded weights and inputs."""
        x = self.quant(f"{name}.input", x, layer.rounding)
        bias = self.constant(f"{name}.bias", layer.real_bias.numpy())
        y = self.conv(name, [x.name, self.weight(name, layer.weight), bias], layer)
        if layer.output is None:
            return OnnxTensor(y)
        grid = layer.output
        if grid.low == 0 and layer.act:  # which may end the grid early
            y, grid = self.activated(name, y, layer.act), replace(grid, high=2**grid.bits - 1)
        return self.quant(name, OnnxTensor(y), grid)

    def weight(self, layer: str, w: Packed) -> str:
        """A layer's rounded weights."""
        name = f"{layer}.weight"
        if w.table is not None:
            values = self._from_table(name, w)
            scale = self.constant(f"{name}_scale", w.scale.numpy().reshape(-1, 1, 1, 1))
            return self.node("Mul", [values, scale], f"{name}_scaled")
        values = self.constant(f"{name}_float", w.dequantize().numpy())
        steps = (w.scale * w.unit).numpy().reshape(-1, 1, 1, 1)
        scales = self.constant(f"{name}_scale", steps)
        if w.bits == 1 and not bool((w.codes == 0).any()):
            return self.node("BipolarQuant", [values, scales], name, domain=QONNX_DOMAIN)
        bits = max(2, w.bits)  # a folded sign makes {0, 1} into {0, -1}
        inputs = [values, scales, self.scalar("zero", 0.0), self.scalar(f"bits{bits}", bits)]
        return self.node(
            "Quant", inputs, name, domain=QONNX_DOMAIN, signed=1, narrow=1, rounding_mode="ROUND"
        )
