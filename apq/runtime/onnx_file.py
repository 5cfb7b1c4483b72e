"""Nodes and initializers of an ONNX file under construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError, ModelError
from apq.quantize import Packed
from apq.quantize.integer import IntegerLayer, Rounding
from apq.runtime.folded import FloatLayer, weight_shape
from apq.space.layer import both

COMPUTING = ("Conv", "Gemm", "Add", "Concat", "Mul", "GlobalAveragePool", "ReduceSum", "Flatten")
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


@dataclass(frozen=True)
class OnnxTensor:
    """A tensor between layers: a name, and the grid whose integers it holds (None: real)."""

    name: str
    grid: Rounding | None = None


class OnnxFile:
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

    def scalar(self, name: str, value: float) -> str:
        """A real number."""
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
