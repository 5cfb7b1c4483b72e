"""Differentiable rounding, optimised for the CPU: few passes over memory and two dot products or,
with the extra ``fast``, one pass in each direction (:mod:`apq.quantize.fused`).

Composed tensor operations, torch's own fake-quantize kernels and Brevitas compute the same and are
several times slower (benchmarks/bench_quantize.py). All round half to even. Grids are integers
``low .. high`` times a step; signed ones are by default narrow, ``-(2^(b-1) - 1) .. 2^(b-1) - 1``
at b bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from apq.quantize import fused


def grid(bits: int, signed: bool, narrow: bool = True) -> tuple[int, int]:
    """Lowest and highest integer at ``bits`` bits (signed and narrow: zero in the middle)."""
    if signed:
        return int(narrow) - 2 ** (bits - 1), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over all elements without copying, whatever the memory format."""
    if a.dim() == 4 and a.stride() == b.stride() and not a.is_contiguous():
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)  # channels last
    return torch.dot(a.reshape(-1), b.reshape(-1))


class _FixedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        return x.div(scale).clamp_(low, high).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0], None, None, None


def round_to_grid(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Nearest grid point; the gradient passes straight through, also beyond the ends.

    The weight rule of HAQ and APQ (Wang et al., arXiv:1811.08886; straight-through: Bengio et al.,
    arXiv:1308.3432).

    Args:
        x: Any shape.
        scale: Grid step, broadcastable to ``x``, positive, in units of ``x``; not trained.
        low, high: Ends of the integer grid.
    """
    out: Tensor = _FixedStep.apply(x, scale, low, high)  # type: ignore[no-untyped-call]
    return out


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, low: int, high: int) -> Tensor:
        ctx.on_gpu = x.device.type != "cpu"
        if ctx.on_gpu:  # keep scalars on the GPU: synchronising takes longer than computing
            ends = clip.detach().clamp_min(1e-6)
            step = ends / high
            y = x.div(step).clamp_(low, high).round_().mul_(step)
            ctx.ratio = low / high
            ctx.save_for_backward(x, y, ends)
            return y
        top = max(float(clip), 1e-6)
        step = torch.tensor(top, dtype=x.dtype) / high
        ctx.grid, ctx.ends = (float(step), low, high), (low * float(step), top)
        if fused.usable(x):
            ctx.save_for_backward(x)
            return fused.forward(x, *ctx.grid)
        y = x.div(step).clamp_(low, high).round_().mul_(step)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        grad, (x, *rest) = grads[0], ctx.saved_tensors
        if ctx.on_gpu:
            y, top = rest
            inside = grad * ((x > top * ctx.ratio) & (x < top))
            return inside, ((grad - inside) * y).sum() / top, None, None
        if not rest:
            inside, _, outside = fused.backward(x, grad, *ctx.grid, *ctx.ends)
            return inside, torch.tensor(outside / ctx.grid[2], dtype=x.dtype), None, None
        (y,), (bottom, top) = rest, ctx.ends
        inside = torch.ops.aten.hardtanh_backward(grad, x, bottom, top)
        # Inside, both products are the same; beyond an end y is that end, so dividing by the clip
        # leaves the sum of gradients above minus the sum below (a signed grid's lower end, times
        # how much further that end is from zero than the clip).
        grad_clip = (_dot(grad, y) - _dot(inside, y)) / top
        return inside, grad_clip, None, None


def clip_to_grid(x: Tensor, clip: Tensor, low: int, high: int) -> Tensor:
    """Clamp to a trained clip and round (PACT, Choi et al., arXiv:1805.06085).

    Gradients: to ``x`` 1 strictly inside and 0 elsewhere; to ``clip`` 1 where ``x >= clip``, -1
    where ``x <= -clip`` on a signed grid, 0 inside: the rounding error does not enter it.

    Args:
        x: Activations, any shape.
        clip: Scalar, the value of the highest level, in units of ``x``.
        low, high: Ends of the integer grid.
    """
    out: Tensor = _Clipped.apply(x, clip, low, high)  # type: ignore[no-untyped-call]
    return out


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int, factor: float) -> Tensor:
        ctx.ends, ctx.factor = (low, high), factor
        if step.numel() == 1 and fused.usable(x):
            ctx.save_for_backward(x, step)
            return fused.forward(x, float(step), low, high)
        y = x.div(step).clamp_(low, high).round_().mul_(step)
        ctx.save_for_backward(x, step, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        x, step, *rest = ctx.saved_tensors
        grad, (low, high) = grads[0], ctx.ends
        if not rest:
            value = float(step)
            inside, error, ends = fused.backward(
                x, grad, value, low, high, low * value, high * value
            )
            grad_step = torch.full_like(step, (error + ends) * ctx.factor)
            return inside, grad_step, None, None, None
        (y,) = rest
        if step.numel() == 1 and x.device.type == "cpu":
            value = float(step)
            inside = torch.ops.aten.hardtanh_backward(grad, x, low * value, high * value)
            # y/s - x/s is the rounding error inside; outside, y/s is the end itself.
            grad_step = ((_dot(grad, y) - _dot(inside, x)) / value).reshape(step.shape)
        else:
            inside = grad * ((x > low * step) & (x < high * step))
            terms = (grad * y - inside * x) / step
            grad_step = terms.sum_to_size(step.shape)
        return inside, grad_step * ctx.factor, None, None, None


def learn_step(x: Tensor, step: Tensor, low: int, high: int, factor: float = 1.0) -> Tensor:
    """Round to a grid whose step is trained (LSQ, Esser et al., ICLR 2020, arXiv:1902.08153).

    Gradients: to ``x`` 1 where ``low < x / step < high`` (the published mask; torch's operators
    test the rounded value instead); to ``step`` ``round(x/s) - x/s`` inside and the end's integer
    outside, times ``factor``. With a trained offset (LSQ+, arXiv:2004.09576) it is
    ``learn_step(x - offset, …) + offset``.

    Args:
        x: Any shape.
        step: Scalar, or one per output channel broadcastable to ``x``; positive.
        low, high: Ends of the integer grid.
        factor: LSQ's gradient scale, ``1 / sqrt(elements x high)``.
    """
    out: Tensor = _LearnedStep.apply(x, step, low, high, factor)  # type: ignore[no-untyped-call]
    return out
