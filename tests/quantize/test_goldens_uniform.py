"""Uniform quantization against values computed elsewhere: HAQ's and APQ's released code, torch's
learnable fake-quantize operator, and float64 evaluations of the published formulas."""

import numpy as np
import pytest
import torch

from apq.quantize.functions import clip_to_grid, grid, learn_step, round_to_grid
from apq.quantize.ranges import kl_clip, mse_clip
from apq.quantize.uniform import UniformActivations, UniformWeights


def test_kl_clip_is_the_one_haq_finds(haq):
    cases, arrays = haq
    assert len(cases["kl_thresholds"]) == 42
    for case in cases["kl_thresholds"]:
        found = kl_clip(arrays[case["data"]], case["bits"])
        assert found == pytest.approx(case["threshold"], rel=1e-5), case


def test_kl_clip_of_nothing_is_zero():
    assert kl_clip(np.zeros(100, dtype=np.float32), 4) == 0


def test_weights_round_as_haqs(haq):
    cases, arrays = haq
    for case in cases["weight_linear"]:
        x = torch.from_numpy(arrays[case["data"]]).requires_grad_()
        low, high = grid(case["bits"], signed=True)
        y = round_to_grid(x, torch.tensor(case["clip"]) / high, low, high)
        y.sum().backward()
        assert bool((x.grad == 1).all()) == case["grad_all_ones"]
        error = float((y - x).detach().square().mean())
        assert error == pytest.approx(case["mse"], rel=1e-4)
        assert len(y.detach().unique()) == case["levels"]
        np.testing.assert_allclose(
            y.detach()[: case["n_saved"]], arrays[case["out"]], rtol=1e-5, atol=1e-7
        )


def test_activations_and_both_gradients_are_haqs(haq):
    """At the very ends HAQ halves the gradients, PACT (ours) gives all to the clip."""
    cases, arrays = haq
    for case in cases["activation_linear"]:
        x = torch.from_numpy(arrays["act_x"]).clone().requires_grad_()
        upstream = torch.from_numpy(arrays["act_upstream"])
        clip = torch.tensor(case["clip"], requires_grad=True)
        low, high = grid(case["bits"], signed=not case["half_wave"])
        y = clip_to_grid(x, clip, low, high)
        (y * upstream).sum().backward()
        step = case["clip"] / high
        ratio = x.detach().double().clamp(low * step, high * step) / step
        tie = ((ratio - ratio.floor() - 0.5).abs() < 1e-5).numpy()
        got, want = y.detach().numpy(), arrays[case["out"]]
        np.testing.assert_allclose(got[~tie], want[~tie], rtol=1e-5, atol=1e-6)
        assert np.abs(got - want).max() <= step * 1.001  # float32 may break an exact tie otherwise
        bottom = 0.0 if case["half_wave"] else -case["clip"]
        end = (x.detach() == bottom) | (x.detach() == case["clip"])
        np.testing.assert_allclose(x.grad[~end], arrays[case["grad_x"]][~end.numpy()], rtol=1e-6)
        halves = 0.5 * upstream[x.detach() == case["clip"]].sum()
        if not case["half_wave"]:
            halves -= 0.5 * upstream[x.detach() == bottom].sum()
        assert float(clip.grad) == pytest.approx(
            case["grad_clip"] + float(halves), rel=1e-4, abs=1e-4
        )


def test_apq_released_quantizers(shared):
    arrays = np.load(shared / "reference/apq/apq_quantizer_golden.npz")
    act, weight = torch.from_numpy(arrays["act"]), torch.from_numpy(arrays["weight"])
    seen = 0
    for name in arrays:
        kind, _, rest = name.partition("_")
        if not rest:
            continue
        bits, *options = rest[1:].split("_")
        if kind == "act":
            half, clip = (
                options[0] == "half",
                float(options[1].removeprefix("range").removeprefix("r")),
            )
            low, high = grid(int(bits), signed=not half)
            y = clip_to_grid(act, torch.tensor(clip), low, high)
        else:
            low, high = grid(int(bits), signed=True)
            clip = float(weight.abs().max()) if options[0] == "maxabs" else float(options[0][1:])
            y = round_to_grid(weight, torch.tensor(clip) / high, low, high)
        far = np.abs(y.numpy() - arrays[name]) > 1e-5
        assert far.mean() < 0.01, name  # exact ties in float32
        seen += 1
    assert seen > 20


def test_learned_step_and_gradients(definitions):
    cases, arrays = definitions
    x0, upstream = torch.from_numpy(arrays["lsq_x"]), torch.from_numpy(arrays["lsq_upstream"])
    plain = [case for case in cases["lsq"] if case.get("kind") != "lsq_plus"]
    assert len(plain) == 36
    for case in plain:
        x = x0.clone().requires_grad_()
        step = torch.tensor(case["step"], dtype=torch.float64, requires_grad=True)
        y = learn_step(x, step, case["qn"], case["qp"])
        y.backward(upstream)
        np.testing.assert_allclose(y.detach(), arrays[case["id"] + "_y"], atol=1e-12)
        np.testing.assert_allclose(x.grad, arrays[case["id"] + "_gx"], atol=1e-12)
        assert float(step.grad) == pytest.approx(case["grad_step"], rel=1e-9, abs=1e-9)
        high = 2 ** (case["bits"] - case["signed"]) - 1
        low = 0 if not case["signed"] else -high if case["narrow"] else -high - 1
        assert (low, high) == (case["qn"], case["qp"])
        assert case["grad_scale_factor"] == pytest.approx((x.numel() * high) ** -0.5)


def test_a_learned_offset_is_a_learned_step_of_the_shifted(definitions):
    """LSQ+ (Bhalgat et al., arXiv:2004.09576): values and all three gradients."""
    cases, arrays = definitions
    x0, upstream = torch.from_numpy(arrays["lsq_x"]), torch.from_numpy(arrays["lsq_upstream"])
    plus = [case for case in cases["lsq"] if case.get("kind") == "lsq_plus"]
    assert len(plus) == 2
    for case in plus:
        x = x0.clone().requires_grad_()
        step, offset = (
            torch.tensor(case[name], dtype=torch.float64, requires_grad=True)
            for name in ("step", "offset")
        )
        y = learn_step(x - offset, step, case["qn"], case["qp"]) + offset
        y.backward(upstream)
        np.testing.assert_allclose(y.detach(), arrays[case["id"] + "_y"], atol=1e-12)
        np.testing.assert_allclose(x.grad, arrays[case["id"] + "_gx"], atol=1e-12)
        assert float(step.grad) == pytest.approx(case["grad_step"], rel=1e-9)
        assert float(offset.grad) == pytest.approx(case["grad_offset"], rel=1e-9)


def test_learned_step_is_torchs_operator(definitions):
    """torch masks on the rounded value; where both masks agree, so do the gradients."""
    _, arrays = definitions
    x0 = torch.from_numpy(arrays["lsq_x"]).float()
    step = 0.11
    ours, theirs = x0.clone().requires_grad_(), x0.clone().requires_grad_()
    y = learn_step(ours, torch.tensor(step), -8, 7)
    z = torch._fake_quantize_learnable_per_tensor_affine(
        theirs, torch.tensor([step]), torch.tensor([0.0]), -8, 7, 1.0
    )
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_allclose(y.detach(), z.detach(), atol=1e-6)
    same = (x0 / step > -8) & (x0 / step < 7)
    same |= (x0 / step).round().clamp(-8, 7) != (x0 / step).round()
    assert torch.equal(ours.grad[same], theirs.grad[same])


def test_clip_and_its_gradient_are_pacts(definitions):
    cases, arrays = definitions
    x0, upstream = 3 * torch.from_numpy(arrays["lsq_x"]), torch.from_numpy(arrays["lsq_upstream"])
    for case in cases["pact"]:
        x = x0.clone().requires_grad_()
        clip = torch.tensor(case["alpha"], dtype=torch.float64, requires_grad=True)
        y = clip_to_grid(x, clip, *grid(case["bits"], signed=False))
        y.backward(upstream)
        np.testing.assert_allclose(y.detach(), arrays[case["id"] + "_y"], atol=1e-12)
        np.testing.assert_allclose(x.grad, arrays[case["id"] + "_gx"], atol=1e-12)
        assert float(clip.grad) == pytest.approx(case["grad_alpha"], rel=1e-9)


def test_a_learned_step_per_channel(definitions):
    cases, arrays = definitions
    for case in cases["lsq_per_channel"]:
        name, bits = case["id"], case["bits"]
        w = torch.from_numpy(arrays["pc_w"]).requires_grad_()
        module = UniformWeights(w, bits, "mse", learned=True)
        with torch.no_grad():
            module.scale.copy_(torch.from_numpy(arrays[f"{name}_step_lsq_init"]).view(-1, 1, 1, 1))
        y = module(w)
        y.backward(torch.from_numpy(arrays["pc_upstream"]))
        np.testing.assert_allclose(y.detach(), arrays[f"{name}_y"], atol=1e-12)
        np.testing.assert_allclose(w.grad, arrays[f"{name}_gx"], atol=1e-12)
        scaled = arrays[f"{name}_gs"] * case["grad_factor"]
        np.testing.assert_allclose(module.scale.grad.reshape(-1), scaled, rtol=1e-9)


def test_ranges_per_channel(definitions):
    cases, arrays = definitions
    rows = torch.from_numpy(arrays["pc_w"]).reshape(6, -1)
    for case in cases["lsq_per_channel"]:
        _, high = grid(case["bits"], signed=True)
        best = mse_clip(rows, case["bits"], fractions=81) / high
        np.testing.assert_allclose(best, arrays[case["id"] + "_step_mse"], rtol=1e-9)
        widest = UniformWeights(torch.from_numpy(arrays["pc_w"]), case["bits"], "max").scale
        np.testing.assert_allclose(
            widest.reshape(-1), arrays[case["id"] + "_step_minmax"], rtol=1e-9
        )


def test_haq_start_of_activations_never_exceeds_relu6():
    sample = torch.linspace(0, 9, 1000)
    assert float(UniformActivations(sample, 8, signed=False, rule="pact-kl").clip.detach()) == 6
    assert float(UniformActivations(sample, 3, signed=False, rule="pact-kl").clip.detach()) <= 6
