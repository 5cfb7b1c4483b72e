"""The compiled loops give what the torch operations give."""

import pytest
import torch

from apq.quantize import fused
from apq.quantize.functions import clip_to_grid, learn_step


def run(function, x, upstream, value, ends):
    x = x.detach().requires_grad_()
    parameter = torch.tensor(value, requires_grad=True)
    y = function(x, parameter, *ends)
    y.backward(upstream)
    return y.detach(), x.grad, parameter.grad


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("ends", [(0, 15), (-7, 7), (-128, 127), (0, 1)])
@pytest.mark.parametrize(("function", "value"), [(learn_step, 0.21), (clip_to_grid, 1.7)])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "mixed"])
def test_both_forms_agree(monkeypatch, function, value, ends, threads, layout):
    pytest.importorskip("numba")
    seeded = torch.Generator().manual_seed(0)
    x = torch.randn((8, 32, 16, 16), generator=seeded) * 2
    upstream = torch.randn(x.shape, generator=seeded)
    if layout != "contiguous":
        x = x.to(memory_format=torch.channels_last)
    if layout == "channels last":
        upstream = upstream.to(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert fused.usable(x)
        ours = run(function, x, upstream, value, ends)
        monkeypatch.setattr(fused, "usable", lambda x: False)
        theirs = run(function, x, upstream, value, ends)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert ours[0].stride() == ours[1].stride() == x.stride()
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-3, atol=1e-2)


def test_other_tensors_take_the_other_form():
    pytest.importorskip("numba")
    x = torch.randn(8, 16)
    assert fused.usable(x)
    assert not fused.usable(x.double())
    assert not fused.usable(x[:, ::2])


def test_nan_comes_through():
    pytest.importorskip("numba")
    x = torch.tensor([0.5, float("nan")], requires_grad=True)
    y = learn_step(x, torch.tensor(0.1, requires_grad=True), 0, 15)
    assert bool(y[1].isnan())
