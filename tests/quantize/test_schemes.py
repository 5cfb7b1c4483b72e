"""What every scheme must do, whoever wrote it."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from apq.errors import ApqError
from apq.quantize import SCHEMES, find_scheme
from apq.quantize.codebook import Codebook
from apq.quantize.levels import Levels

WEIGHTS = [(name, bits) for name, make in SCHEMES.items() for bits in make().weight_bits]
ACTIVATIONS = [
    (name, bits, signed)
    for name, make in SCHEMES.items()
    for bits in make().activation_bits
    if bits in (1, 2, 3, 8)
    for signed in (False, True)
]


def some_weights(seed=0, shape=(6, 4, 3, 3)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3


@pytest.mark.parametrize(("name", "bits"), WEIGHTS)
def test_weights(name, bits):
    w = some_weights().requires_grad_()
    scheme = SCHEMES[name]()
    module = scheme.weights(w, bits)
    q = module(w)
    assert q.shape == w.shape
    assert torch.isfinite(q).all()
    with torch.no_grad():
        # few levels, the ones it claims
        assert module.levels().shape[1] <= 2**bits
        levels = module.levels().expand(len(w), -1)
        for channel, values in zip(q, levels, strict=True):
            assert len(channel.unique()) <= 2**bits
            distance = (channel.reshape(-1, 1) - values).abs().min(1).values
            assert distance.max() < 1e-6
        # rounding twice is rounding once
        if name != "codebook":  # its assignment belongs to the tensor it was fitted to
            torch.testing.assert_close(module.eval()(q.detach()), q, rtol=1e-6, atol=1e-7)
        # what is stored is what runs
        packed = module.eval().pack(w)
        torch.testing.assert_close(packed.dequantize(), q, rtol=1e-6, atol=1e-7)
        if packed.table is not None:
            assert int(packed.codes.min()) >= 0
            assert int(packed.codes.max()) < len(packed.table) <= 2**bits
        # within a channel, larger weights never become smaller
        if name != "flightnn" or bits == 4:
            order = w.flatten(1).argsort(1)
            assert (q.flatten(1).gather(1, order).diff(dim=1) >= -1e-7).all()
    module.train()(w).square().sum().backward()
    assert torch.isfinite(w.grad).all()
    assert (w.grad != 0).any()


@pytest.mark.parametrize(("name", "bits"), WEIGHTS)
@pytest.mark.parametrize("value", [0.0, 0.7, -0.7, 1e-38, 1e30])
def test_constant_weights(name, bits, value):
    w = torch.full((3, 2, 3, 3), value, requires_grad=True)
    module = SCHEMES[name]().weights(w, bits)
    q = module(w)
    assert torch.isfinite(q).all()
    q.sum().backward()
    assert torch.isfinite(w.grad).all()
    if value == 0:
        assert (q == 0).all()
    if abs(value) == 0.7 and not (name == "modified-binary" and value < 0):
        # up to a factor of two for powers of two at 2 bits
        assert ((q / value > 0.6) & (q / value < 1.5)).all()


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_refused(name, bad):
    scheme = SCHEMES[name]()
    w = some_weights()
    w[1, 2, 0, 0] = bad
    with pytest.raises(ApqError, match="1 of 216 values are NaN or infinite"):
        scheme.weights(w, scheme.weight_bits[-1])
    with pytest.raises(ApqError, match="NaN or infinite"):
        scheme.activations(w, 8, signed=True)
    with pytest.raises(ApqError, match="empty"):
        scheme.weights(w[:0], scheme.weight_bits[-1])


@pytest.mark.parametrize("name", SCHEMES)
def test_bits_a_scheme_lacks_are_refused_with_the_nearest(name):
    scheme = SCHEMES[name]()
    with pytest.raises(ApqError, match=f"nearest: {scheme.weight_bits[-1]}"):
        scheme.weights(some_weights(), 32)
    with pytest.raises(ApqError, match="activations in 31 bits"):
        scheme.activations(some_weights(), 31, signed=True)


@pytest.mark.parametrize(("name", "bits", "signed"), ACTIVATIONS)
def test_activations(name, bits, signed):
    x = some_weights(1, (8, 3, 5, 5)) * 4
    x = (x if signed else x.clamp(0, 6)).requires_grad_()
    module = SCHEMES[name]().activations(x.detach(), bits, signed)
    y = module(x)
    rounding = module.rounding()
    levels = torch.arange(rounding.low, rounding.high + 1) * rounding.scale
    assert len(y.detach().unique()) <= 2**bits
    assert ((y.detach().reshape(-1, 1) - levels).abs().min(1).values < 1e-5).all()
    torch.testing.assert_close(module(y.detach()), y, rtol=1e-6, atol=1e-6)
    order = x.detach().flatten().argsort()
    assert (y.detach().flatten()[order].diff() >= -1e-6).all()
    # the same on a device
    torch.testing.assert_close(rounding.codes(x.detach()) * rounding.scale, y.detach())
    y.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad != 0).any()
    for parameter in module.parameters():
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize(("name", "bits", "signed"), ACTIVATIONS)
def test_constant_activations(name, bits, signed):
    for value in (0.0, 0.7):
        x = torch.full((4, 3), value)
        y = SCHEMES[name]().activations(x, bits, signed)(x)
        assert torch.isfinite(y).all()


@pytest.mark.parametrize("name", SCHEMES)
def test_a_state_dict_holds_everything(name):
    scheme = SCHEMES[name]()
    bits = scheme.weight_bits[-1]
    w, other = some_weights(0), some_weights(1)
    fitted, blank = scheme.weights(w, bits).eval(), scheme.weights(other, bits).eval()
    blank.load_state_dict(fitted.state_dict())
    assert torch.equal(blank(w), fitted(w))
    assert torch.equal(copy.deepcopy(fitted)(w), fitted(w))
    x = some_weights(2) * 3
    fitted, blank = scheme.activations(x, 4, True), scheme.activations(torch.ones(1), 4, True)
    blank.load_state_dict(fitted.state_dict())
    assert torch.equal(blank(x), fitted(x))


@pytest.mark.parametrize("name", SCHEMES)
def test_storage_counts_codes_and_what_belongs_to_them(name):
    scheme = SCHEMES[name]()
    bits = scheme.weight_bits[0]
    w = some_weights(0, (16, 64, 1, 1))
    extra = scheme.storage_bits(w, bits) - w.numel() * bits
    assert 32 <= extra <= 32 * (16 + 2**bits)


@pytest.mark.parametrize("name", ["uniform", "haq", "mantissa", "codebook", "exponent"])
def test_more_bits_lose_less(name):
    scheme = SCHEMES[name]()
    w = some_weights(0, (8, 32, 3, 3))
    errors = [
        float((scheme.weights(w, bits)(w) - w).square().mean()) for bits in scheme.weight_bits
    ]
    assert all(b < 1.02 * a for a, b in itertools.pairwise(errors))


LEVELS = [name for name, make in SCHEMES.items() if isinstance(make(), Levels)]


@pytest.mark.parametrize("name", LEVELS)
def test_a_constant_scale_is_kept(name):
    scheme = find_scheme(f"{name}@-2")
    module = scheme.weights(some_weights(), scheme.weight_bits[-1])
    assert (module.scale == 0.25).all()
    module.fit(10 * some_weights())
    assert (module.scale == 0.25).all()


@pytest.mark.parametrize("name", LEVELS)
def test_scales_can_be_powers_of_two(name):
    scheme = find_scheme(f"{name}@po2")
    w = some_weights() * 3.0 ** torch.arange(6).view(6, 1, 1, 1)
    w[0] = 0
    q, fitted = (s.weights(w, scheme.weight_bits[0]) for s in (scheme, SCHEMES[name]()))
    powers = q.scale.reshape(-1)[1:]
    assert torch.equal(powers, 2 ** powers.log2().round())
    assert (q(w)[0] == 0).all()
    # at most one rounding, half an octave, from the scale that need not be a power
    assert (powers.log2() - fitted.scale.reshape(-1)[1:].log2()).abs().max() <= 1
    assert len(powers.unique()) > 3


@pytest.mark.parametrize(
    ("text", "message"),
    [("ternary@po3", "Did you mean 'po2'"), ("uniform@po2", "these have: binary")],
)
def test_a_wrong_scale_is_refused_in_words(text, message):
    with pytest.raises(ApqError, match=message):
        find_scheme(text)


@settings(max_examples=25, deadline=None)
@given(
    arrays("float32", (4, 9), elements=st.floats(-100, 100, width=32)),
    st.sampled_from([(n, b) for n, b in WEIGHTS if b <= 4]),
)
def test_any_weights_stay_within_their_range(array, which):
    name, bits = which
    w = torch.from_numpy(array)
    q = SCHEMES[name]().weights(w, bits)(w).detach()
    assert torch.isfinite(q).all()
    top = (
        w.abs().flatten(1).amax(1) if name not in ("haq", "codebook", "flightnn") else w.abs().max()
    )
    # HAQ's rule may end half a histogram bin beyond the largest value, powers of two round up
    slack = 2 if name in ("haq", "exponent", "flightnn", "mantissa") else 1.0001
    assert (q.abs().flatten(1).amax(1) <= slack * top + 1e-6).all()


def test_codebook_beats_uniform_at_equal_bits():
    w = some_weights(0, (8, 32, 3, 3))
    errors = [
        float((s.weights(w, 3)(w) - w).square().mean()) for s in (Codebook(), SCHEMES["haq"]())
    ]
    assert errors[0] < errors[1]


def test_families_are_frozen():
    assert isinstance(SCHEMES["binary"](), Levels)
    assert SCHEMES["binary"]() == SCHEMES["binary"]()


def test_a_scheme_per_bitwidth():
    scheme = find_scheme("haq,1=binary,2=ternary")
    assert scheme.weight_bits == (1, 2, 3, 4, 5, 6, 7, 8)
    w = some_weights()
    for bits, name in ((1, "binary"), (2, "ternary"), (4, "haq")):
        alone = SCHEMES[name]()
        assert torch.equal(scheme.weights(w, bits)(w), alone.weights(w, bits)(w))
        assert scheme.storage_bits(w, bits) == alone.storage_bits(w, bits)
    assert scheme.activations(w, 1, signed=True).rounding().is_sign
    assert find_scheme("ternary") == SCHEMES["ternary"]()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4=ternary", "nearest: 2"),
        ("ternery", "Did you mean 'ternary'"),
        ("x=ternary", "number of bits"),
        ("", "unknown scheme"),
    ],
)
def test_a_wrong_scheme_is_refused_in_words(text, message):
    with pytest.raises(ApqError, match=message):
        find_scheme(text)
