"""Tables against whole networks, and what a table says about itself."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from apq.cli import main
from apq.errors import TableError
from apq.hardware import LookupTable, build_table, load_cost_model, price_space
from apq.hardware.calibration import (
    affine_fit,
    agreement,
    calibrate,
    networks_columns,
    read_networks,
)
from apq.hardware.inspect import missing, oddities, priced_layers, ranges, shares
from apq.space import Layer, load_space
from apq.space.layer import to_array


@pytest.fixture(scope="module")
def table(tiny_space):
    return build_table(tiny_space, load_cost_model("bitfusion-apq"))


@pytest.fixture(scope="module")
def measured(tiny_space, table):
    """Networks whose latency is an affine function of the table's sums, with 2 % noise."""
    genes = tiny_space.sample(40, np.random.default_rng(0))
    sums = price_space(tiny_space, table).costs(genes)["latency_ms"]
    noise = 1 + 0.02 * np.random.default_rng(1).uniform(-1, 1, len(sums))
    return genes, (0.01 + 1.7 * sums) * noise


def test_an_exact_relation_is_found():
    x = np.array([1.0, 2.0, 5.0])
    assert affine_fit(x, 0.5 + 3 * x) == pytest.approx((0.5, 3.0))


def test_agreement_by_hand():
    got = agreement(np.array([1.0, 2.2, 2.7]), np.array([1.0, 2.0, 3.0]))
    assert (got.median, got.worst) == pytest.approx((0.1, 0.1))
    assert got.spearman == pytest.approx(1.0)


def test_a_calibrated_table_predicts_networks_it_has_not_seen(tiny_space, table, measured):
    genes, latency = measured
    result = calibrate(table, tiny_space, genes, latency, fit_on=10, seed=3)
    assert result.after.networks == 30
    assert result.before.median > 0.3
    assert result.after.worst < 0.05
    assert result.slope == pytest.approx(1.7, rel=0.05)
    predicted = price_space(tiny_space, result.table).costs(genes)["latency_ms"]
    np.testing.assert_allclose(predicted, latency, rtol=0.05)
    assert float(result.table.header["calibration_margin"]) == pytest.approx(
        result.after.worst, abs=1e-4
    )


def test_calibrating_twice_changes_nothing_more(tiny_space, table, measured):
    once = calibrate(table, tiny_space, *measured).table
    again = calibrate(once, tiny_space, *measured)
    assert again.slope == pytest.approx(1)
    assert again.constant_ms == pytest.approx(0, abs=1e-9)


def test_few_networks_are_checked_by_leaving_one_out(tiny_space, table, measured):
    genes, latency = (part[:6] for part in measured)
    result = calibrate(table, tiny_space, genes, latency, fit_on=10)
    assert result.after.networks == 6
    assert "leaving one out" in result.table.header["calibration"]


def test_a_table_that_does_not_predict_is_refused_unless_forced(tiny_space, table, measured):
    genes, latency = measured
    wild = latency * np.where(np.arange(len(latency)) % 2, 0.5, 2.0)
    with pytest.raises(TableError, match=r"refused: .* allowed worst 10%"):
        calibrate(table, tiny_space, genes, wild)
    assert calibrate(table, tiny_space, genes, wild, force=True).after.worst > 0.1
    with pytest.raises(TableError, match="not measured on this device"):
        calibrate(table, tiny_space, genes, 1 / latency)
    with pytest.raises(TableError, match="at least 4"):
        calibrate(table, tiny_space, genes[:3], latency[:3])


def write_networks(path, space, genes, latency):
    columns = networks_columns(space, genes, latency)
    with path.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def test_networks_read_back(tmp_path, tiny_space, measured):
    write_networks(tmp_path / "n.csv", tiny_space, *measured)
    genes, latency = read_networks(tmp_path / "n.csv", tiny_space)
    np.testing.assert_array_equal(genes, measured[0])
    np.testing.assert_allclose(latency, measured[1], rtol=1e-7)
    (tmp_path / "bad.csv").write_text("depth_0\n1\n")
    with pytest.raises(TableError, match="no column latency_ms"):
        read_networks(tmp_path / "bad.csv", tiny_space)


def test_commands_verify_and_calibrate(tmp_path, monkeypatch, capsys):
    space = load_space("digits")
    table = build_table(space, load_cost_model("bitfusion-apq"))
    table.write(tmp_path / "raw.csv")
    genes = space.sample(20, np.random.default_rng(0))
    sums = price_space(space, table).costs(genes)["latency_ms"]
    write_networks(tmp_path / "n.csv", space, genes, 0.5 + 2 * sums)
    common = ["--networks", str(tmp_path / "n.csv"), "--space", "digits", "--json"]
    monkeypatch.setattr(
        sys, "argv", ["apq", "lut", "verify", "--lut", str(tmp_path / "raw.csv"), *common]
    )
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["table"]["spearman"] == pytest.approx(1)
    to = tmp_path / "new.csv"
    monkeypatch.setattr(
        sys, "argv",
        ["apq", "lut", "calibrate", "--lut", str(tmp_path / "raw.csv"), "--out", str(to), *common],
    )  # fmt: skip
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["slope"] == pytest.approx(2)
    costs = price_space(space, LookupTable.read(to)).costs(genes)["latency_ms"]
    np.testing.assert_allclose(costs, 0.5 + 2 * sums, rtol=1e-6)


def test_priced_layers_are_the_spaces_layers(tiny_space, table):
    for row in tiny_space.sample(5, np.random.default_rng(0)):
        candidate = tiny_space.build(row)
        rows = priced_layers(tiny_space, candidate, table)
        np.testing.assert_array_equal(rows, to_array(tiny_space.layers(candidate)))
        part = priced_layers(tiny_space, candidate, replace(table, leaves_out=("stem", "head")))
        assert len(part) == len(rows) - 2


def test_shares_add_up_to_one(tiny_space, table):
    for parts in shares(tiny_space, table, count=20).values():
        assert sum(parts.values()) == pytest.approx(1)


def test_ranges_count_every_row(table):
    assert sum(part["rows"] for part in ranges(table).values()) == len(table.layers)


def test_missing_layers_are_counted(tiny_space, table):
    assert len(missing(table, tiny_space)) == 0
    half = replace(
        table, layers=table.layers[::2], prices={m: v[::2] for m, v in table.prices.items()}
    )
    assert len(missing(half, tiny_space)) == len(table.layers) - len(half.layers)


def test_oddities_are_found_where_they_are():
    conv = Layer("conv", 16, 32, 16, 16)
    rows = [replace(conv, weight_bits=b) for b in (4, 6, 8)]
    rows += [Layer("conv", c, c, 16, 16, 3, 1, c) for c in (8, 16, 24)]
    table = LookupTable(
        "toy", "", to_array(rows), {"latency_ms": np.array([3.0, 2.0, 5.0, 1.0, 2.0, 1.5])}
    )
    found = {o["what"]: o for o in oddities(table)}
    assert set(found) == {"more weight bits", "more input channels"}
    assert found["more weight bits"]["cheaper"] == 1
    assert found["more weight bits"]["pairs"] == 2
    assert found["more weight bits"]["worst"] == pytest.approx(-1 / 3)
    assert found["more input channels"]["worst"] == pytest.approx(-0.25)


def test_apqs_published_oddities(shared):
    from apq.hardware.importing import import_apq_json

    table = import_apq_json(shared / "reference/apq/bitfusion_b1_lut.json")
    found = {(o["what"], o["metric"]): o for o in oddities(table)}
    assert found["a larger kernel", "energy_mj"]["cheaper"] == 22
    width = found["more input channels", "latency_ms"]
    assert width["cheaper"] == 4
    assert width["worst"] == pytest.approx(-0.021, abs=1e-3)
    assert "1024->192 @7px w6a6" in width["example"]
