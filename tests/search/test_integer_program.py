"""Exact programs against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mobilenet import block_genes

from apq.search.integer_program import Additive, cheapest_within, minimise
from apq.search.knapsack import BINS, minimise_for_budgets
from apq.search.local_search import local_search
from apq.search.problem import Problem
from apq.search.record import Record
from apq.search.scalarisation import Scalarisation
from apq.search.surrogate import fit_additive, local_model, neighbours
from apq.space import PRESETS


def random_model(space, seed):
    rng = np.random.default_rng(seed)
    sizes = space.cardinalities
    tables = [rng.normal(size=sizes[list(factor.axes)]) for factor in space.factors]
    return Additive(tables, [rng.normal(size=len(stage.depth)) for stage in space.stages], 0.5)


@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 1.0), two=st.booleans())
@settings(max_examples=25, deadline=None)
def test_integer_program_equals_brute_force(enumerated, seed, share, two):
    priced, every, costs = enumerated
    model = random_model(priced.space, seed)
    metrics = ["bitops_g", "peak_memory_kb"] if two else ["bitops_g"]
    limits = {m: float(costs[m].min() + share * np.ptp(costs[m])) for m in metrics}
    ok = np.all([costs[m] <= limits[m] for m in metrics], axis=0)
    best = model.value(priced.space, every[ok]).min()
    row = minimise(priced, model, limits)
    assert priced.space.contains(row).all()
    assert all(priced.costs(row, limits)[m][0] <= limits[m] for m in metrics)
    assert model.value(priced.space, row)[0] == pytest.approx(best, abs=1e-6)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_knapsack_answers_all_budgets_nearly_like_brute_force(enumerated, seed):
    priced, every, costs = enumerated
    model = random_model(priced.space, seed)
    cost = costs["bitops_g"]
    budgets = np.linspace(cost.min() * 1.02, cost.max(), 9)
    slack = 4 * (budgets[-1] - priced.fixed["bitops_g"]) / BINS  # a bin's rounding per slot
    value = model.value(priced.space, every)
    rows = minimise_for_budgets(priced, model, "bitops_g", float(budgets[-1]), budgets)
    found, found_cost = model.value(priced.space, rows), priced.costs(rows)["bitops_g"]
    assert priced.space.contains(rows).all()
    for budget in budgets:
        tight = value[cost <= budget - slack]
        mine = found[found_cost <= budget + slack]
        if len(tight):
            assert mine.min() <= tight.min() + 1e-9


@pytest.mark.parametrize("metric", ["bitops_g", "peak_memory_kb"])
def test_cheapest_within_other_limits(tiny_priced, metric):
    every = tiny_priced.space.every_candidate()
    costs = tiny_priced.costs(every)
    limit = {"size_mb": float(np.quantile(costs["size_mb"], 0.1))}
    row = cheapest_within(tiny_priced, metric, {metric: 1.0, **limit})
    best = costs[metric][costs["size_mb"] <= limit["size_mb"]].min()
    assert tiny_priced.costs(row)[metric][0] == pytest.approx(best, rel=1e-9)


def test_neighbours_differ_in_one_gene_of_a_running_slot():
    space = PRESETS["apq-imagenet"]()
    row = space.sample(1, np.random.default_rng(1))[0]
    around = neighbours(space, row)
    assert (around.rows[0] == row).all()
    assert space.contains(around.rows).all()
    running = [
        space.axes[a].slot is None or space.active(row[None])[0, space.axes[a].slot]
        for a in around.axis
    ]
    plain = np.flatnonzero(running) + 1
    genes = block_genes(space, around.rows[plain]) != block_genes(space, row[None])
    only_block = np.array([space.axes[a].slot is not None for a in around.axis[plain - 1]])
    changed = genes.sum(axis=(1, 2))[only_block]
    assert set(changed) == {1, 2}  # an exclusion moves a second gene
    assert (changed == 1).mean() > 0.98
    wanted = around.gene[plain - 1] == around.rows[plain, around.axis[plain - 1]]
    assert wanted.all()


def test_local_model_is_exact_for_an_additive_value(tiny_priced):
    space = tiny_priced.space
    rng = np.random.default_rng(0)
    by_gene = [rng.normal(size=len(axis.choices)) for axis in space.axes]
    stages = len(space.stages)
    blocks = [
        sum(
            by_gene[stages + 6 * slot.index + a].reshape([-1 if i == a else 1 for i in range(6)])
            for a in range(6)
        )
        for slot in space.slots
    ]
    truth = Additive(blocks, by_gene[:stages])
    row = next(r for r in space.sample(99, rng) if not block_genes(space, r[None])[0, :, 0].any())
    around = neighbours(space, row)
    every = space.every_candidate()
    exact = [truth.value(space, rows) for rows in (around.rows, every)]
    model = local_model(space, around, exact[0], penalty=0.0)
    shifted = model.value(space, every)
    same = block_genes(space, every)[:, :, 0].max(axis=1) == 0  # kernel 3 everywhere
    assert shifted[same] == pytest.approx(exact[1][same], abs=1e-9)
    fitted = fit_additive(space, every, exact[1], ridge=1e-9)
    assert fitted.value(space, every) == pytest.approx(exact[1], abs=1e-4)


def test_a_local_search_ends_at_least_as_good_as_it_began(tiny_priced, tiny_accuracy):
    limit = float(np.mean(tiny_priced.reach("bitops_g")))
    problem = Problem(tiny_priced, tiny_accuracy, ("accuracy",), {"bitops_g": limit})
    record = Record(problem, 2000)
    goal = Scalarisation(np.ones(1), "bitops_g", limit)
    starts = problem.sample(5, np.random.default_rng(0))
    for start in starts:
        row, _ = local_search(record, start, goal, 400)
        assert problem.feasible(row[None])[0]
        before, after = (problem.evaluate(r[None]).accuracy[0] for r in (start, row))
        assert after >= before
