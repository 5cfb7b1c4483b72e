"""Run an exported file and set it beside the model and the search's promises."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from apq.deploy.kernels import Kernels, kernels_here
from apq.deploy.model import FP32, Model, size_bytes
from apq.errors import ModelError
from apq.files import Schema
from apq.files.headers import Header
from apq.files.reading import Count, Items, Text
from apq.files.tensors import load_tensors, require_tensors
from apq.images import ImageSet
from apq.runtime.session import Runner, open_session
from apq.space.graph import LAYERS
from apq.supernet.evaluate import CPU, Normalised, at_once, batches, in_parts
from apq.training import OnProgress


class GridTable(Schema):
    """The integers a layer answers in, and their step."""

    model_config = Schema.model_config | {"extra": "ignore"}

    bits: Annotated[int, Field(ge=1, le=32)]
    scale: Annotated[float, Field(gt=0)]
    low: int
    high: int


class NodeTable(Schema):
    """A node of an exported network: what every one says, and what layers say."""

    name: Text
    op: Literal["image", "pool", "maxpool", "add", "concat", "act", "scale", "conv", "linear"]
    inputs: Items[Text]
    grid: GridTable | None
    act: Literal["", "relu", "relu6", "hswish", "hsigmoid"]
    window: Annotated[tuple[Count, Count], Field(strict=False)] = (1, 1)
    shape: Annotated[tuple[Count, ...], Field(strict=False, max_length=4)] = ()
    stride: Count | Annotated[tuple[Count, Count], Field(strict=False)] = 1
    padding: Count = 0
    groups: Annotated[int, Field(ge=1)] = 1
    bits: Annotated[int, Field(ge=0, le=32)] = 0
    input: GridTable | None = None
    offset: float = 0
    step: float = 1
    table: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {"stride", "padding", "groups", "bits", "input", "shape"}
        needed |= {"offset", "step", "table"} if self.bits else set()
        missing = sorted(needed - self.model_fields_set) if self.op in LAYERS else []
        if missing:
            raise ValueError(f"layer {self.name} lacks {', '.join(missing)}")
        return self


class ExportHeader(Header):
    """What a file of ``apq export --format torch`` says.

    Attributes:
        nodes: The network, in the order it runs.
        mean, std: Normalisation of images on the 0..1 scale, per channel.
        classes: Class names by label.
    """

    what = "what apq export --format torch writes"
    remedy = "Export it again."

    nodes: Annotated[Items[NodeTable], Field(min_length=1)]
    mean: Items[float]
    std: Items[float]
    classes: Items[Text]


@dataclass(frozen=True)
class Verification:
    """An exported file against the torch model it came from.

    Attributes:
        images: How many test images were run.
        max_difference: Largest difference of any logit.
        differing: Share of images with a logit more than ``tolerance`` off.
        agreement: Share of images with the same predicted class.
        accuracy, model_accuracy: On those images: the file's, and the torch model's.
        latency_ms: 10th percentile and median of one inference at the file's batch size, one
            thread, on this machine. None: not a file a runtime times (QONNX).
        file_bytes, promised_bytes: Size of the file, and of the weights at their bits.
        predicted: What the search said: accuracy, spread, costs by metric.
        kernels: What the file ran with. None: it did not run on onnxruntime alone.
        tolerance: What logits may be off before an image counts as differing: 1e-4, or the step of
            a file's logits where these are integers.
    """

    images: int
    max_difference: float
    differing: float
    agreement: float
    accuracy: float
    model_accuracy: float
    latency_ms: tuple[float, float] | None
    file_bytes: int
    promised_bytes: int
    predicted: dict[str, float]
    kernels: Kernels | None
    tolerance: float = 1e-4


def verify(
    model: Model,
    file: Path | str,
    images: ImageSet,
    limit: int | None = None,
    options: Mapping[str, str] | None = None,
    on_progress: OnProgress | None = None,
) -> Verification:
    """Run test images through an exported file and through the model.

    Args:
        model: What was exported.
        file: Result of :func:`apq.deploy.export.export`, any format.
        images: Image set; its test split is used.
        limit: Use the first so many test images (default: all).
        options: Session options for onnxruntime, e.g. ``{"session.disable_quant_qdq": "1"}``; for a
            TFLite file ``kernels``, one of :data:`apq.runtime.litert.KERNELS`.
        on_progress: Called per batch with images done and the largest difference so far.

    Raises:
        ModelError: the file is missing or cannot be run; the message is the runtime's.

    Example:
        >>> import apq
        >>> model = apq.load_model("digits/model.safetensors")
        >>> images = apq.load_images("digits", model.space.resolution, model.space.in_channels)
        >>> checked = apq.verify(model, "digits/model.onnx", images)
        >>> checked.images, checked.agreement  # test images; share with the same class
        (359, 1.0)
    """
    file = Path(file)
    runner, shape = open_file(file, options or {})
    pixels, labels = images.splits["test"]
    labels = labels[:limit]
    count, size = len(labels), model.space.graph_of(model.candidate).size
    model.network.eval()
    tolerance = max(1e-4, getattr(runner, "step", 0.0))
    worst, off, same, right, model_right = 0.0, 0, 0, 0, 0
    seen = Normalised(pixels, np.arange(count), model.mean, model.std, CPU, size)
    parts = [*batches(count, at_once(seen))]
    for part, x in zip(parts, in_parts(seen, parts), strict=True):
        with torch.no_grad():
            want: Tensor = model.network(x)
        got = torch.from_numpy(runner(x.contiguous().numpy()))
        difference = (got - want).abs().amax(dim=1)
        y = torch.from_numpy(labels[part])
        worst = max(worst, float(difference.max()))
        off += int((difference > tolerance).sum())
        same += int((got.argmax(1) == want.argmax(1)).sum())
        right += int((got.argmax(1) == y).sum())
        model_right += int((want.argmax(1) == y).sum())
        if on_progress is not None:
            on_progress(part.stop, count, {"max_difference": worst})
    accuracy = model.metadata.get("accuracy") or {}
    predicted = {
        key: value
        for key, value in (
            ("accuracy", accuracy.get("predicted")),
            ("spread", accuracy.get("predicted_spread")),
            *model.metadata.get("costs", {}).items(),
        )
        if value is not None
    }
    return Verification(
        count, worst, off / count, same / count, right / count, model_right / count,
        _latency(runner, shape) if shape else None, file.stat().st_size, size_bytes(model.network),
        predicted,
        kernels_here(options or {}, model.scheme != FP32)
        if shape and file.suffix == ".onnx" else None,
        tolerance,
    )  # fmt: skip


def open_file(file: Path, options: Mapping[str, str]) -> tuple[Runner, tuple[int, ...] | None]:
    """A function from any number of images to logits, and the input shape to time it with.

    The shape is None where timing says nothing: only onnxruntime is a deployment runtime here.

    Raises:
        ModelError: the file is missing or cannot be loaded.
    """
    if not file.exists():
        raise ModelError(f"no exported model at {file}. Make one: apq export --model MODEL")
    if file.suffix == ".safetensors":
        return _plain(file), None
    if file.name.endswith(".qonnx.onnx"):
        return _qonnx(file), None
    if file.suffix in (".tflite", ".c"):
        return _tflite(file, options)
    return open_session(file, options)


def _tflite(file: Path, options: Mapping[str, str]) -> tuple[Runner, tuple[int, ...]]:
    from apq.deploy.micro import bytes_of
    from apq.runtime.litert import open_litert

    others = sorted(set(options) - {"kernels"})
    if others:
        raise ModelError(f"--option {others[0]}: a TFLite file has only kernels=xnnpack|builtin")
    held: Path | bytes = file
    if file.suffix == ".c":
        held = bytes_of(file.read_text(encoding="utf-8", errors="replace"), str(file))
    return open_litert(held, options.get("kernels", "xnnpack"))


def _plain(file: Path) -> Runner:
    from apq.deploy import plain

    tensors, header = load_tensors(file, ExportHeader)
    known: set[str] = set()
    for node in header.nodes:
        if (node.op != "image" and not node.inputs) or not known.issuperset(node.inputs):
            raise ModelError(f"{file}: node {node.name} reads what is not there before it")
        known.add(node.name)
    expected = {
        f"{i}.{name}": tensor
        for i, node in enumerate(header.nodes)
        if node.op in LAYERS
        for name, tensor in _expected(node, tensors.get(f"{i}.table")).items()
    }
    require_tensors(str(file), tensors, expected)
    try:
        network, _ = plain.load(file)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ModelError(f"{file} is not {ExportHeader.what}: {error}") from error

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            out: NDArray[np.float32] = network(torch.from_numpy(x)).numpy()
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{file} cannot be run: {error}") from error
        return out

    return run


def _expected(node: NodeTable, table: Tensor | None) -> dict[str, Tensor]:
    """The tensors of a layer, on the meta device; how long its table is, the table says."""
    out, numbers = math.prod(node.shape[:1]), math.prod(node.shape)
    found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {"bias": (torch.float32, (out,))}
    if not node.bits:
        found["weight"] = torch.float32, node.shape
    else:
        found["weight"] = torch.uint8, (-(-numbers * node.bits // 8),)
        found["scale"] = torch.float32, (out,)
        if node.table:
            found["table"] = torch.float32, () if table is None else (table.numel(),)
        else:
            found["bias"] = torch.int32, (out,)
    return {
        name: torch.empty(shape, dtype=dtype, device="meta")
        for name, (dtype, shape) in found.items()
    }


def _qonnx(file: Path) -> Runner:
    try:
        execute = importlib.import_module("qonnx.core.onnx_exec").execute_onnx
        wrapper: Any = importlib.import_module("qonnx.core.modelwrapper").ModelWrapper(str(file))
        shapes = importlib.import_module("qonnx.transformation.infer_shapes").InferShapes()
    except ImportError as error:
        raise ModelError("QONNX files are run by qonnx: pip install qonnx") from error
    import onnx

    # qonnx takes a dimension without a number for one of 0; images are run one by one.
    for end in (*wrapper.graph.input, *wrapper.graph.output):
        dimension = end.type.tensor_type.shape.dim[0]
        if dimension.dim_param:
            dimension.dim_value = 1
    # qonnx runs every standard node as a model of its own, in the newest format the onnx package
    # writes; onnxruntime reads up to 13.
    vars(onnx)["IR_VERSION"] = min(13, onnx.IR_VERSION)
    wrapper = wrapper.transform(shapes)

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([execute(wrapper, {"image": row[None]})["logits"] for row in x])

    return run


def _latency(runner: Runner, shape: tuple[int, ...], runs: int = 100) -> tuple[float, float]:
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    for _ in range(10):
        runner(x)
    took = np.empty(runs)
    for i in range(runs):
        began = time.perf_counter()
        runner(x)
        took[i] = time.perf_counter() - began
    return float(np.quantile(took, 0.1) * 1e3), float(np.median(took) * 1e3)
