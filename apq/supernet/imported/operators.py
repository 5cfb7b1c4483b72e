"""Operators of ONNX in torch. Each takes the node, then its inputs in the file's order: tensors,
numbers where the file has a single constant one, and arrays of whole numbers for sizes.

Semantics are those of the ONNX standard, including older versions, in which some of today's inputs
were attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apq.errors import ModelError
from apq.supernet.imported.graph import Operation
from apq.supernet.imported.known import numbers, pieces, require_room, target_shape

Functions = dict[int, Callable[..., Tensor]]
POOLS: dict[str, Functions] = {
    "MaxPool": {1: F.max_pool1d, 2: F.max_pool2d},
    "AveragePool": {1: F.avg_pool1d, 2: F.avg_pool2d},
    "GlobalAveragePool": {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d},
    "GlobalMaxPool": {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d},
}
"""Functions by operator and number of pixel dimensions."""
CONVS: Functions = {1: F.conv1d, 2: F.conv2d}
TRANSPOSED: Functions = {1: F.conv_transpose1d, 2: F.conv_transpose2d}
"""Functions by number of pixel dimensions."""


def refuse(node: Operation, what: str) -> ModelError:
    """What to raise where an operator is read, but not in this form."""
    return ModelError(f"node {node.name!r}: {node.op} with {what} is not read")


# ---- windows -----------------------------------------------------------------------------------


def _pads(
    node: Operation, size: Sequence[int], kernel: Sequence[int], steps: Sequence[int],
    spread: Sequence[int],
) -> list[tuple[int, int]]:  # fmt: skip
    """Pixels added before and behind every dimension."""
    auto, dims = node.get("auto_pad", "NOTSET"), len(kernel)
    if auto in ("NOTSET", "VALID"):
        said = node.get("pads", [0] * 2 * dims) if auto == "NOTSET" else [0] * 2 * dims
        return [(said[i], said[i + dims]) for i in range(dims)]
    found = []
    for n, k, step, by in zip(size, kernel, steps, spread, strict=True):
        total = max(0, (math.ceil(n / step) - 1) * step + by * (k - 1) + 1 - n)
        small, large = total // 2, total - total // 2
        found.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return found


def _padded(x: Tensor, pads: list[tuple[int, int]], value: float) -> tuple[Tensor, tuple[int, ...]]:
    """The tensor, and what a window's function is to add by itself on both sides."""
    if all(a == b for a, b in pads):
        return x, tuple(a for a, _ in pads)
    flat = [n for pair in reversed(pads) for n in pair]
    require_room([*x.shape[:2], *(s + a + b for s, (a, b) in zip(x.shape[2:], pads, strict=True))])
    return F.pad(x, flat, value=value), (0,) * len(pads)


def conv(node: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution over one or two dimensions."""
    dims = weight.dim() - 2
    if dims not in CONVS or x.dim() != dims + 2:
        raise refuse(node, f"{dims} pixel dimensions")
    steps, spread = node.get("strides", [1] * dims), node.get("dilations", [1] * dims)
    x, own = _padded(x, _pads(node, x.shape[2:], weight.shape[2:], steps, spread), 0.0)
    return CONVS[dims](x, weight, bias, steps, own, spread, node.get("group", 1))


def conv_transpose(
    node: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Transposed convolution over one or two dimensions."""
    dims = weight.dim() - 2
    pads = node.get("pads", [0] * 2 * dims)
    if node.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
        raise refuse(node, "auto_pad or output_shape")
    if pads[:dims] != pads[dims:] or dims not in TRANSPOSED:
        raise refuse(node, f"pads {pads}")
    return TRANSPOSED[dims](
        x, weight, bias, node.get("strides", [1] * dims), pads[:dims],
        node.get("output_padding", [0] * dims), node.get("group", 1),
        node.get("dilations", [1] * dims),
    )  # fmt: skip


def pool(node: Operation, x: Tensor) -> Tensor:
    """Largest or mean of every window."""
    kernel = node.get("kernel_shape")
    dims = len(kernel)
    if dims not in POOLS[node.op] or x.dim() != dims + 2:
        raise refuse(node, f"{dims} pixel dimensions")
    steps, spread = node.get("strides", [1] * dims), node.get("dilations", [1] * dims)
    most, ceil = node.op == "MaxPool", bool(node.get("ceil_mode", 0))
    pads = _pads(node, x.shape[2:], kernel, steps, spread)
    counted = bool(node.get("count_include_pad", 0))
    wide = any(2 * a > k for (a, _), k in zip(pads, kernel, strict=True))
    uneven = wide or any(a != b for a, b in pads)
    if uneven and not most and (not counted or ceil):
        raise refuse(node, f"pads {node.get('pads')}")
    x, own = _padded(x, pads, -math.inf if most else 0.0)
    if most:
        return POOLS[node.op][dims](x, kernel, steps, own, spread, ceil)
    if set(spread) != {1}:
        raise refuse(node, f"dilations {spread}")
    plain = [] if not (any(own) or ceil) else [own, ceil, counted]
    return POOLS[node.op][dims](x, kernel, steps, *plain)


def global_pool(node: Operation, x: Tensor) -> Tensor:
    """Largest or mean over all pixels."""
    if x.dim() - 2 not in POOLS[node.op]:
        raise refuse(node, f"{x.dim() - 2} pixel dimensions")
    return POOLS[node.op][x.dim() - 2](x, 1)


def resize(node: Operation, x: Tensor, *said: Any) -> Tensor:
    """Other sizes of the pixels' dimensions, by neighbours or by lines between them."""
    shape, mode = x.shape, node.get("mode", "nearest")
    if node.op == "Upsample":
        scales, sizes = (said[0] if said else node.get("scales")), None
    else:
        scales, sizes = ([*said[1:], None, None])[:2]
    if sizes is not None and len(numbers(sizes)) == len(shape):
        wanted = numbers(sizes)
    elif scales is not None and len(scales) == len(shape):
        wanted = [math.floor(n * float(s)) for n, s in zip(shape, scales, strict=True)]
    else:
        raise refuse(node, "sizes of some dimensions")
    if wanted[0] not in (1, len(x)) or wanted[1] != shape[1] or min(wanted) < 1:
        raise refuse(node, f"sizes {wanted} of {[*shape]}")
    wanted[0] = len(x)  # files for a single image have 1
    require_room(wanted)
    how = node.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        times = all(b % a == 0 for a, b in zip(shape, wanted, strict=True))
        if not times and (how, node.get("nearest_mode")) != ("asymmetric", "floor"):
            raise refuse(node, f"neighbours of {how} coordinates")
        return F.interpolate(x, wanted[2:], mode="nearest")
    if how not in ("half_pixel", "pytorch_half_pixel", "align_corners") or mode == "cubic":
        raise refuse(node, f"mode {mode} and coordinates {how}")
    kind = {3: "linear", 4: "bilinear"}[x.dim()]
    return F.interpolate(x, wanted[2:], mode=kind, align_corners=how == "align_corners")


def pad(
    node: Operation, x: Tensor, pads: Any = None, value: Any = None, axes: Any = None
) -> Tensor:
    """Numbers around a tensor."""
    said = numbers(pads if pads is not None else node.get("pads", node.get("paddings")))
    where = numbers(axes) if axes is not None else [*range(len(said) // 2)]
    around = {a % x.dim(): (said[i], said[i + len(where)]) for i, a in enumerate(where)}
    flat = [n for d in reversed(range(x.dim())) for n in around.get(d, (0, 0))]
    require_room([s + sum(around.get(d, (0, 0))) for d, s in enumerate(x.shape)])
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(
        node.get("mode", "constant")
    )
    if mode is None:
        raise refuse(node, f"mode {node.get('mode')}")
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    if mode != "constant":
        return F.pad(x, flat, mode=mode)
    return F.pad(x, flat, value=float(value or node.get("value", 0.0)))


# ---- layers ------------------------------------------------------------------------------------


def linear(node: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer, weights ``(out, in)``; made of MatMul and Gemm."""
    return F.linear(x, weight, bias)


def batch_norm(
    node: Operation, x: Tensor, gain: Tensor, shift: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    """Batch normalization with the statistics of the file."""
    if node.get("training_mode", 0):
        raise refuse(node, "training_mode")
    return F.batch_norm(x, mean, var, gain, shift, False, 0.0, node.get("epsilon", 1e-5))


def layer_norm(node: Operation, x: Tensor, gain: Tensor, shift: Tensor | None = None) -> Tensor:
    """Normalization over the last dimensions."""
    first = node.get("axis", -1) % x.dim()
    return F.layer_norm(x, [*x.shape[first:]], gain, shift, node.get("epsilon", 1e-5))


def prelu(node: Operation, x: Tensor, slope: Tensor) -> Tensor:
    """A slope per channel below 0."""
    return F.prelu(x, slope)


# ---- entries one by one ------------------------------------------------------------------------


def hard_sigmoid(node: Operation, x: Tensor) -> Tensor:
    """``alpha x + beta`` between 0 and 1; torch's own is that of 1/6 and 1/2."""
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if is_usual(alpha, beta):
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


def is_usual(alpha: float, beta: float) -> bool:
    """Whether a hard sigmoid is torch's."""
    return abs(alpha - 1 / 6) < 1e-6 and beta == 0.5


def clip(node: Operation, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Between two numbers, of which either may be missing."""
    low = node.get("min") if low is None else low
    high = node.get("max") if high is None else high
    return x if low is None and high is None else torch.clamp(x, low, high)


def gelu(node: Operation, x: Tensor) -> Tensor:
    """Gaussian error linear unit."""
    return F.gelu(x, approximate=node.get("approximate", "none"))


def several(function: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
    """An operator of any number of inputs from a function of two."""

    def run(node: Operation, *inputs: Any) -> Tensor:
        result: Tensor = inputs[0]
        for other in inputs[1:]:
            result = function(result, other)
        return result

    return run


def _extreme(most: bool) -> Callable[[Any, Any], Tensor]:
    def run(a: Any, b: Any) -> Tensor:
        a, b = (b, a) if isinstance(b, Tensor) and not isinstance(a, Tensor) else (a, b)
        if not isinstance(b, Tensor):
            return torch.clamp_min(a, b) if most else torch.clamp_max(a, b)
        return torch.maximum(a, b) if most else torch.minimum(a, b)

    return run


def _pow(node: Operation, a: Any, b: Any) -> Tensor:
    result: Tensor = a * a if b == 2.0 and isinstance(b, float) else a**b
    return result


def _softmax(node: Operation, x: Tensor) -> Tensor:
    axis = node.get("axis", -1 if node.get("opset", 13) >= 13 else 1) % x.dim()
    if node.get("opset", 13) < 13 and axis != x.dim() - 1:
        raise refuse(node, f"the axis {axis} of opset {node.get('opset')}")
    return torch.log_softmax(x, axis) if node.op == "LogSoftmax" else torch.softmax(x, axis)


# ---- shapes ------------------------------------------------------------------------------------


def reduce(node: Operation, x: Tensor, axes: Any = None) -> Tensor:
    """Mean, sum or largest over dimensions."""
    said = node.get("axes") if axes is None else axes
    dims = [*range(x.dim())] if said is None or not len(said) else numbers(said)
    keep = bool(node.get("keepdims", 1))
    if node.op in ("ReduceL1", "ReduceL2"):
        norm: Tensor = torch.linalg.vector_norm(x, int(node.op[-1]), dims, keep)
        return norm
    function: Any = {"ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax,
                     "ReduceMin": torch.amin}[node.op]  # fmt: skip
    result: Tensor = function(x, dims, keepdim=keep)
    return result


def reshape(node: Operation, x: Tensor, target: Any = None) -> Tensor:
    """Other dimensions of the same numbers."""
    said = numbers(node.get("shape") if target is None else target)
    return x.reshape(target_shape(x.shape, said, bool(node.get("allowzero"))))


def flatten(node: Operation, x: Tensor) -> Tensor:
    """Two dimensions."""
    axis = node.get("axis", 1)
    if axis == 1:
        return torch.flatten(x, 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def squeeze(node: Operation, x: Tensor, axes: Any = None) -> Tensor:
    """Without dimensions of size 1."""
    said = node.get("axes") if axes is None else axes
    dims = [i for i, n in enumerate(x.shape) if n == 1] if said is None else numbers(said)
    return torch.squeeze(x, tuple(d % x.dim() for d in dims))


def unsqueeze(node: Operation, x: Tensor, axes: Any = None) -> Tensor:
    """With more dimensions of size 1."""
    said = numbers(node.get("axes") if axes is None else axes)
    for dim in sorted(d % (x.dim() + len(said)) for d in said):
        x = torch.unsqueeze(x, dim)
    return x


def slices(node: Operation, x: Tensor, *said: Any) -> Tensor:
    """A part of every dimension."""
    ends = said or [node.get(name) for name in ("starts", "ends", "axes")]
    found = pieces(x.dim(), *ends)
    if any((part.step or 1) < 0 for part in found):
        raise refuse(node, "steps backwards")
    return x[found]


def gather(node: Operation, x: Tensor, at: Any) -> Tensor:
    """Entries of one dimension."""
    axis, places = node.get("axis", 0) % x.dim(), numbers(at)
    if isinstance(at, float | int) or at.ndim == 0:
        return torch.select(x, axis, places[0])
    if at.ndim > 1:
        raise refuse(node, "places of several dimensions")
    return torch.index_select(x, axis, torch.tensor([p % x.shape[axis] for p in places]))


def concat(node: Operation, *parts: Tensor) -> Tensor:
    """One behind the other; what a file for one image has once is there for every image."""
    axis, count = node.get("axis", 1), max(len(part) for part in parts)
    if axis % parts[0].dim():
        parts = tuple(
            part.expand(count, *part.shape[1:]) if len(part) == 1 < count else part
            for part in parts
        )
    return torch.cat(parts, axis)


def split(node: Operation, x: Tensor, sizes: Any = None) -> Sequence[Tensor]:
    """Parts of one dimension."""
    axis = node.get("axis", 0) % x.dim()
    said = node.get("split") if sizes is None else sizes
    count = len(node.outputs)
    parts = numbers(said) if said is not None else [-(-x.shape[axis] // count)] * count
    parts[-1] = x.shape[axis] - sum(parts[:-1])
    return torch.split(x, parts, axis)


def broadcast(node: Operation, x: Tensor, shape: Any) -> Tensor:
    """Repeated along dimensions of size 1."""
    full = np.broadcast_shapes(tuple(x.shape), tuple(numbers(shape)))
    require_room(full)
    return x.expand(full)


def cast(node: Operation, x: Tensor) -> Tensor:
    """Real numbers of any precision are single precision here."""
    from onnx import helper

    if helper.tensor_dtype_to_np_dtype(node.get("to")).kind != "f":
        raise refuse(node, "a type that is not of real numbers")
    return x


def depth_to_space(node: Operation, x: Tensor) -> Tensor:
    """Channels become pixels."""
    if node.get("mode", "DCR") != "CRD":
        raise refuse(node, "mode DCR")
    return F.pixel_shuffle(x, node.get("blocksize"))


def one(function: Callable[[Any], Tensor]) -> Callable[..., Tensor]:
    """An operator from a function of one tensor."""
    return lambda node, x, *_: function(x)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "Linear": linear, "PRelu": prelu,
    "BatchNormalization": batch_norm, "LayerNormalization": layer_norm,
    "MatMul": several(torch.matmul), "Gemm": several(torch.matmul),
    "MaxPool": pool, "AveragePool": pool, "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool, "Resize": resize, "Upsample": resize, "Pad": pad,
    "Add": several(lambda a, b: a + b), "Sub": several(lambda a, b: a - b),
    "Mul": several(lambda a, b: a * b), "Div": several(lambda a, b: a / b), "Pow": _pow,
    "Sum": several(lambda a, b: a + b), "Max": several(_extreme(True)),
    "Min": several(_extreme(False)),
    "Relu": one(F.relu), "Sigmoid": one(torch.sigmoid), "Tanh": one(torch.tanh),
    "HardSwish": one(F.hardswish), "HardSigmoid": hard_sigmoid, "Clip": clip, "Gelu": gelu,
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.get("alpha", 0.01)),
    "Elu": lambda node, x: F.elu(x, node.get("alpha", 1.0)), "Selu": one(F.selu),
    "Softplus": one(F.softplus), "Softsign": one(F.softsign), "Mish": one(F.mish),
    "Silu": one(F.silu), "Swish": one(F.silu), "Erf": one(torch.erf), "Exp": one(torch.exp),
    "Log": one(torch.log), "Sqrt": one(torch.sqrt), "Abs": one(torch.abs), "Neg": one(torch.neg),
    "Reciprocal": one(torch.reciprocal), "Floor": one(torch.floor), "Ceil": one(torch.ceil),
    "Softmax": _softmax, "LogSoftmax": _softmax,
    "ReduceMean": reduce, "ReduceSum": reduce, "ReduceMax": reduce, "ReduceMin": reduce,
    "ReduceL1": reduce, "ReduceL2": reduce,
    "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze,
    "Transpose": lambda node, x: x.permute(node.get("perm", [*range(x.dim())][::-1])),
    "Slice": slices, "Gather": gather, "Split": split, "Expand": broadcast,
    "Concat": concat,
    "DepthToSpace": depth_to_space, "Cast": cast, "Identity": one(lambda x: x),
    "Dropout": one(lambda x: x),
}  # fmt: skip
"""Functions by operator."""
