"""Write a fine-tuned model in a form that others run."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq.deploy import plain
from apq.deploy.model import Model, size_bytes
from apq.errors import ModelError, choose
from apq.files import whole
from apq.files.tensors import save_tensors
from apq.quantize.integer import IntegerLayer
from apq.runtime.folded import FloatLayer, Steps, fold, weight_shape
from apq.space.layer import both
from apq.version import __version__

FORMATS = {
    "onnx": ".onnx",
    "onnx-integer": ".integer.onnx",
    "qonnx": ".qonnx.onnx",
    "torch": ".plain.safetensors",
    "tflite": ".tflite",
    "c": ".tflite.c",
}
"""Name of each format and the suffix its files get."""


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: The file.
        format: Key of ``FORMATS``.
        file_bytes: Its size.
        promised_bytes: Weights at their bits, a scale and a bias per channel: what a search counts.
        weight_bytes: What weights, scales, tables and biases take in this file; formats without a
            type of 3, 5, 6 or 7 bits take the next larger.
        opset: ONNX: version of the operators the file uses; None for other formats.
    """

    path: Path
    format: str
    file_bytes: int
    promised_bytes: int
    weight_bytes: int
    opset: int | None
    micro: Micro | None = None


@dataclass(frozen=True)
class Micro:
    """What a TFLite file asks of its runtime, and where it rounds.

    Attributes:
        operators: What a TFLite Micro resolver must register.
        arena_bytes: Tensors alive at once at most: what TFLite Micro's arena holds beside the
            interpreter's own structures.
        coarse_bias: Largest rounding of a bias, in steps of its layer's output; 0: biases are those
            of evaluation.
    """

    operators: tuple[str, ...]
    arena_bytes: int
    coarse_bias: float


def export(
    model: Model,
    path: Path | str,
    form: str = "onnx",
    int2: bool = False,
    batch: int | None = 1,
    opset: int | None = None,
    whole_bytes: bool = False,
) -> Export:
    """Write ``model`` to ``path``, whole or not at all.

    ``onnx``: QuantizeLinear/DequantizeLinear pairs, which runtimes fuse into integer kernels;
    ``onnx-integer``: integer sums spelled out, the same bits on every runtime, slow; ``qonnx``:
    Quant nodes for FINN and hls4ml; ``torch``: packed weights and, beside them, a Python file that
    loads them with torch alone; ``tflite``: integers for LiteRT and TFLite Micro, weights of four
    bits or fewer in halves of bytes; ``c``: the same as a C array. See
    :mod:`apq.runtime.onnx_graph` and :mod:`apq.runtime.tflite_graph`.

    Args:
        model: From :func:`apq.deploy.finetune.finetune_candidate`, or
            :func:`apq.deploy.model.load_model`.
        path: File to write.
        form: Key of ``FORMATS``.
        int2: ONNX: store 2-bit weights in 2 bits (opset 25).
        batch: ONNX: fixed batch size. None: any number of images, the dimension is named "batch".
        opset: ONNX: version of the operators, from the smallest that has what the file uses to
            the newest the onnx package knows. None: the smallest, which most runtimes read.
        whole_bytes: TFLite: weights of four bits or fewer in bytes, for kernels that are exact.

    Raises:
        ApqError: unknown format, a package is missing, the format cannot express a layer, or the
            file cannot have this opset.
        ModelError: the file cannot be written, or an opset is asked for where there are none.

    Example:
        >>> import apq
        >>> model = apq.load_model("digits/model.safetensors")
        >>> written = apq.export(model, "digits/model.onnx")
        >>> written.file_bytes > written.weight_bytes  # the graph takes room, too
        True
        >>> written.opset >= 13
        True
    """
    path = Path(path)
    choose(form, FORMATS, "format")
    if opset is not None and form in ("torch", "tflite", "c"):
        raise ModelError(f"--opset is for ONNX files: a {form} file has no operators of that kind")
    _expressible(model, form)
    steps, micro = fold(model.network), None
    if form in ("tflite", "c"):
        weight_bytes, micro, used = (
            *_write_tflite(steps, path, model, form, batch, whole_bytes),
            None,
        )
    elif form == "torch":
        weight_bytes, used = _write_torch(steps, path, about(model)), None
    else:
        weight_bytes, used = _write_onnx(steps, path, model, form, int2, batch, opset)
    promised = size_bytes(model.network)
    return Export(path, form, path.stat().st_size, promised, weight_bytes, used, micro)


def about(model: Model) -> dict[str, Any]:
    """What every exported file says of itself."""
    return {
        "made_by": f"apq {__version__}",
        "space": f"{model.space.name} {model.space.fingerprint}",
        "candidate": str(model.candidate),
        "scheme": model.scheme,
        "mean": model.mean,
        "std": model.std,
        "classes": model.classes,
        "test_accuracy": (model.metadata.get("accuracy") or {}).get("test"),
    }


def _expressible(model: Model, form: str) -> None:
    """Refuse what no file of a form can hold yet.

    Raises:
        ModelError: the network was traced, and has an operation that only torch runs.
    """
    for node in model.space.graph_of(model.candidate).nodes:
        if node.op == "torch":
            raise ModelError(
                f"a {form} file cannot hold node {node.name}: only torch runs the operation "
                f"{node.call}. The model file itself runs in torch: apq.load_model(FILE).network"
            )


def _image_shape(model: Model) -> tuple[int, int, int]:
    """Channels, height and width."""
    height, width = both(model.space.graph_of(model.candidate).size)
    return model.space.in_channels, height, width


def _write_onnx(
    steps: Steps,
    path: Path,
    model: Model,
    form: str,
    int2: bool,
    batch: int | None,
    opset: int | None,
) -> tuple[int, int]:
    """Write the file; bytes of its weights, and its opset."""
    from apq.runtime.onnx_graph import onnx_model

    shape = (batch, *_image_shape(model))
    told = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about(model).items()}
    kind = {"onnx": "qdq", "onnx-integer": "integer", "qonnx": "qonnx"}[form]
    built = onnx_model(steps, shape, told, kind, int2, opset)
    try:
        with whole(path) as partial:
            partial.write_bytes(built.SerializeToString())
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error}") from error
    weights = (t for t in built.graph.initializer if not t.name.startswith("zeros"))
    return sum(len(t.raw_data) for t in weights), built.opset_import[0].version


def _write_tflite(
    steps: Steps, path: Path, model: Model, form: str, batch: int | None, whole_bytes: bool
) -> tuple[int, Micro]:
    """Write the flatbuffer, or the C source of its bytes; bytes of its weights, and its needs."""
    from apq.deploy.micro import c_source
    from apq.runtime.tflite_graph import tflite_model

    if batch is None:
        raise ModelError("a TFLite file has a fixed batch; leave out --dynamic-batch, give --batch")
    made = tflite_model(steps, (batch, *_image_shape(model)), about(model), whole_bytes=whole_bytes)
    text = form == "c"
    try:
        with whole(path) as partial:
            partial.write_bytes(c_source(made).encode() if text else made.data)
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error}") from error
    return made.weight_bytes, Micro(made.operators, made.arena_bytes, made.coarse_bias)


def _write_torch(steps: Steps, path: Path, told: dict[str, Any]) -> int:
    tensors: dict[str, Tensor] = {}
    nodes = []
    for i, step in enumerate(steps):
        layer, grid = step.layer, step.grid
        entry: dict[str, Any] = {
            "name": step.name, "op": step.op, "inputs": step.inputs,
            "grid": asdict(grid) if grid else None, "act": step.act, "window": step.window,
        }  # fmt: skip
        if layer is not None:
            entry |= {
                "shape": weight_shape(layer), "stride": layer.stride, "padding": layer.padding,
                "groups": layer.groups, "bits": 0, "input": None,
            }  # fmt: skip
        if isinstance(layer, FloatLayer):
            tensors |= {f"{i}.weight": layer.weight, f"{i}.bias": layer.bias}
        elif layer is not None:
            known, held = _packed(layer)
            entry |= known
            tensors |= {f"{i}.{name}": tensor for name, tensor in held.items()}
        nodes.append(entry)
    save_tensors(path, tensors, told | {"nodes": nodes})
    loader = path.with_name(path.name.removesuffix(".safetensors").replace(".", "_") + ".py")
    shutil.copyfile(Path(plain.__file__), loader)
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _packed(layer: IntegerLayer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the loader must know of a layer, and its tensors."""
    w, output = layer.weight, layer.output
    codes, multiplier, offset, spacing = _unsigned(w.codes, w.bits, layer.multiplier)
    tensors = {"weight": torch.from_numpy(pack_bits(codes, w.bits)), "scale": multiplier}
    if w.table is None:
        tensors["bias"] = _signed_as(layer.multiplier, multiplier, layer.bias).to(torch.int32)
    else:
        tensors |= {"table": w.table, "bias": layer.bias / (output.scale if output else 1)}
    told = {
        "bits": w.bits, "offset": offset * w.unit, "step": spacing * w.unit,
        "table": w.table is not None,
        "input": asdict(layer.rounding),
    }  # fmt: skip
    return told, tensors


def _signed_as(old: Tensor, new: Tensor, bias: Tensor) -> Tensor:
    """The bias where signs went from the codes into the multiplier, which it is added before."""
    return torch.where((old < 0) != (new < 0), -bias, bias)


def _unsigned(
    codes: Tensor, bits: int, multiplier: Tensor
) -> tuple[NDArray[np.int64], Tensor, int, int]:
    """Codes as integers from 0: ``code = stored * step + offset``, after signs that one bit cannot
    hold went into the multiplier."""
    if bits == 1:
        zero = (codes == 0).flatten(1).any(dim=1)
        negative = (codes < 0).flatten(1).any(dim=1)
        if bool(zero.any()) or not bool(negative.any()):  # {0, 1} up to sign
            sign = torch.where(negative, -1, 1)
            codes = codes * sign.reshape(-1, *(1 for _ in codes.shape[1:]))
            return codes.long().numpy(), multiplier * sign, 0, 1
        return ((codes.long() + 1) // 2).numpy(), multiplier, -1, 2
    offset = min(0, int(codes.min())) if int(codes.min()) < 0 else 0
    return (codes.long() - offset).numpy(), multiplier, offset, 1


def pack_bits(codes: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """A stream of ``bits``-bit integers, low bits first."""
    planes = (codes.reshape(-1, 1) >> np.arange(bits)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little")
