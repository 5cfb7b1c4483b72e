"""The examples of tasks of one's own run as they stand, from a trained network to a smaller one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("name", "least"), [("segment_shapes", 0.5), ("signal_rate", 0.7), ("compatible_queries", 0.8)]
)
def test_it_runs_from_trained_weights_to_a_smaller_network(name, least, tmp_path):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scores = module.main(tmp_path, quick=True)
    assert scores["supernet"] > least
    assert scores["measured"] > least - 0.2
    assert abs(scores["predicted"] - scores["measured"]) < 0.25
    assert (tmp_path / "model.safetensors").exists()
