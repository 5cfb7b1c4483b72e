"""The exact optimum of an additive surrogate, in the manner of LANA (arXiv 2107.10624).

Accuracy is modelled as a sum of per-slot effects fitted to the predictor, costs are exact from the
tables, and an integer program picks the best candidate under the limits. The model is fitted
first to the whole region, then again around each optimum. Its optimum need not be the predictor's:
it bounds the surrogate only, and the surrogate's fidelity is reported with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apq.search.integer_program import Additive, minimise
from apq.search.options import Options
from apq.search.problem import Floats, Problem, join
from apq.search.record import Record
from apq.search.scalarisation import Scalarisation, next_scalarisation
from apq.search.surrogate import fit_additive
from apq.search.variation import children
from apq.space import Genes

ROUNDS = 4
BUDGETS = 12
"""Number of budgets solved per round when a cost is an objective."""


@dataclass(frozen=True)
class Fidelity:
    """How well the surrogate follows the predictor on rows it was not fitted to.

    Attributes:
        r2: Explained variance; 1 is perfect.
        spearman: Rank correlation.
        rmse: Root mean squared error, in the value's unit.
    """

    r2: float
    spearman: float
    rmse: float


def fidelity(problem: Problem, model: Additive, genes: Genes, values: Floats) -> Fidelity:
    """Compare model and true values."""
    from scipy.stats import spearmanr

    error = model.value(problem.priced.space, genes) - values
    ranks = 1.0 if np.ptp(values) == 0 else float(spearmanr(error + values, values).statistic)
    return Fidelity(
        float(1 - error.var() / max(values.var(), 1e-300)),
        ranks,
        float(np.sqrt((error**2).mean())),
    )


def milp(record: Record, seed: int, seeds: Genes, options: Options) -> None:
    """Fit, solve, refit around the optima until the record's candidates are used up.

    Adds to ``record.notes`` the first model's fidelity and the objectives of its optimum by the
    model (``surrogate_optimum``) and by the predictor (``surrogate_optimum_scored``).

    Args:
        record: Scores candidates.
        seed: Seed of the samples.
        seeds: Feasible rows that are scored first.
        options: Unused.
    """
    problem, rng = record.problem, np.random.default_rng(seed)
    several = bool(problem.costs_minimised) and len(problem.objectives) > 1
    goals = [next_scalarisation(problem, turn, rng) for turn in range(BUDGETS if several else 1)]
    per_round = max(20, record.candidates // ROUNDS - len(goals))
    if len(seeds):
        record.score(seeds, "given")
    sample = record.score(
        np.concatenate(
            [problem.sample(per_round // 2, rng), problem.spread_sample(per_round // 2, rng)]
        ),
        "random",
    )
    held = len(sample.genes) // 5
    optima: list[Genes] = []
    for number, goal in enumerate(goals):
        values = goal.value(sample)
        model = fit_additive(problem.priced.space, sample.genes[held:], values[held:])
        row = _solve(problem, goal, model)
        if row is None:
            continue
        optima.append(row)
        if number == 0:
            fit = fidelity(problem, model, sample.genes[:held], values[:held])
            scored = float(goal.value(problem.evaluate(row))[0])
            own = float(model.value(problem.priced.space, row)[0])
            record.notes |= {
                "surrogate_r2": fit.r2,
                "surrogate_spearman": fit.spearman,
                "surrogate_rmse": fit.rmse,
                "surrogate_optimum": own,
                "surrogate_optimum_scored": scored,
            }
    if optima:
        record.score(np.concatenate(optima), "program")
    while record.left > len(goals) + 20 and optima:
        centres = np.concatenate(optima)
        centres = centres[rng.integers(len(centres), size=min(per_round, record.left - len(goals)))]
        near = children(problem, centres, centres, rng, crossover=0.0, mutations=8.0)
        sample = join(sample, record.score(near, "variation"))
        moved = [
            _solve(problem, goal, _local(problem, goal, sample.genes, goal.value(sample), row))
            for goal, row in zip(goals, optima, strict=False)
        ]
        fresh = [row for row in moved if row is not None]
        scored_rows = (
            record.score(np.concatenate(fresh), "program") if fresh and record.left > 0 else None
        )
        if scored_rows is None:
            break
        optima = fresh


def _solve(problem: Problem, goal: Scalarisation, model: Additive) -> Genes | None:
    return minimise(problem.searched, model, {**problem.limits, goal.metric: goal.budget})


def _local(
    problem: Problem, goal: Scalarisation, genes: Genes, values: Floats, row: Genes
) -> Additive:
    """A model fitted to the rows that share most genes with ``row``."""
    distance = (genes != row).sum(axis=1)
    near = np.argsort(distance, kind="stable")[:4000]
    return fit_additive(problem.priced.space, genes[near], values[near])
