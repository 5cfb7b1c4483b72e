"""What onnxruntime answers is what torch answers, and one is as good as the other."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from mobilenet import blocks_of

from apq.images import load_images
from apq.quantize import SCHEMES, quantize_subnet
from apq.runtime.folded import fold
from apq.runtime.session import BATCH, fast
from apq.runtime.shared import SharedStart, choices
from apq.space import load_space
from apq.supernet import Supernet, largest
from apq.supernet.evaluate import EvalImages, measure, recalibrate


@pytest.fixture(scope="module")
def space():
    return load_space("digits")


@pytest.fixture(scope="module")
def data():
    digits = load_images("digits", 8, 1, 10)
    return EvalImages.of(digits, digits.mean, digits.std, calibration=300)


@pytest.fixture(scope="module")
def supernet(space):
    torch.manual_seed(0)
    return Supernet(space)


@pytest.mark.parametrize("scheme", ["uniform", "haq", "codebook", "mantissa"])
def test_quantized_networks_give_the_same_bits(space, data, supernet, scheme):
    pytest.importorskip("onnxruntime")
    bits = set(SCHEMES[scheme]().weight_bits)
    for row in space.sample(4, np.random.default_rng(1)):
        candidate = space.build(row)
        used = {b[name] for b in blocks_of(candidate) for name in ("pw_w_bits", "dw_w_bits")}
        if not used <= bits:
            continue
        net = supernet.subnet(candidate)
        recalibrate(net, data.calibration)
        model = quantize_subnet(net, net.graph, data.calibration[:64], scheme).eval()
        images = data.images[: BATCH + 7]  # the last batch is not full
        found = fast(model.integer(), model)(images)
        assert found.unique().numel() > 10
        assert torch.equal(found, model(images))


@pytest.mark.parametrize("ordered", [True, False])
def test_sharing_the_first_blocks_changes_no_figure(space, data, supernet, ordered):
    rows = space.sample(12, np.random.default_rng(3))
    first = [a.name.startswith(("depth_0", "b00", "b01", "b02")) for a in space.axes]
    rows[4:8] = np.where(first, rows[:4], rows[4:8])  # beginnings of several lengths come twice
    rows[8:, :5] = rows[4:8, :5]
    candidates = [space.build(row) for row in space.snap(rows)]
    if ordered:
        candidates.sort(key=lambda c: choices(space.graph_of(c)))
    blocks = [choices(space.graph_of(c)) for c in candidates]
    shared = SharedStart(data)
    kept = set()
    for c, following in zip(candidates, [*blocks[1:], ()], strict=True):
        accuracy, loss = shared.measure(supernet.subnet(c), following)
        expected, expected_loss = measure(supernet.subnet(c), data)
        assert accuracy == pytest.approx(expected, abs=1.5 / len(data.labels))  # a tie may fall
        assert loss == pytest.approx(expected_loss, abs=1e-4)
        kept.add(len(shared._kept))
    assert ordered <= (max(kept) > 1)


def test_without_onnxruntime_torch_answers(space, data, supernet, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    net = supernet.subnet(largest(space)).eval()
    assert fast(fold(net), net) is net
