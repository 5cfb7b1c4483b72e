"""The cheapest candidate that is accurate enough."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from apq.errors import ApqError, BudgetError
from apq.report.page import write_report
from apq.search.options import Options
from apq.search.problem import Problem
from apq.search.run import run_search
from apq.search.search import search
from apq.search.tolerance import allow_drop


@pytest.fixture
def problem(tiny_priced, tiny_accuracy) -> Problem:
    return Problem(tiny_priced, tiny_accuracy, ("accuracy", "bitops_g"))


@pytest.mark.parametrize("algorithm", ["nsga2", "evolution"])
@pytest.mark.parametrize("points", [1.0, 5.0])
def test_the_cheapest_that_is_accurate_enough_is_found(problem, enumerated, algorithm, points):
    _, every, costs = enumerated
    asked = allow_drop(problem, points)
    accuracy = problem.accuracy(every)[0]
    top = problem.space.snap((problem.space.cardinalities - 1).astype(np.int16)[None])
    assert asked.least == pytest.approx(problem.accuracy(top)[0][0] - points / 100)
    found = search(asked, algorithm, 1500)
    assert found.accuracy >= asked.least
    assert found.within_limits
    assert found.candidates <= 1500
    best = costs["bitops_g"][accuracy >= asked.least].min()
    assert found.costs["bitops_g"] == pytest.approx(best)


def test_a_measured_original_counts_and_what_cannot_be_had_is_said(problem, enumerated):
    _, every, _ = enumerated
    best = problem.accuracy(every)[0].max()
    asked = allow_drop(problem, 2.0, measured=float(best) + 0.03)
    with pytest.raises(BudgetError, match=f"the most accurate that was found has {best:.2%}"):
        search(asked, candidates=600)
    with pytest.raises(ApqError, match="between 0 and 100 points, got 101"):
        allow_drop(problem, 101)
    with pytest.raises(ApqError, match="needs accuracy and a cost as objectives"):
        allow_drop(replace(problem, objectives=("accuracy",)), 1)
    storage = Options(storage="journal.log")
    with pytest.raises(ApqError, match="--storage holds one"):
        search(allow_drop(problem, 2.0), options=storage)


def test_limits_hold_besides_and_files_and_baselines_know(problem, tmp_path):
    low, high = problem.priced.reach("size_mb")
    limited = replace(problem, limits={"size_mb": (low + high) / 2})
    found = run_search(tmp_path, allow_drop(limited, 15.0), candidates=800, baselines=True)
    assert found.within_limits
    assert found.costs["size_mb"] <= (low + high) / 2
    for beside in found.baselines.values():
        if beside is not None and beside.within_limits:
            assert beside.accuracy >= found.problem.least
            assert beside.costs["bitops_g"] >= found.costs["bitops_g"] - 1e-12
    assert found.strongest is not None
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["limits"]["accuracy"] == found.problem.least
    assert best["predicted"]["accuracy"] >= found.problem.least
    page = write_report(tmp_path).read_text()
    assert f"accuracy</bdi> ≥ {found.problem.least:.2%}" in page
    assert f"size_mb</bdi> ≤ {(low + high) / 2:g}" in page
