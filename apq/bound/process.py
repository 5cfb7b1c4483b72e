"""Affine functions above the mean of a Gaussian process, on a part of a space.

The mean is linear in the columns but for a square and a sum of Matern covariances to the samples.
The square is taken apart by its eigenvectors. Of the covariances two bounds are taken, whichever
is smaller: their norm in the process's own space of functions, which needs no part to be small; or
lines above and below the Matern function over the range of every sample's squared distance, whose
squares of columns are replaced by lines in turn, which is tight where distances hardly vary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from apq.bound.part import Affine, Part
from apq.predictor.features import SpaceFeatures, width
from apq.predictor.gaussian_process import GaussianProcess, matern
from apq.space import Space

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Process:
    """A process as functions of a candidate.

    Attributes:
        columns: Its standardised columns, an answer (first, if any) left at zero.
        answer: Slope and constant of the first column, if it is another predictor's answer.
        slope: Linear coefficients, ``(d,)``.
        weights: Of the columns in distances, ``(d,)``.
        rows: Samples, standardised and weighted, ``(n, d)``.
        alpha: Their coefficients times the amplitude, ``(n,)``.
        norm: At most this is the sum of covariances anywhere.
        values, vectors: Eigenvalues ``(d,)`` and eigenvectors, a column each, of the square.
        decided: Which columns one gene alone decides, ``(axes, d)``.
        squares: Squared distances to samples in the columns that a gene decides, per choice,
            ``(n, encoding_dims)``.
        skipped: The same where its block is skipped, ``(n, axes)``.
    """

    columns: Affine
    answer: tuple[float, float] | None
    slope: Floats
    weights: Floats
    rows: Floats
    alpha: Floats
    norm: float
    values: Floats
    vectors: Floats
    decided: NDArray[np.bool_]
    squares: Floats
    skipped: Floats

    @classmethod
    def of(
        cls, process: GaussianProcess, features: SpaceFeatures, bits: bool, answered: bool
    ) -> Process:
        """Take a process apart; ``bits`` and ``answered`` say what it sees."""
        mean, scale = process.mean.numpy(), process.scale.numpy()
        raw = _columns(features, bits, answered)
        shift = mean / scale
        shift[0] *= not answered  # its own constant comes with the answer
        per = scale[:, None]
        columns = Affine(raw.hot / per, raw.depth / per, raw.logs / per, -shift)
        weights, rows = process.weights.numpy(), process.rows.numpy()
        linear = (rows / weights) * process.linear.numpy()
        alpha = process.alpha.numpy()
        values, vectors = np.linalg.eigh(process.square * linear.T @ (alpha[:, None] * linear))
        squared = torch.cdist(process.rows, process.rows).square()
        energy = float(alpha @ matern(squared).numpy() @ alpha)
        return cls(
            columns, (1 / scale[0], -mean[0] / scale[0]) if answered else None,
            process.slope.numpy(), weights, rows, process.amplitude * alpha,
            process.amplitude * float(np.sqrt(max(energy, 0.0))), values, vectors,
            *_by_gene(columns, features.space, weights, rows, answered),
        )  # fmt: skip

    def above(self, part: Part, answers: tuple[Affine, Affine] | None) -> Affine:
        """A function above the mean, given functions below and above the answer."""
        ends = None
        if answers is not None and self.answer is not None:
            slope, constant = self.answer
            below, above = (a.mixed(np.array([[slope]]), constant) for a in answers)
            ends = below, above
        low, high = -part.maxima(-self.columns), part.maxima(self.columns)
        if ends is not None:
            low[0], high[0] = -part.maxima(-ends[0])[0], part.maxima(ends[1])[0]
        base = self._linear(self.slope, 0.0, ends) + self._square(part, low, high, ends)
        near = self._near(part, low, high, ends)
        if part.maxima(near)[0] < self.norm:
            return base + near
        return base.mixed(np.eye(1), self.norm)

    def _linear(self, slope: Floats, constant: float, ends: tuple[Affine, Affine] | None) -> Affine:
        """A function above a sum of columns."""
        found = self.columns.mixed(slope[None], constant)
        if ends is not None:
            found = found + ends[int(slope[0] > 0)].mixed(slope[None, :1])
        return found

    def _square(
        self, part: Part, low: Floats, high: Floats, ends: tuple[Affine, Affine] | None
    ) -> Affine:
        """Above the square, eigenvector by eigenvector: a chord where the value is positive, a
        tangent where it is negative."""
        up, down = np.maximum(self.vectors, 0.0), np.minimum(self.vectors, 0.0)
        least, most = low @ up + high @ down, high @ up + low @ down
        slope = self.values * (least + most)
        touching = ((least + most) / 2) ** 2
        constant = -self.values * np.where(self.values > 0, least * most, touching)
        return self._linear(self.vectors @ slope, float(constant.sum()), ends)

    def _near(
        self, part: Part, low: Floats, high: Floats, ends: tuple[Affine, Affine] | None
    ) -> Affine:
        """Above the sum of covariances, by lines over the range of every squared distance."""
        low, high = low * self.weights, high * self.weights
        least, most = self._distances(part, low, high)
        at_least, at_most = _matern(least), _matern(most)
        chord = (at_most - at_least) / np.maximum(most - least, 1e-12)
        middle = (least + most) / 2
        tangent = _slope(middle)
        up = self.alpha > 0
        slope = self.alpha * np.where(up, chord, tangent)
        constant = self.alpha * np.where(
            up, at_least - chord * least, _matern(middle) - tangent * middle
        )
        # sum of slope * |column - row|^2: the columns' own squares have one factor in common
        common = float(slope.sum())
        own = low + high
        squares = -common * np.where(common > 0, low * high, (own / 2) ** 2)
        linear = common * own - 2 * slope @ self.rows
        total = float(constant.sum() + slope @ np.square(self.rows).sum(axis=1) + squares.sum())
        return self._linear(linear * self.weights, total, ends)

    def _distances(self, part: Part, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Smallest and largest squared distance to every sample, ``(n,)`` each: of columns that one
        gene decides by its choices, of others by their ranges."""
        rest = ~self.decided.any(axis=0)
        rows, low, high = self.rows[:, rest], low[rest], high[rest]
        far = np.maximum(np.abs(rows - low), np.abs(high - rows))
        near = np.maximum(np.maximum(low - rows, rows - high), 0.0)
        least, most = np.square(near).sum(axis=1), np.square(far).sum(axis=1)
        for i in part.space.encoded:
            start = part.space.starts[i]
            own = self.squares[:, start + np.array(part.choices[i])]
            if part.may_skip(i):
                kept = own[:, : len(part.choices[i]) * part.runs(i)]
                own = np.concatenate([kept, self.skipped[:, [i]]], axis=1)
            least, most = least + own.min(axis=1), most + own.max(axis=1)
        return least, most


def _columns(features: SpaceFeatures, bits: bool, answered: bool) -> Affine:
    """What a process sees, in the order of :func:`apq.predictor.predictor.process_columns`."""
    space = features.space
    of_choices, of_depths, of_logs = (part.T for part in features.parts())
    wide, dims = width(features.arch_groups), space.architecture_dims
    code = np.eye(space.encoding_dims)

    def stack(smooth: Floats, one_hot: Floats) -> Floats:
        parts = [smooth[:wide], one_hot[:dims]]
        parts += [smooth[wide:], one_hot[dims:]] if bits else []
        if answered:
            parts.insert(0, np.zeros((1, smooth.shape[1])))
        return np.concatenate(parts)

    def none(smooth: Floats) -> Floats:
        return np.zeros((space.encoding_dims, smooth.shape[1]))

    depth, logs = stack(of_depths, none(of_depths)), stack(of_logs, none(of_logs))
    choices = stack(of_choices, code)
    return Affine(choices, depth, logs, np.zeros(len(choices)))


def _by_gene(
    columns: Affine, space: Space, weights: Floats, rows: Floats, answered: bool
) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """What :class:`Process` calls ``decided``, ``squares`` and ``skipped``."""
    decided = np.zeros((len(space.axes), len(weights)), dtype=bool)
    squares = np.zeros((len(rows), space.encoding_dims))
    skipped = np.zeros((len(rows), len(space.axes)))
    alone = (columns.depth == 0).all(axis=1) & (columns.logs == 0).all(axis=1)
    alone[0] &= not answered
    for i in space.encoded:
        own = np.arange(space.starts[i], space.starts[i] + len(space.axes[i].choices))
        others = np.delete(columns.hot, own, axis=1)
        decided[i] = alone & (others == 0).all(axis=1) & (columns.hot[:, own] != 0).any(axis=1)
        mine = decided[i]
        start = columns.constant[mine] * weights[mine] - rows[:, mine]
        skipped[:, i] = np.square(start).sum(axis=1)
        for place in own:
            step = columns.hot[mine, place] * weights[mine]
            squares[:, place] = np.square(start + step).sum(axis=1)
    return decided, squares, skipped


def _matern(squared: Floats) -> Floats:
    found: Floats = matern(torch.from_numpy(squared)).numpy()
    return found


def _slope(squared: Floats) -> Floats:
    """Derivative of the Matern function by the squared distance, as :func:`matern` computes it."""
    r = np.sqrt(5.0 * squared + 1e-10)
    found: Floats = -5.0 / 6.0 * (1.0 + r) * np.exp(-r)
    return found
