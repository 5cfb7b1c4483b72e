"""Searching as a library: plain arguments, and a result that says what was chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apq.errors import ApqError, BudgetError
from apq.search.search import search_front


def test_the_chosen_candidate_comes_with_its_prediction_and_costs(tiny_priced, tiny_accuracy):
    low, high = tiny_priced.reach("bitops_g")
    limit = (low + high) / 2
    found = search_front(tiny_priced, tiny_accuracy, {"bitops_g": limit}, candidates=400)
    genes = tiny_priced.space.genes([found.candidate])
    assert found.problem.objectives == ("accuracy", "bitops_g")
    assert found.costs["bitops_g"] == tiny_priced.costs(genes)["bitops_g"][0] <= limit
    assert found.accuracy == tiny_accuracy(genes)[0][0] == max(found.front.accuracy)
    assert found.spread == tiny_accuracy(genes)[1][0]
    assert set(found.costs) == set(tiny_priced.metrics)


def test_without_limits_bitops_are_traded_where_no_device_is(tiny_priced, tiny_accuracy):
    found = search_front(tiny_priced, tiny_accuracy, candidates=400)
    assert found.problem.objectives == ("accuracy", "bitops_g")
    assert found.chosen == found.front.knee()
    named = search_front(tiny_priced, tiny_accuracy, objectives=("accuracy", "size_mb"), seed=1)
    assert named.problem.objectives == ("accuracy", "size_mb")
    assert named.seed == 1


def test_choices_can_be_kept_to(tiny_priced, tiny_accuracy):
    found = search_front(tiny_priced, tiny_accuracy, fix=("bits=8",), candidates=400)
    bits = [value for name, value in found.candidate.choices if name.endswith("bits")]
    assert set(bits) == {8}


def test_room_is_left_for_what_a_table_is_off_by_when_asked(tiny_priced, tiny_accuracy):
    measured = replace(tiny_priced, margins={"bitops_g": 0.25})
    low, _ = tiny_priced.reach("bitops_g")
    limits = {"bitops_g": 1.3 * low, "size_mb": tiny_priced.reach("size_mb")[1]}
    careful = search_front(measured, tiny_accuracy, limits, with_margin=True, candidates=400)
    assert careful.problem.limits == {"bitops_g": 1.3 * low / 1.25, "size_mb": limits["size_mb"]}
    assert careful.costs["bitops_g"] * 1.25 <= 1.3 * low * (1 + 1e-9)
    plain = search_front(measured, tiny_accuracy, limits, candidates=400)
    assert plain.problem.limits == limits
    with pytest.raises(BudgetError, match="no candidate of space 'tiny' has bitops_g"):
        search_front(measured, tiny_accuracy, {"bitops_g": low}, with_margin=True)


def test_what_does_not_exist_is_said(tiny_priced, tiny_accuracy):
    with pytest.raises(ApqError, match="unknown cost 'latency_ms'"):
        search_front(tiny_priced, tiny_accuracy, {"latency_ms": 1.0})
    with pytest.raises(ApqError, match=r"unknown algorithm 'nsga3'. Did you mean 'nsga2'"):
        search_front(tiny_priced, tiny_accuracy, algorithm="nsga3")
