"""Which candidates to measure next: those that tell most about what may be on the front (numpy)."""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from apq.search.front import nondominated
from apq.search.problem import Problem, Scored, join
from apq.search.rows import first_of_each, row_keys
from apq.search.search import search
from apq.space import Genes

Floats = NDArray[np.float64]

POOL, BINS = 600, 10
"""So many promising candidates are looked at, equally many in each part of the range of costs."""


def expected_gain(mean: Floats, spread: Floats, costs: Floats) -> Floats:
    """How much accuracy each candidate is expected to add at its cost.

    Expected improvement (Jones et al., 1998) over the best mean among other candidates that cost
    no more; a candidate nothing else is as cheap as is compared with its own mean.

    Args:
        mean, spread: Predicted accuracy and its deviation, ``(n,)``.
        costs: To be minimised, ``(n, m)``.

    Returns:
        Gains in the unit of the accuracy, ``(n,)``, never negative.
    """
    front = np.flatnonzero(nondominated(np.column_stack([-mean, costs])))
    best = np.full(len(mean), -np.inf)
    for j in front:
        no_dearer = np.all(costs[j] <= costs, axis=1)
        no_dearer[j] = False
        best[no_dearer] = np.maximum(best[no_dearer], mean[j])
    best = np.where(np.isfinite(best), best, mean)
    z = (mean - best) / spread
    gain: Floats = spread * (z * ndtr(z) + np.exp(-(z**2) / 2) / np.sqrt(2 * pi))
    return np.maximum(gain, 0.0)


def choose(covariance: Floats, noise: Floats, weight: Floats, count: int) -> NDArray[np.intp]:
    """Take one by one the candidate whose measurement leaves the least doubt where it matters.

    Measuring x lowers the variance of t by cov(t, x)^2 / (var(x) + noise(x)) (Cohn, 1996, for
    Gaussian processes); after every choice the covariance is that of the process which knows it,
    so that the chosen are unlike each other.

    Args:
        covariance: What is not known about n candidates, ``(n, n)``.
        noise: Variance of measuring each, ``(n,)``.
        weight: How much the variance of each matters, ``(n,)``.
        count: How many to take, at most n.

    Returns:
        Different rows, best first, ``(count,)``.
    """
    c = covariance.copy()
    left = np.ones(len(c), dtype=bool)
    taken: list[int] = []
    for _ in range(min(count, len(c))):
        total = c.diagonal() + noise
        lowered = weight @ np.square(c) / total
        row = int(np.where(left, lowered, -1.0).argmax())
        taken.append(row)
        left[row] = False
        c -= np.outer(c[:, row], c[row] / total[row])
    return np.array(taken, dtype=np.intp)


def next_candidates(
    problem: Problem,
    covariance: Callable[[Genes], Floats],
    known: Genes,
    count: int,
    *,
    candidates: int = 8000,
    seed: int = 0,
) -> Genes:
    """The ``count`` candidates whose measurement should teach most about a problem's front.

    A search with the present predictor; the largest expected gains at every cost are what it
    matters to know. Chosen is among these and as many random ones.

    Args:
        problem: Its ``accuracy`` is the present predictor.
        covariance: The predictor's, of n candidates ``(n, n)``.
        known: Candidates measured already, never chosen again, ``(k, axes)``.
        count: How many to choose.
        candidates: How many the search scores.
        seed: Of the search and the random part.

    Returns:
        Canonical rows, all different, ``(count, axes)``; fewer if the space has no more.
    """
    scored: list[Scored] = []
    search(problem, "evolution", candidates, seed, on_batch=scored.append)
    rng = np.random.default_rng([seed, len(known)])
    chance = [problem.sample(POOL // 2, rng), problem.spread_sample(POOL // 2, rng)]
    scored += [problem.evaluate(genes) for genes in chance]
    found = _unknown(join(*scored), known)
    costs = np.column_stack([found.costs[name] for name in problem.metrics])
    gain = expected_gain(found.accuracy, found.spread, costs)
    places = costs[:, 0].argsort(kind="stable")
    good = [p[np.argsort(-gain[p], kind="stable")[: POOL // BINS]] for p in _even(places, gain)]
    matters = np.unique(np.concatenate(good))
    rest = np.setdiff1d(np.arange(max(0, len(gain) - POOL), len(gain)), matters)
    pool = np.concatenate([matters, rest])
    genes = found.genes[pool]
    unknown = covariance(genes)
    noise = np.square(found.spread[pool]) - unknown.diagonal()
    weight = np.concatenate([np.ones(len(matters)), np.zeros(len(rest))])
    chosen: Genes = genes[choose(unknown, np.maximum(noise, 1e-12), weight, count)]
    return chosen


def _even(places: NDArray[np.intp], gain: Floats) -> list[NDArray[np.intp]]:
    """Rows by rising cost, in parts that hold equally many of the promising ones."""
    share = np.cumsum(gain[places] > np.quantile(gain, 0.75))
    return np.split(places, np.searchsorted(share, share[-1] * np.arange(1, BINS) / BINS))


def _unknown(scored: Scored, known: Genes) -> Scored:
    """The first of every candidate that is not among the known ones, in order."""
    keys = row_keys(scored.genes)
    first = first_of_each(keys)
    return scored[first[~np.isin(keys[first], row_keys(known))]]
