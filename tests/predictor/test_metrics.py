import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from apq.predictor.metrics import (
    coverage,
    kendall_interval,
    kendall_tau,
    pairwise_accuracy,
    regret,
    score,
)

numbers = arrays(np.float64, st.integers(2, 30), elements=st.integers(0, 9).map(float))


@settings(max_examples=40, deadline=None)
@given(numbers, st.randoms(use_true_random=False))
def test_pairwise_accuracy_counts_pairs(measured, random):
    predicted = np.array([float(random.randint(0, 9)) for _ in measured])
    points, pairs = 0.0, 0
    for i in range(len(measured)):
        for j in range(i):
            if measured[i] != measured[j]:
                pairs += 1
                same = (predicted[i] > predicted[j]) == (measured[i] > measured[j])
                points += 0.5 if predicted[i] == predicted[j] else float(same)
    found = pairwise_accuracy(predicted, measured)
    assert found == pytest.approx(points / pairs) if pairs else np.isnan(found)


def test_without_ties_pairwise_accuracy_is_kendalls_tau_on_another_scale():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(size=50)
    assert 2 * pairwise_accuracy(a, b) - 1 == pytest.approx(kendall_tau(a, b))


def test_a_perfect_and_a_constant_prediction():
    truth = np.arange(10.0)
    assert pairwise_accuracy(truth * 3 + 1, truth) == 1.0
    assert pairwise_accuracy(np.zeros(10), truth) == 0.5
    assert kendall_tau(np.zeros(10), truth) == 0.0


def test_the_interval_holds_tau_and_narrows_with_more_candidates():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=800)
    predicted = truth + rng.normal(size=800)
    few = score(predicted[:50], truth[:50])
    many = score(predicted, truth)
    assert few.kendall_low < few.kendall < few.kendall_high
    assert many.kendall_high - many.kendall_low < (few.kendall_high - few.kendall_low) / 2
    assert kendall_interval(predicted, truth, seed=3) == kendall_interval(predicted, truth, seed=3)


def test_rmse_is_in_the_unit_of_the_measurements():
    assert score([0.5, 0.7, 0.6], [0.4, 0.8, 0.6]).rmse == pytest.approx(np.sqrt(0.02 / 3))


def test_regret_is_what_the_best_overlooked_candidate_was_better():
    measured, predicted = [0.7, 0.9, 0.8], [3.0, 1.0, 2.0]
    assert [round(regret(predicted, measured, k), 6) for k in (1, 2, 3)] == [0.2, 0.1, 0.0]


def test_coverage_counts_measurements_inside():
    inside = coverage(np.zeros(4), np.ones(4), np.array([0.5, -1.5, 2.5, 1.9]), 2.0)
    assert inside == 0.75
