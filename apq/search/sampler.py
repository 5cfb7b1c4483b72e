"""Optuna's NSGA-II sampler with whole generations varied as arrays."""

from __future__ import annotations

import secrets
import threading
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial

from apq.search.genome import Genome, ParameterGenome, Rows
from apq.search.problem import Floats
from apq.search.variation import fittest, rank, tournament

Numbers = Sequence[int] | NDArray[np.int64]


class JointSampler(NSGAIISampler):
    """NSGA-II (Deb et al., 2002) that makes children a whole generation at a time.

    Works in any study: pass it to ``optuna.create_study`` and call ``study.optimize``. Optuna
    requests survivors and children through the strategies of ``NSGAIISampler``; a whole generation
    of children is drawn at once and returned one by one. A search that scores whole generations
    calls :meth:`first`, :meth:`breed` and :meth:`survive` itself, which make the same draws without
    a trial object per candidate. Generations are numbered under ``NSGAIISampler``'s own attribute,
    so that either sampler can continue a study of the other.

    Args:
        genome: Defines the parameters and their variation, e.g.
            :class:`apq.search.genome.SpaceGenome`, whose children are within all limits. Default:
            the parameters that all trials of a study have in common.
        population_size: Number of survivors and of children per generation.
        seed: Random seed; None: a different one each time.

    Example:
        >>> import optuna
        >>> from apq.search.sampler import JointSampler
        >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
        >>> study = optuna.create_study(sampler=JointSampler(population_size=10, seed=1))
        >>> study.optimize(lambda trial: trial.suggest_int("x", -50, 50) ** 2, n_trials=200)
        >>> study.best_params
        {'x': 0}
    """

    def __init__(
        self,
        genome: Genome | None = None,
        *,
        population_size: int = 100,
        seed: int | None = None,
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the two strategies
            super().__init__(
                population_size=population_size,
                seed=seed,
                elite_population_selection_strategy=self._surviving_trials,
                child_generation_strategy=self._child,
            )
        self._genome = genome
        self._seed = secrets.randbits(63) if seed is None else seed
        self._lock = threading.Lock()
        self._of: tuple[Any, ...] | None = None
        self._waiting: list[dict[str, Any]] = []
        self._broods = 0

    @classmethod
    def _get_generation_key(cls) -> str:
        return NSGAIISampler._get_generation_key()

    @classmethod
    def _get_parent_cache_key_prefix(cls) -> str:
        return NSGAIISampler._get_parent_cache_key_prefix()

    def reseed_rng(self) -> None:
        """Draw another seed, as Optuna requires in parallel runs."""
        super().reseed_rng()
        self._seed = secrets.randbits(63)

    def first(self, genome: Genome, count: int, brood: int = 0) -> Rows:
        """``count`` rows of the first generation."""
        return genome.sample(count, self._rng_of((), brood))

    def breed(
        self,
        genome: Genome,
        rows: Rows,
        values: Floats,
        numbers: Numbers,
        count: int,
        penalty: Floats | None = None,
        brood: int = 0,
    ) -> Rows:
        """Children of a population: binary tournaments by rank and crowding choose the parents.

        Args:
            genome: Varies the parents.
            rows: The population, ``(n, parameters)``.
            values: Its objectives in minimised form, ``(n, objectives)``.
            numbers: Its trial numbers in the study, which seed the draws together with the seed.
            count: Number of children.
            penalty: Total violation of the constraints, ``(n,)``; 0 is feasible.
            brood: Index of the draw from the same parents.
        """
        rng = self._rng_of(numbers, brood)
        pairs = tournament(*rank(values, penalty), 2 * count, rng).reshape(2, count)
        return genome.vary(rows[pairs[0]], rows[pairs[1]], rng)

    def survive(self, values: Floats, penalty: Floats | None = None) -> NDArray[np.int64]:
        """Ascending indices of the survivors by rank, then crowding, ``(population_size,)``."""
        return np.sort(fittest(values, self.population_size, penalty))

    def _rng_of(self, numbers: Numbers, brood: int) -> np.random.Generator:
        parents = zlib.crc32(np.asarray(numbers, dtype="<i8").tobytes())
        return np.random.default_rng([self._seed, parents, brood])

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The genome's parameters, or those that all trials share."""
        if self._genome is None:
            return super().infer_relative_search_space(study, trial)
        return dict(self._genome.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next child of the current generation. Without a genome, Optuna's random sampler
        draws the first generation."""
        if self._genome is not None and self.get_trial_generation(study, trial) == 0:
            return self._child(study, search_space, [])
        return super().sample_relative(study, trial, search_space)

    def _surviving_trials(
        self, study: optuna.Study, trials: list[FrozenTrial]
    ) -> list[FrozenTrial]:
        if not trials:
            return []
        trials = sorted(trials, key=lambda trial: trial.number)
        return [trials[i] for i in self.survive(*_figures(study, trials))]

    def _child(
        self,
        study: optuna.Study,
        search_space: dict[str, BaseDistribution],
        parents: list[FrozenTrial],
    ) -> dict[str, Any]:
        """One child; the whole generation is drawn with its first child."""
        parents = sorted(parents, key=lambda trial: trial.number)
        numbers = tuple(trial.number for trial in parents)
        of = (numbers, *search_space.items())
        with self._lock:
            if of != self._of:
                self._of, self._waiting, self._broods = of, [], 0
            if not self._waiting:
                size = self.population_size
                assert size is not None  # NSGAIISampler's always has one
                genome = self._genome or ParameterGenome(search_space)
                if parents:
                    values, penalty = _figures(study, parents)
                    rows = genome.rows([trial.params for trial in parents])
                    rows = self.breed(genome, rows, values, numbers, size, penalty, self._broods)
                else:
                    rows = self.first(genome, size, self._broods)
                self._waiting = [genome.params(row) for row in rows[::-1]]
                self._broods += 1
            return dict(self._waiting.pop())


def _figures(study: optuna.Study, trials: Sequence[FrozenTrial]) -> tuple[Floats, Floats]:
    """Objectives in minimised form, and the violation of constraints."""
    larger = [d == optuna.study.StudyDirection.MAXIMIZE for d in study.directions]
    values = np.array([trial.values for trial in trials], dtype=np.float64)
    penalty = [sum(max(v, 0.0) for v in trial.constraints.values()) for trial in trials]
    return np.where(larger, -values, values), np.array(penalty, dtype=np.float64)
