"""Write folded layers as a TFLite file of integers, node by node.

Activations are signed bytes, weights signed bytes or, with four bits or fewer, packed halves of
bytes with a step per output channel, sums and biases 32 bits. The input image is bytes; logits
have 16 bits, since bytes would cause ties. Needs the extra ``apq-nas[litert]``.

**Every grid ends at 127.** A tensor's zero point is ``127 - high``, so that saturation to a byte
limits the grid above, and a fused ReLU, or a MAXIMUM after operators without one, below. Grids of
fewer than 8 bits need nothing else.

**Rounding.** XNNPACK multiplies a sum by a float32 step and rounds half to even, which is
:func:`apq.quantize.integer.run` to the bit. The built-in kernels multiply by a 31-bit integer and
round half up, some of them twice: a value within about ``2**-9`` of the middle between two levels
may be rounded to the other one. ``apq verify`` counts the differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from apq.errors import ModelError
from apq.quantize import Packed
from apq.quantize.integer import IntegerLayer, Rounding, Step
from apq.runtime.flatbuffer import FlatBuffer, Quantization
from apq.runtime.folded import FloatLayer, Steps, weight_shape
from apq.space.graph import walk
from apq.space.layer import Size, both
from apq.supernet.elastic import ACTIVATIONS

TOP, BOTTOM = 127, -128
"""Ends of a signed byte."""
UNIT = 64
"""Code of a weight of 1, large so that rounding products twice matters little."""
WIDE = 2**15 - 1
"""Largest logit in the file's units."""


@dataclass(frozen=True)
class Tflite:
    """A file's bytes and its figures.

    Attributes:
        data: The flatbuffer.
        weight_bytes: Bytes of weights, their steps and biases.
        operators: Names of the operators it uses, as a TFLite Micro resolver calls them.
        arena_bytes: Tensors alive at once at most, each rounded up to 16 bytes.
        coarse_bias: Largest rounding of a bias in steps of its layer's output, 0 where every bias
            is what evaluation adds.
    """

    data: bytes
    weight_bytes: int
    operators: tuple[str, ...]
    arena_bytes: int
    coarse_bias: float


def tflite_model(
    steps: Steps,
    input_shape: tuple[int, int, int, int],
    metadata: Mapping[str, Any],
    part: bool = False,
    whole_bytes: bool = False,
) -> Tflite:
    """Build a TFLite model.

    Args:
        steps: From :func:`apq.runtime.folded.fold`, quantized, in the order they run.
        input_shape: ``(batch, channels, height, width)``; the file takes
            ``(batch, height, width, channels)``.
        metadata: Written into the file as JSON, under the name ``apq``.
        part: Whether the steps are a part of a network, which gives what stands between layers.
        whole_bytes: Keep weights of four bits or fewer in bytes. The file is larger; XNNPACK then
            runs every layer, and biases have the step they have in evaluation. In halves of bytes
            it leaves convolutions to the built-in kernels, and a bias is rounded to the step of
            the sums.

    Raises:
        ModelError: ai-edge-litert is missing, or TFLite cannot hold a layer (the message names it
            and what can).
    """
    writer = _Writer(whole_bytes)
    first = steps[0].grid
    if first is None or any(isinstance(step.layer, FloatLayer) for step in steps):
        raise ModelError(
            "a TFLite file here is one of integers, and this network is float. Fine-tune it with a "
            "scheme (apq finetune --scheme uniform), or export it as onnx."
        )
    batch, channels, height, width = input_shape
    image = writer.new("image", first, (batch, height, width, channels))

    def write(step: Step[IntegerLayer | FloatLayer], *inputs: _Tensor) -> _Tensor:
        return writer.step(step, inputs)

    last = walk(steps, image, write)
    data = writer.file.finish(image.index, last.index, metadata)
    names = tuple(sorted({op for op, _ in writer.file.used}))
    arena = writer.file.arena_bytes(image.index, last.index)
    return Tflite(data, writer.weight_bytes, names, arena, writer.coarse_bias)


@dataclass(frozen=True)
class _Tensor:
    """A tensor between layers: its number in the file, and the grid whose integers it holds."""

    index: int
    grid: Rounding
    shape: tuple[int, ...]


def zero_point(grid: Rounding) -> int:
    """The byte that stands for 0: the grid ends at 127."""
    return TOP - grid.high


def _quantization(grid: Rounding) -> Quantization:
    return grid.scale, zero_point(grid)


class _Writer:
    """Nodes become operators."""

    def __init__(self, whole_bytes: bool) -> None:
        self.file = FlatBuffer()
        self.whole_bytes = whole_bytes
        self.weight_bytes = 0
        self.coarse_bias = 0.0

    def new(self, name: str, grid: Rounding, shape: tuple[int, ...]) -> _Tensor:
        """A tensor that an operator will give."""
        if grid.is_sign:
            raise ModelError(
                f"{name}: TFLite has no integer operator that makes signs of activations; export "
                "it as onnx or torch, or take 'binary' off the activation formats"
            )
        return _Tensor(self.file.tensor(name, shape, "int8", _quantization(grid)), grid, shape)

    def step(self, step: Step[IntegerLayer | FloatLayer], inputs: Sequence[_Tensor]) -> _Tensor:
        """One node."""
        if isinstance(step.layer, IntegerLayer):
            return self.layer(step.name, step.layer, inputs[0])
        grid = step.grid
        assert grid is not None
        if step.op == "add":
            return self.add(step.name, inputs, grid)
        if step.op == "concat":
            return self.concat(step.name, inputs, grid)
        if step.op == "maxpool":
            return self.largest(step.name, inputs[0], grid, *step.window)
        if step.op == "act":
            return self.curve(step.name, inputs[0], grid, step.act)
        if step.op == "scale":
            fits = {"fusedActivationFunction": self.fused(grid)}
            return self.ended(
                step.name, "MUL", [x.index for x in inputs], grid, inputs[0].shape, "MulOptions",
                **fits,
            )  # fmt: skip
        assert step.op == "pool"
        batch, _, _, channels = inputs[0].shape
        axes = self.file.constant("axes.pixels", np.array([1, 2], dtype=np.int32))
        return self.ended(
            step.name, "MEAN", [inputs[0].index, axes], grid, (batch, 1, 1, channels),
            "ReducerOptions", keepDims=True,
        )  # fmt: skip

    def fused(self, grid: Rounding) -> int:
        """The activation that an operator ends with: a ReLU where the grid begins at 0."""
        kinds = self.file.schema.ActivationFunctionType
        starts = grid.low == 0 and zero_point(grid) > BOTTOM
        return int(kinds.RELU if starts else kinds.NONE)

    def ended(
        self,
        name: str,
        op: str,
        inputs: list[int],
        grid: Rounding,
        shape: tuple[int, ...],
        options: str = "",
        **fields: Any,
    ) -> _Tensor:
        """An operator whose output begins where the grid does, by what it ends with or by a
        MAXIMUM behind it."""
        done = grid.low + zero_point(grid) <= BOTTOM or fields.get("fusedActivationFunction")
        made = self.new(name if done else f"{name}.unbounded", grid, shape)
        self.file.operator(op, inputs, made.index, options, **fields)
        if done:
            return made
        low = grid.low + zero_point(grid)
        least = self.file.constant(
            f"{name}.least", np.full((1, 1, 1, 1), low, dtype=np.int8), _quantization(grid)
        )
        out = self.new(name, grid, shape)
        self.file.operator("MAXIMUM", [made.index, least], out.index, "MaximumMinimumOptions")
        return out

    def regrid(self, name: str, x: _Tensor, grid: Rounding) -> _Tensor:
        """The same on the grid a layer wants: a convolution of single pixels and channels.

        XNNPACK's QUANTIZE knows the ratio of two steps to eight bits only.
        """
        if grid.holds(x.grid):
            return x
        if grid.scale == x.grid.scale:
            return self.moved(f"{name}.input", x, grid)
        channels = x.shape[3]
        same = np.full((1, 1, 1, channels), UNIT, dtype=np.int8)
        weight = self.file.constant(f"unit{channels}", same, (1 / UNIT, 0))
        step = np.float32(x.grid.scale) / np.float32(UNIT)
        zeros = np.zeros(channels, dtype=np.int32)
        bias = self.file.constant(f"zeros{channels}.{step:.9g}", zeros, (float(step), 0))
        return self.ended(
            f"{name}.input", "DEPTHWISE_CONV_2D", [x.index, weight, bias], grid, x.shape,
            "DepthwiseConv2DOptions", padding=self.file.schema.Padding.VALID, strideW=1, strideH=1,
            depthMultiplier=1, fusedActivationFunction=self.fused(grid),
        )  # fmt: skip

    def moved(self, name: str, x: _Tensor, grid: Rounding) -> _Tensor:
        """The same integers around the zero point of a grid of the same step."""
        same = x.grid.scale == grid.scale and zero_point(x.grid) == zero_point(grid)
        if same:
            return x
        return self.ended(name, "QUANTIZE", [x.index], grid, x.shape, "QuantizeOptions")

    def add(self, name: str, inputs: Sequence[_Tensor], grid: Rounding) -> _Tensor:
        """Two tensors or more of one step, one after the other: exact, but that sums of more than
        two saturate on the way."""
        total, *others = inputs
        for i, x in enumerate(others):
            last = i == len(others) - 1
            to = grid if last else replace(grid, low=-128, high=127)
            total = self.ended(
                name if last else f"{name}.part{i}", "ADD", [total.index, x.index], to,
                total.shape, "AddOptions", fusedActivationFunction=self.fused(to),
            )  # fmt: skip
        return total

    def concat(self, name: str, inputs: Sequence[_Tensor], grid: Rounding) -> _Tensor:
        """Channels side by side; TFLite wants one zero point for all."""
        parts = [self.moved(f"{name}.{i}", x, grid) for i, x in enumerate(inputs)]
        shape = (*parts[0].shape[:3], sum(x.shape[3] for x in parts))
        out = self.new(name, grid, shape)
        self.file.operator(
            "CONCATENATION", [x.index for x in parts], out.index, "ConcatenationOptions", axis=3
        )
        return out

    def largest(self, name: str, x: _Tensor, grid: Rounding, kernel: int, stride: int) -> _Tensor:
        """Max pooling; padding has the lowest level, so that it is never the maximum."""
        x = self.regrid(name, x, grid)
        low = x.grid.low + zero_point(x.grid)
        x, padding, side = self.padded(name, x, kernel, stride, kernel // 2 * (kernel % 2), low)
        shape = (x.shape[0], *side, x.shape[3])
        out = self.new(name, x.grid, shape)
        self.file.operator(
            "MAX_POOL_2D", [x.index], out.index, "Pool2DOptions", padding=padding, strideW=stride,
            strideH=stride, filterWidth=kernel, filterHeight=kernel,
        )  # fmt: skip
        return out

    def curve(self, name: str, x: _Tensor, grid: Rounding, act: str) -> _Tensor:
        """An activation as a table of 256 bytes: operators of that name round differently."""
        codes = torch.arange(BOTTOM, TOP + 1) - zero_point(x.grid)
        real = codes.float() * torch.tensor(x.grid.scale, dtype=torch.float32)
        values = grid.codes(ACTIVATIONS[act]()(real)).numpy() + zero_point(grid)
        table = self.file.constant(f"{name}.table", values.astype(np.int8), _quantization(grid))
        wide = self.file.tensor(f"{name}.wide", x.shape, "int32")
        index = self.file.tensor(f"{name}.index", x.shape, "int32")
        self.file.operator("CAST", [x.index], wide, "CastOptions",
                           inDataType=self.file.schema.TensorType.INT8,
                           outDataType=self.file.schema.TensorType.INT32)  # fmt: skip
        first = self.file.constant("first", np.array(-BOTTOM, dtype=np.int32))
        self.file.operator("ADD", [wide, first], index, "AddOptions", version=1)
        out = self.new(name, grid, x.shape)
        self.file.operator("GATHER", [table, index], out.index, "GatherOptions", axis=0)
        return out

    def padded(
        self, name: str, x: _Tensor, kernel: int, stride: Size, before: int, value: int
    ) -> tuple[_Tensor, int, tuple[int, int]]:
        """Input, kind of padding and output's sides of a window that moves by ``stride``.

        With stride 2, TFLite pads an even side less before than behind; there, and wherever its
        rule differs from ours, an explicit PAD is written.
        """
        kinds = self.file.schema.Padding
        moves = [*zip(x.shape[1:3], both(stride), strict=True)]
        sides = [(n + 2 * before - kernel) // step + 1 for n, step in moves]
        ends = [
            (before, max(0, (out - 1) * step + kernel - n - before))
            for (n, step), out in zip(moves, sides, strict=True)
        ]
        side = sides[0], sides[1]
        if not any(sum(end) for end in ends):
            return x, int(kinds.VALID), side
        whole = all(out == -(-n // step) for (n, step), out in zip(moves, sides, strict=True))
        if whole and all(end[0] == sum(end) // 2 for end in ends):
            return x, int(kinds.SAME), side
        (top, bottom), (left, right) = ends
        shape = (x.shape[0], x.shape[1] + top + bottom, x.shape[2] + left + right, x.shape[3])
        pads = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], dtype=np.int32)
        said = self.file.constant(f"pads{top}.{bottom}.{left}.{right}", pads)
        out = self.new(f"{name}.padded", x.grid, shape)
        inputs = [x.index, said]
        if value == zero_point(x.grid):
            self.file.operator("PAD", inputs, out.index, "PadOptions")
        else:
            least = np.array(value, dtype=np.int8)
            inputs.append(self.file.constant(f"{name}.least", least, _quantization(x.grid)))
            self.file.operator("PADV2", inputs, out.index, "PadV2Options", version=2)
        return out, int(kinds.VALID), side

    def layer(self, name: str, layer: IntegerLayer, x: _Tensor) -> _Tensor:
        """A convolution; a linear layer is a 1x1 one."""
        x = self.regrid(name, x, layer.rounding)
        if layer.output is None:
            return self.classifier(name, layer, x)
        kernel = weight_shape(layer)[-1]
        x, padding, side = self.padded(
            name, x, kernel, layer.stride, layer.padding, zero_point(x.grid)
        )
        rows, columns = both(layer.stride)
        op, options, inputs, fields = self.convolution(name, layer, x)
        return self.ended(
            name, op, inputs, layer.output, (x.shape[0], *side, weight_shape(layer)[0]), options,
            padding=padding, strideW=columns, strideH=rows,
            fusedActivationFunction=self.fused(layer.output), **fields,
        )  # fmt: skip

    def convolution(
        self, name: str, layer: IntegerLayer, x: _Tensor
    ) -> tuple[str, str, list[int], dict[str, Any]]:
        """Operator, table of its options, inputs, and the options that belong to its kind."""
        channels, _, _, _ = weight_shape(layer)
        alone = layer.groups > 1 and layer.groups == x.shape[3]
        inputs = [x.index, *self.weights(name, layer, 3 if alone else 0)]
        if not alone:
            return "CONV_2D", "Conv2DOptions", inputs, {}
        fields = {"depthMultiplier": channels // layer.groups}
        return "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", inputs, fields

    def classifier(self, name: str, layer: IntegerLayer, x: _Tensor) -> _Tensor:
        """Logits in 16 bits, wide enough for the largest that these weights can give."""
        batch, classes = x.shape[0], weight_shape(layer)[0]
        wide = self.file.tensor(f"{name}.wide", x.shape, "int16", (x.grid.scale, 0))
        self.file.operator("QUANTIZE", [x.index], wide, "QuantizeOptions")
        scale = largest_logit(layer, x.grid) / WIDE
        inputs = [wide, *self.weights(name, layer, 0, bias=np.int64, narrow=False)]
        shape = (batch, 1, 1, classes)
        square = self.file.tensor(f"{name}.square", shape, "int16", (scale, 0))
        kinds = self.file.schema.Padding
        self.file.operator("CONV_2D", inputs, square, "Conv2DOptions", version=4,
                           padding=kinds.VALID, strideW=1, strideH=1)  # fmt: skip
        logits = self.file.tensor("logits", (batch, classes), "int16", (scale, 0))
        flat = self.file.constant("flat", np.array([batch, classes], dtype=np.int32))
        self.file.operator("RESHAPE", [square, flat], logits, "ReshapeOptions",
                           newShape=[batch, classes])  # fmt: skip
        return _Tensor(logits, x.grid, (batch, classes))

    def weights(
        self, name: str, layer: IntegerLayer, axis: int, bias: type = np.int32, narrow: bool = True
    ) -> list[int]:
        """Weights, ``(out, k, k, in)`` or, of single channels, ``(1, k, k, out)``, and biases."""
        codes, spacing = whole_numbers(name, layer.weight)
        unit = 1 if layer.weight.table is not None else layer.weight.unit
        halves = narrow and not self.whole_bytes and int(codes.abs().max()) <= 7
        if not halves:
            codes, spacing = codes * unit, spacing / unit
        order = (1, 2, 3, 0) if axis == 3 else (0, 2, 3, 1)
        laid = codes.permute(*order).contiguous().numpy().astype(np.int8)
        steps = spacing.numpy().astype(np.float32)
        kind = "int4" if halves else "int8"
        data = pack_halves(laid) if halves else laid.tobytes()
        weight = self.file.tensor(f"{name}.weight", laid.shape, kind, (steps, 0), axis, data)
        step = steps * np.float32(layer.rounding.scale)
        exact = layer.real_bias.double()
        rounded = np.rint(exact.numpy() / step)
        if layer.output is not None:
            off = np.abs(rounded * step - exact.numpy()).max() / layer.output.scale
            self.coarse_bias = max(self.coarse_bias, float(off) if off > 1e-3 else 0.0)
        added = self.file.tensor(
            f"{name}.bias", (len(rounded),), np.dtype(bias).name, (step, 0),  # XNNPACK wants steps
            data=rounded.astype(bias).tobytes(),
        )  # fmt: skip
        self.weight_bytes += len(data) + rounded.astype(bias).nbytes + steps.nbytes
        return [weight, added]


def largest_logit(layer: IntegerLayer, grid: Rounding) -> float:
    """Bound on the magnitude of a last layer's logits, at least 1e-6."""
    codes = layer.weight.values().flatten(1).double()
    plus, minus = codes.clamp_min(0).sum(1), codes.clamp_max(0).sum(1)
    ends = (plus * grid.high + minus * grid.low, plus * grid.low + minus * grid.high)
    step, bias = layer.step.double(), layer.real_bias.double()
    return max(1e-6, *(float((end * step + bias).abs().max()) for end in ends))


def whole_numbers(name: str, weight: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes that are multiples of one step per channel, and these steps. A table of values is
    turned into multiples of its smallest, if they fit a byte: powers of two do, codebooks do not.

    Raises:
        ModelError: they do not; names the layer and what a TFLite file can hold.
    """
    if weight.table is None:
        return weight.codes.to(torch.int32), weight.scale * weight.unit
    smallest = float(weight.table[weight.table != 0].abs().min())
    multiples = weight.table.double() / smallest
    if float((multiples - multiples.round()).abs().max()) > 1e-6 or multiples.abs().max() > TOP:
        raise ModelError(
            f"{name}: its weights come from a table of {len(multiples)} values that are no whole "
            f"multiples, up to {TOP}, of one step; TFLite's integer operators have no tables. "
            "Uniform, fixed-point, binary and ternary weights, and powers of two of up to 4 bits, "
            "can be written; or export this network as onnx or torch."
        )
    return multiples.round().to(torch.int32)[weight.codes.long()], weight.scale * smallest


def pack_halves(values: NDArray[np.int8]) -> bytes:
    """Integers of -8 to 7, two to a byte, the first in the low half (TFLite's INT4)."""
    flat = values.reshape(-1).astype(np.uint8) & 15
    flat = np.append(flat, np.zeros(len(flat) % 2, dtype=np.uint8))
    return (flat[0::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
