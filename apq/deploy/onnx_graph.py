"""Write folded layers as ONNX, node by node: the file holds weights, a few dozen nodes with the
subnet's own layer names, and little else. Needs the extra ``apq[onnx]``.

Three forms:

``integer``
    Integer codes are summed exactly and multiplied once, in standard operators. Gives the same bits
    on every runtime that follows the standard; QuantizeLinear, Cast, Conv, DequantizeLinear.
``qdq``
    QuantizeLinear/DequantizeLinear pairs around float convolutions, which toolchains (TensorRT,
    OpenVINO, onnxruntime) fuse into integer kernels of their own; each rounds a little differently.
``qonnx``
    Float weights behind Quant nodes of any bitwidth (arXiv:2206.07527), for FINN and hls4ml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apq.deploy.folded import FloatLayer, Step
from apq.deploy.graphs import require_onnx
from apq.errors import ApqError
from apq.quantize import Packed
from apq.quantize.integer import IntegerLayer, Rounding

if TYPE_CHECKING:
    import onnx

QONNX_DOMAIN = "qonnx.custom_op.general"
FORMS = ("integer", "qdq", "qonnx")


def onnx_model(
    steps: Sequence[Step],
    input_shape: tuple[int, int, int, int],
    metadata: Mapping[str, str],
    form: str = "integer",
    int2: bool = False,
) -> onnx.ModelProto:
    """Build an ONNX model.

    Args:
        steps: From :func:`apq.deploy.folded.fold`, in the order they run.
        input_shape: ``(batch, channels, height, width)``, fixed.
        metadata: Written into the model's properties.
        form: One of ``FORMS``, see the module's head. Float networks look the same in all.
        int2: Store 2-bit weights in 2 bits instead of 4. Needs opset 25, which few runtimes read.

    Returns:
        A checked model with input ``image`` (normalised) and output ``logits``.

    Raises:
        ApqError: onnx is missing, or the form cannot express a layer.
    """
    require_onnx()
    graph = _Graph(form, int2)
    x, kept = "image", "image"
    for step in steps:
        if step.name == "classifier":
            x = graph.mean(x)
        elif step.name.endswith(".expand"):
            kept = x
        x = graph.convolution(step, x)
        if step.shortcut:
            x = graph.node("Add", [kept, x], f"{step.name}.shortcut")
    graph.node("Flatten", [x], "flatten", output="logits")
    model: onnx.ModelProto = graph.model(input_shape, steps[-1].shape[0], metadata)
    return model


class _Graph:
    """Nodes and initializers under construction."""

    def __init__(self, form: str, int2: bool) -> None:
        self.form, self.int2 = form, int2
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.uses_int2 = False

    def node(
        self, op: str, inputs: list[str], name: str, output: str = "", **attributes: Any
    ) -> str:
        """Append a node; its output is named after it unless told otherwise."""
        from onnx import helper

        out = output or name
        self.nodes.append(helper.make_node(op, inputs, [out], name=name, **attributes))
        return out

    def constant(self, name: str, value: NDArray[Any], kind: int | None = None) -> str:
        """An initializer, once per name; ``kind`` packs integers into an ONNX type."""
        from onnx import helper, numpy_helper

        if name not in self.initializers:
            if kind is None:
                tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
            else:
                tensor = helper.make_tensor(
                    name, kind, value.shape, _packed_bytes(value, kind), raw=True
                )
            self.initializers[name] = tensor
        return name

    def scalar(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, dtype=np.float32))

    def mean(self, x: str) -> str:
        """Global average; integer form: in double, where the order of summation leaves no trace."""
        if self.form != "integer":
            return self.node("GlobalAveragePool", [x], "pool")
        from onnx import TensorProto

        wide = self.node("Cast", [x], "pool.double", to=TensorProto.DOUBLE)
        axes = self.constant("pool.axes", np.array([2, 3], dtype=np.int64))
        mean = self.node("ReduceMean", [wide, axes], "pool", keepdims=1)
        return self.node("Cast", [mean], "pool.float", to=TensorProto.FLOAT)

    def convolution(self, step: Step, x: str) -> str:
        """Nodes of one layer, from its rounded input to its activation."""
        layer, name = step.layer, step.name
        kernel = step.shape[-1]
        shape: dict[str, Any] = {
            "kernel_shape": [kernel] * 2, "strides": [layer.stride] * 2,
            "pads": [layer.padding] * 4, "group": layer.groups,
        }  # fmt: skip
        bias = layer.bias.numpy()
        if isinstance(layer, FloatLayer):
            weight = self.constant(f"{name}.weight", layer.weight.numpy())
            inputs = [x, weight, self.constant(f"{name}.bias", bias)]
            y = self.node("Conv", inputs, f"{name}.conv", **shape)
        elif self.form == "integer":
            codes = [self.input_codes(name, x, layer.rounding), self.weight_codes(name, layer)]
            total = self.node("Conv", codes, f"{name}.conv", **shape)
            y = self.rescale(name, total, layer)
        else:
            rounded = self.round_input(name, x, layer.rounding)
            inputs = [rounded, self.weight(name, layer.weight)]
            inputs.append(self.constant(f"{name}.bias", bias))
            y = self.node("Conv", inputs, f"{name}.conv", **shape)
        if layer.relu6:
            ends = [self.scalar("zero", 0.0), self.scalar("six", 6.0)]
            y = self.node("Clip", [y, *ends], f"{name}.relu6")
        return y

    # ---- integer form ------------------------------------------------------------------------

    def input_codes(self, layer: str, x: str, r: Rounding) -> str:
        """Integers a layer's input rounds to, in float."""
        from onnx import TensorProto

        if r.bits == 1 and r.low < 0:
            positive = self.node("GreaterOrEqual", [x, self.scalar("zero", 0.0)], f"{layer}.sign")
            ends = [self.scalar("one", 1.0), self.scalar("minus_one", -1.0)]
            return self.node("Where", [positive, *ends], f"{layer}.input")
        codes = self.quantize(layer, x, r)[0]
        return self.node("Cast", [codes], f"{layer}.input", to=TensorProto.FLOAT)

    def weight_codes(self, layer: str, integer: IntegerLayer) -> str:
        """Integer values of the weights, in float."""
        from onnx import TensorProto

        w, name = integer.weight, f"{layer}.weight"
        if w.table is not None:
            return self._from_table(name, w)
        codes = self.constant(f"{name}_codes", w.codes.numpy(), self._kind(w))
        return self.node("Cast", [codes], name, to=TensorProto.FLOAT)

    def rescale(self, layer: str, total: str, integer: IntegerLayer) -> str:
        """Multiply sums by what they are worth and add the bias.

        As DequantizeLinear: a Mul would be merged into the convolution's weights by optimizers,
        and the sums were integers no longer. Tables hold fractions, so they keep the Mul.
        """
        from onnx import TensorProto

        scale = integer.multiplier.numpy()
        if integer.weight.table is None:
            total = self.node("Cast", [total], f"{layer}.sum", to=TensorProto.INT32)
            scales = self.constant(f"{layer}.scale", scale)
            y = self.node("DequantizeLinear", [total, scales], f"{layer}.scaled", axis=1)
        else:
            scales = self.constant(f"{layer}.scale", scale.reshape(1, -1, 1, 1))
            y = self.node("Mul", [total, scales], f"{layer}.scaled")
        bias = self.constant(f"{layer}.bias", integer.bias.numpy().reshape(1, -1, 1, 1))
        return self.node("Add", [y, bias], f"{layer}.biased")

    # ---- qdq and qonnx forms -----------------------------------------------------------------

    def quantize(self, layer: str, x: str, r: Rounding) -> tuple[str, str, str]:
        """QuantizeLinear, after a Clip if the grid does not fill its type.

        Returns the names of codes, scale and zero point.
        """
        scale = self.scalar(f"{layer}.input_scale", r.scale)
        if r.high not in (255, 2**15 - 1):
            step = np.float32(r.scale)
            ends = [
                self.scalar(f"{layer}.input_min", float(step * np.float32(r.low))),
                self.scalar(f"{layer}.input_max", float(step * np.float32(r.high))),
            ]
            x = self.node("Clip", [x, *ends], f"{layer}.input_clip")
        dtype = np.int16 if r.bits > 8 else np.int8 if r.low < 0 else np.uint8
        zero = self.constant(f"zero_{dtype.__name__}", np.array(0, dtype=dtype))
        return self.node("QuantizeLinear", [x, scale, zero], f"{layer}.input_codes"), scale, zero

    def round_input(self, layer: str, x: str, r: Rounding) -> str:
        """A layer's rounded input, in float."""
        signed = int(r.low < 0)
        if r.bits == 1 and signed:
            raise ApqError(f"{layer}: binary activations can be exported as 'onnx' or 'torch' only")
        if r.bits > 8:  # the image: few toolchains know 16-bit codes
            wide = self.node(
                "Mul", [x, self.scalar(f"{layer}.per_step", 1 / r.scale)], f"{layer}.wide"
            )
            steps = self.node("Round", [wide], f"{layer}.steps")
            return self.node(
                "Mul", [steps, self.scalar(f"{layer}.step", r.scale)], f"{layer}.input"
            )
        if self.form == "qdq":
            return self.node("DequantizeLinear", list(self.quantize(layer, x, r)), f"{layer}.input")
        scale = self.scalar(f"{layer}.input_scale", r.scale)
        inputs = [x, scale, self.scalar("zero", 0.0), self.scalar(f"bits{r.bits}", r.bits)]
        return self.node(
            "Quant", inputs, f"{layer}.input", domain=QONNX_DOMAIN, signed=signed, narrow=signed,
            rounding_mode="ROUND",
        )  # fmt: skip

    def weight(self, layer: str, w: Packed) -> str:
        """A layer's rounded weights, in float."""
        name = f"{layer}.weight"
        if w.table is not None:
            values = self._from_table(name, w)
            scale = self.constant(f"{name}_scale", w.scale.numpy().reshape(-1, 1, 1, 1))
            return self.node("Mul", [values, scale], f"{name}_scaled")
        if self.form == "qonnx":
            return self._quant(name, w)
        codes = self.constant(f"{name}_codes", w.codes.numpy(), self._kind(w))
        scales = self.constant(f"{name}_scale", w.scale.numpy())
        return self.node("DequantizeLinear", [codes, scales], name, axis=0)

    def _quant(self, name: str, w: Packed) -> str:
        values = self.constant(f"{name}_float", w.dequantize().numpy())
        scales = self.constant(f"{name}_scale", w.scale.numpy().reshape(-1, 1, 1, 1))
        if w.bits == 1 and not bool((w.codes == 0).any()):
            return self.node("BipolarQuant", [values, scales], name, domain=QONNX_DOMAIN)
        bits = max(2, w.bits)  # a folded sign makes {0, 1} into {0, -1}
        inputs = [values, scales, self.scalar("zero", 0.0), self.scalar(f"bits{bits}", bits)]
        return self.node(
            "Quant", inputs, name, domain=QONNX_DOMAIN, signed=1, narrow=1, rounding_mode="ROUND"
        )

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
            self.uses_int2 = True
            return int(onnx.TensorProto.INT2)
        return int(onnx.TensorProto.INT4 if w.bits <= 4 else onnx.TensorProto.INT8)

    def model(self, shape: tuple[int, ...], classes: int, metadata: Mapping[str, str]) -> Any:
        """The finished model, checked."""
        import onnx
        from onnx import TensorProto, helper

        from apq import __version__

        graph = helper.make_graph(
            self.nodes,
            "apq",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (shape[0], classes))],
            list(self.initializers.values()),
        )
        opset, ir = (25, 13) if self.uses_int2 else (21, 10)
        imports = [helper.make_opsetid("", opset)]
        if self.form == "qonnx":
            imports.append(helper.make_opsetid(QONNX_DOMAIN, 1))
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=ir, producer_name="apq",
            producer_version=__version__,
        )  # fmt: skip
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model)
        return model


def _packed_bytes(values: NDArray[Any], kind: int) -> bytes:
    """Integers as ONNX stores them: two 4-bit or four 2-bit values to a byte, low bits first."""
    from onnx import TensorProto

    widths: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2}
    width = widths.get(kind, 8)
    flat = values.reshape(-1).astype(np.int16).astype(np.uint8) & (2**width - 1)
    lanes = np.zeros((-(-len(flat) * width // 8), 8 // width), dtype=np.uint8)
    lanes.reshape(-1)[: len(flat)] = flat
    shifts = np.arange(8 // width, dtype=np.uint8) * width
    return bytes(np.bitwise_or.reduce(lanes << shifts, axis=1).astype(np.uint8).tobytes())
