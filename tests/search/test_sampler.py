"""Our sampler is Optuna's: it works in anybody's study, and decides what a search draws."""

from __future__ import annotations

import moocore
import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from apq.search.genome import ParameterGenome, SpaceGenome
from apq.search.options import Options
from apq.search.problem import Problem
from apq.search.sampler import JointSampler
from apq.search.search import search
from apq.search.study import directions, objective

optuna.logging.set_verbosity(optuna.logging.ERROR)


def toy(trial):
    """Two objectives over mixed parameters, and a constraint: the front is x in 2 … 4."""
    x = trial.suggest_float("x", 0, 10)
    n = trial.suggest_int("n", 0, 20)
    kind = trial.suggest_categorical("kind", ["good", "bad", "worse"])
    cost = n + {"good": 0, "bad": 5, "worse": 9}[kind]
    trial.set_constraint("x", 2 - x)
    return -(x**2) - cost, (x - 4) ** 2 + cost


def volume(study):
    """Hypervolume of the feasible trials, up to (-16, 4): the corner of the front's ends."""
    values = np.array([t.values for t in study.best_trials]) * [-1, 1]
    return moocore.hypervolume(values, ref=[16, 4])


BEST = moocore.hypervolume(
    np.array([(x**2, (x - 4) ** 2) for x in np.linspace(2, 4, 2000)]), ref=[16, 4]
)


@pytest.mark.parametrize("jobs", [1, 2])
def test_it_solves_anybodys_problem_in_a_plain_study(jobs):
    sampler = JointSampler(population_size=30, seed=1)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(toy, n_trials=900, n_jobs=jobs)
    random = optuna.create_study(
        directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=1)
    )
    random.optimize(toy, n_trials=900)
    assert all(t.params["x"] >= 2 for t in study.best_trials)
    assert 0.93 * BEST < volume(study) <= BEST * (1 + 1e-6)
    assert volume(random) < 0.9 * BEST
    assert len({t.system_attrs["NSGAIISampler:generation"] for t in study.trials}) >= 29


def test_it_continues_a_study_of_the_stock_sampler_and_the_other_way_round():
    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.NSGAIISampler(population_size=30, seed=0),
    )
    study.optimize(toy, n_trials=150)
    before = volume(study)
    study.sampler = JointSampler(population_size=30, seed=0)
    study.optimize(toy, n_trials=450)
    study.sampler = optuna.samplers.NSGAIISampler(population_size=30, seed=0)
    study.optimize(toy, n_trials=150)
    numbers = [t.system_attrs["NSGAIISampler:generation"] for t in study.trials]
    assert numbers == [i // 30 for i in range(750)]
    assert volume(study) > max(before, 0.95 * BEST)


@pytest.fixture
def problem(tiny_priced, tiny_accuracy):
    limits = {"bitops_g": float(np.mean(tiny_priced.reach("bitops_g")))}
    return Problem(tiny_priced, tiny_accuracy, ("accuracy", "bitops_g"), limits)


def test_a_study_and_a_search_by_generation_draw_the_same(problem):
    """Optuna's loop, one trial at a time, and whole generations as arrays: equal candidates."""
    genome, size = SpaceGenome(problem), 24
    study = optuna.create_study(
        directions=directions(problem),
        sampler=JointSampler(genome, population_size=size, seed=3),
    )
    study.optimize(objective(problem), n_trials=8 * size)
    sampler = JointSampler(genome, population_size=size, seed=3)
    pool, values, numbers, drawn = None, None, np.arange(0), []
    for generation in range(8):
        if pool is None:
            rows = sampler.first(genome, size)
        else:
            rows = sampler.breed(genome, pool, values, numbers, size)
        drawn += [genome.params(row) for row in rows]
        pool = rows if pool is None else np.concatenate([pool, rows])
        numbers = np.concatenate([numbers, generation * size + np.arange(size)])
        values = problem.evaluate(pool).values
        alive = sampler.survive(values)
        pool, numbers, values = pool[alive], numbers[alive], values[alive]
    assert [t.params for t in study.trials] == drawn
    assert all(t.constraints["bitops_g"] <= 0 for t in study.trials)  # repaired


def test_the_samplers_draws_decide(problem, monkeypatch):
    alone = Options(local_search=0.0, warm_start=False)

    def run(seed):
        return search(problem, "nsga2", 600, seed, alone)

    first, again, other = run(0), run(0), run(1)
    assert set(first.sources) == {"random", "variation"}
    assert first.sources["variation"]["candidates"] > 400
    assert np.array_equal(first.front.genes, again.front.genes)
    assert not np.array_equal(first.front.genes, other.front.genes)
    monkeypatch.setattr(SpaceGenome, "vary", lambda self, first, second, rng: first)
    stuck = run(0)
    assert stuck.curve[-1].hypervolume < first.curve[-1].hypervolume
    assert stuck.candidates < 200  # nothing new turns up


def test_shares_are_counted_where_candidates_come_from(problem):
    seen = []
    result = search(problem, "nsga2", 900, options=Options(local_search=0.5), on_batch=seen.append)
    counts = {name: c["candidates"] for name, c in result.sources.items()}
    assert sum(counts.values()) == result.candidates
    assert 0 < counts["local search"] <= 0.55 * 900
    assert counts["warm start"] > 0
    assert counts["variation"] > 0
    assert sum(c["front"] for c in result.sources.values()) == len(result.front)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(-2, 3)), min_size=2))
def test_survivors_follow_constrained_domination(points):
    """Nobody survives while one that dominates it, or violates less, does not."""
    values = np.array([p[:2] for p in points], dtype=float)
    penalty = np.array([max(0.0, p[2]) for p in points])
    kept = JointSampler(population_size=max(2, len(points) // 2)).survive(values, penalty)
    lost = np.setdiff1d(np.arange(len(points)), kept)
    for i in lost:
        for j in kept:
            both = penalty[i] == penalty[j] == 0
            dominates = (values[i] <= values[j]).all() and (values[i] < values[j]).any()
            assert not (both and dominates)
            assert not penalty[i] < penalty[j]


KINDS = {
    "n": IntDistribution(3, 21, step=3),
    "wide": IntDistribution(1, 100_000, log=True),
    "x": FloatDistribution(-1, 1),
    "step": FloatDistribution(0, 1, step=0.25),
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "kind": CategoricalDistribution(["a", None, 3]),
    "one": IntDistribution(7, 7),
}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_any_parameters_vary_within_their_ranges(seed):
    genome, rng = ParameterGenome(KINDS), np.random.default_rng(seed)
    first, second = genome.sample(8, rng), genome.sample(8, rng)
    for row in genome.vary(first, second, rng):
        params = genome.params(row)
        for name, kind in KINDS.items():
            assert kind._contains(kind.to_internal_repr(params[name])), (name, params[name])
        again = genome.params(genome.rows([params])[0])
        assert again == pytest.approx(params)
