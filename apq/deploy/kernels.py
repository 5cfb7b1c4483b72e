"""Which 8-bit kernels a runtime takes on a processor, found by asking it for sums that tell.

On x86 processors without VNNI some kernels add pairs of products of unsigned and signed bytes in 16
bits, and saturate; elsewhere the sums are exact. Tables of latencies and verifications say which it
was, because the same file may take other kernels, and other times, on another processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from apq.deploy import timing
from apq.errors import ModelError, TableError
from apq.files import Document, read_json
from apq.files.reading import Items, Named, Schema, Text
from apq.runtime.onnx_file import require_onnx
from apq.runtime.session import open_session


class Kernels(Schema):
    """What a runtime computed with.

    Attributes:
        runtime: Its name and version.
        threads: Threads it was given.
        products: How it added products of unsigned and signed bytes. None: it was not asked, as
            for float models.
        features: What the processor has of :data:`apq.deploy.timing.FEATURES`; empty where the
            system does not tell.
    """

    runtime: Text
    threads: Annotated[int, Field(ge=1)]
    products: Literal["exact", "saturating"] | None
    features: Named[bool]

    def __str__(self) -> str:
        """One line."""
        told = [self.runtime, f"{self.threads} thread" + "s" * (self.threads > 1)]
        told += [f"{self.products} u8*s8 products"] if self.products else []
        has = ", ".join(name if found else f"no {name}" for name, found in self.features.items())
        return ", ".join(told) + f"; processor: {has or 'features unknown'}"


class KernelsFile(Document):
    """What ``kernels.json`` in a folder of timings says; one entry per runtime, processor or number
    of threads that took part."""

    what = "what measure.py writes beside timings.csv"
    remedy = "Remove it: the table then does not say which kernels ran."
    error = TableError

    kernels: Items[Kernels]


def probe_model() -> bytes:
    """An 8-bit convolution whose sums leave 16 bits: what ``kernels.onnx`` holds.

    It takes ``image``, float32 of the shape :data:`apq.deploy.timing.PROBE` in 0..1, and rounds it
    to unsigned bytes. In each of 16 output channels it gives the mean of these over the channels,
    in 0..255: by signed weights of 127 and an output step of 127 times the number of channels.
    :func:`apq.deploy.timing.adds_exactly` judges the answer.

    Raises:
        ModelError: onnx is not installed.
    """
    onnx = require_onnx()
    helper, kind, channels = onnx.helper, onnx.TensorProto, timing.PROBE[1]
    values = {
        "weights": np.full((16, channels, 1, 1), 127, dtype=np.int8),
        "none": np.uint8(0),
        "one": np.float32(1),
        "pixel": np.float32(1 / 255),
        "mean": np.float32(127 * channels),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "pixel", "none"], ["bytes"]),
        helper.make_node("DequantizeLinear", ["bytes", "one", "none"], ["counts"]),
        helper.make_node("DequantizeLinear", ["weights", "one"], ["factors"]),
        helper.make_node("Conv", ["counts", "factors"], ["sums"], "sums"),
        helper.make_node("QuantizeLinear", ["sums", "mean", "none"], ["means"]),
        helper.make_node("DequantizeLinear", ["means", "one", "none"], ["answer"]),
    ]
    shape = (timing.PROBE[0], 16, *timing.PROBE[2:])
    graph = helper.make_graph(
        nodes,
        "kernels",
        [helper.make_tensor_value_info("image", kind.FLOAT, timing.PROBE)],
        [helper.make_tensor_value_info("answer", kind.FLOAT, shape)],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()],
    )
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="apq")
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def kernels_here(options: Mapping[str, str], of_bytes: bool = True) -> Kernels:
    """What onnxruntime computes with in this process, on one thread.

    Args:
        options: Session options, which may choose other kernels.
        of_bytes: Whether to ask how it adds products of bytes; float models have none.

    Raises:
        ModelError: onnxruntime is missing.
    """
    products = None
    try:
        model = probe_model() if of_bytes else None
    except ModelError:  # onnxruntime runs files without onnx, which only the question needs
        model = None
    if model is not None:
        runner, _ = open_session(model, options)
        x = timing.random_input(timing.PROBE, real=True)
        products = "exact" if timing.adds_exactly(x, runner(x)) else "saturating"
    told = timing.describe_kernels("onnxruntime", 1, products)
    return Kernels.model_validate(told)


def read_kernels(folder: Path) -> tuple[Kernels, ...]:
    """What a folder's models were timed with; empty where nobody noted it.

    Raises:
        TableError: ``kernels.json`` is not what measure.py writes.
    """
    path = folder / "kernels.json"
    return read_json(path, KernelsFile).kernels if path.exists() else ()
