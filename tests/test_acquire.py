import numpy as np
import pytest

from apq.acquire import choose, expected_gain, next_candidates
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


def test_every_choice_lowers_the_doubt_that_matters_most():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(30, 5))
    covariance, noise = root @ root.T, rng.uniform(0.1, 1.0, 30)
    weight = (np.arange(30) < 10).astype(float)

    def doubt(rows):
        """Weighted variance once the rows are measured, by the textbook."""
        if not rows:
            return weight @ covariance.diagonal()
        among = covariance[np.ix_(rows, rows)] + np.diag(noise[rows])
        known = covariance[:, rows] @ np.linalg.solve(among, covariance[rows])
        return weight @ (covariance - known).diagonal()

    chosen = choose(covariance, noise, weight, 6).tolist()
    assert len(set(chosen)) == 6
    for i, row in enumerate(chosen):
        left = [r for r in range(30) if r not in chosen[:i]]
        assert doubt(chosen[: i + 1]) == pytest.approx(
            min(doubt([*chosen[:i], other]) for other in left)
        )
        assert row in left
    assert sorted(choose(covariance, noise, weight, 99)) == list(range(30))


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


def test_what_is_asked_for_tells_more_about_the_front_than_chance(problem):
    space = problem.priced.space
    known = space.sample(30, np.random.default_rng(0))
    rows = next_candidates(problem, covariance, known, 20, candidates=1000, seed=1)
    front = search(problem, "evolution", 1000, 5).front.genes

    def doubt(chosen):
        c = covariance(np.concatenate([front, chosen]))
        n = len(front)
        among = c[n:, n:] + 0.01 * np.eye(len(chosen))
        return np.trace(c[:n, :n] - c[:n, n:] @ np.linalg.solve(among, c[n:, :n]))

    lucky = [doubt(problem.sample(20, np.random.default_rng(s))) for s in range(10)]
    assert doubt(rows) < min(lucky)
