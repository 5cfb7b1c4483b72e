"""A Gaussian process: the predictor for few samples, alone or on top of another's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq.predictor.features import Groups
from apq.predictor.fitting import folds

Array = NDArray[np.float64]

ANCHORS = 512
"""Most rows whose covariances enter a deviation."""

REFITS = 250
"""Most rows for which held-out predictions come from refitted processes: with few rows, the chosen
parameters still depend on the row that is left out."""

_SHARED, _OWN = 2.0, 1.0
"""Deviations of the logarithms of a family's common factor and of a member's own."""

RANK, LOST = 192, 1e-3
"""For speed, the largest number of directions in covariance space that a deviation uses, and the
share of the noise's variance below which further directions are dropped."""

_JITTER = 1e-4
"""Least noise variance, in units of the target's; keeps the Cholesky factor well conditioned."""


@dataclass(frozen=True)
class _Single:
    """A process in single precision, arranged for many predictions.

    The variance that samples explain is the squared length of ``covariances @ factor``. Like that
    it is a sum of squares, which single precision can bear, and a factor of r columns, fewer than
    the m anchors, leaves out directions in which covariances hardly vary.

    Attributes:
        mean, inverse_scale: Standardise a column, ``(d,)``.
        products, offset: What standardised columns are multiplied by and what is added: five times
            the squared distances to the n rows but for their own norm, the linear covariances to
            them, and the mean's slope; ``(d, 2 n + 1)``.
        squares: What their squares are multiplied by: that norm, the linear part's variance;
            ``(d, 2)``.
        alpha: Coefficients of what is not linear, ``(n,)``.
        factor: Of the covariances to the anchors, ``(m, r)``.
    """

    mean: Tensor
    inverse_scale: Tensor
    products: Tensor
    offset: Tensor
    squares: Tensor
    alpha: Tensor
    factor: Tensor


@dataclass(frozen=True)
class GaussianProcess:
    """Gaussian process with one weight per group of columns (ours; ChamNet's predictor is a GP
    with one length for all columns, CVPR 2019, arXiv:1812.08934).

        k(x, y) = s M(sqrt(sum_g w_g |x_g - y_g|^2)) + L + c L^2,   M = Matern 5/2
        L = sum_g v_g x_g.y_g

    A group's linear part lets a few samples fix a trend; its weight in the stationary part says
    how much departures from the trend depend on it. The square lets trends change each other: it
    is the prior of all products of two columns. When the first column is another predictor's
    answer, its linear part is the two-parameter rescaling of that answer, and everything else is
    a correction that stays near zero unless the samples support it.

    Attributes:
        mean, scale: Per column: what is subtracted, what it is divided by, shape ``(d,)``.
        weights: Per column the square root of ``w_g``, ``(d,)``.
        slope: Linear coefficients ``(d,)``.
        rows: Training rows, standardised and weighted, ``(n, d)``.
        alpha: Coefficients of the stationary part and the square, ``(n,)``.
        explained: Matrix ``(m, m)`` whose quadratic form with the covariances to the first m
            rows is the variance that the samples explain. With at most ``ANCHORS`` rows it is the
            inverse of their covariance; beyond, m rows stand for all (Quinonero-Candela &
            Rasmussen, 2005, equation 20b), so that the deviation costs m^2 instead of n^2.
        linear: Per column ``v_g``, ``(d,)``.
        amplitude, square, noise: ``s``, ``c`` and the variance of one measurement, standardised
            units.
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
    square: float
    noise: float

    @torch.inference_mode()
    def predict(self, columns: NDArray[np.float32]) -> tuple[Array, Array]:
        """Mean and deviation of one measurement at each row of ``columns``, ``(n,)`` each.

        In single precision, with at most ``RANK`` directions for the deviation, which overestimates
        it by 0.3 % on average and 2 % at most with 500 rows of Once-for-All's table.
        """
        own = self._single
        x = (torch.from_numpy(columns) - own.mean).mul_(own.inverse_scale)
        products = torch.addmm(own.offset, x, own.products)
        norm, prior = torch.mm(x.square_(), own.squares).unbind(dim=1)
        rows = len(self.rows)
        squared = products[:, :rows].add_(norm[:, None]).clamp_(min=1e-9)
        r = squared.sqrt()
        curved = torch.add(r, squared, alpha=1 / 3).add_(1.0).mul_(r.neg_().exp_())
        curved.mul_(self.amplitude)
        trend = products[:, rows : 2 * rows]
        curved.addcmul_(trend, trend, value=self.square)
        mean = torch.mv(curved, own.alpha).add_(products[:, 2 * rows])
        half = torch.mm(curved.add_(trend)[:, : len(own.factor)], own.factor)
        prior = prior.addcmul_(prior, prior, value=self.square)
        variance = (self.amplitude + self.noise + prior - half.square_().sum(dim=1)).double()
        return mean.double().numpy(), variance.clamp_(min=self.noise).sqrt_().numpy()

    @cached_property
    def _single(self) -> _Single:
        """The single-precision form for :meth:`predict`."""
        x = self.rows / self.weights
        covariances = self._prior(x, x[: len(self.explained)])
        near = -10.0 * self.weights[:, None] * self.rows.T
        linear = x.T * self.linear[:, None]
        products = torch.cat([near, linear, self.slope[:, None]], dim=1)
        offset = torch.zeros(products.shape[1], dtype=torch.double)
        offset[: len(self.rows)] = 5.0 * self.rows.square().sum(dim=1)
        parts = {
            "mean": self.mean, "inverse_scale": 1 / self.scale, "products": products,
            "offset": offset, "alpha": self.alpha,
            "factor": _short_factor(self.explained, covariances, LOST * self.noise),
            "squares": torch.stack([5.0 * self.weights.square(), self.linear], dim=1),
        }  # fmt: skip
        return _Single(**{name: t.float().contiguous() for name, t in parts.items()})

    def covariance(self, columns: NDArray[np.float32]) -> Array:
        """Covariance ``(n, n)`` of what is not known yet about the rows, without noise."""
        # double throughout: a deviation is a small difference of large sums
        x = (torch.from_numpy(columns).double() - self.mean) / self.scale
        anchors = self.rows[: len(self.explained)] / self.weights
        cross = self._prior(x, anchors)
        out: Array = (self._prior(x, x) - cross @ self.explained @ cross.T).numpy()
        return out

    def _prior(self, x: Tensor, y: Tensor) -> Tensor:
        """Covariances of standardised columns before any sample is seen."""
        squared = _squared(x * self.weights, y * self.weights)
        return _covariance(squared, (x * self.linear) @ y.T, self.amplitude, self.square)

    def shrunk(self, share: float, slope: float) -> GaussianProcess:
        """The mean moved towards the first column times ``slope`` (the answer rescaled): this
        process's mean counts ``share``, its deviation stays."""
        slopes = self.slope * share
        slopes[0] += (1.0 - share) * slope * self.scale[0]
        return replace(self, alpha=self.alpha * share, slope=slopes)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors to save, by name."""
        names = ("mean", "scale", "weights", "slope", "rows", "alpha", "explained", "linear")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """The numbers that are no tensors."""
        return {"amplitude": self.amplitude, "square": self.square, "noise": self.noise}

    @classmethod
    def from_parts(
        cls, tensors: Mapping[str, Tensor], *, amplitude: float, square: float, noise: float
    ) -> GaussianProcess:
        """Inverse of :meth:`tensors` and :meth:`to_dict`; the tensors as :func:`shapes` says."""
        return cls(**tensors, amplitude=amplitude, square=square, noise=noise)


def shapes(columns: int, rows: int, anchors: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a process by name, all float64."""
    wide = dict.fromkeys(("mean", "scale", "weights", "slope", "linear"), (columns,))
    return {**wide, "rows": (rows, columns), "alpha": (rows,), "explained": (anchors, anchors)}


@dataclass(frozen=True)
class Family:
    """Neighbouring groups of columns with the same prior.

    Attributes:
        groups: How many.
        linear: Share of the target's variance that the linear part of each is expected to explain.
    """

    groups: int
    linear: float = 0.1


@dataclass(frozen=True)
class Prior:
    """The prior of a process.

    Attributes:
        families: Families of all groups of columns, in order.
        amplitude: Amplitude of the stationary part; the square has a twentieth of it.
    """

    families: tuple[Family, ...]
    amplitude: float = 1.0

    def normals(self) -> tuple[Tensor, Tensor]:
        """The log parameters' prior as ``middle + loadings @ standard normals``.

        Members of a family share one unknown factor and differ by another, smaller one: few
        samples move the family, many tell its members apart.
        """
        counts = torch.tensor([family.groups for family in self.families])
        total = int(counts.sum())
        linear = torch.tensor([family.linear for family in self.families])
        middle = torch.cat(
            [
                torch.full((total,), 0.2 / total),
                linear.repeat_interleave(counts),
                torch.tensor([self.amplitude, 0.05 * self.amplitude, 0.03]),
            ]
        )
        members = torch.eye(len(counts)).repeat_interleave(counts, dim=0)
        one = torch.cat([_SHARED * members, _OWN * torch.eye(total)], dim=1)
        both = torch.block_diag(one, one, 2.0 * torch.eye(3))  # type: ignore[no-untyped-call]
        return middle.double().log(), both.double()


def fit_process(
    columns: NDArray[np.float32],
    groups: Groups,
    target: Array,
    blocks: NDArray[np.int64],
    *,
    prior: Prior | None = None,
    iterations: int = 30,
    subset: int = 500,
    seed: int = 0,
) -> tuple[GaussianProcess, Array, Array]:
    """Fit a Gaussian process; its few parameters by maximum a posteriori (L-BFGS).

    Args:
        columns: Shape ``(n, d)``.
        groups: Names and widths of the groups, together d columns.
        target: Standardised measurements ``(n,)``.
        blocks: Rows with equal numbers are left out together in the held-out answers, ``(n,)``.
        prior: Prior of the groups; None: the same for all.
        iterations: Iterations of the optimiser.
        subset: Rows used to choose the parameters; all rows are used for the answers.
        seed: Random seed of the subset, the anchors, and the folds.

    Returns:
        The process and, for every training row, the mean and deviation it answers when the rows
        of its block are left out: by processes fitted to four fifths of the blocks or, beyond
        ``REFITS`` rows, in closed form (Rasmussen & Williams, 2006, section 5.4.2).
    """
    prior = prior or Prior((Family(len(groups)),))

    def fitted(rows: NDArray[np.bool_]) -> tuple[GaussianProcess, Tensor, Tensor]:
        return _fit(columns[rows], groups, target[rows], prior, iterations, subset, seed)

    everything = np.ones(len(target), dtype=bool)
    process, inverse, alpha = fitted(everything)
    mean, deviation = _left_out(inverse, alpha, torch.from_numpy(target), blocks)
    if len(target) <= REFITS:
        for held in folds(blocks, 5, seed):
            if held.any() and not held.all():
                mean[held], deviation[held] = fitted(~held)[0].predict(columns[held])
    return process, mean, deviation


def _fit(
    columns: NDArray[np.float32], groups: Groups, target: Array, prior: Prior, iterations: int,
    subset: int, seed: int,
) -> tuple[GaussianProcess, Tensor, Tensor]:  # fmt: skip
    """The process, the inverse covariance of its rows and its coefficients, in the rows' order."""
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
    theta = _choose(x[keep], z[keep], sizes.tolist(), prior, iterations)
    count = len(sizes)
    per_column = theta.exp().clamp(max=150.0)
    weights = per_column[:count].repeat_interleave(sizes).sqrt()
    linear = per_column[count : 2 * count].repeat_interleave(sizes)
    amplitude, square, noise = per_column[2 * count :].tolist()
    noise += _JITTER
    squared = _squared(x * weights, x * weights)
    covariance = _covariance(squared, (x * linear) @ x.T, amplitude, square)
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
    process = GaussianProcess(
        **{name: t.contiguous() for name, t in tensors.items()},
        amplitude=amplitude, square=square, noise=noise,
    )  # fmt: skip
    return process, inverse, alpha


def _inverse(matrix: Tensor, diagonal: float) -> Tensor:
    """Inverse of a symmetric matrix with ``diagonal`` added to its diagonal."""
    factor = torch.linalg.cholesky(matrix + diagonal * torch.eye(len(matrix), dtype=matrix.dtype))
    return torch.cholesky_inverse(factor)


def _choose(x: Tensor, z: Tensor, sizes: list[int], prior: Prior, iterations: int) -> Tensor:
    """Log parameters: stationary weight per group, linear weight per group, amplitude, square,
    noise."""
    parts = torch.split(x, sizes, dim=1)
    distances = torch.stack([_squared(part, part) for part in parts])
    products = torch.stack([part @ part.T for part in parts])
    count = len(sizes)
    middle, loadings = prior.normals()
    normals = torch.zeros(loadings.shape[1], dtype=torch.double, requires_grad=True)
    eye = torch.eye(len(z), dtype=torch.double)
    optimizer = torch.optim.LBFGS(
        [normals], lr=0.3, max_iter=iterations, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        p = (middle + loadings @ normals).clamp(-12.0, 5.0).exp()
        squared = torch.tensordot(p[:count], distances, dims=1)
        trend = torch.tensordot(p[count : 2 * count], products, dims=1)
        covariance = _covariance(squared, trend, p[-3], p[-2])
        factor = torch.linalg.cholesky(covariance + (p[-1] + _JITTER) * eye)
        fitted = torch.cholesky_solve(z[:, None], factor)[:, 0]
        evidence = z @ fitted / 2 + factor.diagonal().log().sum()
        total: Tensor = evidence + normals.square().sum() / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return (middle + loadings @ normals.detach()).clamp(-12.0, 5.0)


def _short_factor(explained: Tensor, covariances: Tensor, allowed: float) -> Tensor:
    """``F`` of shape ``(m, r)``, r at most ``RANK``, so that ``|c F|^2`` is nearly ``c E c``.

    Args:
        explained: ``E``, symmetric, ``(m, m)``.
        covariances: Typical rows ``c``, ``(n, m)``.
        allowed: How much of it may be lost on average over these rows.
    """
    values, vectors = torch.linalg.eigh(explained)
    root = vectors * values.clamp(min=0.0).sqrt()
    answers = covariances @ root
    shares, turn = torch.linalg.eigh(answers.T @ answers / len(covariances))
    lost = int((shares.clamp(min=0.0).cumsum(0) <= allowed).sum())
    factor: Tensor = root @ turn[:, max(lost, len(turn) - RANK) :]
    return factor


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


def _covariance(squared: Tensor, trend: Tensor, amplitude: Any, square: Any) -> Tensor:
    """The process, from squared weighted distances and linear covariances."""
    out: Tensor = amplitude * matern(squared) + trend + square * trend.square()
    return out


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances between rows, ``(len(a), len(b))``."""
    norm = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
    return torch.addmm(norm, a, b.T, alpha=-2.0).clamp(min=0.0)


def matern(squared: Tensor) -> Tensor:
    """Matern 5/2 of squared distances."""
    r = (5.0 * squared + 1e-10).sqrt()
    return (1.0 + r + r.square() / 3.0) * torch.exp(-r)
