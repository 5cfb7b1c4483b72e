"""Hard swish and squeeze-and-excitation in exported files: the bits of evaluation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from apq.deploy.graphs import graph_steps
from apq.quantize.integer import Rounding, run
from apq.runtime import onnx_graph, onnx_integer
from apq.space.graph import Graph, Node

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

OTHER = Rounding(0.011, 0, 255, 8)


@pytest.mark.parametrize("form", ["qdq", "integer"])
@pytest.mark.parametrize("divided", [False, True])
def test_a_file_gives_the_same_bits_with_and_without_a_division(form, divided, monkeypatch):
    if divided:
        monkeypatch.setattr(onnx_integer, "sixfold", lambda *_: None)
    graph = Graph((
        Node("image", "image", channels=3, side=6),
        Node("conv", "conv", ("image",), 8, kernel=3),
        Node("act", "act", ("conv",), 8, act="hswish"),
        Node("pool", "pool", ("act",), 8),
        Node("last", "linear", ("pool",), 4),
    ))  # fmt: skip
    steps = graph_steps(graph, "int8", seed=0)
    made = onnx_graph.onnx_model(steps, (8, 3, 6, 6), {}, form)
    assert ("Div" in {node.op_type for node in made.graph.node}) == divided
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], run(steps, x), atol=1e-6)


def test_it_divides_where_a_product_would_round_otherwise():
    third, other = Rounding(1 / 3, -128, 127, 8), Rounding(2 / 3, -128, 127, 8)
    assert onnx_integer.sixfold(third, other, "hswish") is None
    assert onnx_integer.sixfold(third, third, "hswish") == pytest.approx(2)


def test_onnxruntime_keeps_both_roundings_where_a_grid_changes():
    """What is scaled shares a signed grid with what it is made of; the next layer reads another."""
    graph = Graph((
        Node("image", "image", channels=3, side=6),
        Node("conv", "conv", ("image",), 16, kernel=3, act="relu"),
        Node("pool", "pool", ("conv",), 16),
        Node("factor", "linear", ("pool",), 16, act="hsigmoid"),
        Node("scale", "scale", ("conv", "factor"), 16),
        Node("next", "conv", ("scale",), 8, act="relu"),
        Node("mean", "pool", ("next",), 8),
        Node("last", "linear", ("mean",), 4),
    ))  # fmt: skip
    steps = graph_steps(graph, "int8", seed=0)
    at = {step.name: i for i, step in enumerate(steps)}
    layer = steps[at["next"]].layer
    steps[at["next"]] = replace(steps[at["next"]], layer=replace(layer, rounding=OTHER))
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    made = onnx_graph.onnx_model(steps, (8, 3, 6, 6), {}).SerializeToString()
    session = ort.InferenceSession(made, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], run(steps, x), atol=1e-6)
