"""Predictors of other projects, in their own form, for the table of bench_predictor.py."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from apq.predictor.features import Inputs, one_hot


def dynas_ridge(seed: int) -> Any:
    """DyNAS-T's default: ridge on the one-hot code, penalty 1."""
    from sklearn.linear_model import Ridge

    return Ridge(alpha=1.0)


def dynas_svr(seed: int) -> Any:
    """DyNAS-T's other one: RBF support vectors on the one-hot code, cost by cross-validation."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVR

    return GridSearchCV(SVR(epsilon=0.01), {"C": [1, 10, 100], "gamma": ["scale", 0.01]}, cv=3)


def lightgbm(seed: int) -> Any:
    """LightGBM with leaves small enough for few rows."""
    from lightgbm import LGBMRegressor

    return LGBMRegressor(
        n_estimators=400, learning_rate=0.05, num_leaves=15, min_child_samples=5, subsample=0.8,
        subsample_freq=1, colsample_bytree=0.8, random_state=seed, n_jobs=1, verbose=-1,
    )  # fmt: skip


def xgboost(seed: int) -> Any:
    """XGBoost likewise."""
    from xgboost import XGBRegressor

    return XGBRegressor(
        n_estimators=400, learning_rate=0.05, max_depth=4, subsample=0.8, colsample_bytree=0.8,
        random_state=seed, n_jobs=1,
    )  # fmt: skip


PEERS: dict[str, tuple[Callable[[int], Any], bool]] = {
    "dynas-ridge": (dynas_ridge, False),
    "dynas-svr": (dynas_svr, False),
    "lightgbm": (lightgbm, True),
    "xgboost": (xgboost, True),
}
"""Model, and whether it is given apq's smooth columns beside the one-hot code. OFA's MLP is apq's
``paper`` preset: three layers of 400 on the one-hot code, output around the mean of the samples."""


def fit_peer(name: str, inputs: Inputs, accuracy: np.ndarray, seed: int) -> Callable[[Inputs], Any]:
    """Fit one of ``PEERS`` to standardised accuracies; a function from inputs to accuracies."""
    make, smooth = PEERS[name]
    width = int(inputs.arch_hot.max()) + 1

    def columns(rows: Inputs) -> np.ndarray:
        code = one_hot(rows.arch_hot, width)
        return np.concatenate([code, rows.arch], axis=1) if smooth else code

    mean, std = accuracy.mean(), accuracy.std()
    model = make(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(columns(inputs), (accuracy - mean) / std)

    def predict(rows: Inputs) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.predict(columns(rows)) * std + mean

    return predict
