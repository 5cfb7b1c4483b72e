"""Run a TFLite file in LiteRT, on the same images as the other runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ModelError, choose
from apq.runtime.flatbuffer import require_litert
from apq.runtime.session import Runner

KERNELS = {
    "xnnpack": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
"""Kernels of LiteRT: XNNPACK where it supports the operator (LiteRT's default), the built-in ones,
or the reference ones."""


@dataclass(frozen=True)
class _Runner:
    """A function from images to logits that knows the step of its logits; 0: real numbers."""

    apply: Runner
    step: float

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.apply(x)


def open_litert(
    model: Path | bytes, kernels: str = "xnnpack", threads: int = 1
) -> tuple[Runner, tuple[int, ...]]:
    """Load a TFLite file.

    Args:
        model: A file, or its contents.
        kernels: One of ``KERNELS``.
        threads: Threads it may use.

    Returns:
        A function from any number of normalised images ``(n, c, h, w)`` to logits, and the shape
        ``(batch, c, h, w)`` of what the file takes at once. The last batch is filled up.

    Raises:
        ModelError: ai-edge-litert is missing, cannot load the file, or the file does not take one
            image and give one row of logits.
    """
    interpreter = load(model, kernels, threads)
    ends = interpreter.get_input_details(), interpreter.get_output_details()
    name = "the model" if isinstance(model, bytes) else model
    if [len(end) for end in ends] != [1, 1] or len(ends[0][0]["shape"]) != 4:
        raise ModelError(f"{name} is not a network of one image: it has {_shapes(ends)}")
    (image,), (logits,) = ends
    batch, height, width, channels = image["shape"].tolist()

    def apply(x: NDArray[np.float32]) -> NDArray[np.float32]:
        laid = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        short = -len(laid) % batch
        laid = np.concatenate([laid, np.repeat(laid[-1:], short, axis=0)]) if short else laid
        codes = stored(laid, image)
        found = []
        for i in range(0, len(codes), batch):
            interpreter.set_tensor(image["index"], codes[i : i + batch])
            interpreter.invoke()
            found.append(real(interpreter.get_tensor(logits["index"]), logits))
        return np.concatenate(found)[: len(x)].reshape(len(x), -1)

    return _Runner(apply, float(logits["quantization"][0])), (batch, channels, height, width)


def load(model: Path | bytes, kernels: str = "xnnpack", threads: int = 1) -> Any:
    """LiteRT's interpreter of a file, its tensors allocated.

    Raises:
        ModelError: ai-edge-litert is missing or cannot load the file.
    """
    module = require_litert()
    resolver = getattr(module.OpResolverType, KERNELS[choose(kernels, KERNELS, "kind of kernels")])
    given = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
    try:
        found = module.Interpreter(
            **given, num_threads=threads, experimental_op_resolver_type=resolver
        )
        found.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        name = "the model" if isinstance(model, bytes) else model
        raise ModelError(f"LiteRT cannot load {name}: {str(error)[:300]}") from error
    return found


def stored(x: NDArray[np.float32], tensor: dict[str, Any]) -> NDArray[Any]:
    """Real numbers as a tensor of the file holds them."""
    scale, zero = tensor["quantization"]
    if not scale:
        return x.astype(tensor["dtype"])
    ends = np.iinfo(tensor["dtype"])
    codes = np.rint(x / np.float32(scale)) + zero
    out: NDArray[Any] = np.clip(codes, ends.min, ends.max).astype(tensor["dtype"])
    return out


def real(codes: NDArray[Any], tensor: dict[str, Any]) -> NDArray[np.float32]:
    """The real values of a tensor of the file."""
    scale, zero = tensor["quantization"]
    if not scale:
        return codes.astype(np.float32)
    return (codes.astype(np.float32) - np.float32(zero)) * np.float32(scale)


def _shapes(ends: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> str:
    told = [" and ".join(str(tuple(t["shape"].tolist())) for t in end) for end in ends]
    return f"{told[0]} in, {told[1]} out"
