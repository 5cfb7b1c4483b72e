"""Networks that people bring: what is traced is what they are, whole and cut."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from masked_original import candidates, gap, masked
from networks import NETWORKS, build
from torch import Tensor, nn

from apq.errors import ModelError
from apq.hardware import price_space
from apq.space import Space
from apq.supernet.elastic import ConvBN
from apq.supernet.supernet import largest, smallest
from apq.supernet.trace import TracedNetwork, load_function, normalisation, read_size, trace

EXAMPLE = torch.zeros(2, 1, 8, 8)


@pytest.fixture(scope="module", params=NETWORKS)
def both(request) -> tuple[nn.Module, TracedNetwork]:
    network = build(request.param)
    return network, trace(network, EXAMPLE, request.param)


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def masked_outputs(traced: TracedNetwork, row: np.ndarray) -> Tensor:
    """Logits of the largest subnet with the channels that a candidate lacks set to 0, depths at
    their largest: what cutting them must give."""
    space = traced.space
    subnet = traced.supernet.subnet(largest(space)).eval()
    chosen = space.chosen(space.build(row))
    for node in space.graph.layers:
        if isinstance(node.channels, str):
            kept = chosen[node.channels]
            part = subnet.get_submodule(node.name)
            assert isinstance(part, ConvBN | nn.Linear)
            part.register_forward_hook(
                lambda _, __, y, kept=kept: torch.cat(
                    [y[:, :kept], torch.zeros_like(y[:, kept:])], dim=1
                )
            )
    with torch.no_grad():
        return subnet(images())


def test_the_largest_subnet_is_the_network(both):
    network, traced = both
    with torch.no_grad():
        wanted = network(images())
        whole = traced.supernet(images(), largest(traced.space))
        cut_out = traced.supernet.subnet(largest(traced.space)).eval()(images())
    torch.testing.assert_close(whole, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cut_out, whole, rtol=1e-5, atol=1e-6)
    assert not traced.space.graph.layers[0].block


def test_cut_channels_count_as_nothing(both):
    _, traced = both
    space, rng = traced.space, np.random.default_rng(0)
    rows = np.concatenate([space.sample(12, rng), space.cardinalities[None] * 0])
    deep = [i for i, axis in enumerate(space.axes) if axis.is_depth]
    rows[:, deep] = space.cardinalities[deep] - 1
    for row in rows:
        with torch.no_grad():
            found = traced.supernet.subnet(space.build(row)).eval()(images())
        torch.testing.assert_close(found, masked_outputs(traced, row), rtol=1e-4, atol=1e-5)


def test_a_traced_space_survives_its_file_and_is_priced(both):
    _, traced = both
    space = traced.space
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    priced = price_space(space)
    rows = space.sample(8, np.random.default_rng(1))
    for i, macs in enumerate(priced.costs(rows)["macs_m"]):
        layers = space.layers(space.build(rows[i]))
        by_hand = sum(
            x.in_channels
            // x.groups
            * x.out_channels
            * x.kernel**2
            * (-(-x.height // x.stride)) ** 2
            for x in layers
        )
        assert macs == pytest.approx(by_hand / 1e6)
    low, high = priced.reach("macs_m")
    assert low < high / 4
    assert traced.supernet.subnet(smallest(space)).eval()(images()).shape == (6, 10)


def test_residual_branches_are_stages_with_a_depth():
    traced = trace(build("resnet"), EXAMPLE)
    space = traced.space
    depths = [stage.depth for stage in space.stages]
    assert depths == [(0, 1), (1,), (1,), (1,), (0, 1, 2)]
    shallow = space.build(space.snap(np.where([a.is_depth for a in space.axes], 0, 9)[None] * 0)[0])
    assert shallow["depth_4"] == 0
    names = [node.name for node in space.graph_of(shallow).nodes]
    assert "3.conv1" not in names
    assert "2.conv1" in names
    widths = {axis.name: axis.choices for axis in space.axes if axis.name.endswith("width")}
    assert widths["2_conv2_width"] == (8, 16, 24, 32)  # the stream of the last three blocks
    graph = space.graph
    assert {graph.by_name[n].channels for n in ("2.conv2", "2.down.0", "3.conv2", "4.conv2")} == {
        "2_conv2_width"
    }


def test_what_is_to_be_left_alone_stays():
    traced = trace(build("vgg"), EXAMPLE, leave=["2"], smallest=0.5)
    assert ("2", "2 is to be left alone") in traced.kept
    assert traced.space.graph.by_name["2"].channels == 32
    assert traced.space.axis("5_width").choices[0] == 32
    with pytest.raises(ModelError, match="no layer is called 'nine'"):
        trace(build("vgg"), EXAMPLE, leave=["nine"])


class Odd(nn.Module):
    """Does with its layers what a test says."""

    def __init__(self, how) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.odd, self.line = (
            nn.Conv2d(8, 8, 4, padding=2),
            nn.Conv2d(8, 8, (1, 5), dilation=(1, 1)),
        )
        self.grouped, self.down = nn.Conv2d(8, 8, 3, 1, 1, groups=2), nn.Conv2d(8, 8, 2, 2)
        self.more = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.norm, self.slope = nn.BatchNorm2d(8), nn.PReLU(8)
        self.layer_norm = nn.LayerNorm(8)
        self.fc, self.wide, self.twice = nn.Linear(8, 10), nn.Linear(8 * 64, 10), nn.Linear(16, 10)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


def excited(conv: nn.Module, x: Tensor) -> Tensor:
    return x * torch.sigmoid(conv(x.relu()).mean((2, 3), keepdim=True))


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


CUT = [
    lambda s, x: s.fc(mean(torch.sin(s.a(x)))),
    lambda s, x: s.fc(mean(s.odd(s.a(x)))),
    lambda s, x: s.fc(mean(s.line(s.a(x)))),
    lambda s, x: s.fc(mean(s.down(F.silu(s.a(x))))),
    lambda s, x: s.fc(mean(s.grouped(s.a(x)))),
    lambda s, x: s.twice(mean(s.more(s.a(x)))),
    lambda s, x: s.wide(s.a(x).relu().flatten(1)),
    lambda s, x: s.fc(mean(2 * s.a(x) + 1.0)),
    lambda s, x: s.fc(mean(F.max_pool2d(s.a(x), 3, 2))),
    lambda s, x: s.fc(mean(F.avg_pool2d(F.leaky_relu(s.a(x)), 2))),
    lambda s, x: s.fc(mean(s.b(F.relu(s.norm(F.max_pool2d(s.a(x), 2)))))),
    lambda s, x: s.fc(mean(s.b(s.slope(s.a(x))))),
    lambda s, x: s.fc(mean(s.b(F.interpolate(F.gelu(s.a(x)), scale_factor=2.0)))),
    lambda s, x: s.fc(mean(s.b(F.pad(s.a(x), (0, 1, 0, 1)))[:, :, 1:])),
    lambda s, x: s.fc(mean(excited(s.b, s.a(x)))),
    lambda s, x: s.b(F.relu(s.a(x))),
]  # fmt: skip
"""Networks whose channels can be cut, each with an operation of its own."""

FROZEN = [
    (lambda s, x: s.fc(mean(s.b(s.b(s.a(x))))), "the weights of b are used more than once"),
    (lambda s, x: s.fc(mean(shuffled(s.a(x)))), "view from"),
    (lambda s, x: s.fc(mean(torch.cat(s.b(s.a(x)).chunk(2, 1)[::-1], 1))), "divided by chunk"),
    (lambda s, x: s.fc(s.layer_norm(mean(s.a(x)))), "layer_norm reads its channels"),
    (lambda s, x: s.fc(torch.cumsum(mean(s.a(x)), 1)), "cumsum reads its channels"),
]
"""Networks in which what cannot be cut is kept, and the reason."""


@pytest.mark.parametrize("how", CUT)
def test_operations_of_all_kinds_are_cut_as_if_weights_were_zero(how):
    torch.manual_seed(0)
    network = Odd(how).eval()
    traced = trace(network, EXAMPLE, sort=False)
    x = images()
    with torch.no_grad():
        assert gap(network(x), traced.supernet(x, largest(traced.space))) < 1e-6
        for candidate in candidates(traced.space):
            oracle = masked(network, traced.space, traced.space.chosen(candidate))
            assert oracle is not None
            wanted = oracle(x)
            assert gap(wanted, traced.supernet.subnet(candidate).eval()(x)) < 1e-5
            assert gap(wanted, traced.supernet(x, candidate)) < 1e-5
    names = [axis.name for axis in traced.space.axes if axis.name.endswith("_width")]
    assert "a_width" in names


@pytest.mark.parametrize(("how", "reason"), FROZEN)
def test_what_is_not_understood_keeps_its_width_and_is_named_with_its_line(how, reason):
    network = Odd(how).eval()
    traced = trace(network, EXAMPLE, sort=False)
    x = images()
    with torch.no_grad():
        assert gap(network(x), traced.supernet(x, largest(traced.space))) < 1e-6
        low = traced.supernet.subnet(smallest(traced.space)).eval()(x)
    assert low.shape == (6, 10)
    found = [why for _, why in traced.kept if reason in why]
    assert found
    assert "test_trace.py:" in found[0]
    assert price_space(traced.space).reach("macs_m")[0] > 0


@torch.library.custom_op("apq_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    """An operation that nobody knows."""
    return x * 2


@doubled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_operation_that_nobody_knows_runs_as_it_is():
    network = Odd(lambda s, x: s.fc(mean(s.b(F.relu(doubled(s.a(x))))))).eval()
    traced = trace(network, EXAMPLE)
    assert any("doubled reads its channels" in why for _, why in traced.kept)
    assert "b_width" in {axis.name for axis in traced.space.axes}
    with torch.no_grad():
        assert gap(network(images()), traced.supernet(images(), largest(traced.space))) < 1e-5


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda s, x: s.fc(mean(s.a(x))) if x.sum() > 0 else s.fc(mean(s.b(s.a(x)))),
         r"cannot read the network .*test_trace\.py:\d+.* depends on the values"),
        (lambda s, x: (s.fc(mean(s.a(x))), x), "gives 2 results"),
        (lambda s, x: s.fc(x.flatten(1)[:, :8].cumsum(1)), "nothing in this network can be cut"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_one_graph_are_refused_in_words(how, message):
    with pytest.raises(ModelError, match=message):
        trace(Odd(how), EXAMPLE)
    with pytest.raises(ModelError, match="must be real"):
        trace(Odd(how), torch.zeros(2, 5, dtype=torch.long))


def test_training_mode_and_half_precision_are_read_as_they_would_run():
    network = build("vgg").train()
    traced = trace(network, EXAMPLE)
    assert network.training
    with torch.no_grad():  # dropout and batch statistics play no part
        found = traced.supernet(images(), largest(traced.space))
        assert gap(build("vgg").eval()(images()), found) < 1e-5
    for kind in (torch.float16, torch.bfloat16):
        half = trace(build("vgg").to(kind), EXAMPLE.to(kind))
        assert half.notes == (("the network", "half precision: read as float32"),)
        assert half.space == traced.space


class Scaled(nn.Module):
    """Takes, beside images, what is no tensor."""

    def __init__(self, inner: nn.Module, takes_more: bool) -> None:
        super().__init__()
        self.inner = inner
        self.forward = self.more if takes_more else self.defaults

    def more(self, x: Tensor, scale: float) -> Tensor:
        return scale * self.inner(x)

    def defaults(self, x: Tensor, scale: float = 3.0, twice: bool = True) -> Tensor:
        return (2 if twice else 1) * scale * self.inner(x)


def test_other_inputs_than_one_tensor():
    network = build("vgg").eval()
    given = Scaled(network, False)
    traced = trace(given, EXAMPLE)
    with torch.no_grad():
        assert gap(6 * network(images()), traced.supernet(images(), largest(traced.space))) < 1e-5
    with pytest.raises(ModelError, match=r"missing a required argument: 'scale'\. .* one tensor"):
        trace(Scaled(network, True), EXAMPLE)
    for example, kind in (([EXAMPLE], "list"), ({"x": EXAMPLE}, "dict"), (None, "NoneType")):
        with pytest.raises(ModelError, match=f"is a {kind}; .* takes one tensor"):
            trace(network, example)
    with pytest.raises(ModelError, match=r"is a function; it must be a torch\.nn\.Module"):
        trace(lambda x: x, EXAMPLE)


@pytest.mark.parametrize("wrapped", [lambda y: (y,), lambda y: {"logits": y}, lambda y: [{"y": y}]])
def test_a_result_may_be_alone_in_a_tuple_or_a_dict(wrapped):
    network = Odd(lambda s, x: wrapped(s.fc(mean(s.b(F.relu(s.a(x)))))))
    traced = trace(network, EXAMPLE, sort=False)
    with torch.no_grad():
        found = traced.supernet(images(), largest(traced.space))
        assert gap(network.fc(mean(network.b(F.relu(network.a(images()))))), found) < 1e-6


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 16, 3, padding=1)
        self.b, self.c = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c.weight = self.b.weight
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(mean(F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))))


def test_tied_weights_keep_their_channels():
    traced = trace(Tied(), EXAMPLE)
    assert not [axis for axis in traced.space.axes if axis.name.endswith("_width")]
    assert any("own copy" in words for _, words in traced.notes)


@pytest.mark.parametrize("shape", [(2, 1, 12, 20), (2, 3, 7, 7), (2, 2, 40)])
def test_inputs_of_any_shape(shape):
    torch.manual_seed(0)
    conv = nn.Conv1d if len(shape) == 3 else nn.Conv2d
    pool = nn.AdaptiveAvgPool1d(1) if len(shape) == 3 else nn.AdaptiveAvgPool2d(1)
    network = nn.Sequential(
        conv(shape[1], 16, 3, 2, padding=1), nn.ReLU(), conv(16, 24, 3, padding=1), nn.ReLU(), pool,
        nn.Flatten(), nn.Linear(24, 5),
    ).eval()  # fmt: skip
    traced = trace(network, torch.zeros(shape), sort=False)
    space, x = traced.space, torch.randn(4, *shape[1:])
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    with torch.no_grad():
        assert gap(network(x), traced.supernet(x, largest(space))) < 1e-6
        for candidate in candidates(space):
            oracle = masked(network, space, space.chosen(candidate))
            assert oracle is not None
            assert gap(oracle(x), traced.supernet.subnet(candidate).eval()(x)) < 1e-5
    places = [-(-n // 2) for n in shape[2:]]
    taps = 9 if len(shape) == 4 else 3
    macs = int(np.prod(places)) * taps * (shape[1] * 16 + 16 * 24) + 24 * 5
    priced = price_space(space).costs(space.genes([largest(space)]))["macs_m"][0]
    assert priced == pytest.approx(macs / 1e6)


def test_words_of_the_command_line_are_checked():
    assert read_size("3x32x32") == (3, 32, 32)
    assert read_size("2x400") == (2, 400)
    for wrong in ("3", "3x32x31x2", "0x8x8", "axbxc"):
        with pytest.raises(ModelError, match="--input"):
            read_size(wrong)
    assert normalisation("", "", 3)["mean"][0] == 0.485
    for mean_, std in (("0.5", "0"), ("a", "0.2"), ("0.5,0.5", "0.2,0.2"), ("", "")):
        with pytest.raises(ModelError, match="must be 1 numbers"):
            normalisation(mean_, std, 1)
    assert load_function("networks:vgg")().__class__ is nn.Sequential
    with pytest.raises(ModelError, match="is not MODULE:FUNCTION"):
        load_function("networks")
    with pytest.raises(ModelError, match="cannot import 'no_such_module'"):
        load_function("no_such_module:f")
    with pytest.raises(ModelError, match="networks has no function 'vggg'"):
        load_function("networks:vggg")
