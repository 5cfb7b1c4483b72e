"""What every family promises, by enumeration of small spaces and draws of the large ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_families import SMALL

from apq.errors import SpaceError
from apq.hardware import load_cost_model, price_space
from apq.space import FAMILIES, PRESETS, Candidate, Space, load_space
from apq.space.families import MobileNetV3
from apq.space.layer import bitops, macs, size_bits, to_array, weight_count

EVERY = SMALL | {name: make() for name, make in PRESETS.items()}


@pytest.fixture(params=SMALL)
def small(request) -> Space:
    return SMALL[request.param]


@pytest.fixture(params=EVERY)
def any_space(request) -> Space:
    return EVERY[request.param]


def test_every_family_has_a_space_here():
    assert {type(space.family) for space in EVERY.values()} == set(FAMILIES.values())


def test_a_space_is_its_plain_data(any_space):
    data = json.loads(json.dumps(any_space.to_dict()))
    assert Space.from_dict(data) == any_space
    with pytest.raises(SpaceError, match="unknown field 'wobble'"):
        Space.from_dict(data | {"wobble": 3})
    with pytest.raises(SpaceError, match=r"unknown family 'resnot'.*Did you mean 'resnet'"):
        Space.from_dict(data | {"family": "resnot"})


def test_a_small_space_is_listed_counted_and_drawn_alike(small):
    every = small.every_candidate()
    assert len(every) == small.count() == len({small.build(row) for row in every}) > 60
    drawn = small.sample(300, np.random.default_rng(0))
    assert {*map(tuple, drawn)} <= {*map(tuple, every)}
    again = small.genes([small.build(row) for row in every])
    assert np.array_equal(again, every)
    assert np.array_equal(small.from_values(small.values(every)), every)
    some = [Candidate.from_dict(json.loads(json.dumps(small.build(r).to_dict()))) for r in drawn]
    assert np.array_equal(small.genes(some), drawn)
    narrow = small.restrict("*w_bits=8", "*width=max")
    kept = every[narrow.contains(every)]
    assert len(kept) == narrow.count()
    assert np.array_equal(kept, narrow.every_candidate())


def test_an_encoding_tells_candidates_apart(small):
    every = small.every_candidate()
    depths = every[:, : len(small.stages)]
    code = np.concatenate([small.encode(every), depths], axis=1)
    assert len(np.unique(code, axis=0)) == len(every)
    assert small.encode(every).shape[1] == small.encoding_dims


def test_costs_are_sums_over_the_layers_that_run(any_space):
    priced = price_space(any_space)
    genes = any_space.sample(20, np.random.default_rng(1))
    costs = priced.costs(genes)
    for i, row in enumerate(genes):
        layers = to_array(list(any_space.layers(any_space.build(row))))
        assert costs["macs_m"][i] == pytest.approx(macs(layers).sum() / 1e6, rel=1e-12)
        assert costs["bitops_g"][i] == pytest.approx(bitops(layers).sum() / 1e9, rel=1e-12)
        assert costs["size_mb"][i] == pytest.approx(size_bits(layers).sum() / 8e6, rel=1e-12)


@pytest.mark.parametrize("fix", [(), ("*w_bits=8",), ("depth=max", "*width=min")])
def test_extremes_equal_enumeration_where_factors_share_genes(small, fix):
    space = small.restrict(*fix)
    priced = price_space(small, load_cost_model("bit-serial")).within(space)
    assert priced.bound or isinstance(small.family, MobileNetV3)  # genes that several factors read
    every = space.every_candidate()
    costs = priced.costs(every)
    assert set(costs) > {"latency_ms", "peak_memory_kb"}
    for metric, values in costs.items():
        for largest, best in ((False, values.min()), (True, values.max())):
            value, row = priced.extreme(metric, largest)
            assert value == pytest.approx(best, rel=1e-12), metric
            assert space.contains(row).all()


def test_a_chain_costs_what_its_channels_say():
    """The patent's three convolutions of 16, 32 and 64 channels, counted by hand."""
    space = load_space("cifar10-chain")
    row = space.build(space.cardinalities - 1)
    layers = space.layers(row)
    assert [x.out_channels for x in layers] == [16, 16, 32, 32, 64, 64, 10]
    assert [x.in_channels for x in layers] == [3, 16, 16, 32, 32, 64, 64]
    assert [x.height for x in layers] == [32, 32, 16, 16, 8, 8, 1]
    weights = [3 * 16, 16 * 16, 16 * 32, 32 * 32, 32 * 64, 64 * 64]
    assert weight_count(to_array(list(layers))).tolist() == [25 * w for w in weights] + [640]


def test_a_residual_network_joins_what_its_stage_chose():
    space = SMALL["basic"]
    some = space.build(space.cardinalities - 1).with_(channels_1=16)
    graph = space.graph_of(some)
    joined = [node for node in graph.nodes if node.op == "add"]
    assert [node.channels for node in joined] == [8, 16, 16]
    assert all(graph.by_name[x].channels == node.channels for node in joined for x in node.inputs)
    shallow = space.graph_of(space.build(space.cardinalities * 0))
    assert [node.name for node in shallow.nodes if node.op == "add"] == [
        "blocks.0.add", "blocks.1.add",
    ]  # fmt: skip


def test_the_resolution_decides_the_sides_of_all_layers():
    space = SMALL["resolutions"]
    assert space.resolution == 12
    axis = space.axis("resolution")
    assert (axis.choices, axis.slot, axis.is_depth) == ((6, 8, 12), None, False)
    most, priced = space.build(space.cardinalities - 1), price_space(space)
    for side in axis.choices:
        candidate = most.with_(resolution=side)
        layers, half = space.layers(candidate), side // 2
        assert [layer.height for layer in layers] == [side] * 11 + [half, half, 1]
        weights, outs = weight_count(to_array(list(layers))), [side] * 10 + [half] * 3 + [1]
        by_hand = (weights * np.array(outs) ** 2).sum() / 1e6
        assert priced.costs(space.genes([candidate]))["macs_m"][0] == pytest.approx(by_hand)
    assert space.restrict("resolution=min").count() * 3 == space.count()


def test_numbers_that_contradict_themselves_are_refused():
    resnet, chain = SMALL["basic"].to_dict(), SMALL["chain"].to_dict()
    for data, change, message in (
        (resnet, {"block": "baisc"}, "block is 'baisc', must be one of 'basic' or 'bottleneck'"),
        (resnet, {"stages": []}, "stages has 0 entries"),
        (resnet, {"bits": {"w": [8, 8], "a": [8]}}, "bits.w = .* must be distinct"),
        (resnet, {"exclude": [{"depthh": 3}]}, "unknown field of exclude 'depthh'"),
        (chain, {"layers": [{"channels": [16, 8]}]}, r"layers\[0\].channels = .* ascending"),
        (chain, {"layers": [{"channels": [8], "kernel": [2]}]}, "must be odd sizes"),
        (resnet, {"exclude": [{"kernel": 9}]}, "exclude kernel = 9 is what no block can choose"),
        (chain, {"classes": 1}, "classes = 1 must be between 2"),
        (chain, {"resolution": 0}, "resolution = 0 must be between 1"),
        (chain, {"resolution": [32, 24]}, r"resolution = \[32, 24\] must be ascending"),
        (chain, {"resolution": [8, 70000]}, "resolution = 2 up to 70000 must be at most"),
        (chain, {"resolution": "8"}, r"resolution\[0\] is '8', must be a whole number"),
        (chain, {"resolution": []}, "resolution has 0 entries"),
    ):
        with pytest.raises(SpaceError, match=message):
            Space.from_dict(data | change)
    with pytest.raises(SpaceError, match="one number, or at least two to choose from"):
        SMALL["chain"].with_(resolution=(8,))
    assert Space.from_dict(chain | {"resolution": [8]}) == SMALL["chain"]
