"""Rounding forward and backward in one pass over memory each, compiled by numba (extra ``fast``).

The same from torch operations takes five passes and keeps the output for the backward pass; here
it is computed again. Used by :mod:`apq.quantize.functions` where it can be.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK = 4096
"""Elements whose gradients are added in float32, many at once; chunks are added in float64."""


def usable(x: Tensor) -> bool:
    """Whether the compiled loops take this tensor: float32 on the CPU without gaps, and numba."""
    dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=_last))
    return dense and x.device.type == "cpu" and x.dtype == torch.float32 and _loops() is not None


_last = torch.channels_last


def forward(x: Tensor, step: float, low: int, high: int) -> Tensor:
    """``x`` rounded to integers ``low .. high`` times ``step``."""
    loops = _loops()
    assert loops is not None
    out = torch.empty_like(x)
    _each_thread(loops[0], (_flat(x), _flat(out)), _numbers(step, low, high))
    return out


def backward(
    x: Tensor, grad: Tensor, step: float, low: int, high: int, bottom: float, top: float
) -> tuple[Tensor, float, float]:
    """Gradients of :func:`forward`. ``bottom`` and ``top`` are the grid's ends in units of ``x``.

    Returns:
        The gradient of ``x``: ``grad`` strictly inside the grid's ends, 0 elsewhere; the sum of
        ``grad * (round(x / step) - x / step)`` inside; the sum of ``grad * end`` outside.
    """
    loops = _loops()
    assert loops is not None
    out = torch.empty_like(x)
    grad = grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)
    arrays = (_flat(x), _flat(grad), _flat(out))
    sums = _each_thread(loops[1], arrays, _numbers(step, low, high, bottom, top))
    inside, outside = np.sum(sums, axis=0)
    return out, float(inside), float(outside)


def _flat(x: Tensor) -> Any:
    """Memory of a tensor without gaps, as one row."""
    x = x.detach()
    if not x.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1).numpy()


def _numbers(*numbers: float) -> tuple[Any, ...]:
    return tuple(np.float32(number) for number in numbers)


def _each_thread(loop: Callable[..., Any], arrays: tuple[Any, ...], numbers: Any) -> list[Any]:
    """What the loop returns for as many parts of the arrays as torch may use threads."""
    parts = min(torch.get_num_threads(), 1 + len(arrays[0]) // (4 * CHUNK))
    if parts == 1:
        return [loop(*arrays, *numbers)]
    split = zip(*(np.array_split(a, parts) for a in arrays), strict=True)
    return list(_threads(parts).map(lambda part: loop(*part, *numbers), split))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)


@cache
def _loops() -> tuple[Any, Any] | None:
    """The compiled loops, forward and backward; None without numba."""
    try:
        from numba import njit
    except ImportError:
        return None

    def forward(x: Any, out: Any, step: Any, low: Any, high: Any) -> None:
        for i in range(x.size):
            out[i] = np.rint(min(max(x[i] / step, low), high)) * step

    def backward(
        x: Any, grad: Any, out: Any, step: Any, low: Any, high: Any, bottom: Any, top: Any
    ) -> tuple[float, float]:
        # Without branches, and sums of chunks apart, so that the compiler may use vectors.
        all_inside: Any = 0.0
        all_outside: Any = 0.0
        for start in range(0, x.size, CHUNK):
            xs, gs = x[start : start + CHUNK], grad[start : start + CHUNK]
            outs = out[start : start + CHUNK]
            inside, outside = np.float32(0), np.float32(0)
            for i in range(xs.size):
                end = min(max(xs[i] / step, low), high)
                mask = np.float32(xs[i] > bottom) * np.float32(xs[i] < top)
                outs[i] = gs[i] * mask
                inside += gs[i] * mask * (np.rint(end) - end)
                outside += gs[i] * (np.float32(1) - mask) * end
            all_inside += inside
            all_outside += outside
        return all_inside, all_outside

    compiled = njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})
    return compiled(forward), compiled(backward)
