"""A polynomial stand-in for the row-stationary model, as QUIDAM fits to synthesised designs.

Here the designs are simulated by :mod:`apq.hardware.row_stationary`, so its error is the error of
the fit, not of the simulation. Needs scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.hardware.row_stationary import PE_TYPES, RowStationary, figures
from apq.space.layer import LayerArray

KNOBS: dict[str, tuple[int, ...]] = {
    "rows": (4, 8, 12, 16, 24, 32),
    "columns": (4, 8, 14, 16, 24, 32),
    "weight_words": (32, 64, 128, 224, 448),
    "psum_words": (8, 16, 24, 32),
    "buffer_kb": (32, 64, 108, 256, 512),
    "dram_bits_per_cycle": (16, 32, 64, 128, 256),
}
"""Values a design may take (ours; the papers state no ranges)."""

METRICS = ("latency_ms", "energy_mj", "area_mm2", "performance_per_area")


def sample_designs(
    count: int, seed: int, types: Sequence[str] = tuple(PE_TYPES)
) -> list[RowStationary]:
    """Draw designs, every knob uniform and independent."""
    rng = np.random.default_rng(seed)
    return [
        RowStationary(
            types[int(rng.integers(len(types)))],
            **{name: int(rng.choice(values)) for name, values in KNOBS.items()},  # type: ignore[arg-type]
        )
        for _ in range(count)
    ]


def features(designs: Sequence[RowStationary]) -> NDArray[np.float64]:
    """Logarithms of the knobs and one column per PE type, shape (n, knobs + types)."""
    knobs = [[np.log2(getattr(d, name)) for name in KNOBS] for d in designs]
    types = [[float(d.pe == name) for name in PE_TYPES] for d in designs]
    return np.concatenate([knobs, types], axis=1)


@dataclass(frozen=True)
class Surrogate:
    """Fitted polynomials.

    Attributes:
        degree: Per metric, chosen by cross-validation.
        error: Per metric on held-out designs: ``median`` and ``worst`` relative error, ``r2`` and
            ``spearman``.
        predict: Designs -> metric -> array (n,).
    """

    degree: dict[str, int]
    error: dict[str, dict[str, float]]
    predict: Callable[[Sequence[RowStationary]], dict[str, NDArray[np.float64]]]


def fit_surrogate(
    layers: LayerArray, count: int = 300, held_out: int = 200, seed: int = 0
) -> Surrogate:
    """Fit one polynomial per metric, in logarithms, degree 1-3 by 5-fold cross-validation.

    Args:
        layers: The workload. Its bits must suit every PE type (at most w4a8).
        count: Simulated designs to fit on.
        held_out: Further designs for the reported error.
        seed: Decides the designs.
    """
    from scipy.stats import spearmanr
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    designs = sample_designs(count + held_out, seed)
    truth = [figures(design, layers) for design in designs]
    x = features(designs)
    fitted: dict[str, Any] = {}
    degree: dict[str, int] = {}
    error: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        y = np.log(np.array([t[metric] for t in truth]))
        models = {
            d: make_pipeline(StandardScaler(), PolynomialFeatures(d), Ridge(alpha=1.0))
            for d in (1, 2, 3)
        }
        scores = {
            d: cross_val_score(m, x[:count], y[:count], cv=5).mean() for d, m in models.items()
        }
        degree[metric] = max(scores, key=lambda d: float(scores[d]))
        fitted[metric] = models[degree[metric]].fit(x[:count], y[:count])
        guess = fitted[metric].predict(x[count:])
        off = np.abs(np.exp(guess - y[count:]) - 1)
        error[metric] = {
            "median": float(np.median(off)),
            "worst": float(off.max()),
            "r2": float(1 - np.var(guess - y[count:]) / np.var(y[count:])),
            "spearman": float(spearmanr(guess, y[count:]).statistic),
        }

    def predict(chosen: Sequence[RowStationary]) -> dict[str, NDArray[np.float64]]:
        rows = features(chosen)
        return {metric: np.exp(model.predict(rows)) for metric, model in fitted.items()}

    return Surrogate(degree, error, predict)
