"""Weights that share a few values per layer (k-means), as in Deep Compression and HAQ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from apq.quantize.base import Packed, require_bits
from apq.quantize.levels import few_level_activations, straight_through
from apq.quantize.ranges import require_finite

Floats = NDArray[np.float64]


_POINTS = 512
"""Most points of the dynamic program; more values are first merged into this many."""


def kmeans_1d(values: Floats, clusters: int) -> Floats:
    """Centres of k-means on a line, ascending.

    Exact up to 512 values, by dynamic programming over sorted points (clusters on a line are
    intervals). More are merged into 512 means of neighbours first, and Lloyd's rounds on all values
    follow.

    Args:
        values: Shape ``(n,)``.
        clusters: How many centres; fewer are returned if there are fewer distinct values.
    """
    v = np.sort(np.asarray(values, dtype=np.float64).reshape(-1))
    distinct = np.unique(v)
    if len(distinct) <= clusters:
        return distinct
    merged = np.array_split(v, _POINTS) if len(v) > _POINTS else v[:, None]
    points = np.array([part.mean() for part in merged])
    weights = np.array([float(len(part)) for part in merged])
    ends = np.concatenate([_best_ends(points, weights, clusters), [len(points)]])
    sizes = np.array([len(part) for part in merged])
    edges = np.concatenate([[0], np.cumsum(sizes)])[ends]
    sums = np.concatenate([[0.0], np.cumsum(v)])
    centres = np.diff(sums[edges]) / np.diff(edges)
    for _ in range(100 if len(v) > _POINTS else 0):
        edges = _edges(v, centres)
        count = np.diff(edges)
        moved = np.where(count > 0, np.diff(sums[edges]) / np.maximum(count, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return np.asarray(np.unique(centres))


def _best_ends(points: Floats, weights: Floats, clusters: int) -> NDArray[np.int64]:
    """First index of every cluster, for the least weighted squared distance."""
    n = len(points)
    w, s, q = (
        np.concatenate([[0.0], np.cumsum(x)])
        for x in (weights, weights * points, weights * points**2)
    )
    first, last = np.arange(n)[:, None], np.arange(1, n + 1)[None]  # points first .. last - 1
    mass = np.where(last > first, w[last] - w[first], 1.0)
    cost = np.where(last > first, q[last] - q[first] - (s[last] - s[first]) ** 2 / mass, np.inf)
    best = cost[0]  # of the points before ``last``, in one cluster
    choices = []
    for _ in range(clusters - 1):
        total = np.concatenate([[np.inf], best[:-1]])[:, None] + cost
        pick = total.argmin(axis=0)
        choices.append(pick)
        best = total[pick, np.arange(n)]
    ends = []
    last_point = n - 1
    for pick in reversed(choices):
        start = int(pick[last_point])
        ends.append(start)
        last_point = start - 1
    return np.array([0, *reversed(ends)], dtype=np.int64)


def _edges(v: Floats, centres: Floats) -> NDArray[np.int64]:
    middles = np.searchsorted(v, (centres[1:] + centres[:-1]) / 2)
    return np.concatenate([[0], middles, [len(v)]])


class CodebookWeights(nn.Module):
    """Weights replaced by the mean of their cluster; the clusters stay as they were fitted.

    A centre moves by the mean of its members' updates (HAQ; Deep Compression takes the sum):
    the mean is recomputed from the float weights in every training pass.
    """

    table: Tensor
    labels: Tensor
    learned = True  # the centres follow the weights by themselves

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        # Unused entries repeat the last centre.
        self.register_buffer("table", torch.zeros(2**bits, dtype=weight.dtype))
        self.register_buffer("labels", torch.zeros(weight.shape, dtype=torch.int64))
        self.fit(weight)

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Cluster ``weight`` anew."""
        require_finite(weight, "weights")
        centres = kmeans_1d(weight.detach().reshape(-1).numpy(), 2**self.bits)
        known = torch.from_numpy(centres).to(weight.dtype)
        self.table.copy_(torch.cat([known, known[-1:].broadcast_to(2**self.bits - len(known))]))
        self.labels.copy_(torch.bucketize(weight.detach(), (known[1:] + known[:-1]) / 2))

    @torch.no_grad()
    def _update(self, weight: Tensor) -> None:
        flat = self.labels.reshape(-1)
        count = torch.bincount(flat, minlength=len(self.table)).to(weight.dtype)
        total = torch.zeros_like(self.table).index_add_(0, flat, weight.detach().reshape(-1))
        self.table.copy_(torch.where(count > 0, total / count.clamp_min(1), self.table))

    def forward(self, weight: Tensor) -> Tensor:
        """The cluster means, same shape; straight through."""
        if self.training:
            self._update(weight)
        return straight_through(weight, self.table[self.labels])

    def levels(self) -> Tensor:
        """Values the weights can take, ``(1, levels)`` ascending."""
        return self.table.sort().values[None]

    def pack(self, weight: Tensor) -> Packed:
        """Cluster numbers and centres."""
        return Packed(
            self.labels.to(torch.int16), torch.ones(len(weight)), self.table.clone(), self.bits
        )


@dataclass(frozen=True)
class Codebook:
    """k-means weights (HAQ, arXiv:1811.08886; Deep Compression, arXiv:1510.00149)."""

    name: str = "codebook"
    weight_bits: tuple[int, ...] = tuple(range(1, 9))
    activation_bits: tuple[int, ...] = tuple(range(1, 9))
    operand: str = "float"

    def weights(self, weight: Tensor, bits: int) -> CodebookWeights:
        """Quantizer for a weight, fitted to it."""
        require_bits(self, bits, self.weight_bits, "weights")
        return CodebookWeights(weight, bits)

    def activations(self, sample: Tensor, bits: int, signed: bool) -> nn.Module:
        """Uniform activations; HAQ leaves them in float, devices do not."""
        require_bits(self, bits, self.activation_bits, "activations")
        return few_level_activations(sample, bits, signed)

    def storage_bits(self, weight: Tensor, bits: int) -> int:
        """Cluster numbers, 32-bit centres, and the scale per channel that batch norm leaves."""
        return weight.numel() * bits + 32 * (1 << bits) + 32 * len(weight)
