"""Exact limits, fixed genes, and repair."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apq.errors import ApqError, BudgetError
from apq.search.problem import Forgiving, Problem
from apq.search.region import fixed, rounded_up

FIXES = [
    (),
    ("bits=8",),
    ("depth=max", "kernel=3"),
    ("b00_width=min,24", "dw_a_bits=8"),
    ("b0?_pw_w_bits=4",),
]


@pytest.mark.parametrize("fix", FIXES)
def test_extremes_equal_enumeration(tiny_priced, fix):
    searched = fixed(tiny_priced, fix)
    every = tiny_priced.space.every_candidate()
    every = every[searched.space.contains(every)]
    assert len(every) == searched.space.count()
    assert {*map(tuple, every)} == {*map(tuple, searched.space.every_candidate())}
    for metric, costs in tiny_priced.costs(every).items():
        for largest, best in ((False, costs.min()), (True, costs.max())):
            value, row = searched.extreme(metric, largest)
            assert value == pytest.approx(best, rel=1e-12)
            assert searched.space.contains(row).all()


@given(shares=st.tuples(*[st.floats(0, 1)] * 3))
@settings(max_examples=60, deadline=None)
def test_limits_are_refused_exactly_when_nothing_keeps_them(enumerated, shares):
    priced, _, costs = enumerated
    metrics = ("bitops_g", "size_mb", "peak_memory_kb")
    limits = {
        m: float(costs[m].min() * 0.98 + share * np.ptp(costs[m]) / 2)
        for m, share in zip(metrics, shares, strict=True)
    }
    possible = np.all([costs[m] <= limits[m] for m in metrics], axis=0).any()
    try:
        problem = Problem(
            priced,
            lambda g: (np.zeros(len(g)), np.zeros(len(g))),
            limits=limits,
            objectives=("accuracy",),
        )
    except BudgetError:
        assert not possible
        return
    assert possible
    assert problem.feasible(problem.anchors).all()
    rows = problem.sample(50, np.random.default_rng(0))
    assert problem.feasible(rows).all()
    assert problem.space.contains(rows).all()


def test_a_limit_below_reach_says_what_can_be_reached(tiny_priced, tiny_accuracy):
    low = tiny_priced.reach("size_mb")[0]
    with pytest.raises(BudgetError, match="reachable with these choices") as error:
        Problem(tiny_priced, tiny_accuracy, ("accuracy",), {"size_mb": low * 0.9})
    printed = float(str(error.value).split("choices: ")[1].split(" ")[0])
    assert low <= printed <= low * 1.001
    Problem(tiny_priced, tiny_accuracy, ("accuracy",), {"size_mb": printed})
    assert tiny_accuracy.calls == 0


@pytest.mark.parametrize("limit", [-1.0, 0.0, math.nan, math.inf])
def test_a_limit_must_be_a_positive_number(tiny_priced, tiny_accuracy, limit):
    with pytest.raises(BudgetError, match="positive number"):
        Problem(tiny_priced, tiny_accuracy, ("accuracy",), {"size_mb": limit})


@pytest.mark.parametrize(
    ("fix", "message"),
    [
        ("b00_kernl=3", "Did you mean 'b00_kernel'"),
        ("kernel=9", "cannot be 9; allowed: 3, 5, min, max"),
        ("kernel", "not NAME=VALUE"),
        ("bits=nowhere.json", "no candidate at nowhere.json"),
    ],
)
def test_bad_fixes_are_explained(tiny_priced, tiny_accuracy, fix, message):
    with pytest.raises(ApqError, match=message):
        Problem(tiny_priced, tiny_accuracy, ("accuracy",), fix=(fix,))


def test_fixes_that_the_space_excludes_are_refused(tiny_priced, tiny_accuracy):
    with pytest.raises(ApqError, match="leaves nothing to choose in slot b00 with what is fixed"):
        Problem(tiny_priced, tiny_accuracy, ("accuracy",), fix=("b00_kernel=5", "b00_dw_a_bits=4"))


@pytest.mark.parametrize("part", ["architecture", "bits"])
def test_half_of_a_candidate_can_be_kept(tiny_priced, tmp_path, part):
    space = tiny_priced.space
    row = space.sample(20, np.random.default_rng(3))[-1:]
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"candidate": space.build(row[0]).to_dict()}))
    rows = fixed(tiny_priced, (f"{part}={path}",)).space.sample(64, np.random.default_rng(0))
    kept = [
        i
        for i, axis in enumerate(space.axes)
        if (axis.attribute.endswith("_bits")) == (part == "bits")
    ]
    running = space.active(rows) & space.active(row)
    for i in kept:
        slot = space.axes[i].slot
        same = rows[:, i] == row[0, i]
        assert (same if slot is None else same | ~running[:, slot]).all()
    assert len(np.unique(rows, axis=0)) > 1


def test_repair_changes_feasible_rows_not_at_all(tiny_priced, tiny_accuracy):
    limit = float(np.mean(tiny_priced.reach("bitops_g")))
    problem = Problem(tiny_priced, tiny_accuracy, ("accuracy",), {"bitops_g": limit})
    rng = np.random.default_rng(0)
    rows = problem.space.sample(200, rng)
    ok = problem.feasible(rows)
    assert 0 < ok.sum() < 200
    fallback = problem.sample(200, rng)
    for repaired in (
        problem.pull(rows, fallback, fallback, rng),
        problem.cheapen(rows, fallback, rng),
    ):
        assert (repaired[ok] == rows[ok]).all()
        assert problem.feasible(repaired).all()
        assert problem.space.contains(repaired).all()


def test_caution_and_score_change_the_objective(tiny_priced, tiny_accuracy):
    genes = tiny_priced.space.sample(5, np.random.default_rng(0))
    mean, spread = tiny_accuracy(genes)
    cautious = Problem(tiny_priced, tiny_accuracy, ("accuracy",), caution=2.0).evaluate(genes)
    assert cautious.values[:, 0] == pytest.approx(2 * spread - mean)
    assert cautious.accuracy == pytest.approx(mean)
    forgiving = Forgiving("bitops_g", 0.01)
    scored = Problem(tiny_priced, tiny_accuracy, ("score",), forgiving=forgiving).evaluate(genes)
    factor = forgiving.factor(tiny_priced.costs(genes)["bitops_g"])
    assert -scored.values[:, 0] == pytest.approx(mean * factor)


def test_forgiving_factor_matches_the_reference(shared):
    data = json.loads((shared / "reference/quantization/forgiving_factor.json").read_text())
    cases = data["scores"]
    assert len(cases) > 3
    for case in cases:
        forgiving = Forgiving(
            "bitops_g",
            case["reference"],
            case["delta_p"],
            case["delta_n"],
            case["rate"],
            case["stress"],
        )
        assert forgiving.factor(np.array([case["trial"]]))[0] == pytest.approx(
            1 + case["delta"], rel=1e-9
        )


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-12, 1e12))
def test_a_printed_limit_can_be_met(value):
    printed = float(rounded_up(value))
    assert printed >= value * (1 - 1e-12)
    assert printed <= value * 1.0011


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["macs_m", "bitops_g", "size_mb"]))
def test_the_exact_minimum_is_feasible_however_it_is_added_up(tiny_priced, seed, metric):

    def nobody(genes):
        raise AssertionError("limits are checked without the predictor")

    rng = np.random.default_rng(seed)
    tables = {m: tuple(t * rng.random(t.shape) for t in ts) for m, ts in tiny_priced.tables.items()}
    priced = replace(tiny_priced, tables=tables)
    value, row = priced.extreme(metric)
    active = priced.space.active(row)[0]
    index = priced.combinations(row)[0]
    terms = [t.ravel()[i] for t, i, a in zip(tables[metric], index, active, strict=True) if a]
    for order in (terms, terms[::-1], sorted(terms)):
        exact = priced.fixed[metric] + sum(order)
        problem = Problem(priced, nobody, ("accuracy", metric), limits={metric: exact})
        assert problem.feasible(row).all()
    with pytest.raises(BudgetError) as refused:
        Problem(priced, nobody, ("accuracy", metric), limits={metric: value / 2})
    low, high = (float(word) for word in str(refused.value).split("choices: ")[1].split(" … "))
    for printed in (low, high):
        Problem(priced, nobody, ("accuracy", metric), limits={metric: printed})
    costs = priced.costs(priced.space.every_candidate(), [metric])[metric]
    assert high >= costs.max() * (1 - 1e-12)


@pytest.mark.parametrize(
    "wrong",
    [{"rate": 0.0}, {"rate": 1.0}, {"reference": 0.0}, {"stress": -1.0}, {"smaller": np.nan}],
)
def test_numbers_that_make_no_score_are_refused(wrong):
    with pytest.raises(ApqError, match=r"score (needs|must be finite)|must be finite"):
        Forgiving(**({"metric": "bitops_g", "reference": 0.5} | wrong))


@pytest.mark.parametrize("caution", [np.nan, np.inf])
def test_a_caution_that_is_no_number_is_refused(tiny_priced, tiny_accuracy, caution):
    with pytest.raises(ApqError, match="caution must be a finite number"):
        Problem(tiny_priced, tiny_accuracy, ("accuracy",), caution=caution)
