"""Every family from training to a verified file, as a user types it; one is no part of apq."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import figures, run
from ghost import Ghost

from apq.space import FAMILIES, Space, load_space
from apq.space.graph import LAYERS

RESNET = """
family = "resnet"
name = "mine"
resolution = 8
in_channels = 1
classes = 10
stem_channels = 8
bits = { w = [2, 4, 8], a = [4, 8] }

[[stages]]
channels = [8]
stride = 1
depth = [1, 2]
width = [8, 16]
kernel = [1, 3]

[[stages]]
channels = [16, 24]
stride = 2
depth = [1, 2]
width = [16, 24, 32]
"""

CHAIN = """
family = "chain"
name = "mine"
resolution = 8
in_channels = 1
classes = 10
bits = { w = [2, 4, 8], a = [4, 8] }

[[layers]]
channels = [8, 16]
kernel = [3, 5]

[[layers]]
channels = [16, 24, 32]
kernel = [1, 3]
stride = 2

[[layers]]
channels = [32, 48, 64]
"""

GHOST = """
family = "ghost"
name = "mine"
resolution = 8
in_channels = 1
classes = 10
channels = [8, 16]
width = [8, 16]
bits = [4, 8]
"""

MOBILENET_V3 = """
family = "mobilenet_v3"
name = "mine"
resolution = [6, 8]
in_channels = 1
classes = 10
stem_channels = 8
stem_stride = 1
first_channels = 8
last_channels = 32
feature_channels = 32

[bits]
pw_w = [2, 4, 8]
pw_a = [4, 8]
dw_w = [4, 8]
dw_a = [8]

[[stages]]
channels = 8
stride = 1
depth = [1, 2]
kernel = [3]
expand = [1, 2]
act = "relu"

[[stages]]
channels = 16
stride = 2
depth = [1, 2]
kernel = [3, 5]
expand = [2, 4]
excite = true
"""

BOTTLENECK = RESNET.replace("[2, 4, 8]", "[4, 8]").replace('"mine"', '"mine"\nblock = "bottleneck"')
FILES = {
    "resnet": RESNET, "bottleneck": BOTTLENECK, "chain": CHAIN, "ghost": GHOST,
    "mobilenet_v3": MOBILENET_V3,
}  # fmt: skip


@pytest.fixture(params=FILES)
def space_file(request, tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(FAMILIES, "ghost", Ghost)
    path = tmp_path / "mine.toml"
    path.write_text(FILES[request.param])
    return path


def test_a_family_goes_from_training_to_a_verified_file(space_file, monkeypatch):
    """In the short form: every command finds what the one before has written."""
    monkeypatch.chdir(space_file.parent)
    named = ("--space", "mine.toml")
    space, found = load_space("mine.toml"), Path("runs/search")
    few = ("--validation-images", 100, "--calibration-images", 100)
    run("train-supernet", *named, "--images", "digits", "--epochs", 0.7)
    run("collect", *named, "--count", 20, *few)
    run("collect", *named, "--quantized", "--count", 12, "--finetune-steps", 2, *few)
    frame = pd.read_parquet("data/mine/quantized")
    assert list(frame.columns)[12:] == [axis.name for axis in space.axes]
    run("train-predictor", *named, "--no-compare")
    run("lut", "build", *named)
    low, high = _reach(space, Path("lut/bitfusion-apq-mine.csv"))
    budget = (low + high) / 2
    small = ("--fix", "resolution=min") if "resolution" in space.place else ()
    run("search", *named, "--latency-ms", budget, "--candidates", 200, *small)
    best = json.loads((found / "best.json").read_text())
    assert best["costs"]["latency_ms"] <= budget
    assert best["made_from"]["image_set"] == "digits"
    front = pd.read_parquet(found / "front.parquet")
    assert (front["latency_ms"] <= budget).all()
    assert all(name in front for name in best["candidate"])
    run("finetune", "--epochs", 1)
    pytest.importorskip("onnxruntime")
    for form, file in (
        ("onnx", "model.onnx"),
        ("onnx-integer", "i.onnx"),
        ("torch", "m.safetensors"),
    ):
        run("export", "--format", form, *([] if form == "onnx" else ["--out", found / file]))
        checked = figures("verify", *([] if form == "onnx" else ["--file", found / file]))
        assert checked["agreement"] == 1, form
        assert checked["max_difference"] == 0, form
    run("report")
    assert "mine" in (found / "report.html").read_text()


def _reach(space: Space, table: Path) -> tuple[float, float]:
    from apq.hardware import LookupTable, price_space

    return price_space(space, LookupTable.read(table)).reach("latency_ms")


def test_a_family_of_ones_own_knows_its_choices(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "ghost", Ghost)
    path = tmp_path / "mine.toml"
    path.write_text(GHOST)
    space = load_space(str(path))
    every = [space.build(row) for row in space.sample(50, np.random.default_rng(0))]
    for candidate in every:
        names = {node.name for node in space.graph_of(candidate).nodes if node.op in LAYERS}
        for block, choices in candidate.blocks.items():
            if block:
                index = int(block[1:])
                assert (f"blocks.{index}.plain" in names) == (choices["kind"] == 1)
                assert (f"blocks.{index}.cheap" in names) == (choices["kind"] == 0)


def test_a_name_that_torch_has_taken_is_refused_in_words():
    from torch import nn

    from apq.errors import ModelError
    from apq.supernet.network import attach

    with pytest.raises(ModelError, match=r"no node can be called 'blocks\.0\.half'"):
        attach(nn.Module(), {"blocks.0.half": nn.Identity()})
