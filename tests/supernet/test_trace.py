"""Networks that people bring: what is traced is what they are, whole and cut."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, build
from torch import Tensor, nn

from apq.errors import ModelError
from apq.hardware import price_space
from apq.space import Space
from apq.supernet.elastic import ConvBN
from apq.supernet.network import largest, smallest
from apq.supernet.trace import TracedNetwork, load_function, normalisation, read_size, trace

EXAMPLE = torch.zeros(2, 1, 8, 8)


@pytest.fixture(scope="module", params=NETWORKS)
def both(request) -> tuple[nn.Module, TracedNetwork]:
    network = build(request.param)
    return network, trace(network, EXAMPLE, request.param)


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def masked(traced: TracedNetwork, row: np.ndarray) -> Tensor:
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
        torch.testing.assert_close(found, masked(traced, row), rtol=1e-4, atol=1e-5)


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


class Wrong(nn.Module):
    """Does with its layers what a test says."""

    def __init__(self, how) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.odd = nn.Conv2d(8, 8, 4, padding=2)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.fc, self.wide = nn.Linear(8, 10), nn.Linear(8 * 64, 10)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda s, x: s.fc(mean(torch.sin(s.a(x)))), "sin is an operation the graph has"),
        (lambda s, x: s.fc(mean(s.b(s.b(s.a(x))))), "module b is used twice"),
        (lambda s, x: s.fc(mean(s.odd(s.a(x)))), "module odd .*4x4 convolution"),
        (lambda s, x: s.fc(mean(s.grouped(s.a(x)))), "convolution of 2 groups"),
        (lambda s, x: s.wide(s.a(x).flatten(1)), "flatten of whole images"),
        (lambda s, x: s.fc(mean(s.a(x) + 1.0)), "addition of something else than two tensors"),
        (lambda s, x: s.a(x), "must end with one linear layer"),
        (lambda s, x: s.fc(mean(s.a(x).relu() + s.a(x))), "module a is used twice"),
        (lambda s, x: s.fc(mean(F.max_pool2d(s.a(x), 3, 2))), "max-pooling of another shape"),
        (lambda s, x: s.fc(mean(F.avg_pool2d(s.a(x), 2))), "avg_pool2d over a part of the pixels"),
        (lambda s, x: s.fc(mean(s.a(x))) if x.sum() > 0 else s.fc(mean(s.b(s.a(x)))),
         "torch.export cannot read"),
    ],
)  # fmt: skip
def test_what_the_graph_cannot_hold_is_refused_by_module_and_line(how, message):
    with pytest.raises(ModelError, match=message):
        trace(Wrong(how), EXAMPLE)


def test_a_refusal_names_the_users_line_and_training_mode_is_left_as_it_was():
    network = Wrong(lambda s, x: s.fc(mean(torch.sin(s.a(x))))).train()
    with pytest.raises(ModelError, match=r"test_trace\.py:\d+\)"):
        trace(network, EXAMPLE)
    assert network.training
    trace(build("vgg").train(), EXAMPLE)


def test_words_of_the_command_line_are_checked():
    assert read_size("3x32x32") == (3, 32)
    for wrong in ("3x32", "3x32x31", "0x8x8", "axbxc"):
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
