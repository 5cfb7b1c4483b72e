"""A Gaussian process: the predictor for few samples, alone or on top of another one's answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq.predictor.features import Groups

Array = NDArray[np.float64]

ANCHORS = 512
"""Most rows whose covariances enter a deviation."""

_JITTER = 1e-4
"""Least noise variance, in units of the target's; keeps the Cholesky factor well conditioned."""


@dataclass(frozen=True)
class Kernel:
    """Gaussian process with one weight per group of columns (ours; ChamNet's predictor is a GP
    with one length for all columns, CVPR 2019, arXiv:1812.08934).

        k(x, y) = s M(sqrt(sum_g w_g |x_g - y_g|^2)) + sum_g v_g x_g.y_g,   M = Matern 5/2

    A group's linear part lets a few samples fix a trend; its weight in the stationary part says
    how much departures from the trend depend on it. When the first column is another predictor's
    answer, its linear part is the two-parameter rescaling of that answer, and everything else is
    a correction that stays near zero until samples ask for it.

    Attributes:
        mean, scale: Per column: what is subtracted, what it is divided by, shape ``(d,)``.
        weights: Per column the square root of ``w_g``, ``(d,)``.
        slope: Linear coefficients ``(d,)``.
        rows: Training rows, standardised and weighted, ``(n, d)``.
        alpha: Coefficients of the stationary part, ``(n,)``.
        explained: Matrix ``(m, m)`` whose quadratic form with the covariances to the first m
            rows is the variance that the samples explain. With at most ``ANCHORS`` rows it is the
            inverse of their covariance; beyond, m rows stand for all (Quinonero-Candela &
            Rasmussen, 2005, equation 20b), so that the deviation costs m^2 instead of n^2.
        linear: Per column ``v_g``, ``(d,)``.
        amplitude, noise: ``s`` and the variance of one measurement, standardised units.
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor
    slope: Tensor
    rows: Tensor
    alpha: Tensor
    explained: Tensor
    linear: Tensor
    amplitude: float
    noise: float

    def predict(self, columns: NDArray[np.float32]) -> tuple[Array, Array]:
        """Mean and deviation of one measurement at each row of ``columns``, ``(n,)`` each."""
        # double throughout: a deviation is a small difference of large sums
        x = (torch.from_numpy(columns).double() - self.mean) / self.scale
        stationary = self.amplitude * _matern(_squared(x * self.weights, self.rows))
        centre = self.rows[: len(self.explained)] / self.weights
        anchors = len(self.explained)
        cross = stationary[:, :anchors] + (x * self.linear) @ centre.T
        mean = stationary @ self.alpha + x @ self.slope
        prior = self.amplitude + (x.square() * self.linear).sum(dim=1) + self.noise
        explained = ((cross @ self.explained) * cross).sum(dim=1)
        deviation = (prior - explained).clamp(min=self.noise).sqrt()
        return mean.numpy(), deviation.numpy()

    def tensors(self) -> dict[str, Tensor]:
        """What has to be saved, by name."""
        names = ("mean", "scale", "weights", "slope", "rows", "alpha", "explained", "linear")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """The numbers that are no tensors."""
        return {"amplitude": self.amplitude, "noise": self.noise}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Kernel:
        """Inverse of :meth:`tensors` and :meth:`to_dict`."""
        doubles = {name: tensor.double() for name, tensor in tensors.items()}
        return cls(**doubles, amplitude=float(about["amplitude"]), noise=float(about["noise"]))


def fit_kernel(
    columns: NDArray[np.float32],
    groups: Groups,
    target: Array,
    blocks: NDArray[np.int64],
    *,
    correction: float | None = None,
    iterations: int = 30,
    subset: int = 500,
    seed: int = 0,
) -> tuple[Kernel, Array, Array]:
    """Fit a Gaussian process; its few parameters by maximum a posteriori (L-BFGS).

    Args:
        columns: Shape ``(n, d)``.
        groups: Names and widths of the groups, together d columns.
        target: Standardised measurements ``(n,)``.
        blocks: Rows with equal numbers are left out together in the held-out answers, ``(n,)``.
        correction: If the first column is another predictor's answer: how much of the variance
            each other part is expected to explain beside it. None: there is no such column.
        iterations: Of the optimiser.
        subset: Rows used to choose the parameters; all rows are used for the answers.
        seed: Decides which rows those are, and which are anchors.

    Returns:
        The process and, for every training row, the mean and deviation it answers when the rows
        of its block are left out (closed form; Rasmussen & Williams, 2006, section 5.4.2).
    """
    x = torch.from_numpy(columns).double()
    mean, scale = x.mean(dim=0), x.std(dim=0, unbiased=False)
    # one-hot columns keep their own variance: a rare choice is no louder than a common one
    binary = ((x == 0) | (x == 1)).all(dim=0)
    scale = torch.where((scale > 1e-6) & ~binary, scale, torch.ones_like(scale))
    sizes = torch.tensor([width for _, width in groups])
    variance = ((x - mean) / scale).square().mean(dim=0)
    starts = (torch.cumsum(sizes, 0) - sizes).tolist()
    total = [float(variance[s : s + n].sum()) for s, n in zip(starts, sizes.tolist(), strict=True)]
    # every group gets total variance 1, so that its weight means the same however many columns
    spans = torch.tensor(total, dtype=torch.double)
    spans = torch.where(spans > 1e-9, spans, torch.ones_like(spans)).sqrt()
    scale = scale * spans.repeat_interleave(sizes)
    x = (x - mean) / scale
    z = torch.from_numpy(target)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(z)))
    keep = order[:subset]
    theta = _choose(x[keep], z[keep], sizes.tolist(), correction, iterations)
    count = len(sizes)
    per_column = theta.exp().clamp(max=150.0)
    weights = per_column[:count].repeat_interleave(sizes).sqrt()
    linear = per_column[count : 2 * count].repeat_interleave(sizes)
    amplitude, noise = float(per_column[-2]), float(per_column[-1]) + _JITTER
    stationary = amplitude * _matern(_squared(x * weights, x * weights))
    covariance = stationary + (x * linear) @ x.T
    inverse = _inverse(covariance, noise)
    alpha = inverse @ z
    if len(z) > ANCHORS:
        first = order[:ANCHORS]
        near, cross = covariance[first][:, first], covariance[first]
        explained = _inverse(near, _JITTER) - _inverse(near + cross @ cross.T / noise, _JITTER)
    else:
        explained = inverse[order][:, order]
    tensors = {
        "mean": mean, "scale": scale, "weights": weights, "slope": linear * (x.T @ alpha),
        "rows": (x * weights)[order], "alpha": alpha[order], "explained": explained,
        "linear": linear,
    }  # fmt: skip
    kernel = Kernel(
        **{name: t.contiguous() for name, t in tensors.items()},
        amplitude=amplitude, noise=noise,
    )  # fmt: skip
    return kernel, *_left_out(inverse, alpha, z, blocks)


def _inverse(matrix: Tensor, diagonal: float) -> Tensor:
    """Inverse of a symmetric matrix with ``diagonal`` added to its diagonal."""
    factor = torch.linalg.cholesky(matrix + diagonal * torch.eye(len(matrix), dtype=matrix.dtype))
    return torch.cholesky_inverse(factor)


def _choose(
    x: Tensor, z: Tensor, sizes: list[int], correction: float | None, iterations: int
) -> Tensor:
    """Log parameters: stationary weight per group, linear weight per group, amplitude, noise."""
    parts = torch.split(x, sizes, dim=1)
    distances = torch.stack([_squared(part, part) for part in parts])
    products = torch.stack([part @ part.T for part in parts])
    count = len(sizes)
    start = torch.full((2 * count + 2,), math.log(0.1), dtype=torch.double)
    start[:count] = math.log(0.2 / count)
    start[-2], start[-1] = 0.0, math.log(0.03)
    if correction is not None:
        start[count:-1] = math.log(correction)
        start[count] = 0.0
    theta = start.clone().requires_grad_(True)
    eye = torch.eye(len(z), dtype=torch.double)
    optimizer = torch.optim.LBFGS(
        [theta], lr=0.3, max_iter=iterations, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        p = theta.clamp(-12.0, 5.0).exp()
        covariance = p[-2] * _matern(torch.tensordot(p[:count], distances, dims=1))
        covariance = covariance + torch.tensordot(p[count : 2 * count], products, dims=1)
        factor = torch.linalg.cholesky(covariance + (p[-1] + _JITTER) * eye)
        fitted = torch.cholesky_solve(z[:, None], factor)[:, 0]
        evidence = z @ fitted / 2 + factor.diagonal().log().sum()
        # a wide log-normal prior around the start: parameters the data cannot tell stay there
        total: Tensor = evidence + (theta - start).square().sum() / 8
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return theta.detach().clamp(-12.0, 5.0)


def _left_out(
    inverse: Tensor, alpha: Tensor, z: Tensor, blocks: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Answers to each block of rows by the process that has not seen it."""
    mean, deviation = z.numpy().copy(), np.zeros(len(z))
    k, a = inverse.numpy(), alpha.numpy()
    order = np.argsort(blocks, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1):
        covariance = np.linalg.inv(k[np.ix_(rows, rows)])
        mean[rows] -= covariance @ a[rows]
        deviation[rows] = np.sqrt(np.diagonal(covariance))
    return mean, deviation


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances between rows, ``(len(a), len(b))``."""
    norm = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    return torch.addmm(norm, a, b.T, alpha=-2.0).clamp(min=0.0)


def _matern(squared: Tensor) -> Tensor:
    """Matern 5/2 of squared distances."""
    r = (5.0 * squared + 1e-10).sqrt()
    return (1.0 + r + r.square() / 3.0) * torch.exp(-r)
