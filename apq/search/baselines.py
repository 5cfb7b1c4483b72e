"""What a searched network is measured against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from apq.errors import ApqError, BudgetError
from apq.search.options import Options
from apq.search.problem import Problem, Scored, join
from apq.search.record import CHUNK, OnProgress
from apq.search.search import Result, search
from apq.space import Choice
from apq.space.formats import ordered


def uniform_bits(
    problem: Problem,
    algorithm: str,
    candidates: int | None,
    seed: int,
    options: Options | None = None,
    on_progress: OnProgress | None = None,
) -> dict[Choice, Result | None]:
    """What the same search finds with one number format everywhere, by format.

    Tried as hard as the joint result: same algorithm, options, candidates, seed and budgets, every
    other gene free. None: no such network keeps the budgets. Formats that not every layer offers,
    or that the problem fixes otherwise, are left out; so is everything if its bits are all fixed.
    """
    space = problem.space
    bit_axes = [i for i, axis in enumerate(space.axes) if axis.is_format]
    if all(len(space.allowed[i]) == 1 for i in bit_axes):
        return {}
    common = set.intersection(
        *({space.axes[i].labels[c] for c in space.allowed[i]} for i in bit_axes)
    )
    found: dict[Choice, Result | None] = {}
    for bits in ordered(common):
        try:
            fixed = replace(problem, fix=(*problem.fix, f"bits={bits}"))
        except BudgetError:
            found[bits] = None
            continue
        except ApqError:  # the space excludes blocks of this format
            continue
        found[bits] = search(fixed, algorithm, candidates, seed, options, on_progress=on_progress)
    return found


def random_cloud(problem: Problem, count: int, seed: int = 0) -> Scored:
    """``count`` random feasible candidates, scored."""
    rng = np.random.default_rng(seed)
    sizes = [min(CHUNK, count - i) for i in range(0, count, CHUNK)]
    return join(*(problem.evaluate(problem.sample(size, rng), "random") for size in sizes))
