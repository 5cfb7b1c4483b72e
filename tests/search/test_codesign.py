"""Networks and accelerators chosen together, on spaces whose pairs can be listed."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from formula import rising

from apq.errors import ApqError
from apq.hardware import build_table, price_space
from apq.hardware.designs import DESIGNS, simulate_layers
from apq.hardware.lut import LookupTable
from apq.hardware.polynomial import (
    fit_polynomial,
    fit_surrogate,
    random_designs,
    simulate_rows,
)
from apq.search.best import read_best
from apq.search.codesign import of_network, price_designs
from apq.search.pairs import ORDERS, try_orders, with_every_design, write_pair
from apq.search.problem import Problem

SMALL = {"pe": ["INT16", "INT8"], "rows": [2, 8], "columns": [8], "dram_bits_per_cycle": [16, 64]}


@pytest.fixture(scope="module")
def designs():
    return DESIGNS["row-stationary"]().narrowed({**SMALL, "buffer_kb": [32]})


@pytest.fixture(scope="module")
def priced(tiny_space, designs):
    return price_designs(tiny_space, designs)


@pytest.fixture(scope="module")
def accuracy(tiny_space):
    return rising(tiny_space)


@pytest.fixture(scope="module")
def every(priced):
    """All pairs."""
    space = priced.space
    rows = np.zeros((1, len(space.axes)), dtype=np.int16)
    networks = space.networks(len(space.designs) - 1).every_candidate()
    rows = np.repeat(rows, len(networks), axis=0)
    rows[:, space.network] = networks
    return with_every_design(space, rows)


@pytest.fixture(scope="module")
def problem(priced, accuracy, every):
    names = ("latency_ms", "energy_mj", "area_mm2")
    limits = {m: float(np.quantile(c, 0.4)) for m, c in priced.costs(every, names).items()}
    return Problem(priced, of_network(priced.space, accuracy), ("accuracy",), limits)


@pytest.mark.parametrize("name", DESIGNS)
def test_pairs_cost_what_the_network_costs_on_its_accelerator(name, tiny_space):
    some = DESIGNS[name]()
    some = some.narrowed(
        {k: menu[:2] if k in ("pe", "rows") else menu[:1] for k, menu in some.knobs.items()}
    )
    priced = price_designs(tiny_space, some)
    rows = priced.space.sample(6, np.random.default_rng(0))
    costs = priced.costs(rows)
    for n, (row, at) in enumerate(zip(rows, priced.space.design(rows), strict=True)):
        model = some.models[at]
        alone = price_space(tiny_space, build_table(tiny_space, model))
        true = alone.costs(row[None, priced.space.network])
        for metric in ("latency_ms", "energy_mj", "size_mb", "bitops_g"):
            assert costs[metric][n] == pytest.approx(true[metric][0])
        facts = some.facts(model)
        assert {m: costs[m][n] for m in facts} == pytest.approx(facts)
    assert set(priced.metrics) == set(costs)


def test_extremes_are_exact(priced, every):
    for metric, cost in priced.costs(every).items():
        assert priced.reach(metric) == pytest.approx((cost.min(), cost.max()))


def test_larger_accelerators_are_larger_and_fusing_costs_area():
    for name in DESIGNS:
        some = DESIGNS[name]()
        facts = [some.facts(model) for model in some.models]
        for metric in ("area_mm2", "power_mw"):
            table = np.array([f[metric] for f in facts]).reshape(some.shape)
            assert (np.diff(table, axis=1) > 0).all()  # rows
            assert (np.diff(table, axis=2) > 0).all()  # columns
    fixed, fusible = (some.facts(some.models[i])["area_mm2"] for i in (0, len(some) // 2))
    units = 4 * 8
    assert 1e6 * (fusible - fixed) == pytest.approx(units * (1734.6 - 510.7))
    with pytest.raises(ApqError, match=r"unknown knob of bitfusion 'row'.*'rows'"):
        some.narrowed({"row": [1]})


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_keeps_the_limits_and_together_finds_the_best(order, problem, every):
    found = ORDERS[order](problem, 500, 0)
    truth = problem.accuracy(every[problem.feasible(every)])[0].max()
    assert problem.feasible(found.genes)[0]
    assert found.accuracy <= truth + 1e-12
    assert found.candidates <= 500
    if order == "together":
        assert found.accuracy == pytest.approx(truth)


def test_a_shifting_element_gets_only_formats_that_it_takes(tiny_space):
    space = tiny_space.with_(fixed_bits=4)
    some = DESIGNS["row-stationary"]().narrowed({**SMALL, "pe": ["LightPE-1", "INT8"]})
    priced = price_designs(space, some.narrowed({"buffer_kb": [32]}))
    rows = priced.space.snap(priced.space.draw(300, np.random.default_rng(0)))
    light = rows[:, priced.space.device[0]] == 0
    assert light.any()
    assert not light.all()
    for axis, column in zip(priced.space.axes, rows.T, strict=True):
        if axis.attribute.endswith("w_bits"):
            assert (np.array(axis.choices)[column[light]] == 4).all()
    assert all(np.isfinite(c).all() for c in priced.costs(rows).values())
    assert np.isfinite([priced.reach(m) for m in priced.metrics]).all()
    assert priced.space.contains(rows).all()
    # with 8 bits in every network there is nothing that it can run
    assert price_designs(tiny_space, some).space.designs.knobs["pe"] == ("INT8",)
    with pytest.raises(ApqError, match="no pe of row-stationary takes"):
        price_designs(tiny_space, some.narrowed({"pe": ["LightPE-1"]}))


def test_a_pair_is_written_as_a_run_on_its_accelerator(problem, accuracy, tmp_path):
    found = try_orders(problem, list(ORDERS), 200, 0)
    told = write_pair(tmp_path, problem, accuracy, found, 0, "apq search")
    assert json.loads((tmp_path / "device.json").read_text())["knobs"] == told["knobs"]
    best = read_best(tmp_path / "best.json")
    table = LookupTable.read(tmp_path / "device.csv")
    alone = price_space(best.space, table)
    cost = alone.costs(best.space.genes([best.candidate]))["latency_ms"][0]
    assert cost == pytest.approx(told["costs"]["latency_ms"])
    assert cost <= problem.limits["latency_ms"]


def test_polynomials_recover_a_power_law_and_choose_its_degree():
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 5, (60, 3))
    law = np.exp2(np.stack([1 - x[:, 0] + 0.5 * x[:, 1], x[:, 1] * x[:, 2] / 9], axis=1))
    fit = fit_polynomial(x[:40], law[:40])
    assert fit.degree == 2
    np.testing.assert_allclose(fit.prices(x[40:]), law[40:], rtol=1e-6)
    with pytest.raises(ApqError, match="too few"):
        fit_polynomial(x[:4], law[:4])


def test_polynomials_stand_for_the_simulator(tiny_space, designs):
    wide = designs.narrowed({"columns": [8, 16], "buffer_kb": [32, 64]})
    surrogate = fit_surrogate(tiny_space, wide, 60)
    rows = random_designs(wide, 30, np.random.default_rng(9))
    truth = simulate_rows(tiny_space, wide, rows)
    for metric, told in surrogate.layer_prices(rows).items():
        assert np.median(np.abs(told / truth[metric] - 1)) < 0.15
    exact, fitted = simulate_layers(tiny_space, wide), surrogate.table()
    assert (exact.layers == fitted.layers).all()
    assert (
        price_designs(tiny_space, wide, fitted).metrics == price_designs(tiny_space, wide).metrics
    )


def test_designs_are_listed_in_order(designs):
    listed = [designs.values(i) for i in range(len(designs))]
    every = itertools.product(*designs.knobs.values())
    assert [tuple(row.values()) for row in listed] == list(every)
    assert [m.rows for m in designs.models] == [row["rows"] for row in listed]
