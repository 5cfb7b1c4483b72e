import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from apq.supernet import channelwise as module
from apq.supernet.channelwise import channelwise

pytest.importorskip("numba", reason="the fast weight gradient needs the extra 'fast' (numba)")


def gradients(function, x, weight, weights_of_output):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    (function(x, weight) * weights_of_output).sum().backward()
    return x.grad, weight.grad


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.sampled_from([5, 7]),
    stride=st.sampled_from([1, 2]),
    side=st.integers(1, 11),
    channels=st.integers(1, 20),
    images=st.integers(1, 5),
    threads=st.sampled_from([1, 2]),
)
def test_gradients_are_those_of_pytorch(kernel, stride, side, channels, images, threads):
    generator = torch.Generator().manual_seed(side * 100 + channels)
    x = torch.randn(images, channels, side, side, generator=generator)
    x = x.to(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator)

    def theirs(x, weight):
        return F.conv2d(x, weight, None, stride, kernel // 2, groups=channels)

    out = torch.randn(theirs(x, weight).shape, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = gradients(theirs, x, weight, out)
        found = gradients(lambda x, w: channelwise(x, w, stride), x, weight, out)
    finally:
        torch.set_num_threads(before)
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


def test_without_numba_pytorch_does_it(monkeypatch):
    monkeypatch.setattr(module, "_loop", lambda: None)
    x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last)
    weight = torch.randn(4, 1, 5, 5, requires_grad=True)
    out = channelwise(x, weight, 1)
    assert out.grad_fn.name() == "ConvolutionBackward0"
