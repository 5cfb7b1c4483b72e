"""A TFLite file as C source, for microcontrollers that have no file system."""

from __future__ import annotations

import re

from apq.errors import ModelError
from apq.runtime.tflite_graph import Tflite

RESOLVER = {
    "ADD": "AddAdd", "CAST": "AddCast", "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D", "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D", "GATHER": "AddGather",
    "MAXIMUM": "AddMaximum", "MAX_POOL_2D": "AddMaxPool2D", "MEAN": "AddMean", "MUL": "AddMul",
    "PAD": "AddPad", "PADV2": "AddPadV2", "QUANTIZE": "AddQuantize", "RESHAPE": "AddReshape",
}  # fmt: skip
"""What registers an operator with TFLite Micro's ``MicroMutableOpResolver``."""


def c_source(made: Tflite, name: str = "apq_model") -> str:
    """C source that holds a file's bytes, and in its comment what a program must register and set
    aside."""
    calls = "\n".join(f" *   resolver.{RESOLVER[op]}();" for op in made.operators)
    rows = [made.data[i : i + 16] for i in range(0, len(made.data), 16)]
    body = "\n".join("  " + ",".join(f"0x{byte:02x}" for byte in row) + "," for row in rows)
    return (
        f"/* Written by apq export --format c.\n"
        f" * Operators to register with MicroMutableOpResolver<{len(made.operators)}>:\n{calls}\n"
        f" * Tensors alive at once take {made.arena_bytes} bytes at most; the arena holds the\n"
        " * interpreter's own structures besides. Begin with twice that, and ask\n"
        " * interpreter.arena_used_bytes() on the device.\n"
        " */\n"
        "#include <stddef.h>\n\n"
        f"const size_t {name}_tensor_bytes = {made.arena_bytes};\n"
        f"const size_t {name}_len = {len(made.data)};\n"
        f"_Alignas(16) const unsigned char {name}[] = {{\n{body}\n}};\n"
    )


def bytes_of(source: str, where: str) -> bytes:
    """The file that C source holds.

    Raises:
        ModelError: it is not what :func:`c_source` writes.
    """
    length = re.search(r"_len = (\d{1,10});", source)
    body = re.search(r"\[\] = \{([0-9a-fx,\s]*)\};", source)
    found = bytes(int(b, 16) for b in re.findall(r"0x([0-9a-f]{2})", body[1])) if body else b""
    if length is None or not found or len(found) != int(length[1]):
        raise ModelError(f"{where} is not what apq export --format c writes; export it again")
    return found
