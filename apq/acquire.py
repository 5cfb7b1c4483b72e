"""Which candidates to measure next: those that may be on the front (numpy)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from apq.hardware.pricing import PricedSpace
from apq.plan import ask
from apq.search.many import default_cost
from apq.search.problem import Problem, Scored, join
from apq.search.rows import first_of_each, nondominated, row_keys
from apq.search.search import search
from apq.space import Genes

if TYPE_CHECKING:
    from apq.predictor import Predictor

Floats = NDArray[np.float64]

POOL, BINS = 600, 10
"""So many promising candidates are looked at, equally many in each part of the range of costs."""


def ask_more(
    folder: Path,
    priced: PricedSpace,
    predictor: Predictor,
    count: int,
    seed: int = 0,
    about: Mapping[str, str] | None = None,
) -> tuple[int, int]:
    """Choose further quantized samples of a folder: candidates that may be on the front of
    predicted accuracy and the cost that matters (:func:`apq.search.many.default_cost`).

    What was chosen before and is not measured yet is kept instead of choosing anew.

    Args:
        folder: The samples.
        priced: Their space and its prices.
        predictor: Of that space.
        count: How many to choose.
        seed: The folder's.
        about: Written beside them: what made the choice.

    Returns:
        First and one past the last of their places; :func:`apq.collect.collect` with that count
        measures them.
    """
    cost = default_cost(priced)
    problem = Problem(priced, predictor.predict, ("accuracy", cost))
    return ask(
        folder, priced.space, seed,
        lambda known: next_candidates(problem, predictor.covariance, known, count, seed=seed),
        {"cost": cost, **(about or {})},
    )  # fmt: skip


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


def sampled_fronts(
    mean: Floats, covariance: Floats, costs: Floats, count: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Rows that are best within some budget in draws of the accuracies from what is held possible.

    Thompson sampling (Thompson, 1933) for a front: every draw gives one row, the best at no more
    than the first cost of a row taken at random, so that all of the range is looked at.

    Args:
        mean: Predicted accuracies, ``(n,)``.
        covariance: What is not known about them, ``(n, n)``.
        costs: To be minimised, ``(n, m)``; the first sets the budgets.
        count: How many to take, at most n.
        rng: Of the draws.

    Returns:
        Different rows, ``(count,)``.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    first = costs[:, 0]
    left = np.ones(len(mean), dtype=bool)
    taken: list[int] = []
    count = min(count, len(mean))
    for share in (np.arange(count) + rng.random(count)) / count:
        draw = mean + root @ rng.normal(size=len(mean))
        budget = max(np.quantile(first, share, method="lower"), first[left].min())
        row = int(np.where(left & (first <= budget), draw, -np.inf).argmax())
        taken.append(row)
        left[row] = False
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

    A search with the present predictor finds the largest expected gains at every cost. Among these
    and as many random ones :func:`sampled_fronts` chooses. Lowering the predictor's doubt where the
    gains are largest, the rule before, left more of the front unfound on Accel-NASBench
    (``benchmarks/bench_acquire_simulated.py``).

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
    chosen = sampled_fronts(found.accuracy[pool], covariance(genes), costs[pool], count, rng)
    wanted: Genes = genes[chosen]
    return wanted


def _even(places: NDArray[np.intp], gain: Floats) -> list[NDArray[np.intp]]:
    """Rows by rising cost, in parts that hold equally many of the promising ones."""
    share = np.cumsum(gain[places] > np.quantile(gain, 0.75))
    return np.split(places, np.searchsorted(share, share[-1] * np.arange(1, BINS) / BINS))


def _unknown(scored: Scored, known: Genes) -> Scored:
    """The first of every candidate that is not among the known ones, in order."""
    keys = row_keys(scored.genes)
    first = first_of_each(keys)
    return scored[first[~np.isin(keys[first], row_keys(known))]]
