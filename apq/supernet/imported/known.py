"""ONNX operations on values that do not depend on images: sizes, and arithmetic with them.

Every rule takes arrays and returns one; its size is checked before it is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ModelError
from apq.files.limits import MOST_NUMBERS
from apq.supernet.imported.graph import Operation

Array = NDArray[Any]


def compute(operation: Operation, inputs: Sequence[Array | None]) -> Array:
    """Output of an operation on arrays.

    Raises:
        ModelError: the inputs do not fit, or the result would be too large.
    """
    try:
        result = RULES[operation.op](operation, *inputs)
    except ModelError:
        raise
    except (ValueError, TypeError, IndexError, LookupError, OverflowError) as error:
        raise ModelError(
            f"node {operation.name!r} ({operation.op}) does not fit what it reads: {error}"[:300]
        ) from error
    return np.asarray(result)


def require_room(shape: Sequence[int]) -> None:
    """Refuse what has too many numbers (ModelError)."""
    if math.prod(map(int, shape)) > MOST_NUMBERS:
        raise ModelError(f"a tensor of shape {[*shape]} has more than {MOST_NUMBERS} numbers")


def numbers(value: Any) -> list[int]:
    """Whole numbers of an attribute or an array, as a list."""
    return [int(v) for v in np.asarray(value).reshape(-1)]


def target_shape(shape: Sequence[int], target: Sequence[int], zeros: bool = False) -> list[int]:
    """Sizes of a Reshape, in which 0 stands for the size before; a -1 is left.

    Args:
        shape: Sizes before.
        target: As the file has them.
        zeros: Whether a 0 is a size of 0 (``allowzero``).
    """
    return [shape[i] if size == 0 and not zeros else size for i, size in enumerate(target)]


def pieces(
    rank: int, starts: Any, ends: Any, axes: Any = None, steps: Any = None
) -> tuple[slice, ...]:
    """The slices of a Slice, one per dimension."""
    found = [slice(None)] * rank
    first, last = numbers(starts), numbers(ends)
    where = numbers(axes) if axes is not None else [*range(len(first))]
    by = numbers(steps) if steps is not None else [1] * len(first)
    for axis, a, b, step in zip(where, first, last, by, strict=True):
        end = None if step < 0 and b < -(2**30) else b
        found[axis % rank] = slice(a, end, step)
    return tuple(found)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def rule(operation: Operation, a: Array, b: Array) -> Any:
        require_room(np.broadcast_shapes(a.shape, b.shape))
        return function(a, b)

    return rule


def _divide(a: Array, b: Array) -> Array:
    whole = a.dtype.kind in "iu" and b.dtype.kind in "iu"
    return np.trunc(a / b).astype(a.dtype) if whole else a / b


def _cast(operation: Operation, x: Array) -> Array:
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype(operation.get("to"))
    return x.astype(np.float32 if dtype.kind == "f" else dtype)


def _slice(operation: Operation, x: Array, *ends: Any) -> Array:
    said = ends or [operation.get(name) for name in ("starts", "ends", "axes")]
    return x[pieces(x.ndim, *said)]


def _concat(operation: Operation, *several: Array) -> Array:
    require_room([sum(part.size for part in several)])
    return np.concatenate(several, axis=operation.get("axis", 0))


def _squeeze(operation: Operation, x: Array, axes: Any = None) -> Array:
    where = operation.get("axes") if axes is None else axes
    return np.squeeze(x, None if where is None else tuple(numbers(where)))


def _unsqueeze(operation: Operation, x: Array, axes: Any = None) -> Array:
    return np.expand_dims(x, tuple(numbers(operation.get("axes") if axes is None else axes)))


def _reshape(operation: Operation, x: Array, target: Array) -> Array:
    return x.reshape(target_shape(x.shape, numbers(target), bool(operation.get("allowzero"))))


def _gather(operation: Operation, x: Array, at: Array) -> Array:
    axis = operation.get("axis", 0)
    require_room([at.size, x.size // max(1, x.shape[axis])])
    return np.take(x, at, axis=axis)


def _filled(operation: Operation, shape: Array) -> Array:
    value = operation.get("value")
    require_room(numbers(shape))
    one = np.zeros(1, np.float32) if value is None else np.asarray(value)
    return np.full(numbers(shape), one.reshape(-1)[0], dtype=one.dtype)


def _range(operation: Operation, start: Array, end: Array, step: Array) -> Array:
    a, b, c = start.item(), end.item(), step.item()
    require_room([max(0, math.ceil((b - a) / c))])
    return np.arange(a, b, c, dtype=start.dtype)


def _expand(operation: Operation, x: Array, shape: Array) -> Array:
    full = np.broadcast_shapes(x.shape, tuple(numbers(shape)))
    require_room(full)
    return np.broadcast_to(x, full)


def _product(operation: Operation, x: Array) -> Array:
    axes, keep = operation.get("axes"), bool(operation.get("keepdims", 1))
    return np.asarray(np.prod(x, axis=None if axes is None else tuple(axes), keepdims=keep))


def _where(operation: Operation, which: Array, a: Array, b: Array) -> Array:
    require_room(np.broadcast_shapes(which.shape, a.shape, b.shape))
    return np.where(which, a, b)


def _one(function: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda operation, x: function(x)


RULES: dict[str, Callable[..., Any]] = {
    "Identity": _one(lambda x: x), "Cast": _cast, "Gather": _gather, "Slice": _slice,
    "Concat": _concat, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Reshape": _reshape,
    "Transpose": lambda operation, x: np.transpose(x, operation.get("perm")),
    "Add": _binary(np.add), "Sub": _binary(np.subtract), "Mul": _binary(np.multiply),
    "Div": _binary(_divide), "Mod": _binary(np.mod), "Pow": _binary(np.power),
    "Equal": _binary(np.equal), "Less": _binary(np.less), "Greater": _binary(np.greater),
    "Max": _binary(np.maximum), "Min": _binary(np.minimum), "Where": _where,
    "Sqrt": _one(np.sqrt), "Neg": _one(np.negative), "Floor": _one(np.floor),
    "Ceil": _one(np.ceil), "Exp": _one(np.exp), "ConstantOfShape": _filled, "Range": _range,
    "Expand": _expand, "ReduceProd": _product,
    "Size": _one(lambda x: np.asarray(x.size)), "Shape": _one(lambda x: np.asarray(x.shape)),
}  # fmt: skip
"""Rules by operator."""
