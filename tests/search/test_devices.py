"""Networks on devices that they were not searched for, on a space that can be listed."""

from __future__ import annotations

import numpy as np
import pytest
from formula import rising

from apq.errors import ApqError, BudgetError
from apq.hardware import configure, load_cost_model, price_space
from apq.search.devices import ALL, across, matrix, shared_limits
from apq.search.region import within


@pytest.fixture(scope="module")
def priced(tiny_space):
    wide = configure(load_cost_model("bit-serial"), {"name": "wide"})
    return price_space(tiny_space, [load_cost_model("roofline"), wide])


@pytest.fixture(scope="module")
def accuracy(tiny_space):
    return rising(tiny_space)


def test_limits_are_equally_tight_on_every_device(priced):
    limits = shared_limits(priced, 0.25)
    rows = priced.space.snap(priced.space.draw(4000, np.random.default_rng(5)))
    for name, costs in priced.costs(rows, limits).items():
        assert np.mean(costs <= limits[name]) == pytest.approx(0.25, abs=0.04)
    with pytest.raises(ApqError, match="between 0 and 1"):
        shared_limits(priced, 1.5)
    with pytest.raises(ApqError, match="at least two devices"):
        shared_limits(price_space(priced.space, load_cost_model("roofline")), 0.5)


def test_every_winner_is_best_at_home_and_foreign_ones_are_no_better_there(priced, accuracy):
    limits = shared_limits(priced, 0.3)
    answers = across(priced, accuracy, limits, 400, seeds=[0])
    every = priced.space.every_candidate()
    truth, _ = accuracy(every)
    costs = priced.costs(every, limits)
    for name, limit in limits.items():
        home = answers[answers.searched_for == name.partition("@")[2]]
        best = truth[within({name: costs[name]}, {name: limit})].max()
        assert home.accuracy.iloc[0] == pytest.approx(best)
    for row in answers.itertuples():  # at the cost that a winner has somewhere
        name = f"latency_ms@{row.run_on}"
        best = truth[within({name: costs[name]}, {name: row.cost})].max()
        assert row.accuracy <= row.own_accuracy + 1e-12
        assert row.own_accuracy == pytest.approx(best, abs=0.01)
    together = answers[answers.searched_for == ALL]
    assert together.kept.all()
    head, rows = matrix(answers)
    assert head[2:] == [f"on {n.partition('@')[2]}" for n in limits]
    assert [row[0] for row in rows] == [*(n.partition("@")[2] for n in limits), ALL]


def test_limits_that_no_network_keeps_together_are_said(priced, accuracy):
    low = {n: priced.reach(n)[0] for n in ("latency_ms@roofline", "latency_ms@wide")}
    answers = across(priced, accuracy, low, 60, seeds=[0])
    told = answers[answers.searched_for == ALL]
    apart = not priced.space.every_candidate()[
        within(priced.costs(priced.space.every_candidate(), low), low)
    ].size
    assert told["error"].notna().all() == apart
    with pytest.raises(BudgetError, match=r"latency_ms@wide"):
        across(priced, accuracy, {**low, "latency_ms@wide": low["latency_ms@wide"] / 2}, 60)
