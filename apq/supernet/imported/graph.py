"""The contents of an ONNX file as plain data: operations in the order they run, and constants.

Everything is checked: every tensor must have as many bytes as its shape needs, no tensor may be in
another file, and every value must be defined before it is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ModelError
from apq.files.limits import MOST_CHANNELS, MOST_MODEL_BYTES, MOST_OPERATIONS

Array = NDArray[Any]


@dataclass(frozen=True)
class Operation:
    """One node of an ONNX graph.

    Attributes:
        name: As the file has it, or made of the operator and a number.
        op: The operator; of another domain than ONNX's own, with the domain before it.
        inputs: Names of values; empty where an optional one is left out.
        outputs: Names of values.
        attributes: Numbers, texts and arrays by name.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)


@dataclass
class OnnxGraph:
    """A network of one input and one result.

    Attributes:
        operations: In the order they run.
        constants: Arrays by name.
        image: Name of the input.
        batch: Images the file is for; 0: any number.
        shape: Channels and sizes of an image; 0 where the file leaves it open.
        result: Name of what the network gives.
        opset: Version of ONNX's operators.
        notes: Parts that were changed on import: name and description.
    """

    operations: list[Operation]
    constants: dict[str, Array]
    image: str
    batch: int
    shape: tuple[int, ...]
    result: str
    opset: int
    notes: list[tuple[str, str]] = field(default_factory=list)

    def users(self) -> dict[str, list[Operation]]:
        """Who reads each value."""
        found: dict[str, list[Operation]] = {}
        for operation in self.operations:
            for name in operation.inputs:
                found.setdefault(name, []).append(operation)
        return found

    def makers(self) -> dict[str, Operation]:
        """Who makes each value."""
        return {name: op for op in self.operations for name in op.outputs}


def read_bytes(path: Path) -> bytes:
    """A file's bytes, if they may be a model.

    Raises:
        ModelError: there is no such file, or it is too large.
    """
    try:
        size = path.stat().st_size
        if size > MOST_MODEL_BYTES:
            raise ModelError(f"{path} has {size} bytes; at most {MOST_MODEL_BYTES} are read")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {path}") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error}") from error


def read_graph(data: bytes, where: Path) -> OnnxGraph:
    """The graph in the bytes of an ONNX file.

    Raises:
        ModelError: it is none, needs other files, or is no network of one image and one result.
    """
    try:
        import onnx
    except ImportError as error:
        raise ModelError("this needs onnx and onnxruntime: pip install 'apq-nas[onnx]'") from error
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors depend on how it was built
        raise ModelError(f"{where} is no ONNX file: {str(error)[:200]}") from error
    graph = model.graph
    if not graph.node or not graph.output:
        raise ModelError(f"{where} is no ONNX file: it holds no network")
    if len(graph.node) > MOST_OPERATIONS or len(graph.sparse_initializer):
        raise ModelError(f"{where} has sparse weights, or more than {MOST_OPERATIONS} operations")
    constants = {t.name: _array(t, where) for t in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    batch, shape = _input(inputs, where)
    if len(graph.output) != 1:
        names = ", ".join(value.name for value in graph.output[:8])
        raise ModelError(f"{where} gives {len(graph.output)} results ({names}); one is read")
    found = OnnxGraph(
        [], constants, inputs[0].name, batch, shape, graph.output[0].name,
        next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1),
    )  # fmt: skip
    known = {*constants, found.image}
    for i, node in enumerate(graph.node):
        _add(found, _operation(node, i, found.opset, where), known, where)
    if found.result not in known:
        raise ModelError(f"{where} is damaged: nothing makes its result {found.result[:60]!r}")
    return found


def _add(graph: OnnxGraph, operation: Operation, known: set[str], where: Path) -> None:
    """The next operation; constants become arrays."""
    missing = [name for name in operation.inputs if name and name not in known]
    twice = [name for name in operation.outputs if name and name in known]
    if missing or twice:
        what = f"reads {missing[0]!r} before it is made" if missing else f"makes {twice[0]!r} again"
        raise ModelError(f"{where} is damaged: node {operation.name!r} {what}"[:300])
    known.update(filter(None, operation.outputs))
    if operation.op != "Constant":
        graph.operations.append(operation)
        return
    values = [v for k, v in operation.attributes.items() if k.startswith("value")]
    if len(values) != 1 or isinstance(values[0], str):
        raise ModelError(f"{where}: the constant {operation.name!r} is no array of numbers")
    value = np.asarray(values[0])
    kind = {"f": np.float32, "i": np.int64}.get(value.dtype.kind, value.dtype)
    stored = isinstance(values[0], np.ndarray)
    graph.constants[operation.outputs[0]] = value if stored else value.astype(kind)


def _operation(node: Any, number: int, opset: int, where: Path) -> Operation:
    texts = (node.name, node.domain, node.op_type, *node.input, *node.output)
    if not all(isinstance(text, str) for text in (*texts, *(a.name for a in node.attribute))):
        raise ModelError(f"{where} is damaged: a name of node {number} is no text")
    own = node.domain in ("", "ai.onnx")
    op = node.op_type if own else f"{node.domain}:{node.op_type}"
    attributes = {a.name: _attribute(a, where) for a in node.attribute}
    attributes |= {"opset": opset} if "Softmax" in op else {}  # which axis is the usual one
    name = node.name or f"{node.op_type}_{number}"
    return Operation(name, op, tuple(node.input), tuple(node.output), attributes)


def _attribute(attribute: Any, where: Path) -> Any:
    """Numbers, a text or an array; graphs within are left out, their operators are not read."""
    from onnx import AttributeProto, helper

    if attribute.type == AttributeProto.TENSOR:
        return _array(attribute.t, where)
    simple = ("FLOAT", "INT", "STRING", "FLOATS", "INTS")
    if attribute.type not in [AttributeProto.AttributeType.Value(name) for name in simple]:
        return None
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return list(value) if attribute.type in (AttributeProto.FLOATS, AttributeProto.INTS) else value


def _array(tensor: Any, where: Path) -> Array:
    """A tensor that lies in the file itself; numbers of half or double precision as float32.

    Raises:
        ModelError: it lies in another file, holds texts, or is not as large as it says.
    """
    from onnx import TensorProto, numpy_helper

    said = f"{where}: tensor {tensor.name[:80]!r}"
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ModelError(
            f"{said} lies in another file, which is not read. Save the model as one file: "
            "onnx.save(onnx.load(FILE), 'one.onnx', save_as_external_data=False)"
        )
    count = math.prod(tensor.dims)
    if any(d < 0 for d in tensor.dims) or len(tensor.dims) > 16 or count > MOST_MODEL_BYTES:
        raise ModelError(f"{said} has the impossible shape {[*tensor.dims][:16]}")
    if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        raise ModelError(f"{said} holds no numbers")
    try:
        array: Array = numpy_helper.to_array(tensor)
    except Exception as error:  # numpy's, protobuf's and onnx's share no base class
        raise ModelError(f"{said} does not have the shape it says: {str(error)[:120]}") from error
    return array.astype(np.float32) if array.dtype.kind in "fV" else np.array(array)


def _input(inputs: list[Any], where: Path) -> tuple[int, tuple[int, ...]]:
    """Images the file is for, and the shape of each; 0 where it is open."""
    from onnx import TensorProto

    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs[:8])
        raise ModelError(f"{where} takes {len(inputs)} inputs ({names}); one, of images, is read")
    kind = inputs[0].type.tensor_type
    real = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    if kind.elem_type not in real:
        found = TensorProto.DataType.Name(kind.elem_type) if kind.elem_type else "no tensor"
        raise ModelError(f"{where} takes {found} numbers; real numbers are read (FLOAT)")
    dims = [max(0, dim.dim_value) for dim in kind.shape.dim]
    if len(dims) not in (3, 4) or max(dims) > MOST_CHANNELS:
        raise ModelError(
            f"{where} takes inputs of shape {dims}; (images, channels, height, width) or (images, "
            "channels, length) is read"
        )
    return dims[0], tuple(dims[1:])
