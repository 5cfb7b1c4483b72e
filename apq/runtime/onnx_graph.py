"""Write folded layers as ONNX, node by node: the file holds weights and a few dozen nodes with the
subnet's own layer names. Needs the extra ``apq-nas[onnx]``.

Three forms:

``qdq``
    QuantizeLinear/DequantizeLinear pairs around float operators, which runtimes fuse into integer
    kernels. Every tensor between layers is bytes; fewer bits are clamped in the integer domain,
    where it does not prevent fusion. onnxruntime then equals :func:`apq.quantize.integer.run` bit
    for bit. A runtime that does not fuse, or rounds differently, differs by isolated levels.
``integer``
    The same arithmetic in standard operators. It gives the same bits on every runtime that follows
    the standard, but is slower.
``qonnx``
    Float weights behind Quant nodes of any bitwidth (arXiv:2206.07527), for FINN and hls4ml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from apq.errors import ApqError, ModelError
from apq.quantize import Packed
from apq.quantize.integer import IntegerLayer, Rounding, Step, mean_factor, scale_factor
from apq.runtime.folded import FloatLayer, Steps, weight_shape
from apq.space.graph import walk
from apq.space.layer import Size, both

if TYPE_CHECKING:
    import onnx

QONNX_DOMAIN = "qonnx.custom_op.general"
COMPUTING = ("Conv", "Gemm", "Add", "Concat", "Mul", "GlobalAveragePool", "ReduceSum", "Flatten")
FORMS = ("qdq", "integer", "qonnx")
ZERO = 128
"""The byte that represents a weight of 0."""
OPSET, IR_VERSION = 13, 8
"""Versions for files with 8-bit weights: opset 13 is the first whose QuantizeLinear and
DequantizeLinear have a step per channel, and runtimes of 2022 read both."""
NARROW = {"INT4": (4, 21), "UINT4": (4, 21), "INT2": (2, 25)}
"""ONNX types of less than a byte: their bits, and the first opset that has them."""


def require_onnx() -> Any:
    """The onnx package.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ModelError("this needs onnx and onnxruntime: pip install 'apq-nas[onnx]'") from error
    return onnx


def onnx_model(
    steps: Steps,
    input_shape: tuple[int | None, int, int, int],
    metadata: Mapping[str, str],
    form: str = "qdq",
    int2: bool = False,
    opset: int | None = None,
    part: bool = False,
) -> onnx.ModelProto:
    """Build an ONNX model.

    Args:
        steps: From :func:`apq.runtime.folded.fold`, in the order they run; or the last ones of
            them, then the input is what the first of these reads.
        input_shape: ``(batch, channels, height, width)``, fixed. A batch of None means any
            number of images: the dimension is the symbol ``batch``.
        metadata: Written into the model's properties.
        form: One of ``FORMS``, see the module's head. Float networks look the same in all.
        int2: Store 2-bit weights in 2 bits instead of 4. Needs opset 25, which few runtimes read.
        opset: Version of ONNX's operators. None means the smallest that has what the file uses:
            13, or 21 with types of 4 bits, 25 with those of 2.
        part: Whether the steps are a part of a network, whose input and output are tensors between
            layers (bytes in form ``qdq``).

    Returns:
        A checked model with input ``image`` (normalised) and output ``logits``.

    Raises:
        ApqError: onnx is missing, it has no type of 2 bits, the form cannot express a layer, or
            the file cannot have this opset (the message names those it can have).
    """
    require_onnx()
    layers = [step.layer for step in steps if step.layer is not None]
    graph = _Float() if isinstance(layers[0], FloatLayer) else _WRITERS[form](int2)
    sides = {"image": input_shape[2:]}

    def write(step: Step[IntegerLayer | FloatLayer], *inputs: _Tensor) -> _Tensor:
        side = sides.get(step.inputs[0], input_shape[2:])
        sides[step.name] = _moved(step, side)
        if step.layer is not None:
            return graph.layer(step.name, step.layer, inputs[0])
        if step.op == "pool":
            sides[step.name] = 1, 1
            return graph.mean(step.name, inputs[0], step.grid, side[0] * side[1])
        if step.op == "concat":
            return graph.concat(step.name, inputs, step.grid)
        if step.op == "maxpool":
            return graph.largest(step.name, inputs[0], step.grid, *step.window)
        if step.op == "act":
            return graph.curve(step.name, inputs[0], step.grid, step.act)
        if step.op == "scale":
            return graph.scaled(step.name, inputs, step.grid)
        return graph.add(step.name, inputs, step.grid, step.act)

    first = _Tensor("image", steps[0].grid) if part else graph.image(steps[0].grid)
    x = walk(steps, first, write)
    classes, given = weight_shape(layers[-1])[0], x.grid if part else None
    shape: tuple[int | None, ...] = (classes,)
    if part and steps[-1].op != "linear":
        shape = (classes, None, None)
        graph.node("Identity", [x.name], "given", output="logits")
    elif graph.flat != "logits":
        graph.node("Flatten", [x.name], "flatten", output="logits")
    ends = (("image", input_shape[1:], part and first.grid), ("logits", shape, given))
    model: onnx.ModelProto = graph.model(input_shape[0], ends, metadata, opset)
    return model


def _moved(step: Step[IntegerLayer | FloatLayer], side: tuple[int, int]) -> tuple[int, int]:
    """Output height and width of a convolution or max pooling, from its input's."""
    if step.layer is None:
        kernel, stride = step.window
        padding = kernel // 2 if kernel % 2 else 0
        moves: Size = stride
    else:
        kernel, moves = weight_shape(step.layer)[-1], step.layer.stride
        padding = step.layer.padding
    height, width = ((n + 2 * padding - kernel) // move + 1
                     for n, move in zip(side, both(moves), strict=True))  # fmt: skip
    return height, width


def _sixfold(grid: Rounding, to: Rounding, act: str) -> float | None:
    """The step that maps six times an activation to the activation's integers without a division;
    None if it would round some integer of ``grid`` differently."""
    real = torch.arange(grid.low, grid.high + 1).float() * torch.tensor(grid.scale)
    factor = (real + 3.0).clamp(0.0, 6.0)
    y = real * factor if act == "hswish" else factor
    step = float(torch.tensor(to.scale) * 6.0)
    return step if torch.equal(replace(to, scale=step).codes(y), to.codes(y / 6.0)) else None


@dataclass(frozen=True)
class _Tensor:
    """A tensor between layers: a name, and the grid whose integers it holds (None: real)."""

    name: str
    grid: Rounding | None = None


class _Graph:
    """Nodes and initializers under construction."""

    def __init__(self, int2: bool = False) -> None:
        self.int2 = int2
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.made: set[str] = set()
        self.domains = {"": OPSET}
        self.flat = ""

    def node(
        self, op: str, inputs: list[str], name: str, output: str = "", **attributes: Any
    ) -> str:
        """Append a node; by default its output has the node's name.

        Only the node that computes a layer is named after it; the auxiliary nodes (six per layer)
        are identified by the names of their outputs.
        """
        from onnx import helper

        out, own = output or name, name if op in COMPUTING else None
        self.nodes.append(helper.make_node(op, inputs, [out], name=own, **attributes))
        return out

    def constant(self, name: str, value: NDArray[Any], kind: int | None = None) -> str:
        """An initializer, once per name; ``kind`` packs integers into an ONNX type."""
        from onnx import helper, numpy_helper

        if name not in self.initializers:
            if kind is None:
                tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
            else:
                bits, opset = NARROW.get(_type_name(kind), (8, OPSET))
                self.domains[""] = max(self.domains[""], opset)
                packed = _packed_bytes(value, bits)
                tensor = helper.make_tensor(name, kind, value.shape, packed, raw=True)
            self.initializers[name] = tensor
        return name

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

    def sum_of(self, name: str, inputs: Sequence[str]) -> str:
        """Two tensors or more, added one after the other."""
        total, *others = inputs
        for i, x in enumerate(others):
            last = i == len(others) - 1
            total = self.node("Add", [total, x], name if last else f"{name}.part{i}")
        return total

    def scalar(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, dtype=np.float32))

    def conv(self, name: str, inputs: list[str], layer: IntegerLayer | FloatLayer) -> str:
        """A Conv node; attributes with their default value are omitted."""
        kernel = weight_shape(layer)[-1]
        said: dict[str, Any] = {"kernel_shape": [kernel] * 2} if kernel > 1 else {}
        said |= {"strides": [*both(layer.stride)]} if layer.stride != 1 else {}
        said |= {"pads": [layer.padding] * 4} if layer.padding else {}
        said |= {"group": layer.groups} if layer.groups > 1 else {}
        return self.node("Conv", inputs, name, **said)

    def _from_table(self, name: str, w: Packed) -> str:
        """Codes that index a table of values, which their scales do not yet multiply."""
        import onnx

        assert w.table is not None
        kind = onnx.TensorProto.UINT4 if w.bits <= 4 else onnx.TensorProto.UINT8
        codes = self.constant(f"{name}_codes", w.codes.numpy(), kind)
        index = self.node("Cast", [codes], f"{name}_index", to=onnx.TensorProto.INT32)
        table = self.constant(f"{name}_table", w.table.numpy())
        return self.node("Gather", [table, index], name)

    def _kind(self, w: Packed) -> int:
        """Smallest ONNX integer type that holds the codes."""
        import onnx

        if w.bits <= 2 and self.int2:
            if not hasattr(onnx.TensorProto, "INT2"):
                raise ApqError(f"onnx {onnx.__version__} has no type of 2 bits; 1.20 has")
            return int(onnx.TensorProto.INT2)
        return int(onnx.TensorProto.INT4 if w.bits <= 4 else onnx.TensorProto.INT8)

    def opset(self, asked: int | None) -> int:
        """The requested opset, or the smallest that the nodes and types allow."""
        import onnx

        low, high = self.domains[""], int(onnx.defs.onnx_opset_version())
        if asked is not None and not low <= asked <= high:
            bits = next((bits for bits, first in NARROW.values() if first == low), 0)
            raise ApqError(
                f"opset {asked} does not suit this file; allowed: {low} to {high}. "
                + (f"Its types of {bits} bits" if bits else "Steps per channel")
                + f" need {low}, and onnx {onnx.__version__} ends at {high}."
            )
        return asked or low

    def model(
        self,
        count: int | None,
        ends: Sequence[tuple[str, tuple[int | None, ...], Any]],
        metadata: Mapping[str, str],
        opset: int | None,
    ) -> Any:
        """The finished model, checked; see :func:`onnx_model`. Its input and output: their names,
        shapes but for the first dimension, and grids (none: real numbers)."""
        import onnx
        from onnx import TensorProto, helper

        from apq.version import __version__

        batch = "batch" if count is None else count
        outer = [
            helper.make_tensor_value_info(
                name, TensorProto.UINT8 if grid else TensorProto.FLOAT, (batch, *rest)
            )
            for name, rest, grid in ends
        ]
        graph = helper.make_graph(
            self.nodes, "apq", outer[:1], outer[1:], list(self.initializers.values())
        )
        domains = self.domains | {"": self.opset(opset)}
        imports = [helper.make_opsetid(name, version) for name, version in domains.items()]
        oldest = int(helper.find_min_ir_version_for(imports[:1]))  # the first is ONNX's own domain
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=max(IR_VERSION, oldest), producer_name="apq",
            producer_version=__version__,
        )  # fmt: skip
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model)
        return model


class _Float(_Graph):
    """A network of real numbers."""

    def image(self, _: Any) -> _Tensor:
        return _Tensor("image")

    def layer(self, name: str, layer: Any, x: _Tensor) -> _Tensor:
        weight = self.constant(f"{name}.weight", layer.weight.numpy())
        bias = self.constant(f"{name}.bias", layer.bias.numpy())
        y = self.conv(name, [x.name, weight, bias], layer)
        return _Tensor(self.activated(name, y, layer.act))

    def activated(self, name: str, y: str, act: str) -> str:
        if act == "relu":
            return self.node("Relu", [y], f"{name}.relu")
        ends = [self.scalar("zero", 0.0), self.scalar("six", 6.0)]
        return self.node("Clip", [y, *ends], f"{name}.relu6") if act else y

    def mean(self, name: str, x: _Tensor, grid: Any, pixels: int) -> _Tensor:
        return _Tensor(self.node("GlobalAveragePool", [x.name], name))

    def add(self, name: str, inputs: Sequence[_Tensor], grid: Any, act: str) -> _Tensor:
        total = self.sum_of(name, [x.name for x in inputs])
        return _Tensor(self.activated(name, total, act))

    def concat(self, name: str, inputs: Sequence[_Tensor], grid: Any) -> _Tensor:
        return _Tensor(self.node("Concat", [x.name for x in inputs], name, axis=1))

    def largest(self, name: str, x: _Tensor, grid: Any, kernel: int, stride: int) -> _Tensor:
        return _Tensor(self.max_pool(name, x.name, kernel, stride))

    def curve(self, name: str, x: _Tensor, grid: Any, act: str) -> _Tensor:
        return _Tensor(self.sixth(name, self.curved(name, x.name, act)))

    def scaled(self, name: str, inputs: Sequence[_Tensor], grid: Any) -> _Tensor:
        return _Tensor(self.node("Mul", [x.name for x in inputs], name))


class _Bytes(_Graph):
    """Tensors between layers are unsigned bytes; what follows is common to two forms."""

    def quantize(self, name: str, x: str, grid: Rounding, scale: str) -> _Tensor:
        """Real numbers to a grid, in units of ``scale``; clamped if it does not fill a byte."""
        y = self.node("QuantizeLinear", [x, scale, self.byte(grid.zero)], f"{name}.codes")
        if not grid.fills_byte:
            ends = [self.byte(grid.zero + grid.low), self.byte(grid.zero + grid.high)]
            y = self.node("Clip", [y, *ends], f"{name}.clamped")
        return _Tensor(y, grid)

    def byte(self, value: int) -> str:
        return self.constant(f"byte{value}", np.array(value, dtype=np.uint8))

    def scale(self, grid: Rounding) -> str:
        """The step of a grid, one initializer however many tensors share it."""
        return self.scalar(f"step{grid.scale:.9g}", grid.scale)

    def real(self, x: _Tensor) -> str:
        """A tensor's real values."""
        assert x.grid is not None
        name = f"{x.name}.real"
        if name not in self.made:
            self.made.add(name)
            self.node(
                "DequantizeLinear", [x.name, self.scale(x.grid), self.byte(x.grid.zero)], name
            )
        return name

    def image(self, grid: Rounding) -> _Tensor:
        return self.quantize("image", "image", grid, self.scale(grid))

    def regrid(self, name: str, x: _Tensor, grid: Rounding) -> _Tensor:
        """The same on the grid a layer wants."""
        assert x.grid is not None
        if grid.holds(x.grid):
            return _Tensor(x.name, replace(grid, low=x.grid.low, high=x.grid.high))
        if not grid.is_sign:
            return self.quantize(f"{name}.input", self.real(self.held(x)), grid, self.scale(grid))
        positive = self.node("GreaterOrEqual", [x.name, self.byte(x.grid.zero)], f"{name}.positive")
        ends = [self.byte(grid.zero + 1), self.byte(grid.zero - 1)]
        return _Tensor(self.node("Where", [positive, *ends], f"{name}.sign"), grid)

    def held(self, x: _Tensor) -> _Tensor:
        """The same bytes behind a Clip that changes none: of two pairs of quantize and dequantize
        in a row onnxruntime makes one, which rounds otherwise."""
        if not x.name.endswith(".codes"):
            return x
        name = f"{x.name}.held"
        if name not in self.made:
            self.made.add(name)
            self.node("Clip", [x.name, self.byte(0), self.byte(255)], name)
        return _Tensor(name, x.grid)

    def concat(self, name: str, inputs: Sequence[_Tensor], grid: Any) -> _Tensor:
        """Bytes of one step, moved to where the grid has its zero."""
        parts = [x.name for x in inputs]
        if any(x.grid.zero != grid.zero for x in inputs if x.grid is not None):
            step, real = self.scale(grid), [self.real(self.held(x)) for x in inputs]
            parts = [self.quantize(f"{name}.{i}", x, grid, step).name for i, x in enumerate(real)]
        return _Tensor(self.node("Concat", parts, name, axis=1), grid)

    def largest(self, name: str, x: _Tensor, grid: Any, kernel: int, stride: int) -> _Tensor:
        x = self.regrid(name, x, grid)
        return _Tensor(self.max_pool(name, x.name, kernel, stride), x.grid)

    def curve(self, name: str, x: _Tensor, grid: Any, act: str) -> _Tensor:
        assert x.grid is not None
        y, step = self.curved(name, self.real(x), act), _sixfold(x.grid, grid, act)
        if step is not None:
            return self.quantize(name, y, grid, self.scalar(f"step{step:.9g}", step))
        return self.quantize(name, self.sixth(name, y), grid, self.scale(grid))

    def counts(self, x: _Tensor) -> str:
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

    def spelled_out(self, name: str, layer: IntegerLayer, x: _Tensor) -> _Tensor:
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
            return _Tensor(y)
        return self.quantize(name, y, layer.output, self.scalar("one", 1.0))


class _Integer(_Bytes):
    """The arithmetic of integer kernels in operators that all runtimes compute identically."""

    def layer(self, name: str, layer: Any, x: _Tensor) -> _Tensor:
        return self.spelled_out(name, layer, self.regrid(name, x, layer.rounding))

    def mean(self, name: str, x: _Tensor, grid: Any, pixels: int) -> _Tensor:
        assert x.grid is not None
        axes = self.constant("axes.pixels", np.array([2, 3], dtype=np.int64))
        total = self.node("ReduceSum", [self.counts(x), axes], f"{name}.sum", keepdims=1)
        factor = float(mean_factor(x.grid, grid, pixels))
        y = self.node("Mul", [total, self.scalar(f"{name}.factor", factor)], name)
        return self.quantize(name, y, grid, self.scalar("one", 1.0))

    def add(self, name: str, inputs: Sequence[_Tensor], grid: Any, act: str) -> _Tensor:
        y = self.sum_of(name, [self.counts(x) for x in inputs])
        return self.quantize(name, y, grid, self.scalar("one", 1.0))

    def scaled(self, name: str, inputs: Sequence[_Tensor], grid: Any) -> _Tensor:
        x, factor = inputs
        assert x.grid is not None
        assert factor.grid is not None
        product = self.node("Mul", [self.counts(x), self.counts(factor)], f"{name}.product")
        worth = float(scale_factor(x.grid, factor.grid, grid))
        y = self.node("Mul", [product, self.scalar(f"{name}.factor", worth)], name)
        return self.quantize(name, y, grid, self.scalar("one", 1.0))


class _Pairs(_Bytes):
    """QuantizeLinear/DequantizeLinear pairs."""

    def layer(self, name: str, layer: Any, x: _Tensor) -> _Tensor:
        x = self.regrid(name, x, layer.rounding)
        if layer.weight.table is not None:
            return self.spelled_out(name, layer, x)
        inputs = [self.weights(name, layer), self.biases(name, layer)]
        if layer.output is None:  # the classifier: runtimes fuse a Gemm with real output
            flat = self.node("Flatten", [x.name], f"{name}.input")
            y = self.node("Gemm", [self.real(_Tensor(flat, x.grid)), *inputs], name,
                          output="logits", transB=1)  # fmt: skip
            self.flat = y
            return _Tensor(y)
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

    def mean(self, name: str, x: _Tensor, grid: Any, pixels: int) -> _Tensor:
        y = self.node("GlobalAveragePool", [self.real(x)], name)
        return self.quantize(name, y, grid, self.scale(grid))

    def add(self, name: str, inputs: Sequence[_Tensor], grid: Any, act: str) -> _Tensor:
        y = self.sum_of(name, [self.real(x) for x in inputs])
        return self.quantize(name, y, grid, self.scale(grid))

    def scaled(self, name: str, inputs: Sequence[_Tensor], grid: Any) -> _Tensor:
        y = self.node("Mul", [self.real(x) for x in inputs], name)
        return self.quantize(name, y, grid, self.scale(grid))


class _Qonnx(_Float):
    """Real numbers behind Quant nodes."""

    def __init__(self, int2: bool = False) -> None:
        super().__init__(int2)
        self.domains[QONNX_DOMAIN] = 1

    def quant(self, name: str, x: _Tensor, grid: Rounding) -> _Tensor:
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
        return _Tensor(y, grid)

    def image(self, grid: Rounding) -> _Tensor:
        return self.quant("image", _Tensor("image"), grid)

    def layer(self, name: str, layer: Any, x: _Tensor) -> _Tensor:
        x = self.quant(f"{name}.input", x, layer.rounding)
        bias = self.constant(f"{name}.bias", layer.real_bias.numpy())
        y = self.conv(name, [x.name, self.weight(name, layer.weight), bias], layer)
        if layer.output is None:
            return _Tensor(y)
        grid = layer.output
        if grid.low == 0 and layer.act:  # which may end the grid early
            y, grid = self.activated(name, y, layer.act), replace(grid, high=2**grid.bits - 1)
        return self.quant(name, _Tensor(y), grid)

    def mean(self, name: str, x: _Tensor, grid: Any, pixels: int) -> _Tensor:
        y = self.node("GlobalAveragePool", [x.name], name)
        return self.quant(name, _Tensor(y), grid)

    def add(self, name: str, inputs: Sequence[_Tensor], grid: Any, act: str) -> _Tensor:
        return self.quant(name, super().add(name, inputs, grid, act), grid)

    def concat(self, name: str, inputs: Sequence[_Tensor], grid: Any) -> _Tensor:
        return self.quant(name, super().concat(name, inputs, grid), grid)

    def largest(self, name: str, x: _Tensor, grid: Any, kernel: int, stride: int) -> _Tensor:
        return self.quant(name, super().largest(name, x, grid, kernel, stride), grid)

    def curve(self, name: str, x: _Tensor, grid: Any, act: str) -> _Tensor:
        return self.quant(name, super().curve(name, x, grid, act), grid)

    def scaled(self, name: str, inputs: Sequence[_Tensor], grid: Any) -> _Tensor:
        return self.quant(name, super().scaled(name, inputs, grid), grid)

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


_WRITERS: dict[str, Callable[[bool], Any]] = {
    "qdq": _Pairs, "integer": _Integer, "qonnx": _Qonnx,
}  # fmt: skip


def _type_name(kind: int) -> str:
    """ONNX's name of a tensor type, e.g. INT4."""
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(kind))


def _packed_bytes(values: NDArray[Any], width: int) -> bytes:
    """Integers of ``width`` bits as ONNX stores them: two of 4 or four of 2 bits to a byte, low
    bits first."""
    flat = values.reshape(-1).astype(np.int16).astype(np.uint8) & (2**width - 1)
    lanes = np.zeros((-(-len(flat) * width // 8), 8 // width), dtype=np.uint8)
    lanes.reshape(-1)[: len(flat)] = flat
    shifts = np.arange(8 // width, dtype=np.uint8) * width
    return bytes(np.bitwise_or.reduce(lanes << shifts, axis=1).astype(np.uint8).tobytes())
