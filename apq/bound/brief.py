"""The bound that a search gives by the way."""

from __future__ import annotations

import numpy as np

from apq.bound.branch import upper_bound
from apq.predictor.predictor import Predictor
from apq.search.search import Result
from apq.space import Space

BRIEFLY, TELLING = 1.0, 2.0
"""Default time for a bound (s), and the gap in points from which a default bound is not told."""


def bound_of(
    result: Result, predictor: Predictor | None, seconds: float | None = None
) -> dict[str, float] | None:
    """A bound on what could be predicted within a search's limits, as plain data.

    Args:
        result: What the search found.
        predictor: What predicted; None: accuracies were measured, and have no bound.
        seconds: Time for it; 0: none is wanted; None: a second, if only formats were searched.

    Returns:
        :meth:`apq.bound.Bound.to_dict`; None if there is none, or it says too little.
    """
    problem = result.problem
    unasked = seconds is None and not only_formats(problem.space)
    if predictor is None or seconds == 0 or unasked:
        return None
    best = float(result.front.accuracy.max())
    found = upper_bound(problem, predictor, best, seconds or BRIEFLY).to_dict(best)
    return found if seconds or found["points"] < TELLING else None


def only_formats(space: Space) -> bool:
    """Whether nothing but number formats is left to choose, blocks that never run aside."""
    every = np.array([[max(allowed) for allowed in space.allowed]], dtype=np.int16)
    runs = space.decides(every)[0]
    return all(
        axis.is_format or len(allowed) == 1 or not there
        for axis, allowed, there in zip(space.axes, space.allowed, runs, strict=True)
    )
