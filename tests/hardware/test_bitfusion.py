"""Bit Fusion against the public simulator's runs and APQ's published table."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from apq.errors import TableError
from apq.hardware import build_table, load_cost_model, needed_layers, price_space
from apq.hardware.bitfusion import BufferEnergy, bitfusion_apq, bitfusion_public, simulate
from apq.space import Layer, Space, load_space
from apq.space.layer import layer_array, to_array


@pytest.fixture(scope="module")
def golden(shared):
    return pd.read_parquet(shared / "reference/hardware/bitfusion_sim_golden.parquet")


@pytest.fixture(scope="module")
def apq_table(shared):
    return pd.read_parquet(shared / "reference/hardware/apq_lut_match.parquet")


@pytest.fixture(scope="module")
def apq_layers(apq_table):
    return layers_of(apq_table)


def layers_of(rows, activation_bits=None):
    return layer_array(
        op="conv", in_channels=rows.c_in, out_channels=rows.c_out, height=rows.hw_in,
        width=rows.hw_in, kernel=rows.k, stride=rows.stride, groups=rows.groups,
        weight_bits=rows.w_bits,
        activation_bits=rows.a_bits if activation_bits is None else activation_bits,
    )  # fmt: skip


def configured(row):
    return replace(
        bitfusion_public(),
        rows=int(row.array_rows_N), columns=int(row.array_cols_M), max_bits=int(row.max_bits),
        dram_bits_per_cycle=int(row.dram_bits_per_cycle), frequency_mhz=row.freq_hz / 1e6,
        input_kb=int(row.ibuf_bytes) // 1024, weight_kb=int(row.wbuf_bytes) // 1024,
        output_kb=int(row.obuf_bytes) // 1024, batch=int(row.batch),
    )  # fmt: skip


def test_every_golden_run_of_the_public_simulator_has_the_same_cycles(golden):
    assert len(golden) == 999
    for _, runs in golden.groupby(["config", "batch"]):
        shapes = runs[["K", "S", "O", "IC", "OC", "W", "A", "im2col"]].to_numpy().astype(np.int64)
        got = simulate(configured(runs.iloc[0]), shapes)
        np.testing.assert_array_equal(got["cycles"], runs.cycles)
        priced = runs.energy_mJ.notna()
        np.testing.assert_allclose(
            got["energy_nj"][priced] / 1e6, runs.energy_mJ[priced], rtol=1e-6
        )


def test_latency_of_apqs_table_to_a_tenth_of_a_percent(apq_table, apq_layers):
    cycles = bitfusion_apq().run(apq_layers)["cycles"]
    assert np.abs(cycles / apq_table.lut_cycles - 1).max() <= 1e-3
    np.testing.assert_array_equal(cycles, apq_table.model_cycles)


def test_what_apqs_table_lacks_is_exactly_what_does_not_fit(apq_table, apq_layers):
    model = bitfusion_apq()
    assert not np.isnan(model.price(apq_layers)["latency_ms"]).any()
    wide = apq_table[(apq_table.groups > 1) & (apq_table.a_bits == 8)]
    low = model.price(layers_of(wide, activation_bits=4))["latency_ms"]
    np.testing.assert_array_equal(np.isnan(low), wide.k == 7)


@pytest.mark.parametrize(
    ("energy", "median", "p90"),
    [
        (bitfusion_apq().energy, 0.002, 0.01),  # two constants fitted to the table
        (BufferEnergy(core_nj=2 * 0.235104, static_nj=0.42497, shared_reads=True), 0.01, 0.015),
    ],
)
def test_energy_of_apqs_table(apq_table, apq_layers, energy, median, p90):
    got = replace(bitfusion_apq(), energy=energy).price(apq_layers)["energy_mj"]
    error = np.abs(got / apq_table.lut_energy_mJ - 1)
    assert error.median() <= median
    assert error.quantile(0.9) <= p90
    assert error.max() <= 0.1
    assert spearmanr(got, apq_table.lut_energy_mJ).statistic >= 0.9995


def test_depthwise_steps_with_dense_blocks():
    def dw(channels, bits):
        layer = Layer("conv", channels, channels, 14, 14, 3, 1, channels, bits, bits)
        return bitfusion_apq().price(to_array([layer]))["latency_ms"][0]

    assert dw(488, 4) == dw(512, 4)  # the same sixteen blocks of 32 channels
    assert dw(16, 8) == 2 * dw(8, 8)
    assert dw(480, 6) < 1.05 * dw(480, 8)
    assert dw(480, 6) > 0.95 * dw(480, 8)  # 6 bits run at the 8-bit rate


@settings(max_examples=20, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    side=st.integers(1, 40), kernel=st.sampled_from([1, 3, 5]), stride=st.integers(1, 2),
    bits=st.tuples(st.sampled_from([2, 4, 6, 8]), st.sampled_from([2, 4, 6, 8])),
)  # fmt: skip
def test_cycles_are_never_below_the_arrays_peak_nor_the_interfaces(
    channels, side, kernel, stride, bits
):
    layer = Layer("conv", *channels, side, side, kernel, stride, 1, *bits)
    model = bitfusion_apq()
    run = model.run(to_array([layer]))
    if np.isnan(run["cycles"][0]):
        return
    pixels = (-(-side // stride)) ** 2
    macs = channels[0] * channels[1] * kernel**2 * pixels
    products = int(model.products(*(np.array([b]) for b in bits))[0])
    assert run["compute_cycles"][0] >= macs / (model.rows * model.columns * products)
    traffic = run["input_bits"] + run["weight_bits"] + 2 * run["output_bits"]
    assert run["cycles"][0] >= max(run["compute_cycles"][0], traffic[0] / model.dram_bits_per_cycle)
    assert run["weight_bits"][0] >= channels[0] * channels[1] * kernel**2 * bits[0]


def test_ideal_depthwise_is_cheaper_than_dense_blocks():
    layers = to_array([Layer("conv", c, c, 28, 28, 5, 1, c, 8, 8) for c in (32, 96, 240)])
    ideal = load_cost_model("bitfusion-ideal-dw").price(layers)["latency_ms"]
    assert np.all(ideal < bitfusion_apq().price(layers)["latency_ms"])


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Layer("conv", 8, 8, 8, 8, weight_bits=16), "at most 8 bits"),
        (Layer("conv", 8, 8, 8, 4), "square"),
        (Layer("conv", 8, 8, 8, 8, 3, 1, 2), "other groups"),
        (Layer("mbconv", 8, 8, 8, 8, 3, mid_channels=16), "whole blocks"),
        (Layer("conv", 64, 64, 8, 8, 7, 1, 64, 8, 4), "no tile fits"),
    ],
)
def test_what_cannot_be_priced_is_nan_with_a_reason(layer, why):
    model, rows = bitfusion_apq(), to_array([layer])
    assert np.isnan(model.price(rows)["latency_ms"][0])
    assert why in model.explain(rows)
    assert str(layer) in model.explain(rows)


def test_building_a_table_widens_what_does_not_fit_and_says_so():
    space, model = load_space("digits"), bitfusion_apq()
    with pytest.raises(TableError, match="no tile fits"):
        price_space(space, model)
    table = build_table(space, model)
    assert "priced at the next wider ones" in table.header["widened"]
    low = Layer("conv", 32, 32, 8, 8, 5, 1, 32, 2, 2)
    wide = replace(low, activation_bits=4)
    stored = table.price(to_array([low]))["latency_ms"]
    assert stored == model.price(to_array([wide]))["latency_ms"]


def test_a_table_covers_its_space(tiny_space: Space):
    table = build_table(tiny_space, bitfusion_apq())
    assert len(table.layers) == len(needed_layers(tiny_space, table))
    priced = price_space(tiny_space, table)
    genes = tiny_space.every_candidate()[::97]
    totals = priced.costs(genes)["latency_ms"]
    for row, total in zip(genes, totals, strict=True):
        layers = to_array(tiny_space.layers(tiny_space.build(row)))
        assert table.price(layers)["latency_ms"].sum() == pytest.approx(total, rel=1e-12)
