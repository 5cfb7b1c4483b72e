"""Orders of channels: whatever the order, the whole network stays what it is."""

from __future__ import annotations

import copy
from functools import cache, partial

import pytest
import torch
from networks import NETWORKS, build
from torch import Tensor, nn

from apq.errors import ApqError
from apq.images import load_images
from apq.supernet.evaluate import normalise, recalibrate
from apq.supernet.files import load_supernet, save_supernet
from apq.supernet.orders import ORDERS, Measured, sort_channels
from apq.supernet.orders.legr import legr
from apq.supernet.orders.measured import gates
from apq.supernet.statistics import absorb_statistics
from apq.supernet.supernet import Supernet, largest
from apq.supernet.trace import trace
from apq.supernet.training import Recipe, train
from apq.training.feed import to_tensor

EXAMPLE = torch.zeros(2, 1, 8, 8)


SHORT = ORDERS | {"legr": partial(legr, population=4, generations=4)}


@cache
def traced(name: str) -> Supernet:
    return trace(build(name), EXAMPLE).supernet


def supernet_of(name: str) -> Supernet:
    return copy.deepcopy(traced(name))


def measured(count: int = 24) -> Measured:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    return Measured(images, torch.randint(10, (count,), generator=generator), batch=16)


def whole(supernet: Supernet, images: Tensor) -> Tensor:
    with torch.no_grad():
        return supernet.subnet(largest(supernet.space)).eval()(images)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_sorting_leaves_the_whole_network_what_it_is(name, order):
    supernet, data = supernet_of(name), measured()
    before = whole(supernet, data.images)
    importance = SHORT[order](supernet, data)
    assert {gene: len(own) for gene, own in importance.items()} == supernet.widths
    assert all(torch.isfinite(own).all() for own in importance.values())
    supernet.sort_channels(importance)
    torch.testing.assert_close(whole(supernet, data.images), before, rtol=1e-4, atol=1e-5)
    if order != "legr":  # which is learned: what sorted channels teach it may differ
        for own in SHORT[order](supernet, data).values():
            assert (own[:-1] - own[1:] > -1e-3 * own.abs().max()).all()


def test_an_unknown_order_is_named():
    with pytest.raises(ApqError, match=r"tailor.*taylor"):
        sort_channels(supernet_of("vgg"), "tailor", measured())


@pytest.mark.parametrize("order", ["activation", "taylor"])
def test_channels_that_say_nothing_come_last(order):
    """Of a group's channels some are constant: only orders that look at images notice."""
    network = build("vgg")
    assert isinstance(network, nn.Sequential)
    first = network[0]
    assert isinstance(first, nn.Conv2d)
    dead = [1, 4, 9, 12]
    with torch.no_grad():
        first.weight[dead] = 0
        first.bias[dead] = -1  # off, behind the ReLU
        network[2].weight[:, dead] = 9  # and large where they are read
    supernet, data = trace(network, EXAMPLE).supernet, measured()
    own = SHORT[order](supernet, data)["0_width"]
    assert set(own.argsort()[:4].tolist()) == {0, 1, 2, 3}  # the L1 norm had put them first


def test_gates_of_zero_cut_channels():
    supernet, data = supernet_of("resnet"), measured()
    space = supernet.space
    chosen = space.build(space.snap((space.cardinalities - 1)[None])[0])
    half = chosen.with_(**{"2_conv2_width": 16})
    subnet = supernet.subnet(chosen).eval()
    stream = [n.name for n in space.graph.layers if n.channels == "2_conv2_width"]
    gate = torch.cat([torch.ones(1, 16), torch.zeros(1, 16)], dim=1)
    with torch.no_grad():
        found = gates(subnet, data.images, dict.fromkeys(stream, gate))
        cut = supernet.subnet(half).eval()(data.images)
    torch.testing.assert_close(found, cut, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_measured_statistics_keep_the_function_and_survive_recalibration(name):
    supernet, data = supernet_of(name), measured(64)
    before = whole(supernet, data.images)
    absorb_statistics(supernet, data.images, batch=32)
    torch.testing.assert_close(whole(supernet, data.images), before, rtol=1e-3, atol=1e-4)
    again = supernet.subnet(largest(supernet.space))
    recalibrate(again, data.images, batch=64)
    with torch.no_grad():
        found = again(data.images)
    assert float((found - before).norm() / before.norm()) < 0.02


def test_a_start_without_training_sorts_and_keeps_function_and_normalisation(tmp_path):
    images = load_images("digits", 8, 1, 10)
    network = build("vgg")
    path = tmp_path / "traced.safetensors"
    about = {"mean": [0.3], "std": [0.4], "traced": "networks:vgg", "channels_sorted": False}
    save_supernet(path, supernet_of("vgg"), about)
    file = load_supernet(path)
    made, said = train(
        file.network.space, images, Recipe(epochs=0, order="activation"), start_from=[file]
    )
    assert (said["mean"], said["std"], said["channels_sorted"]) == ((0.3,), (0.4,), True)
    x = normalise(to_tensor(images.splits["validation"][0]), (0.3,), (0.4,))
    with torch.no_grad():
        before, after = network(x), whole(made, x)
    assert float((after - before).norm() / before.norm()) < 0.02  # batches have other statistics
    data = Measured(x, torch.from_numpy(images.splits["validation"][1]))
    own = ORDERS["activation"](made, data)["2_width"]
    assert own[:16].sum() > own[16:].sum()
