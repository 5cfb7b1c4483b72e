"""Schemes of few levels against QKeras' outputs, and codebooks, FLightNN and the distribution loss
against values computed from their definitions or by their authors' code."""

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
    mantissa_scheme,
    nearest_power,
    power_of_two,
    straight_through,
    ternary,
    ternary_codes,
    ternary_scale,
)

LEFT_OUT = {
    "apq offers no such function": lambda case, p: (
        case["quantizer"] in ("quantized_sigmoid", "quantized_tanh") or "use_sigmoid" in p
    ),
    "ReLU6 has no slope below 0": lambda case, p: "negative_slope" in p,
    "exponents are found in the log domain, rounded to the nearest": lambda case, p: (
        {"quadratic_approximation", "log2_rounding"} & set(p)
    ),
    "the sheet gives no rule; quantized_bits has these scales": lambda case, p: (
        case["quantizer"] == "quantized_linear" and isinstance(p["alpha"], str)
    ),
}
"""Why a case of QKeras is not compared, and which cases that is true of."""


def rows_of(x):
    """Channels last, as QKeras has them, to one row per channel."""
    return x.reshape(-1, x.shape[-1]).T


def like(rows, x):
    """Inverse of :func:`rows_of`."""
    return rows.T.reshape(x.shape)


def smooth(x, p):
    """QKeras' slope of signs without alpha."""
    return 1 - torch.tanh(x) ** 2 if p["alpha"] is None else None


def binary_case(x, p, case, arrays):
    levels, find = (binary01, binary01_scale) if p["use_01"] else (binary, binary_scale)
    if not isinstance(p["alpha"], str):  # QKeras multiplies by a constant only what comes out
        return (p["alpha"] or 1.0) * levels(x), smooth(x, p)
    rows, power = rows_of(x), p["alpha"] == "auto_po2"
    if p["use_01"]:
        scale = nearest_power(find(rows)) if power else find(rows)
    else:
        scale = find(rows, power)
    return like(levels(rows) * scale[:, None], x), None


def ternary_case(x, p, case, arrays):
    if not isinstance(p["alpha"], str):
        threshold = p.get("threshold")
        values = ternary(x, 0.33 if threshold is None else threshold)
        return (p["alpha"] or 1.0) * values, smooth(x, p)
    # QKeras returns the codes its last scale was fitted to, not those it leads to.
    rows = rows_of(x)
    before, scale = (ternary_scale(rows, p["alpha"] == "auto_po2", n) for n in (4, 5))
    return like(ternary_codes(rows / before[:, None]) * scale[:, None], x), None


def bits_case(x, p, case, arrays):
    bits, alpha = p["bits"], p["alpha"]
    narrow = bool(p["symmetric"])
    if not isinstance(alpha, str):
        return (alpha or 1.0) * fixed_point(x, bits, p["integer"], p["keep_negative"], narrow), None
    rows, high = rows_of(x), 2 ** (bits - 1) - 1
    step = (rows.abs().amax(1) / high)[:, None]
    if alpha == "auto":  # the widest range; rounds half away from zero
        codes = (rows.abs() / step + 0.5).floor().clamp_max(high) * rows.sign()
        return like(codes * step, x), None
    # QKeras alternates codes and scale; trying every scale is never worse, and often the same.
    scheme = mantissa_scheme().weights(rows, bits)
    theirs = rows_of(torch.from_numpy(arrays[case["scale"]])).reshape(-1, 1) * 2.0 ** p["integer"]
    values = fixed_point(rows / theirs, bits, 0, narrow=True) * theirs
    errors = [(v - rows).square().sum(1) for v in (scheme(rows), values)]
    assert bool((errors[0] <= errors[1] * (1 + 1e-6)).all()), case
    return like(values, x), None


def linear_case(x, p, case, arrays):
    bits, signed, narrow = p["bits"], p.get("keep_negative", True), bool(p["symmetric"])
    if bits == 1 and signed:
        shifted = x + 0.5 - 0.5  # as QKeras does, which loses the sign of 1e-8
        return 0.5 * binary(shifted), (x.abs() <= 0.5).float()
    values = fixed_point(x, bits, p["integer"], signed, narrow)
    step = case["quantization_scale"]
    high = 2 ** (bits - int(signed)) - 1
    low = 0 if not signed else -high if narrow else -high - 1
    return values, ((x >= low * step) & (x <= high * step)).float()


def relu_case(x, p, case, arrays):
    bits, integer = p["bits"], p["integer"]
    top = p.get("relu_upper_bound", 2.0**integer - 2.0 ** (integer - bits))
    return fixed_point(x.clamp_max(top), bits, integer, signed=False), (
        (x > 0) & (x <= top)
    ).float()


def po2_case(x, p, case, arrays):
    limit, relu = p.get("max_value") or float("inf"), case["quantizer"] == "quantized_relu_po2"
    cut = (x.clamp_min(0) if relu else x).clamp(-limit, limit)
    values = power_of_two(cut, case["min_exp"], case["max_exp"], zero=False)
    tiny = cut.abs() < 1e-7  # QKeras takes these for zero, whose sign is plus
    values[tiny] = 2.0 ** case["min_exp"] * torch.sign(values[tiny])
    return values, ((x > 0) & (x <= limit)).float() if relu else None


QKERAS = {
    "binary": binary_case, "ternary": ternary_case, "quantized_bits": bits_case,
    "quantized_linear": linear_case, "quantized_relu": relu_case,
    "quantized_po2": po2_case, "quantized_relu_po2": po2_case,
}  # fmt: skip
"""Per quantizer a function to values and slope (None: 1 everywhere), computed by the schemes'."""


def test_every_qkeras_quantizer(qkeras):
    cases, arrays = qkeras
    compared, reasons = 0, set()
    for case in cases["cases"]:
        p = case["params"]
        why = [reason for reason, holds in LEFT_OUT.items() if holds(case, p)]
        reasons.update(why)
        if why:
            continue
        x = torch.from_numpy(arrays[case["input"]])
        values, slope = QKERAS[case["quantizer"]](x, p, case, arrays)
        y = x.clone().requires_grad_()
        out = straight_through(y, values, slope)
        out.sum().backward()
        want = arrays[case["out"]]
        far = np.abs(out.detach().numpy() - want) > 1e-5 * np.maximum(np.abs(want), 1e-3)
        if case["input"] == "x_vec":
            far &= ~arrays["x_vec_log_border"]
        assert not far.any(), (case, x[far][:5], values[far][:5], want[far][:5])
        if case["grad"] == "all_ones":
            assert slope is None, case
        else:
            np.testing.assert_allclose(y.grad, arrays[case["grad"]], rtol=1e-4, atol=1e-5)
        compared += 1
    assert reasons == set(LEFT_OUT)
    assert compared == 244


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
        np.testing.assert_allclose(
            w.detach() - q.detach(), arrays[case["id"] + "_r"].reshape(12, -1), atol=1e-12
        )
        terms = sum((n > t).int() for n, t in zip(norms, thresholds, strict=True))
        assert terms.tolist() == case["k"]
        assert float(terms.float().mean()) == pytest.approx(case["mean_k"])
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
        both = float((loss.mismatch + loss.saturation).detach())  # the released layer's first value
        assert both == pytest.approx(case["code_loss1"], abs=1e-5)
        assert float(loss.degeneration.detach()) == pytest.approx(case["code_loss2"], abs=1e-5)
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
        np.testing.assert_allclose(centres, np.sort(arrays[case["codebook"]]), rtol=1e-9)


def test_a_centre_moves_by_the_mean_of_its_members(definitions):
    _, arrays = definitions
    w = torch.from_numpy(arrays["km_w"]).reshape(20, 20)
    module = CodebookWeights(w, 2).train()
    module.labels.copy_(torch.from_numpy(arrays["km_update_labels"]).reshape(20, 20))
    module(w - torch.from_numpy(arrays["km_update_step"]).reshape(20, 20))
    np.testing.assert_allclose(module.table, arrays["km_update_new_codebook"], rtol=1e-9)
