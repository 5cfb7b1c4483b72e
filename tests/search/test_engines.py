"""Every engine meets the same contract; truth is counted out."""

from __future__ import annotations

import numpy as np
import pytest

from apq.search import ALGORITHMS
from apq.search.front import nondominated, reference
from apq.search.problem import Problem
from apq.search.search import search

FIX = ("dw_w_bits=8", "b00_pw_w_bits=8")  # leaves a few thousand candidates


def truth(problem):
    """All objectives of the region's feasible candidates that nothing dominates."""
    every = problem.priced.space.every_candidate()
    every = every[problem.region.contains(every) & problem.feasible(every)]
    values = problem.evaluate(every).values
    return values[nondominated(values)], len(every)


@pytest.mark.parametrize(
    ("algorithm", "seed"),
    [(name, seed) for name in ("nsga2", "evolution") for seed in range(3)] + [("random", 0)],
)
def test_engines_find_the_true_front(tiny_priced, tiny_accuracy, algorithm, seed):
    limits = {"bitops_g": float(np.mean(tiny_priced.reach("bitops_g")))}
    problem = Problem(tiny_priced, tiny_accuracy, ("accuracy", "bitops_g"), limits, FIX)
    wanted, size = truth(problem)
    count = size // 2 if algorithm == "random" else 4 * size
    result = search(problem, algorithm, candidates=count, seed=seed)
    assert len(wanted) > 20
    box = reference(problem)
    if algorithm == "random":  # has no way to finish, only to come near
        assert box.hypervolume(result.front.values) > 0.95 * box.hypervolume(wanted)
    else:
        found = {tuple(v) for v in np.round(result.front.values, 12)}
        assert found == {tuple(v) for v in np.round(wanted, 12)}


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
    assert problem.region.contains(front.genes).all()
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
    from apq.errors import ApqError

    problem = Problem(
        tiny_priced, lambda g: (np.full(len(g), np.nan), np.zeros(len(g))), ("accuracy",)
    )
    with pytest.raises(ApqError, match="predictor answered NaN"):
        search(problem, "random", 20)


def test_unknown_algorithm(tiny_priced, tiny_accuracy):
    from apq.errors import ApqError

    problem = Problem(tiny_priced, tiny_accuracy, ("accuracy",))
    with pytest.raises(ApqError, match="Did you mean 'evolution'"):
        search(problem, "evolutoin", 20)
