"""Run folded layers in onnxruntime if it is installed, else in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq.errors import ModelError
from apq.runtime.folded import Steps
from apq.runtime.onnx_graph import onnx_model

Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
BATCH = 50
"""Images per onnxruntime call: enough to keep it busy, few enough to fit the caches."""


def open_session(
    model: Path | bytes, options: Mapping[str, str], threads: int = 1
) -> tuple[Runner, tuple[int, ...]]:
    """Load a model with onnxruntime.

    Args:
        model: A file, or its contents.
        options: Session options.
        threads: Threads it may use.

    Returns:
        A function from any number of images to the model's output, and the input shape. If the
        model's batch size is fixed, the last batch is padded with copies. If it is a symbol, the
        model gets up to ``BATCH`` images at once, and the shape has a batch of 1.

    Raises:
        ModelError: onnxruntime is missing or cannot load the model.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ModelError("this needs onnx and onnxruntime: pip install 'apq-nas[onnx]'") from error
    setup = ort.SessionOptions()
    setup.intra_op_num_threads = threads
    setup.log_severity_level = 3
    for key, value in options.items():
        setup.add_session_config_entry(key, value)
    what = model if isinstance(model, bytes) else str(model)
    try:
        session = ort.InferenceSession(what, setup, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        name = "the model" if isinstance(model, bytes) else model
        raise ModelError(f"onnxruntime cannot load {name}: {error}") from error
    batch, *rest = session.get_inputs()[0].shape
    fixed = isinstance(batch, int)
    size = batch if fixed else BATCH

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        short = -len(x) % size if fixed else 0
        padded = np.concatenate([x, np.repeat(x[-1:], short, axis=0)]) if short else x
        parts = [padded[i : i + size] for i in range(0, len(padded), size)]
        return np.concatenate([session.run(None, {"image": part})[0] for part in parts])[: len(x)]

    return run, (batch if fixed else 1, *rest)


def fast(steps: Steps, otherwise: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function as ``otherwise``, in onnxruntime if it is installed (``apq-nas[onnx]``)
    and the images are on the CPU.

    Quantized layers give the same bits, float ones the same up to rounding.

    Args:
        steps: What to run, from its first to its last step; ends with the classifier.
        otherwise: The same in torch, ``(n, c, h, w) -> (n, classes)``.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return otherwise
    if any(step.op == "torch" for step in steps):  # only torch has those
        return otherwise
    runners: dict[tuple[int, ...], Runner] = {}

    def run(x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return otherwise(x)
        shape = (min(BATCH, len(x)), *x.shape[1:])
        if shape not in runners:
            c, h, w = shape[1:]
            built = onnx_model(steps, (shape[0], c, h, w), {}).SerializeToString()
            runners[shape], _ = open_session(built, {}, torch.get_num_threads())
        return torch.from_numpy(runners[shape](x.contiguous().numpy()))

    return run
