"""Dense prices of a space against sums over layers, and exact ranges against enumeration."""

from __future__ import annotations

import numpy as np
import pytest

from apq.hardware import load_cost_model
from apq.hardware.lut import build_table
from apq.hardware.pricing import COUNTED, price_space
from apq.space import PRESETS
from apq.space.layer import bitops, macs, size_bits, to_array


@pytest.mark.parametrize("name", ["digits", "cifar10", "apq-imagenet"])
def test_gathered_costs_equal_sums_over_layers(name):
    space = PRESETS[name]()
    table = build_table(space, load_cost_model("roofline"))
    priced = price_space(space, table)
    genes = space.sample(25, np.random.default_rng(1))
    costs = priced.costs(genes)
    assert set(COUNTED) < set(costs)
    for i, row in enumerate(genes):
        layers = to_array(list(space.layers(space.build(row))))
        expected = {
            "macs_m": macs(layers).sum() / 1e6,
            "bitops_g": bitops(layers).sum() / 1e9,
            "size_mb": size_bits(layers).sum() / 8e6,
            "latency_ms": table.price(layers)["latency_ms"].sum(),
        }
        for metric, value in expected.items():
            assert costs[metric][i] == pytest.approx(value, rel=1e-9), metric


def test_reachable_range_is_exact(tiny_space):
    priced = price_space(tiny_space, build_table(tiny_space, load_cost_model("bitfusion-apq")))
    costs = priced.costs(tiny_space.every_candidate())
    for metric in priced.metrics:
        low, high = priced.reach(metric)
        assert low == pytest.approx(costs[metric].min(), rel=1e-12), metric
        assert high == pytest.approx(costs[metric].max(), rel=1e-12), metric


GEOMETRY = ((8, 8, 8, 1), (8, 8, 8, 1), (8, 16, 8, 2))
"""Of the tiny space's blocks: channels before and after, side before, stride."""


def test_peak_memory_is_that_of_the_worst_moment(tiny_space):
    """Live tensors counted one layer at a time, each at the bits of the layer that reads it."""
    priced = price_space(tiny_space)
    genes = tiny_space.sample(20, np.random.default_rng(0))
    measured = priced.costs(genes)["peak_memory_kb"]
    for row, kb in zip(genes, measured, strict=True):
        candidate = tiny_space.build(row)
        peaks = [(1 * 64 + 8 * 64) * 8]
        for slot in tiny_space.slots:
            block = candidate.blocks.get(slot.name)
            if block is None:
                continue
            before, out, side, stride = GEOMETRY[slot.index]
            after = side // stride
            tensors = [
                before * side**2 * block["pw_a_bits"],
                block["width"] * side**2 * block["dw_a_bits"],
                block["width"] * after**2 * block["pw_a_bits"],
                out * after**2 * 8,
            ]
            kept = tensors[0] if stride == 1 and before == out else 0
            peaks += [sum(tensors[:2]), sum(tensors[1:3]) + kept, sum(tensors[2:]) + kept]
        assert kb == pytest.approx(max(peaks) / 8e3)


def test_several_devices_are_priced_side_by_side(tiny_space):
    names = ["roofline", "bitfusion-ideal-dw"]
    both = price_space(tiny_space, [load_cost_model(name) for name in names])
    genes = tiny_space.sample(30, np.random.default_rng(2))
    for name in names:
        alone = price_space(tiny_space, load_cost_model(name)).costs(genes, ["latency_ms"])
        together = both.costs(genes, [f"latency_ms@{name}"])
        assert np.array_equal(alone["latency_ms"], together[f"latency_ms@{name}"])
