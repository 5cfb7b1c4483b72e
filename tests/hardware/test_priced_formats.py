"""What devices make of number formats: by array as by layer, in tables, and refused with words."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apq.errors import TableError
from apq.hardware import COST_MODELS, LookupTable, build_table, load_cost_model, price_space
from apq.hardware.calibration import networks_columns, read_networks
from apq.hardware.horowitz import Horowitz
from apq.hardware.inspect import missing, oddities, priced_layers
from apq.hardware.lut import needed_layers
from apq.hardware.row_stationary import RowStationary
from apq.space import FORMATS, PRESETS, BitChoices, Layer, Space
from apq.space.formats import choice_of, code_of
from apq.space.layer import size_bits, to_array

INTEGERS = [code for code, f in enumerate(FORMATS) if 0 < f.integer_bits <= 8 and f.bits]


def layer(weights: int | str, activations: int | str = 8):
    """A row of one pointwise convolution."""
    return to_array(
        [
            Layer("conv", 16, 32, 16, 16, weight_bits=code_of(weights),
                  activation_bits=code_of(activations))
        ]
    )  # fmt: skip


def named_space(*weights: int | str) -> Space:
    """The digits space with these formats for weights."""
    return PRESETS["digits"]().with_(bits=BitChoices(weights, (4, 8), weights, (8,)))


@settings(max_examples=15, deadline=None)
@given(
    codes=st.lists(st.sampled_from(INTEGERS), min_size=1, max_size=3, unique=True),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.parametrize("name", [n for n in COST_MODELS if "bitfusion" not in n])
def test_a_price_by_array_is_the_price_by_layer(name, codes, seed):
    space, device = named_space(*map(choice_of, codes)), load_cost_model(name)
    priced = price_space(space, device)
    genes = space.sample(3, np.random.default_rng(seed))
    costs = priced.costs(genes)
    for i, row in enumerate(genes):
        layers = to_array(list(space.layers(space.build(row))))
        assert costs["size_mb"][i] == pytest.approx(size_bits(layers).sum() / 8e6, rel=1e-12)
        for metric, values in device.price(priced_layers(space, space.build(row), device)).items():
            assert costs[metric][i] == pytest.approx(values.sum(), rel=1e-9)


def test_horowitz_prices_formats_as_qtools_does(shared):
    """Multiply-accumulates alone: weights wired in, activations without memory."""
    text = (shared / "reference/quantization/qtools_energy.json").read_text()
    golden = {
        (row["weight"], row["input"]): row["mac_pJ"]
        for row in json.loads(text)["mac_table_kernel_3x3x64_no_bias"]
    }
    model = Horowitz(weights_in="fixed", activations_in="fixed", bias_bits=0)
    compared = 0
    for (weight, inputs), pj in golden.items():
        name = {"ternary": "ternary", "binary": "binary", "binary(use_01)": "modified-binary"}.get(
            weight, f"po2-{weight[14:-1]}" if weight.startswith("quantized_po2(") else ""
        )
        if name not in [f.name for f in FORMATS] or not inputs.startswith("quantized_relu("):
            continue
        row = to_array([Layer("conv", 64, 32, 8, 8, 3, weight_bits=code_of(name))])
        row["activation_bits"] = int(inputs.split("(")[1].split(",")[0].rstrip(")"))
        priced = model.price(row)["energy_mj"][0] * 1e9 / (64 * 9 * 32 * 64)
        assert priced == pytest.approx(pj, rel=1e-6), (weight, inputs)
        compared += 1
    assert compared >= 8


def test_cheaper_circuits_cost_less_at_equal_bits():
    model = Horowitz(weights_in="fixed", activations_in="fixed", bias_bits=0)
    energy = {
        name: float(model.price(layer(name))["energy_mj"][0])
        for name in ("codebook-4", 4, "mantissa-4", "po2-4", "flightnn-4", "flightnn-8", 2,
                     "ternary", "binary")
    }  # fmt: skip
    assert energy["mantissa-4"] == energy[4]  # a step is a step
    assert energy["codebook-4"] > energy[4] > energy["po2-4"] == energy["flightnn-4"]
    assert energy["flightnn-8"] == pytest.approx(2 * energy["flightnn-4"])  # two shifts
    assert energy[2] > energy["ternary"] > energy["binary"]


@pytest.mark.parametrize("name", [n for n in COST_MODELS if "horowitz" not in n])
def test_devices_of_integers_take_the_integer_that_holds_a_value(name):
    device = load_cost_model(name)
    for weights, width in (("ternary", 2), ("binary", 2), ("po2-3", 4), ("po2-4", 8)):
        got, plain = device.price(layer(weights)), device.price(layer(width))
        for metric in got:
            assert got[metric][0] == plain[metric][0] > 0, (weights, metric)
    refused = device.price(layer("codebook-4"))
    assert all(np.isnan(values).all() for values in refused.values())
    assert "w(codebook-4)a8" in device.explain(layer("codebook-4"))


def test_what_a_device_cannot_multiply_is_refused_with_words():
    with pytest.raises(TableError) as error:
        price_space(named_space(8, "codebook-4"), load_cost_model("bit-serial"))
    for part in ("conv1x1/s1 8->8 @8px w(codebook-4)a4", "codebook-4 weights are not",
                 "--model horowitz"):  # fmt: skip
        assert part in str(error.value)
    with pytest.raises(TableError, match=r"w\(po2-5\)a4.* at most 8 bits, not of 16"):
        build_table(named_space(8, "po2-5"), load_cost_model("bitfusion-public"))
    with pytest.raises(TableError, match="at most 8 bits"):  # never at fewer bits than it has
        build_table(named_space(8, 16), load_cost_model("bitfusion-public"))


def test_an_element_of_shifters_takes_powers_of_two():
    one, two = RowStationary(pe="LightPE-1"), RowStationary(pe="LightPE-2")
    for weights, fits in {
        "po2-4": (True, True), "po2-5": (False, True), "ternary": (True, True),
        "flightnn-4": (True, True), "flightnn-8": (False, True), "codebook-4": (False, False),
        4: (True, True), 8: (False, True),
    }.items():  # fmt: skip
        for device, takes in zip((one, two), fits, strict=True):
            assert np.isfinite(device.price(layer(weights))["energy_mj"][0]) == takes, weights
    assert "sums of 1 or fewer powers of two" in one.explain(layer("flightnn-8"))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_hold_formats_by_name(tmp_path, ending):
    space = named_space(4, "ternary", "po2-4", 8, "mantissa-4")
    path = tmp_path / f"device.{ending}"
    made = build_table(space, load_cost_model("horowitz"), "apq lut build ...")
    made.write(path)
    read = LookupTable.read(path)
    np.testing.assert_array_equal(read.layers, made.layers)
    if ending == "csv":
        rows = [line for line in path.read_text().splitlines() if not line.startswith("#")][1:]
        cells = {line.split(",")[8] for line in rows}
        assert cells >= {"4", "8", "ternary", "po2-4"}
        assert "mantissa-4" not in cells  # priced as what a multiplier sees
    genes = space.sample(20, np.random.default_rng(0))
    for metric, values in price_space(space, made).costs(genes).items():
        np.testing.assert_allclose(price_space(space, read).costs(genes)[metric], values, rtol=1e-8)
    assert not len(missing(read, space))
    lacking = missing(read, named_space(8, "binary"))
    assert {choice_of(code) for code in lacking["weight_bits"]} == {"binary"}
    assert "w(binary)a4" in read.explain(lacking)
    assert all("(" not in odd["example"] for odd in oddities(read) if "bits" in odd["what"])


def test_a_cell_that_is_no_format_is_named(tmp_path):
    path = tmp_path / "device.csv"
    build_table(named_space(8, "ternary"), load_cost_model("horowitz")).write(path)
    text = path.read_text()
    for wrong, part in {"ternery": "Did you mean 'ternary'", "40": "widths from 1 to 32"}.items():
        path.write_text(text.replace("ternary", wrong, 1))
        with pytest.raises(TableError) as error:
            LookupTable.read(path)
        assert f"weight_bits is {wrong!r}; unknown number format" in str(error.value)
        assert part in str(error.value)


def test_runtimes_run_integers_at_their_width_and_tables_of_values_in_float():
    space = named_space(2, "ternary", "po2-4", 8)
    layers = needed_layers(space, load_cost_model("roofline"))
    table = LookupTable("runtime", "test", layers[:1], {"latency_ms": np.ones(1)})
    for bits, names in ((8, {8, "po2-4"}), (32, {32})):
        run = replace(table, runs_at_bits=bits).as_run(layers)
        assert {choice_of(code) for code in run["weight_bits"]} == names


def test_measured_networks_name_their_formats(tmp_path):
    space = named_space(4, "ternary", 8)
    genes = space.sample(12, np.random.default_rng(0))
    columns = networks_columns(space, genes, [0.5] * len(genes))
    path = tmp_path / "networks.csv"
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *map(",".join, rows)]) + "\n")
    read, latency = read_networks(path, space)
    assert np.array_equal(read, genes)
    assert set(latency) == {0.5}
