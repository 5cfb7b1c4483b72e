"""Optuna parameters as rows of small integers, varied as arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from apq.search.problem import Problem
from apq.search.variation import children
from apq.space import Genes

Rows = NDArray[Any]
"""Integers; a space's genes have 16 bits."""


class Genome(Protocol):
    """What a :class:`~apq.search.sampler.JointSampler` varies, as rows ``(n, parameters)``."""

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """The parameters."""

    def rows(self, params: Sequence[Mapping[str, Any]]) -> Rows:
        """Parameters of trials as rows."""

    def params(self, row: Rows) -> dict[str, Any]:
        """One row's parameters; the inverse of :meth:`rows`."""

    def sample(self, count: int, rng: np.random.Generator) -> Rows:
        """``count`` rows of a first generation."""

    def vary(self, first: Rows, second: Rows, rng: np.random.Generator) -> Rows:
        """One child per pair of parents."""


class Shared(dict[str, Any]):
    """An immutable mapping whose copy is itself: storages deep-copy every trial, which with 130
    genes would take most of a search's time."""

    def __deepcopy__(self, memo: object) -> Shared:
        return self


class SpaceGenome:
    """The genes of a problem's space, one readable parameter each (``b03_kernel = 5``).

    Children are feasible by repair (:func:`apq.search.variation.children`).
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        axes = problem.priced.space.axes
        self._labels = [
            [str(label) for label in axis.labels] if axis.named else list(axis.choices)
            for axis in axes
        ]
        self._index = [{c: i for i, c in enumerate(labels)} for labels in self._labels]
        self._names = [axis.name for axis in axes]
        self.distributions: Mapping[str, BaseDistribution] = Shared(
            (name, _distribution(labels))
            for name, labels in zip(self._names, self._labels, strict=True)
        )

    def rows(self, params: Sequence[Mapping[str, Any]]) -> Genes:
        """Rows of genes, ``(n, axes)``.

        Raises:
            KeyError: a parameter is missing, or has a value that the space does not offer.
        """
        rows = [
            [index[p[name]] for name, index in zip(self._names, self._index, strict=True)]
            for p in params
        ]
        return np.array(rows, dtype=np.int16).reshape(len(rows), len(self._names))

    def params(self, row: Rows) -> dict[str, Any]:
        """The choices of one row."""
        return Shared(
            (name, labels[gene])
            for name, labels, gene in zip(self._names, self._labels, row.tolist(), strict=True)
        )

    def sample(self, count: int, rng: np.random.Generator) -> Genes:
        """Feasible rows, spread from cheap to rich."""
        return self.problem.spread_sample(count, rng)

    def vary(self, first: Rows, second: Rows, rng: np.random.Generator) -> Genes:
        """Feasible children of feasible parents."""
        return children(self.problem, first.astype(np.int16), second.astype(np.int16), rng)

    def suggest(self, trial: optuna.Trial) -> Genes:
        """Have a trial suggest every gene: a row of shape ``(1, axes)`` that may exceed a limit."""
        params: dict[str, Any] = {}
        for name, kind in self.distributions.items():
            if isinstance(kind, IntDistribution):
                params[name] = trial.suggest_int(name, kind.low, kind.high, step=kind.step)
            else:
                assert isinstance(kind, CategoricalDistribution)
                params[name] = trial.suggest_categorical(name, kind.choices)
        row: Genes = self.problem.space.snap(self.rows([params]))
        return row


def _distribution(labels: Sequence[Any]) -> BaseDistribution:
    steps = {b - a for a, b in itertools.pairwise(labels)} if isinstance(labels[0], int) else set()
    if len(labels) == 1 and isinstance(labels[0], int):
        return IntDistribution(labels[0], labels[0])
    if len(steps) == 1 and min(steps) > 0:
        return IntDistribution(labels[0], labels[-1], step=min(steps))
    return CategoricalDistribution(labels)


class ParameterGenome:
    """Any Optuna parameters. A continuous or logarithmic range becomes a grid.

    Attributes:
        distributions: The parameters.
    """

    GRID = 4096
    """Number of grid points of a continuous or logarithmic range."""

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self.distributions = dict(distributions)
        self._counts = np.array([self._count(d) for d in self.distributions.values()])
        self._ordered = np.array(
            [not isinstance(d, CategoricalDistribution) for d in self.distributions.values()]
        )

    def _count(self, kind: BaseDistribution) -> int:
        if isinstance(kind, CategoricalDistribution):
            return len(kind.choices)
        assert isinstance(kind, IntDistribution | FloatDistribution)
        if kind.log or kind.step is None:
            return self.GRID
        return round((kind.high - kind.low) / kind.step) + 1

    def rows(self, params: Sequence[Mapping[str, Any]]) -> Rows:
        """The rows nearest to these parameters."""
        columns = [
            [self._index(d, n, p[name]) for p in params]
            for (name, d), n in zip(self.distributions.items(), self._counts, strict=True)
        ]
        return np.array(columns, dtype=np.int64).T.reshape(len(params), len(columns))

    def params(self, row: Rows) -> dict[str, Any]:
        """The values of one row."""
        return {
            name: self._value(d, int(n), int(i))
            for (name, d), n, i in zip(
                self.distributions.items(), self._counts, row.tolist(), strict=True
            )
        }

    def _index(self, kind: BaseDistribution, count: int, value: Any) -> int:
        if isinstance(kind, CategoricalDistribution):
            return kind.choices.index(value)
        assert isinstance(kind, IntDistribution | FloatDistribution)
        at, low, high = value, kind.low, kind.high
        if kind.log:
            at, low, high = math.log(value), math.log(low), math.log(high)
        share = (at - low) / (high - low) if high > low else 0.0
        return min(count - 1, max(0, round(share * (count - 1))))

    def _value(self, kind: BaseDistribution, count: int, index: int) -> Any:
        if isinstance(kind, CategoricalDistribution):
            return kind.choices[index]
        assert isinstance(kind, IntDistribution | FloatDistribution)
        share = index / max(1, count - 1)
        if kind.log:
            value = math.exp(math.log(kind.low) * (1 - share) + math.log(kind.high) * share)
        elif kind.step is not None:
            value = kind.low + index * kind.step
        else:
            value = kind.low * (1 - share) + kind.high * share
        value = min(kind.high, max(kind.low, value))
        return round(value) if isinstance(kind, IntDistribution) else float(value)

    def sample(self, count: int, rng: np.random.Generator) -> Rows:
        """Uniform rows."""
        return rng.integers(self._counts, size=(count, len(self._counts)))

    def vary(self, first: Rows, second: Rows, rng: np.random.Generator) -> Rows:
        """Uniform crossover, then reset mutation of two parameters on average: a mutated one is
        redrawn or, if it is ordered, half of the time moved by about a tenth of its range."""
        n, axes = first.shape
        share = rng.random((n, 1)) * 0.5 * (rng.random((n, 1)) < 0.9)
        child = np.where(rng.random((n, axes)) < share, second, first)
        hit = rng.random((n, axes)) < rng.exponential(2.0, (n, 1)) / axes
        far = rng.normal(0, 0.1, (n, axes)) * (self._counts - 1)
        step = np.rint(np.where(far < 0, np.minimum(far, -1), np.maximum(far, 1))).astype(np.int64)
        moved = np.clip(child + step, 0, self._counts - 1)
        near = self._ordered & (rng.random((n, axes)) < 0.5)
        varied: Rows = np.where(hit, np.where(near, moved, self.sample(n, rng)), child)
        return varied
