"""The cheapest network that is accurate enough.

The engines look for the most accurate candidate within a cost. The cost of the cheapest accurate
enough candidate so far becomes the next limit, so the search converges to the point where the
front crosses the required accuracy (ours).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from apq.errors import ApqError, BudgetError
from apq.search import Engine
from apq.search.front import Front
from apq.search.options import Options
from apq.search.problem import Problem
from apq.search.record import Record
from apq.search.rows import distinct
from apq.space import Genes

FIRST = 0.3
"""Share of the candidates spent on the whole front, before any cost is limited."""
TURNS = 4
"""Number of equal parts of the rest, each within the cost of the cheapest found so far."""
LOCAL_SEARCH = 0.75
"""Default share of local search, larger than the engines' own since one point is wanted, not a
front. On the shipped cifar10 space with 20,000 candidates, the cheapest candidate within one
percentage point of the largest is 2 % cheaper than with the engines' own share, and 4 % cheaper
than on the front of a plain search."""
SEEDS = 20
"""Number of rows of the front, nearest to the accuracy, that a part starts from."""


def narrow(record: Record, engine: Engine, seed: int, seeds: Genes, options: Options) -> None:
    """Run an engine several times, within decreasing costs, until the candidates are used up.

    Args:
        record: Keeps everything that is scored; its problem has a smallest accuracy.
        engine: Runs within the limits of the record it is given.
        seed: Random seed.
        seeds: Rows for the first run.
        options: The engine's options.

    Raises:
        ApqError: a storage is given; a study in it has one problem, and this has several.
    """
    if options.storage is not None:
        raise ApqError(
            "a search for the cheapest network is several searches within falling costs, and a "
            "--storage holds one: leave it out, or ask for a cost instead of --accuracy-drop"
        )
    problem = record.problem
    metric = problem.costs_minimised[0]
    total, now = record.left, problem
    for turn in range(1 + TURNS):
        share = FIRST + (1 - FIRST) * turn / TURNS
        part = Record(
            replace(now, least=None), max(1, round(share * total) - record.done),
            on_batch=record.count,
        )  # fmt: skip
        engine(part, seed + turn, seeds, options)
        record.scoring_seconds += part.scoring_seconds
        record.notes |= part.notes
        best = record.archive.best
        if best is None or record.left <= 0:
            break
        enough = problem.accurate(best.values)
        if enough.any():
            cheapest = float(best.costs[metric][enough].min())
            now = replace(problem, limits={**problem.limits, metric: cheapest})
        gap = np.abs(-best.values[:, problem.objectives.index("accuracy")] - (problem.least or 0))
        near = best.genes[gap.argsort(kind="stable")[:SEEDS]]
        seeds = distinct(near[now.feasible(near)])


def require_accurate(problem: Problem, front: Front) -> None:
    """Raise unless some row of a front reaches the smallest allowed accuracy.

    Raises:
        BudgetError: none does; the message gives the highest accuracy.
    """
    if not problem.accurate(front.values).any():
        best = -front.values[:, problem.objectives.index("accuracy")].min()
        within = ", ".join(f"{metric} <= {limit:g}" for metric, limit in problem.limits.items())
        raise BudgetError(
            f"no candidate{f' within {within}' if within else ''} is predicted to have an accuracy "
            f"of {problem.least:.2%}; the most accurate that was found has {best:.2%}. Allow a "
            "larger drop or a larger cost, or fix fewer genes."
        )


def allow_drop(problem: Problem, points: float, measured: float | None = None) -> Problem:
    """The problem of finding the cheapest candidate within an allowed loss of accuracy.

    Args:
        problem: Its objectives are accuracy and one cost.
        points: Percentage points of accuracy that may be lost compared with the original network:
            the space's largest candidate.
        measured: Full-precision accuracy of the original, a fraction; None: its predicted accuracy
            at the highest bits.

    Raises:
        ApqError: the points are not between 0 and 100, or the problem has other objectives.
    """
    if not 0 <= points < 100:
        raise ApqError(f"an accuracy drop lies between 0 and 100 points, got {points:g}")
    if measured is None:
        whole = replace(problem.priced.space, allowed=()).whole
        measured = float(problem.accuracy(whole)[0][0])
    return replace(problem, least=measured - points / 100)
