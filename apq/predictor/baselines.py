"""Baseline predictors: scikit-learn's models on the same columns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.predictor.features import Inputs, one_hot

Array = NDArray[np.float64]

MOST_ROWS = 1000
"""Most rows that baselines are fitted to (a random subset): some take cubic time."""


def _ridge(seed: int) -> Any:
    from sklearn.linear_model import RidgeCV

    return RidgeCV(alphas=np.logspace(-2, 3, 11))


def _svr(seed: int) -> Any:
    from sklearn.svm import SVR

    return SVR(C=10.0, epsilon=0.05)


def _gp(seed: int) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor, kernels

    kernel = kernels.ConstantKernel(1.0) * kernels.RBF(10.0) + kernels.WhiteKernel(0.1)
    return GaussianProcessRegressor(kernel, normalize_y=False, random_state=seed)


def _boosting(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(min_samples_leaf=5, random_state=seed)


BASELINES: dict[str, Callable[[int], Any]] = {
    "ridge": _ridge,
    "svr": _svr,
    "gp": _gp,
    "boosting": _boosting,
}
"""Seed to an unfitted scikit-learn regressor. ``gp`` is ChamNet's kind of predictor (CVPR 2019),
``ridge`` and ``svr`` are DyNAS-T's."""


def fit_baseline(
    name: str, inputs: Inputs, accuracy: Array, *, bits: bool, seed: int = 0
) -> Callable[[Inputs], Array]:
    """Fit one of ``BASELINES`` on one-hot code and smooth columns, all standardised.

    Args:
        name: Which.
        inputs: Inputs of n candidates.
        accuracy: Their measurements ``(n,)``.
        bits: Whether it sees bit columns.
        seed: Random seed of the model, and of the rows if there are more than ``MOST_ROWS``.

    Returns:
        A function from inputs to accuracies.
    """
    keep = np.random.default_rng(seed).permutation(len(accuracy))[:MOST_ROWS]
    inputs, accuracy = inputs[keep], accuracy[keep]
    widths = (int(inputs.arch_hot.max(initial=0)) + 1, int(inputs.bits_hot.max(initial=0)) + 1)

    def columns(rows: Inputs) -> Array:
        parts = [one_hot(rows.arch_hot, widths[0]), rows.arch]
        parts += [one_hot(rows.bits_hot, widths[1]), rows.bits] if bits else []
        return np.concatenate(parts, axis=1).astype(np.float64)

    x = columns(inputs)
    mean, std = x.mean(axis=0), x.std(axis=0)
    std[std < 1e-9] = 1.0
    middle, scale = float(accuracy.mean()), float(accuracy.std()) or 1.0
    model = BASELINES[name](seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e.g. an optimiser that reaches a bound
        model.fit((x - mean) / std, (accuracy - middle) / scale)

    def predict(rows: Inputs) -> Array:
        z = model.predict((columns(rows) - mean) / std)
        return np.asarray(z, dtype=np.float64) * scale + middle

    return predict
