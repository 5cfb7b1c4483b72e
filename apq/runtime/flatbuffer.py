"""A TFLite file under construction: tensors, constants and operators, in the order they run.

Deliberately thin: :mod:`apq.runtime.tflite_graph` decides what to write, and the schema of
``ai-edge-litert`` how. Needs the extra ``apq-nas[litert]``.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ModelError

ALIGNED = 16
"""Alignment of buffers in bytes, required by the schema since devices read them in place."""
VERSIONS = {
    "ADD": 2, "CAST": 1, "CONCATENATION": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "GATHER": 2,
    "MAXIMUM": 2, "MAX_POOL_2D": 2, "MEAN": 2, "MUL": 2, "PAD": 2, "QUANTIZE": 2, "RESHAPE": 1,
}  # fmt: skip
"""The smallest version of each operator that has 8-bit tensors (TFLite's operator versions)."""
TYPES = {"int4": "INT4", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64"}

Quantization = tuple[float | NDArray[np.float32], int]
"""Step and zero point; a step per channel belongs to the axis that a tensor is written with."""


def require_litert(module: str = "interpreter") -> Any:
    """A module of the package that reads and writes TFLite files.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module(f"ai_edge_litert.{module}")
    except ImportError as error:
        raise ModelError("this needs ai-edge-litert: pip install 'apq-nas[litert]'") from error


class FlatBuffer:
    """A model under construction; tensors are known by their number.

    Attributes:
        shapes: Shape of every tensor, by number.
        used: Names of the operators so far, as the schema spells them.
    """

    def __init__(self) -> None:
        self.schema = require_litert("schema_py_generated")
        self.buffers: list[NDArray[np.uint8] | None] = [None]  # the first one is empty by rule
        self.tensors: list[Any] = []
        self.shapes: list[tuple[int, ...]] = []
        self.operators: list[Any] = []
        self.used: list[tuple[str, int]] = []
        self._constants: dict[str, int] = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: str = "int8",
        quantization: Quantization | None = None,
        axis: int = 0,
        data: bytes | None = None,
    ) -> int:
        """A tensor's number. ``data`` makes it a constant, else an operator gives it."""
        made = self.schema.TensorT()
        made.name, made.shape = name, list(shape)
        made.type = getattr(self.schema.TensorType, TYPES[kind])
        if quantization is not None:
            scale, zero = quantization
            steps = np.atleast_1d(np.asarray(scale, dtype=np.float32))
            told = self.schema.QuantizationParametersT()
            told.scale, told.zeroPoint = steps, np.full(len(steps), zero, dtype=np.int64)
            told.quantizedDimension = axis
            made.quantization = told
        if data is None:
            made.buffer = 0
        else:
            made.buffer = len(self.buffers)
            self.buffers.append(np.frombuffer(data, dtype=np.uint8))
        self.tensors.append(made)
        self.shapes.append(tuple(shape))
        return len(self.tensors) - 1

    def constant(
        self, name: str, values: NDArray[Any], quantization: Quantization | None = None
    ) -> int:
        """A constant of the array's own type, once per name."""
        if name not in self._constants:
            kind = str(values.dtype)
            self._constants[name] = self.tensor(
                name, values.shape, kind, quantization, data=values.tobytes()
            )
        return self._constants[name]

    def operator(
        self,
        op: str,
        inputs: Sequence[int],
        output: int,
        options: str = "",
        version: int | None = None,
        **fields: Any,
    ) -> int:
        """Append an operator; the number of its output. ``options`` names the schema's table of
        ``fields``."""
        key = op, version or VERSIONS[op]
        if key not in self.used:
            self.used.append(key)
        made = self.schema.OperatorT()
        made.opcodeIndex = self.used.index(key)
        made.inputs, made.outputs = list(inputs), [output]
        if options:
            table = getattr(self.schema, f"{options}T")()
            for name, value in fields.items():
                setattr(table, name, value)
            made.builtinOptions = table
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
        self.operators.append(made)
        return output

    def arena_bytes(self, image: int, logits: int) -> int:
        """Peak size in bytes of the tensors alive at once, each rounded up to ``ALIGNED``."""
        kinds = {getattr(self.schema.TensorType, kind): name for name, kind in TYPES.items()}
        last = {image: 0, logits: len(self.operators)}
        last |= {i: at for at, made in enumerate(self.operators) for i in made.inputs}
        alive, peak = {image}, 0
        for at, made in enumerate(self.operators):
            alive |= set(made.outputs)
            needed = [
                -(-math.prod(self.shapes[i]) * np.dtype(kinds[self.tensors[i].type]).itemsize
                  // ALIGNED) * ALIGNED
                for i in alive
            ]  # fmt: skip
            peak = max(peak, sum(needed))
            alive = {i for i in alive if last.get(i, -1) > at or i == logits}
        return peak

    def finish(self, image: int, logits: int, metadata: Mapping[str, Any]) -> bytes:
        """The file's bytes; ``metadata`` goes into a buffer of its own, as JSON."""
        import flatbuffers

        schema = self.schema
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = "apq", self.tensors, self.operators
        graph.inputs, graph.outputs = [image], [logits]
        told = schema.MetadataT()
        told.name, told.buffer = "apq", len(self.buffers)
        text = json.dumps(dict(metadata)).encode()
        model = schema.ModelT()
        model.version, model.description = 3, str(metadata.get("made_by", "apq"))
        model.subgraphs, model.metadata = [graph], [told]
        model.operatorCodes = [self._code(op, version) for op, version in self.used]
        model.buffers = [
            _aligned(schema, data) for data in (*self.buffers, np.frombuffer(text, dtype=np.uint8))
        ]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _code(self, op: str, version: int) -> Any:
        code = self.schema.OperatorCodeT()
        number = getattr(self.schema.BuiltinOperator, op)
        code.builtinCode, code.version = number, version
        code.deprecatedBuiltinCode = min(number, 127)  # for readers from before 2020
        return code


def _aligned(schema: Any, data: NDArray[np.uint8] | None) -> Any:
    """A buffer aligned as the schema requires, which the Python writer does not do."""

    class Buffer(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:
            if data is None:
                return super().Pack(builder)
            builder.StartVector(1, len(data), ALIGNED)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data.tobytes()
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    return Buffer()
