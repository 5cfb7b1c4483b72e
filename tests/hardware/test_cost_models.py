"""What every simulated device must do, and what each one claims about itself."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from apq.errors import ApqError, TableError
from apq.hardware import COST_MODELS, build_table, configure, price_space
from apq.hardware.bit_serial import BitSerial
from apq.hardware.importing import mobilenet_v2_layers
from apq.hardware.roofline import Bops, Roofline, bops
from apq.hardware.row_stationary import PE_TYPES, RowStationary, figures
from apq.space import Layer
from apq.space.layer import layer_array, to_array


@pytest.fixture(params=COST_MODELS)
def model(request):
    return COST_MODELS[request.param]()


LAYERS = to_array(
    [
        Layer("conv", 1, 16, 8, 8, 3, 1, 1, 8, 8),
        Layer("conv", 16, 64, 8, 8, 1, 1, 1, 4, 8),
        Layer("conv", 64, 64, 8, 8, 5, 2, 64, 8, 4),
        Layer("linear", 96, 10, 1, 1),
    ]
)


def test_prices_layers_of_any_shape_alone_or_together(model):
    together = model.price(LAYERS)
    assert together
    assert set(together) <= {"latency_ms", "energy_mj"}
    for metric, values in together.items():
        assert values.shape == LAYERS.shape
        assert np.all(values > 0)
        np.testing.assert_allclose(
            model.price(LAYERS.reshape(2, 2))[metric], values.reshape(2, 2), rtol=1e-12
        )
        alone = [model.price(LAYERS[i : i + 1])[metric][0] for i in range(len(LAYERS))]
        np.testing.assert_allclose(alone, values, rtol=1e-12)


def test_says_what_it_is(model):
    assert model.name in COST_MODELS
    assert len(model.source) > 20
    assert model.granularity == "layer"


def test_refuses_whole_blocks_with_a_reason(model):
    block = to_array([Layer("mbconv", 8, 16, 8, 8, 3, 2, 1, 8, 8, 24, 8, 8)])
    assert all(np.isnan(v).all() for v in model.price(block).values())
    assert str(Layer("mbconv", 8, 16, 8, 8, 3, 2, 1, 8, 8, 24, 8, 8)) in model.explain(block)


def test_a_batch_of_layers_that_cannot_be_priced_is_all_nan(model):
    blocks = to_array([Layer("mbconv", 8, 16, 8, 8, 3, 2, 1, 8, 8, 24, 8, 8)] * 3)
    assert all(v.shape == (3,) for v in model.price(blocks).values())


def test_prices_a_space(model, tiny_space):
    table = build_table(tiny_space, model)
    genes = tiny_space.sample(10, np.random.default_rng(0))
    direct = price_space(tiny_space, model).costs(genes)
    through_table = price_space(tiny_space, table).costs(genes)
    for metric in table.prices:
        np.testing.assert_allclose(direct[metric], through_table[metric], rtol=1e-9)


def test_costs_grow_with_resolution(model):
    small, large = (to_array([Layer("conv", 16, 32, side, side)]) for side in (8, 32))
    for metric, values in model.price(large).items():
        assert values[0] > model.price(small)[metric][0]


def test_a_model_can_be_configured_and_says_so(model):
    name = "frequency_mhz" if hasattr(model, "frequency_mhz") else "name"
    changed = configure(model, {name: "800"})
    assert changed.source.endswith(f"set {name}={'800.0' if name != 'name' else '800'}")
    with pytest.raises(ApqError, match="unknown parameter"):
        configure(model, {"frequenzy": "1"})


def test_a_number_of_the_wrong_type():
    with pytest.raises(ApqError, match="rows of bitfusion-apq takes int, got 'many'"):
        configure(COST_MODELS["bitfusion-apq"](), {"rows": "many"})
    for text in ("-1", "nan", "inf"):
        with pytest.raises(ApqError, match="finite, not negative"):
            configure(COST_MODELS["roofline"](), {"peak_gmacs": text})


def test_bit_serial_has_the_shape_of_haqs_table(shared):
    cycles = np.load(
        shared / "reference/hardware/haq_mobilenetv2_imagenet100_b16_latency_cycles.npy"
    )
    rows = to_array(
        [
            replace(layer, weight_bits=w, activation_bits=a)
            for layer in mobilenet_v2_layers(100)
            for w in range(1, 9)
            for a in range(1, 9)
        ]
    )
    got = BitSerial(batch=16, frequency_mhz=1e-3).price(rows)["latency_ms"].reshape(53, 8, 8)
    error = np.abs(got / cycles - 1)
    assert np.median(error) < 0.03
    assert np.quantile(error, 0.9) < 0.16
    assert spearmanr(got.ravel(), cycles.ravel()).statistic > 0.99
    for bits in (2, 4, 6, 8):
        uniform = got[:, bits - 1, bits - 1].sum() / cycles[:, bits - 1, bits - 1].sum()
        assert 0.95 < uniform < 1.05


def test_roofline_ranks_apqs_table_as_badly_as_it_says(shared):
    table = pd.read_parquet(shared / "reference/hardware/apq_lut_match.parquet")
    table = table[table.kind.isin(["pw", "dw"])]
    rows = layer_array(
        op="conv", in_channels=table.c_in, out_channels=table.c_out, height=table.hw_in,
        width=table.hw_in, kernel=table.k, stride=table.stride, groups=table.groups,
        weight_bits=table.w_bits, activation_bits=table.a_bits,
    )  # fmt: skip
    latency = Roofline().price(rows)["latency_ms"]
    rank = spearmanr(latency, table.lut_latency_ms).statistic
    pointwise = table.groups == 1
    assert rank == pytest.approx(0.636, abs=0.03)
    assert spearmanr(latency[pointwise], table.lut_latency_ms[pointwise]).statistic > 0.95


def test_roofline_by_hand():
    layer = to_array([Layer("conv", 64, 64, 16, 16)])
    work, bits = 64 * 64 * 256, 64 * 64 * 8 + 64 * 256 * 8 + 64 * 256 * 8
    compute = Roofline(peak_gmacs=1, bandwidth_gb=1e6, psum_bits=0).price(layer)["latency_ms"]
    memory = Roofline(peak_gmacs=1e6, bandwidth_gb=1, psum_bits=0).price(layer)["latency_ms"]
    np.testing.assert_allclose(compute, work / 1e6)
    np.testing.assert_allclose(memory, bits / 8 / 1e6)


def test_bops_by_hand():
    layer = to_array([Layer("conv", 16, 32, 8, 8, 3, weight_bits=4, activation_bits=6)])
    per_mac = 24 + 10 + np.log2(16 * 9)
    np.testing.assert_allclose(bops(layer), 16 * 32 * 9 * 64 * per_mac)
    np.testing.assert_allclose(
        Bops(peak_gbops=1, bandwidth_gb=1e9).price(layer)["latency_ms"], bops(layer) / 1e6
    )


MOBILENET = to_array(
    [replace(layer, weight_bits=4, activation_bits=8) for layer in mobilenet_v2_layers(1000)[:20]]
)


def test_narrower_elements_give_more_per_area_and_joule():
    of = {pe: figures(RowStationary(pe=pe), MOBILENET) for pe in PE_TYPES}
    order = ["LightPE-1", "LightPE-2", "INT8", "INT16", "FP32"]
    for metric, sign in (("energy_mj", 1), ("area_mm2", 1), ("performance_per_area", -1)):
        values = [sign * of[pe][metric] for pe in order]
        assert values == sorted(values), metric


def test_a_row_stationary_design_never_beats_its_array():
    rng = np.random.default_rng(0)
    for pe, rows, columns in zip(
        rng.choice([*PE_TYPES], 20), rng.integers(4, 33, 20), rng.integers(4, 33, 20), strict=True
    ):
        run = RowStationary(str(pe), int(rows), int(columns)).run(MOBILENET)
        assert np.all(run["utilization"] <= 1)
        assert np.all(run["utilization"] > 0)


def test_an_element_refuses_wider_operands():
    layer = to_array([Layer("conv", 8, 8, 8, 8, weight_bits=8)])
    design = RowStationary(pe="LightPE-1")
    assert np.isnan(design.price(layer)["latency_ms"][0])
    assert "at most w4a8" in design.explain(layer)
    with pytest.raises(ApqError, match=r"unknown PE type 'INT9'. Did you mean 'INT8'"):
        RowStationary(pe="INT9")


def test_a_table_cannot_be_built_for_what_no_width_makes_feasible(tiny_space):
    with pytest.raises(TableError, match="no tile fits"):
        build_table(tiny_space, configure(COST_MODELS["bitfusion-apq"](), {"output_kb": "0"}))
