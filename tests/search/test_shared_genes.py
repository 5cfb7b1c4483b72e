"""Exact and local answers where blocks share genes, against enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_families import SMALL

from apq.hardware import price_space
from apq.search import ALGORITHMS
from apq.search.integer_program import Additive, cheapest_within, minimise
from apq.search.knapsack import BINS, minimise_for_budgets
from apq.search.problem import Problem
from apq.search.rows import nondominated
from apq.search.search import search
from apq.search.surrogate import fit_additive, local_model, neighbours

PRICED = {name: price_space(space) for name, space in SMALL.items()}
LISTED = {name: space.every_candidate() for name, space in SMALL.items()}


class Effects:
    """An accuracy that is a sum of effects of single choices, bent."""

    def __init__(self, space, seed=0):
        rng = np.random.default_rng(seed)
        most = int(space.cardinalities.max())
        self.space = space
        self.effect = np.sort(rng.random((len(space.axes), most)), axis=1)

    def __call__(self, genes):
        gain = self.effect[np.arange(genes.shape[1]), genes] * self.space.decides(genes)
        return 1 - np.exp(-gain.sum(axis=1) / 6), np.full(len(genes), 0.01)


def random_model(space, seed):
    rng = np.random.default_rng(seed)
    sizes = space.cardinalities
    tables = [rng.normal(size=sizes[list(factor.axes)]) for factor in space.factors]
    return Additive(tables, [rng.normal(size=len(stage.depth)) for stage in space.stages], 0.5)


@given(
    name=st.sampled_from(sorted(SMALL)),
    seed=st.integers(0, 10_000),
    share=st.floats(0.05, 1.0),
    two=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_integer_program_equals_brute_force(name, seed, share, two):
    priced, every = PRICED[name], LISTED[name]
    costs, model = priced.costs(every), random_model(priced.space, seed)
    metrics = ["bitops_g", "peak_memory_kb"] if two else ["bitops_g"]
    limits = {m: float(costs[m].min() + share * np.ptp(costs[m])) for m in metrics}
    ok = np.all([costs[m] <= limits[m] for m in metrics], axis=0)
    row = minimise(priced, model, limits)
    assert priced.space.contains(row).all()
    assert all(priced.costs(row, limits)[m][0] <= limits[m] for m in metrics)
    best = model.value(priced.space, every[ok]).min()
    assert model.value(priced.space, row)[0] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("metric", ["bitops_g", "peak_memory_kb"])
def test_cheapest_within_other_limits(name, metric):
    priced, costs = PRICED[name], PRICED[name].costs(LISTED[name])
    limit = {"size_mb": float(np.quantile(costs["size_mb"], 0.1))}
    row = cheapest_within(priced, metric, {metric: 1.0, **limit})
    best = costs[metric][costs["size_mb"] <= limit["size_mb"]].min()
    assert priced.costs(row)[metric][0] == pytest.approx(best, rel=1e-9)


@given(name=st.sampled_from(sorted(SMALL)), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_knapsack_answers_all_budgets_for_given_shared_genes(name, seed):
    priced, every = PRICED[name], LISTED[name]
    model, rng = random_model(priced.space, seed), np.random.default_rng(seed)
    bound = tuple(int(g) for g in every[rng.integers(len(every)), list(priced.bound)])
    decides = priced.space.decides(every)[:, list(priced.bound)]
    same = np.all((every[:, list(priced.bound)] == bound) | ~decides, axis=1)
    cost, value = priced.costs(every[same])["bitops_g"], model.value(priced.space, every[same])
    budgets = np.linspace(cost.min() * 1.02, cost.max() * 1.02, 5)
    slack = 4 * (budgets[-1] - priced.fixed["bitops_g"]) / BINS  # a bin's rounding per slot
    rows = minimise_for_budgets(priced, model, "bitops_g", float(budgets[-1]), budgets, bound)
    found, found_cost = model.value(priced.space, rows), priced.costs(rows)["bitops_g"]
    assert priced.space.contains(rows).all()
    for budget in budgets:
        tight, mine = value[cost <= budget - slack], found[found_cost <= budget + slack]
        if len(tight):
            assert mine.min() <= tight.min() + 1e-9


@pytest.mark.parametrize("name", SMALL)
def test_additive_models_are_exact_for_an_additive_value(name):
    space, every = SMALL[name], LISTED[name]
    rng = np.random.default_rng(3)
    effect = rng.normal(size=(len(space.axes), int(space.cardinalities.max())))
    gain = effect[np.arange(every.shape[1]), every] * space.decides(every)
    value = gain.sum(axis=1)
    fitted = fit_additive(space, every, value, ridge=1e-9)
    assert fitted.value(space, every) == pytest.approx(value, abs=1e-4)
    around = neighbours(space, every[-1])
    rows = around.rows
    local = (effect[np.arange(rows.shape[1]), rows] * space.decides(rows)).sum(axis=1)
    model = local_model(space, around, local, penalty=0.0)
    moved = (rows != rows[0]).sum(axis=1) <= 1
    assert model.value(space, rows[moved]) == pytest.approx(local[moved], abs=1e-9)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a not in ("optuna", "paper")])
def test_every_engine_keeps_budgets_and_comes_near_the_true_front(name, algorithm):
    priced, every = PRICED[name], LISTED[name]
    limits = {"bitops_g": float(np.mean(priced.reach("bitops_g")))}
    problem = Problem(priced, Effects(priced.space), ("accuracy", "bitops_g"), limits)
    kept = every[problem.feasible(every)]
    values = problem.evaluate(kept).values
    true = values[nondominated(values)]
    result = search(problem, algorithm, candidates=1500, seed=0)
    assert problem.feasible(result.front.genes).all()
    assert problem.space.contains(result.front.genes).all()
    near = np.abs(true[:, None] - result.front.values[None]).max(axis=2).min(axis=1) < 1e-9
    assert near.mean() > (0.15 if algorithm in ("random", "milp") else 0.9)
