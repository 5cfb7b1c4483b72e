"""Schemes of few levels against QKeras' outputs, and codebooks, FLightNN and the distribution loss
against values computed from their definitions or by their authors' code."""

import json

import numpy as np
import pytest
import torch

from apq.quantize.codebook import CodebookWeights, kmeans_1d
from apq.quantize.distribution import distribution_loss
from apq.quantize.flightnn import flight, residual_norms
from apq.quantize.levels import (
    binary,
    binary01,
    binary01_scale,
    binary_scale,
    fixed_point,
    power_of_two,
    straight_through,
    ternary,
    ternary_scale,
)


@pytest.fixture(scope="module")
def qkeras(shared):
    folder = shared / "reference/quantization"
    cases = json.loads((folder / "qkeras_quantizers.json").read_text())["cases"]
    return cases, np.load(folder / "qkeras_quantizers.npz")


@pytest.fixture(scope="module")
def definitions(shared):
    folder = shared / "reference/quantization"
    return json.loads((folder / "definitions.json").read_text()), np.load(
        folder / "definitions.npz"
    )


def rows_of(x):
    """Channels last, as QKeras has them, to one row per channel."""
    return x.reshape(-1, x.shape[-1]).T


def scaled(x, levels, scale, alpha):
    """Apply levels with a constant alpha (QKeras multiplies only the output) or a fitted scale."""
    if alpha is None or isinstance(alpha, float):
        return (alpha or 1.0) * levels(x)
    rows = rows_of(x)
    fitted = scale(rows)
    if alpha == "auto_po2":
        fitted = torch.exp2(torch.log2(fitted).round())
    return (levels(rows) * fitted[:, None]).T.reshape(x.shape)


def check(case, arrays, got, tolerance=1e-5):
    want = arrays[case["out"]]
    far = np.abs(got.numpy() - want) > tolerance * np.maximum(np.abs(want), 1e-3)
    if case["input"] == "x_vec":
        far &= ~arrays["x_vec_log_border"]
    assert not far.any(), (
        case,
        arrays[case["input"]][far][:5],
        got.numpy()[far][:5],
        want[far][:5],
    )


def of(qkeras, *names):
    cases, arrays = qkeras
    for case in cases:
        if case["quantizer"] in names:
            yield case, case["params"], torch.from_numpy(arrays[case["input"]]), arrays


def test_binary_and_modified_binary(qkeras):
    seen = 0
    for case, p, x, arrays in of(qkeras, "binary"):
        levels, scale = (binary01, binary01_scale) if p["use_01"] else (binary, binary_scale)
        check(case, arrays, scaled(x, levels, scale, p["alpha"]))
        y = x.clone().requires_grad_()
        smooth = None if case["grad"] == "all_ones" else 1 - torch.tanh(x) ** 2
        straight_through(y, levels(x), smooth).sum().backward()
        want = np.ones_like(x) if smooth is None else arrays[case["grad"]]
        if smooth is None or p["alpha"] is None:
            np.testing.assert_allclose(y.grad, want, rtol=1e-4, atol=1e-5)
        seen += 1
    assert seen == 18


def test_ternary(qkeras):
    seen = 0
    for case, p, x, arrays in of(qkeras, "ternary"):
        alpha, threshold = p["alpha"], p.get("threshold")
        if isinstance(alpha, str):
            # QKeras returns the codes its last scale was fitted to, not those it leads to.
            rows, power = rows_of(x), alpha == "auto_po2"
            before, scale = (ternary_scale(rows, n, power) for n in (4, 5))
            got = ((rows / before[:, None]).round().clamp(-1, 1) * scale[:, None]).T.reshape(
                x.shape
            )
        else:
            got = (alpha or 1.0) * ternary(x, 0.33 if threshold is None else threshold)
        check(case, arrays, got)
        seen += 1
    assert seen == 15


def test_mantissa_is_fixed_point(qkeras):
    seen = 0
    for case, p, x, arrays in of(qkeras, "quantized_bits"):
        alpha, bits = p["alpha"], p["bits"]
        signed, narrow = p["keep_negative"], bool(p["symmetric"])
        if isinstance(alpha, str):
            if alpha == "auto" and bits > 1 and narrow:
                rows = rows_of(x)
                high = 2 ** (bits - 1) - 1
                step = (rows.abs().amax(1) / high)[:, None]
                codes = (rows.abs() / step + 0.5).floor().clamp_max(high) * rows.sign()
                check(case, arrays, (codes * step).T.reshape(x.shape))
                seen += 1
            continue
        check(case, arrays, (alpha or 1.0) * fixed_point(x, bits, p["integer"], signed, narrow))
        assert case["grad"] == "all_ones"
        seen += 1
    assert seen >= 70


def test_unsigned_fixed_point_and_its_gradient(qkeras):
    seen = 0
    for case, p, x, arrays in of(qkeras, "quantized_relu"):
        if set(p) - {"bits", "integer"}:
            continue
        bits, integer = p["bits"], p["integer"]
        check(case, arrays, fixed_point(x, bits, integer, signed=False))
        top = 2.0**integer - 2.0 ** (integer - bits)
        y = x.clone().requires_grad_()
        slope = ((x > 0) & (x <= top)).float()
        straight_through(y, fixed_point(x, bits, integer, signed=False), slope).sum().backward()
        np.testing.assert_array_equal(y.grad, arrays[case["grad"]])
        seen += 1
    assert seen >= 20


def test_exponent(qkeras):
    seen = 0
    for case, p, x, arrays in of(qkeras, "quantized_po2", "quantized_relu_po2"):
        if set(p) - {"bits", "max_value"}:
            continue
        relu = case["quantizer"] == "quantized_relu_po2"
        limit = p.get("max_value")
        cut = x.clamp_min(0) if relu else x
        if limit is not None:
            cut = cut.clamp(-limit, limit)
        got = power_of_two(cut, case["min_exp"], case["max_exp"], zero=False)
        tiny = cut.abs() < 1e-7  # QKeras takes these for zero, whose sign is plus
        got[tiny] = 2.0 ** case["min_exp"] * torch.sign(got[tiny])
        check(case, arrays, got)
        seen += 1
    assert seen >= 60


def test_powers_of_two_with_and_without_zero(definitions):
    cases, arrays = definitions
    x = torch.from_numpy(arrays["po2_x"])
    for case in cases["po2"]:
        for name, zero in ((case["out"], False), (case["out_with_zero"], True)):
            got = power_of_two(x, case["emin"], case["emax"], zero)
            np.testing.assert_allclose(got, arrays[name], rtol=1e-12)


def test_flightnn(definitions):
    cases, arrays = definitions
    lowest, highest = cases["flightnn"]["emin"], cases["flightnn"]["emax"]
    weight = torch.from_numpy(arrays["fl_w"])
    for case in cases["flightnn"]["cases"]:
        w = weight.reshape(12, -1).requires_grad_()
        thresholds = torch.tensor(case["thresholds"], dtype=torch.float64, requires_grad=True)
        q = flight(w, thresholds, lowest, highest)
        np.testing.assert_allclose(
            q.detach().reshape(12, 3, 3, 3), arrays[case["id"] + "_q"], atol=1e-12
        )
        norms = residual_norms(w, thresholds, lowest, highest)
        for j in range(2):
            np.testing.assert_allclose(norms[j].detach(), arrays[f"{case['id']}_n{j}"], atol=1e-12)
        sums = [float(n.sum().detach()) for n in norms]
        np.testing.assert_allclose(sums, case["reg_unit_lambda"], rtol=1e-9)
        assert float((q - w).detach().square().mean()) == pytest.approx(case["mse"], rel=1e-9)


def test_flightnn_threshold_gradients(definitions):
    cases, arrays = definitions
    lowest, highest = cases["flightnn"]["emin"], cases["flightnn"]["emax"]
    upstream = torch.from_numpy(arrays["fl_upstream"]).reshape(12, -1)
    found = cases["flightnn"]
    keys = [key for key in found if key.startswith("grad_t1_T")]
    assert keys
    for key in keys:
        w = torch.from_numpy(arrays["fl_w"]).reshape(12, -1).requires_grad_()
        limits = found["grad_case"]["thresholds"]
        t = torch.tensor(limits, dtype=torch.float64, requires_grad=True)
        flight(w, t, lowest, highest, float(key.partition("_T")[2])).backward(upstream)
        assert float(t.grad[1]) == pytest.approx(found[key], rel=1e-6), key
        assert torch.equal(w.grad, upstream)


def test_distribution_loss_is_the_published_layers(definitions):
    cases, arrays = definitions
    for case in cases["distribution_loss"]:
        x = torch.from_numpy(arrays[case["input"]]).requires_grad_()
        loss = distribution_loss(x)
        assert float(loss.mismatch.detach()) == pytest.approx(case["L_M"], abs=1e-5)
        assert float(loss.saturation.detach()) == pytest.approx(case["L_S"], abs=1e-5)
        assert float(loss.degeneration.detach()) == pytest.approx(case["L_D"], abs=1e-5)
        loss.total().backward()
        np.testing.assert_allclose(x.grad, arrays[case["grad_of_sum"]], rtol=1e-3, atol=1e-6)


def test_kmeans_is_the_optimum(definitions):
    cases, arrays = definitions
    values = arrays["km_w"]
    for case in cases["kmeans_1d"]:
        centres = kmeans_1d(values, 2 ** case["bits"])
        inertia = float(np.square(values[:, None] - centres[None]).min(1).sum())
        assert inertia <= (1 + 1e-9) * case["optimal_inertia"]
        assert inertia >= case["optimal_inertia"] * (1 - 1e-9)


def test_a_centre_moves_by_the_mean_of_its_members(definitions):
    _, arrays = definitions
    w = torch.from_numpy(arrays["km_w"]).reshape(20, 20)
    module = CodebookWeights(w, 2).train()
    module.labels.copy_(torch.from_numpy(arrays["km_update_labels"]).reshape(20, 20))
    module(w - torch.from_numpy(arrays["km_update_step"]).reshape(20, 20))
    np.testing.assert_allclose(module.table, arrays["km_update_new_codebook"], rtol=1e-9)
