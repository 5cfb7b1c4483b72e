"""A network from an ONNX file as a torch module: one module for every operation."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apq.errors import ModelError
from apq.files.limits import MOST_NUMBERS
from apq.supernet.imported.graph import Array, OnnxGraph, Operation, read_bytes, read_graph
from apq.supernet.imported.known import RULES, compute, numbers
from apq.supernet.imported.operators import OPERATORS
from apq.supernet.imported.rewrite import simplify

LAYER = {1: "weight", 2: "bias"}
PARAMETERS = {
    "Conv": LAYER, "ConvTranspose": LAYER, "Linear": LAYER, "LayerNormalization": LAYER,
    "BatchNormalization": {**LAYER, 3: "running_mean", 4: "running_var"},
    "PRelu": {1: "weight"},
}  # fmt: skip
"""torch's names of the inputs of layers."""
ALLOWED = 1e-3
"""Largest accepted difference from onnxruntime, relative to the largest output."""


class Step(nn.Module):
    """One operation with the numbers it owns.

    Args:
        operation: The operation to run.
        constants: Arrays by name, of which it takes its own.
    """

    def __init__(self, operation: Operation, constants: dict[str, Array]) -> None:
        super().__init__()
        self.operation = operation
        self.given: list[Any] = []
        for i, name in enumerate(operation.inputs):
            value = constants.get(name)
            owned = PARAMETERS.get(operation.op, {}).get(i, f"value{i}")
            self.given.append(None if value is None else self._own(owned, value))

    def _own(self, name: str, value: Array) -> Any:
        """A constant: an array of whole numbers, a single number, or a tensor that it owns."""
        if value.dtype.kind != "f":
            return value
        if value.size == 1 and name.startswith("value"):
            return float(value.reshape(-1)[0])
        if self.operation.op in ("Resize", "Upsample"):
            return value
        tensor = torch.from_numpy(np.array(value, dtype=np.float32))
        if self.operation.op == "PRelu":
            tensor = tensor.reshape(-1)
        if name.startswith("running"):
            self.register_buffer(name, tensor)
        else:
            self.register_parameter(name, nn.Parameter(tensor))
        return name

    def forward(self, *inputs: Any) -> Any:
        """Its output; ``inputs`` has a None where an input is a constant."""
        merged = [
            x if own is None else getattr(self, own) if isinstance(own, str) else own
            for x, own in zip(inputs, self.given, strict=True)
        ]
        while merged and merged[-1] is None:
            merged.pop()
        return OPERATORS[self.operation.op](self.operation, *merged)


class OnnxNetwork(nn.Module):
    """The network of an ONNX file, ``(n, channels, …)`` to what the file gives.

    A last softmax is left out: what comes are logits. Read it with :func:`read_onnx`.

    Attributes:
        shape: Channels and sizes of an image.
        notes: Parts that were changed on import: name and description.
        result: Name in the file of what it gives.
    """

    def __init__(self, graph: OnnxGraph, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.notes, self.result = shape, tuple(graph.notes), graph.result
        self._image, self._constants = graph.image, graph.constants
        self._steps: list[tuple[str, Operation]] = []
        sized = set(graph.constants)
        for operation in _needed(graph):
            path = ""
            if _is_known(operation, sized):
                sized.update(operation.outputs)
            else:
                operation = _any_batch(operation, graph)
                path = self._place(operation, Step(operation, graph.constants))
            self._steps.append((path, operation))
        own = {name for _, op in self._steps for name in op.inputs}
        self._constants = {k: v for k, v in graph.constants.items() if k in own}

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        values: dict[str, Any] = {self._image: x}
        for path, operation in self._steps:
            if not path:
                known = [self._known(values, name) for name in operation.inputs]
                values[operation.outputs[0]] = compute(operation, known)
                continue
            inputs = [values.get(name) for name in operation.inputs]
            made = self._run(path, operation, inputs)
            many = made if isinstance(made, list | tuple) else [made]
            for name, value in zip(operation.outputs, many, strict=False):
                if value.numel() > MOST_NUMBERS * max(1, len(x)):
                    raise ModelError(
                        f"node {operation.name!r} gives a tensor of shape {[*value.shape]}; at "
                        f"most {MOST_NUMBERS} numbers per image are computed"
                    )
                values[name] = value
        result: Tensor = values[self.result]
        return result

    def _run(self, path: str, operation: Operation, inputs: Sequence[Any]) -> Any:
        try:
            return self.get_submodule(path)(*inputs)
        except ModelError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, LookupError) as error:
            shapes = [[*i.shape] for i in inputs if isinstance(i, Tensor)]
            raise ModelError(
                f"node {operation.name!r} ({operation.op}) does not fit inputs of shape {shapes}: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"[:400]
            ) from error

    def _known(self, values: dict[str, Any], name: str) -> Array | None:
        """A constant, or the sizes of an activation."""
        if not name:
            return None
        value = values.get(name, self._constants.get(name))
        return np.empty(value.shape, bool) if isinstance(value, Tensor) else value

    def _place(self, operation: Operation, step: Step) -> str:
        """Add a module under the name of its weights or its node."""
        weights = operation.inputs[1] if len(operation.inputs) > 1 else ""
        stem = weights.rstrip("*")
        named = stem.removesuffix(".weight") if stem.endswith(".weight") else operation.name
        parts = re.sub(r"[^\w.]+", "_", named.replace("/", "."), flags=re.ASCII).split(".")
        path = ".".join(filter(None, parts))[:120].rstrip(".") or operation.op
        known = {name for name, _ in self.named_modules()}
        base, i = path, 1
        while path in known or not self._attach(path, step):
            i += 1
            path = f"{base.replace('.', '_')}_{i}"
        return path

    def _attach(self, path: str, step: Step) -> bool:
        """Put a module at a path; False if something else is there."""
        *folders, last = path.split(".")
        at: nn.Module = self
        for folder in folders:
            inner = getattr(at, folder, None)
            if inner is not None and not isinstance(inner, nn.Module):
                return False
            if inner is None:
                inner = nn.Module()
                at.add_module(folder, inner)
            at = inner
        if hasattr(at, last):
            return False
        at.add_module(last, step)
        return True


def _needed(graph: OnnxGraph) -> list[Operation]:
    """The operations that the result follows from."""
    wanted, kept = {graph.result}, []
    for operation in reversed(graph.operations):
        if wanted & {*operation.outputs}:
            kept.append(operation)
            wanted.update(operation.inputs)
    return kept[::-1]


def _is_known(operation: Operation, sized: set[str]) -> bool:
    """Whether an operation gives sizes, and no activation."""
    if operation.op in ("Shape", "Size"):
        return True
    known = all(name in sized or not name for name in operation.inputs)
    return known and operation.op in RULES


def _any_batch(operation: Operation, graph: OnnxGraph) -> Operation:
    """Let a file for a fixed number of images take any: a Reshape to this number keeps theirs."""
    if operation.op != "Reshape" or not graph.batch or len(operation.inputs) < 2:
        return operation
    target = graph.constants.get(operation.inputs[1])
    if target is None or not target.size or numbers(target)[0] != graph.batch:
        return operation
    free = 0 if -1 in numbers(target) else -1
    name = f"{operation.inputs[1]}*any"
    graph.constants[name] = np.array([free, *numbers(target)[1:]])
    return Operation(
        operation.name, operation.op, (operation.inputs[0], name), operation.outputs,
        operation.attributes,
    )  # fmt: skip


def read_onnx(path: Path | str, size: Sequence[int] = ()) -> OnnxNetwork:
    """The network of an ONNX file as a torch module in eval mode.

    Its weights are parameters. Everything is in single precision. Nothing in the file is run; other
    files it may point to are not read.

    Args:
        path: The file: one input of images, one result, real weights.
        size: Channels, height and width of images, where the file leaves them open.

    Raises:
        ModelError: the file is damaged, or has an operator that is not read (names the node), or
            leaves the images' size open and none is given.

    Example:
        >>> import apq
        >>> network = apq.read_onnx("page.onnx", (3, 48, 192))  # doctest: +SKIP
        >>> traced = apq.trace(network, torch.zeros(1, *network.shape))  # doctest: +SKIP
    """
    path = Path(path)
    data = read_bytes(path)
    try:
        graph = read_graph(data, path)
        shape = _shape(graph.shape, tuple(size), path)
        network = OnnxNetwork(simplify(graph), shape).eval()
        _rehearse(network)
    except ModelError as error:
        told = str(error)
        raise ModelError(told if str(path) in told else f"{path}: {told}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} breaks the rules of ONNX: {type(error).__name__}: {error}"[:300]
        ) from error
    return network


def _shape(said: tuple[int, ...], given: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """Sizes of an image from the file, and where it leaves them open, from the user."""
    fits = len(said) == len(given) and all(a in (0, b) for a, b in zip(said, given, strict=True))
    if given and not fits:
        raise ModelError(f"{path} is for images of {_words(said)}, not {_words(given)}")
    if not given and 0 in said:
        raise ModelError(
            f"{path} leaves the size of images open ({_words(said)}): give --input, as in 3x32x32"
        )
    return given or said


def _words(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) if n else "?" for n in shape)


def _rehearse(network: OnnxNetwork) -> None:
    """Run with shapes alone, so that what is too large is refused before anything is computed."""
    shadow = copy.deepcopy(network).to("meta")
    with torch.no_grad(), torch.device("meta"):
        found = shadow(torch.empty(2, *network.shape))
    if not isinstance(found, Tensor) or found.dim() < 2 or len(found) != 2:
        shape = [*found.shape] if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(f"for two images the network gives {shape}; (images, …) is read")


@torch.no_grad()
def difference(network: OnnxNetwork, path: Path | str) -> float | None:
    """How far the module is from what onnxruntime gives for two random images, relative to the
    largest number; None if onnxruntime is not installed or does not read the file.

    Raises:
        ModelError: it is so far that something was read wrongly.
    """
    try:
        import onnx
        import onnxruntime as ort
    except ImportError:
        return None
    model = onnx.load_model_from_string(read_bytes(Path(path)))
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=network.result))
    setup = ort.SessionOptions()
    setup.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), setup, providers=["CPUExecutionProvider"]
        )
    except Exception:  # onnxruntime's exceptions share no base class
        return None
    given = session.get_inputs()[0]
    x = torch.randn(2, *network.shape, generator=torch.Generator().manual_seed(0))
    kind = {"tensor(float16)": np.float16, "tensor(double)": np.float64}.get(given.type, np.float32)
    batch = given.shape[0] if isinstance(given.shape[0], int) else 2
    images = x[:batch] if batch > 2 else x
    wanted = [session.run(None, {given.name: part.numpy().astype(kind)})[0]
              for part in torch.split(images, min(batch, 2))]  # fmt: skip
    theirs = torch.from_numpy(np.concatenate(wanted).astype(np.float32))
    ours = network(images)
    gap = float((ours - theirs.reshape(ours.shape)).abs().max() / theirs.abs().max())
    if not gap < (ALLOWED if kind is not np.float16 else 0.05):
        raise ModelError(
            f"what was read from {path} answers otherwise than onnxruntime (relative difference "
            f"{gap:.2g}): something in it is not what it seems. Please report it."
        )
    return gap
