"""Which layers of a traced network share the choice of their number formats."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from networks import build

from apq.errors import ApqError
from apq.hardware import price_space
from apq.space import Space
from apq.supernet.trace import TracedNetwork, trace

EXAMPLE = torch.zeros(2, 1, 8, 8)


def traced(share: str) -> TracedNetwork:
    return trace(build("resnet"), EXAMPLE, share=share)


def formats(space: Space) -> dict[str, str]:
    """The gene of every layer's weights."""
    return {node.name: str(node.weight) for node in space.graph.layers}


@pytest.mark.parametrize(
    ("share", "same", "other"),
    [
        ("per-block", ("1.conv1", "1.conv2"), ("3.conv1", "4.conv1")),
        ("per-layer", ("1.conv1", "1.conv1"), ("1.conv1", "1.conv2")),
        ("per-stage", ("2.conv1", "4.conv2"), ("1.conv1", "2.conv1")),
    ],
)
def test_layers_share_what_is_said(share, same, other):
    space = traced(share).space
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    genes = formats(space)
    assert genes[same[0]] == genes[same[1]]
    assert genes[other[0]] != genes[other[1]]
    assert genes["0.0"] == genes["5.fc"] == "8"  # the first and the last layer
    priced = price_space(space)
    rows = space.sample(6, np.random.default_rng(0))
    for row, bitops in zip(rows, priced.costs(rows)["bitops_g"], strict=True):
        by_hand = sum(
            x.in_channels // x.groups * x.out_channels * x.kernel**2
            * (-(-x.height // x.stride)) ** 2 * x.weight_bits * x.activation_bits
            for x in space.layers(space.build(row))
        )  # fmt: skip
        assert bitops == pytest.approx(by_hand / 1e9)


def test_a_skipped_branch_has_no_formats():
    space = traced("per-layer").space
    row = np.zeros((1, len(space.axes)), np.int16)
    least = space.build(space.snap(row)[0]).to_dict()
    assert "b00_1_conv1_w_bits" not in least
    assert "b01_2_conv1_w_bits" in least


def test_another_word_is_refused():
    with pytest.raises(ApqError, match="unknown way to share formats 'per-net'"):
        traced("per-net")
