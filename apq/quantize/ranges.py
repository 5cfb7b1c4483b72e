"""Clipping ranges of grids: the largest value, least squared error, or HAQ's KL rule."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq.errors import ApqError
from apq.quantize.functions import grid


def require_finite(x: Tensor, what: str) -> None:
    """Refuse tensors no range can be found for.

    Raises:
        ApqError: ``x`` is empty, or holds NaN or infinity.
    """
    if x.numel() == 0:
        raise ApqError(f"cannot quantize {what}: the tensor is empty")
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise ApqError(f"cannot quantize {what}: {bad} of {x.numel()} values are NaN or infinite")


def max_clip(rows: Tensor) -> Tensor:
    """Largest magnitude per row, shape ``(rows,)``."""
    return rows.abs().amax(dim=1)


def mse_clip(rows: Tensor, bits: int, signed: bool = True, fractions: int = 41) -> Tensor:
    """Clip with the least squared rounding error per row.

    Args:
        rows: ``(rows, values)``; one clip is found for each row.
        bits: Bits of the grid.
        signed: Whether the grid has negative levels.
        fractions: How many clips from 0.2 to 1.0 of the largest magnitude are tried.

    Returns:
        Shape ``(rows,)``; 0 for rows of zeros.
    """
    low, high = grid(bits, signed)
    top = max_clip(rows)
    tried = torch.linspace(0.2, 1.0, fractions, dtype=torch.float64)
    if rows.device.type != "cpu":  # all at once: few operations, much memory
        shares = tried.to(rows)[:, None]
        steps = (top * shares / high).clamp_min(1e-30)[:, :, None]
        errors = (rows / steps).clamp_(low, high).round_().mul_(steps).sub_(rows).square_().sum(2)
        return top * shares[errors.argmin(0), 0]
    best, best_error = top.clone(), torch.full_like(top, torch.inf)
    for fraction in tried.tolist():
        step = (top * (fraction / high)).clamp_min(1e-30)[:, None]
        rounded = rows.div(step).clamp_(low, high).round_().mul_(step)
        error = rounded.sub_(rows).square_().sum(dim=1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = torch.where(better, top * fraction, best)
    return best


def kl_clip(values: NDArray[np.floating], bits: int) -> float:
    """Clip of HAQ and APQ for a whole tensor (their released code; arXiv:1811.08886, section 3.4).

    Cumulative histograms before and after coarsening to ``2^(bits-1)`` points are compared by
    their symmetrised divergence; the bin with the smallest one ends the range. Empty leading bins,
    where the released code divides zero by zero, count nothing here.
    """
    v = np.abs(np.asarray(values).reshape(-1))
    top = float(v.max())
    if top < 1e-12:
        return 0.0
    counts, edges = _histogram(v, top)
    count, width = len(counts), float(edges[1] - edges[0])
    levels = 2 ** (bits - 1)
    if levels + 1 > count:
        return top
    cumulative = np.cumsum(counts / counts.sum())
    best, best_divergence = count, np.inf
    for i in range(levels + 1, count + 1):
        p = cumulative.copy()
        p[i - 1 :] = 1.0
        coarse = np.interp(np.linspace(0, 1, levels), np.linspace(0, 1, i), p[:i])
        q = p.copy()
        q[:i] = np.interp(np.linspace(0, 1, i), np.linspace(0, 1, levels), coarse)
        use = (cumulative > 0) & (q > 0)
        divergence = float(np.sum((cumulative[use] - q[use]) * np.log2(cumulative[use] / q[use])))
        if divergence < best_divergence:
            best, best_divergence = i, divergence
    return (best + 0.5) * width


def _histogram(
    v: NDArray[np.floating], top: float
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Equal bins on ``[0, top]``; their width follows numpy's square-root rule on the data."""
    span = top - float(v.min())
    bins = int(np.ceil(np.sqrt(v.size) * top / span)) if span > 0 else 1
    return np.histogram(v, bins=max(bins, 1), range=(0.0, top))
