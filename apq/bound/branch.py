"""A bound on a predictor's optimum under limits, tightened by branching (ours)."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq.bound.network import answers, members
from apq.bound.part import Choices, Part
from apq.bound.process import Process
from apq.errors import ModelError
from apq.predictor.features import SpaceFeatures
from apq.predictor.network import Network
from apq.predictor.predictor import Predictor
from apq.search.problem import Problem

COUNTED = 2_000
"""Parts of at most so many rows are predicted one by one."""

ROUNDING = 1e-4
"""What single precision may add to a prediction, in standardised units."""


@dataclass(frozen=True)
class Bound:
    """A bound.

    Attributes:
        accuracy: No candidate within the limits is predicted higher, a fraction.
        parts: How many parts of the space were bounded or counted out.
        exact: Whether all of the space was done: then the bound is the best prediction itself.
        seconds: What it took.
    """

    accuracy: float
    parts: int
    exact: bool
    seconds: float

    def to_dict(self, found: float) -> dict[str, float]:
        """The bound as plain data, with ``points``: how many percentage points better than a
        prediction ``found`` anything can be at most."""
        return {
            "accuracy": self.accuracy, "points": 100 * (self.accuracy - found),
            "parts": self.parts, "exact": self.exact, "seconds": self.seconds,
        }  # fmt: skip


def upper_bound(
    problem: Problem,
    predictor: Predictor,
    found: float = -np.inf,
    seconds: float = 30.0,
    most: int = 100_000,
) -> Bound:
    """The highest accuracy that a predictor could predict within a problem's limits.

    The space is cut into parts, depths first, then what the predictor reacts to most; the part with
    the highest bound is cut next. A part's bound is the maximum under the limits (Lagrange
    multipliers) of a sum over factors that is nowhere below the prediction: see
    :mod:`apq.bound.network` and :mod:`apq.bound.process`. Small parts are counted out.

    Args:
        problem: Its limits and what may be chosen. Its objectives do not matter, nor a caution.
        predictor: What predicted; of the problem's space.
        found: The best prediction known, a fraction: parts that cannot beat it are left.
        seconds: When to stop; whenever that is, the bound holds.
        most: Parts at most.

    Raises:
        ModelError: the predictor is of a table, not of a space.

    Example:
        >>> import apq
        >>> from apq.bound import upper_bound
        >>> space = apq.load_space("digits")
        >>> predictor = apq.load_predictor("digits/predictor.safetensors", space)
        >>> priced = apq.price_space(space, apq.load_cost_model("bitfusion-apq"))
        >>> found = apq.search_front(
        ...     priced, predictor.predict, {"latency_ms": 0.02}, candidates=500
        ... )
        >>> bound = upper_bound(found.problem, predictor, found.accuracy, seconds=1)
        >>> bound.accuracy >= found.accuracy
        True
    """
    begun, relaxed = time.perf_counter(), _Relaxed(problem, predictor)
    best = float(predictor.warp.to_target(np.array([found]))[0]) if np.isfinite(found) else -np.inf
    count, parts = itertools.count(), 1
    whole = relaxed.part(problem.space.allowed)
    waiting = [(-relaxed.value(whole), next(count), whole)]
    while waiting and parts < most and time.perf_counter() - begun < seconds:
        value, _, part = heapq.heappop(waiting)
        if -value <= best:
            waiting = []
            break
        if part.size <= COUNTED:
            best = max(best, relaxed.counted_out(part))
            continue
        for choices in relaxed.cut(part):
            child, parts = relaxed.part(choices), parts + 1
            if not child.empty:
                own = min(-value, relaxed.value(child))
                if own > best:
                    heapq.heappush(waiting, (-own, next(count), child))
    top = max(best, -waiting[0][0] if waiting else -np.inf)
    return Bound(max(relaxed.accuracy(top), found), parts, not waiting, time.perf_counter() - begun)


class _Relaxed:
    """A predictor as functions that are nowhere below it."""

    def __init__(self, problem: Problem, predictor: Predictor) -> None:
        if not isinstance(predictor.features, SpaceFeatures):
            raise ModelError("only predictors of a space have a bound, not those of a table")
        features = self.features = predictor.features
        self.problem, self.predictor = problem, predictor
        self._counts = features.counts.astype(np.float64)
        self._members = None
        self._process = None
        for i, model in enumerate(predictor.models):
            if isinstance(model, Network):
                self._members = members(model, features)
            else:
                self._process = Process.of(model, features, predictor.bits, answered=i > 0)
        self._effects = self._how_it_reacts()

    def part(self, choices: Choices) -> Part:
        """A part of the space."""
        problem = self.problem
        return Part(problem.searched, problem.limits, self._counts, choices)

    def value(self, part: Part) -> float:
        """A bound in the predictor's standardised units."""
        ends = answers(self._members, part) if self._members is not None else None
        if self._process is not None:
            above = self._process.above(part, ends)
        else:
            assert ends is not None
            above = ends[1]
        return part.maximum(above) + ROUNDING

    def accuracy(self, value: float) -> float:
        """A value as an accuracy."""
        return float(self.predictor.warp.to_accuracy(np.array([value]), np.zeros(1))[0][0])

    def counted_out(self, part: Part) -> float:
        """The best prediction of a small part within the limits."""
        rows = part.rows()
        rows = rows[self.problem.feasible(rows)] if len(rows) else rows
        if not len(rows):
            return -np.inf
        return float(self.predictor.latent(self.features.inputs(rows))[0].max())

    def cut(self, part: Part) -> Iterator[Choices]:
        """Two parts of a part: a depth's choices first, else those to which the predictor reacts
        most, formats last, lower and higher ones apart."""
        space, choices = self.problem.space, part.choices
        open_ = [i for i, own in enumerate(choices) if len(own) > 1]

        def urgent(i: int) -> tuple[int, float]:
            if i < len(space.stages):
                return 2, float(len(choices[i]))
            own = self._effects[space.starts[i] + np.array(choices[i])]
            reaction = float(np.ptp(own, axis=0).sum())
            return int(not space.axes[i].is_format), reaction

        axis = max(open_, key=urgent)
        middle = len(choices[axis]) // 2
        for half in (choices[axis][:middle], choices[axis][middle:]):
            yield (*choices[:axis], tuple(half), *choices[axis + 1 :])

    def _how_it_reacts(self) -> NDArray[np.float64]:
        """Effects of every choice on what the predictor looks at, ``(encoding_dims, n)``."""
        parts = [one.first.hot for one in self._members or ()]
        if self._process is not None:
            parts.append(self._process.columns.hot * self._process.weights[:, None])
        return np.concatenate(parts).T
