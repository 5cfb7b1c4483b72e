"""Every engine meets the same contract; truth is counted out."""

from __future__ import annotations

import numpy as np
import pytest

from apq.errors import ApqError, BudgetError
from apq.search import ALGORITHMS
from apq.search.front import reference
from apq.search.integer_program import minimise
from apq.search.problem import Problem
from apq.search.rows import nondominated
from apq.search.search import search
from apq.search.surrogate import fit_additive
from apq.space.layer import bitops, macs, size_bits, to_array

FIX = ("dw_w_bits=8", "b00_pw_w_bits=8")  # leaves a few thousand candidates


def truth(problem):
    """All objectives of the region's feasible candidates that nothing dominates."""
    every = problem.priced.space.every_candidate()
    every = every[problem.space.contains(every) & problem.feasible(every)]
    values = problem.evaluate(every).values
    return values[nondominated(values)], len(every)


@pytest.fixture
def half(tiny_priced, tiny_accuracy):
    """Accuracy against BitOps up to the middle of their range."""
    limits = {"bitops_g": float(np.mean(tiny_priced.reach("bitops_g")))}
    return Problem(tiny_priced, tiny_accuracy, ("accuracy", "bitops_g"), limits, FIX)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("algorithm", ["nsga2", "evolution"])
def test_engines_find_the_true_front(half, algorithm, seed):
    wanted, size = truth(half)
    result = search(half, algorithm, candidates=4 * size, seed=seed)
    assert len(wanted) > 20
    found = {tuple(v) for v in np.round(result.front.values, 12)}
    assert found == {tuple(v) for v in np.round(wanted, 12)}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("algorithm", "share"), [("random", 0.94), ("milp", 0.98)])
def test_baselines_come_near_the_true_front(half, algorithm, share, seed):
    """With half as many candidates as there are: random draws some of the front, and the program
    is exact for its surrogate only."""
    wanted, size = truth(half)
    found = search(half, algorithm, candidates=size // 2, seed=seed).front
    box = reference(half)
    assert share * box.hypervolume(wanted) < box.hypervolume(found.values)
    assert box.hypervolume(found.values) <= box.hypervolume(wanted) + 1e-12


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_milp_solves_its_surrogate_for_every_budget(half, seed):
    space = half.space
    sample = half.sample(150, np.random.default_rng(seed))
    model = fit_additive(space, sample, half.evaluate(sample).values[:, 0])
    every = space.every_candidate()
    every = every[space.contains(every)]
    cost, value = half.priced.costs(every)["bitops_g"], model.value(space, every)
    budgets = np.linspace(cost.min(), cost.max(), 12)
    for budget in budgets:
        row = minimise(half.searched, model, {"bitops_g": float(budget)})
        assert half.priced.costs(row)["bitops_g"][0] <= budget
        assert model.value(space, row)[0] == pytest.approx(value[cost <= budget].min(), abs=1e-6)


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a not in ("optuna", "paper")])
def test_every_answer_keeps_its_budgets(tiny_priced, tiny_accuracy, algorithm):
    """Random combinations of limits; what is returned is priced again from its layers."""
    space, rng = tiny_priced.space, np.random.default_rng(1)
    answered = refused = 0
    for i in range(50):  # benchmarks/bench_search.py --parts budgets does 200 on APQ's space
        chosen = rng.choice(["bitops_g", "size_mb", "macs_m"], rng.integers(1, 4), replace=False)
        ranges = {str(m): tiny_priced.reach(str(m)) for m in chosen}
        limits = {m: low + rng.beta(1, 3) * (high - low) for m, (low, high) in ranges.items()}
        try:
            problem = Problem(tiny_priced, tiny_accuracy, ("accuracy", str(chosen[0])), limits)
        except BudgetError:
            refused += 1
            continue
        front = search(problem, algorithm, 40, seed=i).front
        row = rng.integers(len(front))
        layers = to_array(list(space.layers(front.candidate(row))))
        truth = {
            "bitops_g": bitops(layers).sum() / 1e9,
            "size_mb": size_bits(layers).sum() / 8e6,
            "macs_m": macs(layers).sum() / 1e6,
        }
        assert all(truth[m] <= limit * (1 + 1e-9) for m, limit in limits.items())
        for metric, limit in limits.items():
            assert (front.costs[metric] <= limit).all()
        answered += 1
    assert answered > refused


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("algorithm", ["nsga2", "evolution"])
@pytest.mark.parametrize("limited", ["bitops_g", "peak_memory_kb"])
def test_engines_find_the_best_within_a_limit(tiny_priced, tiny_accuracy, algorithm, limited, seed):
    low, high = tiny_priced.reach(limited)
    limits = {limited: low + 0.4 * (high - low)}
    problem = Problem(tiny_priced, tiny_accuracy, ("accuracy",), limits, FIX)
    wanted, size = truth(problem)
    result = search(problem, algorithm, candidates=size // 2, seed=seed)
    assert result.front.values[result.chosen] == pytest.approx(wanted[0])


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_contract(tiny_priced, tiny_accuracy, algorithm):
    limits = {"bitops_g": float(np.mean(tiny_priced.reach("bitops_g")))}
    problem = Problem(
        tiny_priced,
        tiny_accuracy,
        ("accuracy", "bitops_g", "size_mb"),
        limits,
        fix=("dw_w_bits=8",),
    )
    batches, points = [], []
    result = search(
        problem, algorithm, candidates=400, seed=5,
        on_batch=batches.append, on_progress=lambda *figures: points.append(figures),
    )  # fmt: skip
    front = result.front
    assert problem.feasible(front.genes).all()
    assert problem.space.contains(front.genes).all()
    assert nondominated(front.values).all()
    assert result.candidates == sum(len(b.genes) for b in batches) <= 400
    assert points[-1][:2] == (result.candidates, 400)
    assert np.all(np.diff([p.hypervolume for p in result.curve]) >= -1e-12)
    assert result.curve[-1].hypervolume == pytest.approx(
        reference(problem).hypervolume(front.values)
    )
    again = search(problem, algorithm, candidates=400, seed=5)
    assert (again.front.genes == front.genes).all()
    other = search(problem, algorithm, candidates=400, seed=6)
    assert [p.hypervolume for p in other.curve] != [p.hypervolume for p in result.curve]


def test_fixed_bits_make_the_search_sequential(tiny_priced, tiny_accuracy):
    limits = {"size_mb": float(np.mean(tiny_priced.reach("size_mb")))}
    free = Problem(tiny_priced, tiny_accuracy, ("accuracy",), limits)
    uniform = Problem(tiny_priced, tiny_accuracy, ("accuracy",), limits, fix=("bits=8",))
    best_free, best_uniform = (search(p, "evolution", 1500).front for p in (free, uniform))
    assert set(np.unique(tiny_priced.space.values(best_uniform.genes)["b00_pw_w_bits"])) == {8}
    assert best_free.values[0, 0] <= best_uniform.values[0, 0]


def test_a_space_with_one_permitted_candidate(tiny_priced, tiny_accuracy):
    fix = ("depth=min", "kernel=3", "width=min", "bits=8")
    problem = Problem(tiny_priced, tiny_accuracy, ("accuracy", "bitops_g"), fix=fix)
    for algorithm in ALGORITHMS:
        assert len(search(problem, algorithm, 100).front) == 1


def test_a_predictor_that_answers_nan_is_named(tiny_priced):
    problem = Problem(
        tiny_priced, lambda g: (np.full(len(g), np.nan), np.zeros(len(g))), ("accuracy",)
    )
    with pytest.raises(ApqError, match="predictor answered NaN"):
        search(problem, "random", 20)


def test_a_sampler_that_finds_nothing_within_the_budget_says_so(tiny_priced, tiny_accuracy):
    low, _ = tiny_priced.reach("bitops_g")
    problem = Problem(tiny_priced, tiny_accuracy, ("accuracy",), {"bitops_g": low})
    with pytest.raises(ApqError, match="none of the 20 candidates that optuna scored keeps"):
        search(problem, "optuna", 20)


def test_unknown_algorithm(tiny_priced, tiny_accuracy):
    problem = Problem(tiny_priced, tiny_accuracy, ("accuracy",))
    with pytest.raises(ApqError, match="Did you mean 'evolution'"):
        search(problem, "evolutoin", 20)
