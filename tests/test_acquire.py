import numpy as np
import pytest
from scipy.special import ndtr

from apq.acquire import expected_gain, next_candidates, sampled_fronts
from apq.hardware.pricing import price_space
from apq.search.problem import Problem
from apq.search.search import search
from apq.space import load_space


def test_gain_is_the_mean_of_what_a_draw_would_add():
    mean, spread = np.array([0.5, 0.6, 0.58, 0.3]), np.array([0.1, 0.05, 0.1, 0.01])
    costs = np.array([[1.0], [2.0], [3.0], [2.5]])
    gain = expected_gain(mean, spread, costs)
    # the cheapest has only itself; the second has to beat 0.5, the others 0.6
    best = np.array([0.5, 0.5, 0.6, 0.6])
    draws = mean + spread * np.random.default_rng(0).normal(size=(200_000, 4))
    np.testing.assert_allclose(gain, np.maximum(draws - best, 0).mean(axis=0), atol=3e-4)
    assert gain[3] == pytest.approx(0, abs=1e-12)


def test_gain_looks_at_every_cost():
    mean, spread = np.array([0.6, 0.5]), np.full(2, 0.01)
    assert expected_gain(mean, spread, np.array([[1.0, 1.0], [2.0, 2.0]]))[1] < 1e-9
    assert expected_gain(mean, spread, np.array([[1.0, 3.0], [2.0, 2.0]]))[1] > 1e-3


def test_draws_choose_what_may_be_best_within_a_budget():
    mean = np.array([0.5, 0.6, 0.4, 0.7, 0.2])
    costs = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
    sure = np.zeros((5, 5))
    rng = np.random.default_rng(0)
    assert {int(sampled_fronts(mean, sure, costs, 1, rng)[0]) for _ in range(60)} == {0, 1, 3}
    # one of equal cost is unknown: it is chosen as often as it would be the best
    doubt = np.diag([0.0, 0.0, 1.0, 0.0, 0.0])
    first = [sampled_fronts(mean, doubt, 0 * costs, 1, rng)[0] for _ in range(600)]
    assert set(first) == {2, 3}
    assert np.mean(np.array(first) == 2) == pytest.approx(ndtr(-0.3), abs=0.06)


def test_draws_never_take_a_row_twice_and_can_take_all():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(30, 5))
    mean, costs = rng.normal(size=30), rng.random((30, 2))
    assert sorted(sampled_fronts(mean, root @ root.T, costs, 99, rng)) == list(range(30))
    assert len(set(sampled_fronts(mean, root @ root.T, costs, 12, rng))) == 12


@pytest.fixture(scope="module")
def problem():
    space = load_space("digits")

    def accuracy(genes):
        """Every gene adds, so that the front runs from small to large choices."""
        mean = 0.5 + 0.4 * (genes / (space.cardinalities - 1).clip(1)).mean(axis=1)
        return mean, np.full(len(genes), 0.02)

    return Problem(price_space(space), accuracy, ("accuracy", "bitops_g"))


def covariance(genes):
    """Alike as far as genes are equal."""
    return 0.0004 * np.exp(-np.mean(genes[:, None] != genes, axis=2) / 0.3)


def test_what_is_asked_for_is_new(problem):
    space = problem.priced.space
    known = space.sample(50, np.random.default_rng(0))
    rows = next_candidates(problem, covariance, known, 20, candidates=1000, seed=1)
    assert rows.shape == (20, len(space.axes))
    assert space.is_valid(rows).all()
    assert np.array_equal(space.canonical(rows), rows)
    both = np.concatenate([rows, np.unique(known, axis=0)])
    assert len(np.unique(both, axis=0)) == len(both)
    again = next_candidates(problem, covariance, known, 20, candidates=1000, seed=1)
    assert np.array_equal(again, rows)


def test_what_is_asked_for_lies_near_the_front_at_all_costs(problem):
    space = problem.priced.space
    known = space.sample(30, np.random.default_rng(0))
    rows = next_candidates(problem, covariance, known, 20, candidates=1000, seed=1)
    asked, lucky = (
        problem.evaluate(genes) for genes in (rows, problem.sample(200, np.random.default_rng(3)))
    )
    front = search(problem, "evolution", 1000, 5).front

    def behind(scored):
        """How far below the front's accuracy at its cost, on average."""
        cost = scored.costs["bitops_g"][:, None]
        best = np.where(front.costs["bitops_g"] <= cost, front.accuracy, 0.5).max(axis=1)
        return np.mean(best - scored.accuracy)

    assert behind(asked) < 0.5 * behind(lucky)
    low, high = np.quantile(front.costs["bitops_g"], [0.25, 0.75])
    assert asked.costs["bitops_g"].min() < low
    assert asked.costs["bitops_g"].max() > high
