"""Optuna's own NSGA-II sampler, one trial at a time."""

from __future__ import annotations

import optuna
from optuna.samplers import NSGAIISampler

from apq.search.genome import SpaceGenome
from apq.search.nsga2 import POPULATION
from apq.search.options import Options
from apq.search.problem import Scored
from apq.search.record import Record
from apq.search.study import finished, objective, open_study, scored_trials
from apq.space import Genes


def stock(record: Record, seed: int, seeds: Genes, options: Options) -> None:
    """Run ``study.optimize`` with ``optuna.samplers.NSGAIISampler``; candidates over a limit are
    scored too, as violated constraints.

    Args:
        record: Scores candidates.
        seed: Random seed of the sampler.
        seeds: Rows that are scored first.
        options: ``storage``; every scored candidate becomes a trial in it.

    Raises:
        ApqError: the storage cannot be opened, or holds trials of another problem.
    """
    problem = record.problem
    sampler = NSGAIISampler(population_size=POPULATION, seed=seed)
    study = open_study(problem, sampler, options.storage)
    genome = SpaceGenome(problem)
    earlier = finished(study)
    record.take(scored_trials(genome, earlier))
    record.done += len(earlier)
    for row in seeds:
        study.enqueue_trial(genome.params(row))

    def score(row: Genes, trial: optuna.Trial) -> Scored:
        number = trial.number
        drawn = "given" if number - len(earlier) < len(seeds) else "random"
        source = drawn if number < max(POPULATION, len(seeds)) else "variation"
        trial.set_user_attr("source", source)
        return record.score(row, source)

    if record.left > 0:
        study.optimize(objective(problem, score), n_trials=record.left)
    if options.storage is not None:  # what other processes found meanwhile
        record.take(scored_trials(genome, finished(study)))
