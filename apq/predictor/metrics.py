"""Quality of predictions: rank agreement first, since a search compares, then error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau


@dataclass(frozen=True)
class Scores:
    """Agreement of predictions with measurements on ``count`` held-out candidates.

    Attributes:
        count: Number of candidates.
        pairwise: Share of pairs put in the right order, 0..1.
        kendall: Kendall's tau-b, with a bootstrap interval ``kendall_low .. kendall_high`` (95 %).
        rmse: Root mean squared error, in the unit of the accuracies.
    """

    count: int
    pairwise: float
    kendall: float
    kendall_low: float
    kendall_high: float
    rmse: float


def pairwise_accuracy(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Share of pairs that are predicted in the measured order.

    Args:
        predicted: Shape ``(n,)``.
        measured: Shape ``(n,)``.

    Returns:
        0..1; 0.5 is chance. Pairs with equal measurements are ignored, pairs with equal predictions
        count one half. NaN if no two measurements differ.
    """
    p, m = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    right = pairs = 0.0
    for i in range(len(m) - 1):
        truth = np.sign(m[i + 1 :] - m[i])
        agree = truth * np.sign(p[i + 1 :] - p[i])
        decided = truth != 0
        pairs += np.count_nonzero(decided)
        right += 0.5 * float(np.sum((agree + 1)[decided]))
    return float(right / pairs) if pairs else float("nan")


def kendall_tau(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Kendall's tau-b; 0 if either side is constant."""
    tau = float(kendalltau(np.asarray(predicted), np.asarray(measured)).statistic)
    return 0.0 if np.isnan(tau) else tau


def kendall_interval(
    predicted: ArrayLike, measured: ArrayLike, *, level: float = 0.95, rounds: int = 200,
    seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """Percentile bootstrap interval of Kendall's tau over candidates."""
    p, m = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    rng = np.random.default_rng(seed)
    taus = []
    for _ in range(rounds):
        # a candidate drawn twice ties with itself on both sides; tau-b leaves such pairs out
        index = rng.integers(len(m), size=len(m))
        taus.append(kendall_tau(p[index], m[index]))
    low, high = np.quantile(taus, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def score(predicted: ArrayLike, measured: ArrayLike, *, seed: int = 0) -> Scores:
    """All figures of one comparison; both arguments have shape ``(n,)``."""
    p, m = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    low, high = kendall_interval(p, m, seed=seed)
    return Scores(
        count=len(m),
        pairwise=pairwise_accuracy(p, m),
        kendall=kendall_tau(p, m),
        kendall_low=low,
        kendall_high=high,
        rmse=float(np.sqrt(np.mean((p - m) ** 2))),
    )


def regret(predicted: ArrayLike, measured: ArrayLike, top: int) -> float:
    """How much accuracy is lost by measuring only the ``top`` best predicted candidates.

    Returns:
        Best measured accuracy of all minus the best among the chosen; 0 is perfect.
    """
    p, m = np.asarray(predicted), np.asarray(measured, dtype=np.float64)
    chosen = np.argsort(-p, kind="stable")[:top]
    return float(m.max() - m[chosen].max())


def coverage(
    mean: NDArray[np.float64], spread: NDArray[np.float64], measured: NDArray[np.float64], k: float
) -> float:
    """Share of measurements inside ``mean ± k * spread``; all of shape ``(n,)``."""
    return float(np.mean(np.abs(measured - mean) <= k * spread))
