"""The chain on a space whose bit axes offer schemes beside widths, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import figures, run

from apq.hardware import LookupTable
from apq.hardware.inspect import priced_layers
from apq.predictor import load_predictor
from apq.samples import read_samples
from apq.space import Candidate, load_space

TOML = """
name = "mine"
resolution = 8
in_channels = 1
classes = 10
stem_channels = 8
first_channels = 8
head_channels = 32

[bits]
pw_w = [4, 8, "ternary", "po2-4"]
pw_a = [4, 8]
dw_w = [8, "binary"]
dw_a = [8]

[[stages]]
channels = 8
stride = 1
depth = [1, 2]
kernel = [3, 5]
expand = [2, 3]

[[stages]]
channels = 16
stride = 2
depth = [1]
kernel = [3]
expand = [2, 4]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A trained supernet, samples of both kinds, a predictor and a table."""
    folder = tmp_path_factory.mktemp("formats")
    space, supernet = folder / "mine.toml", folder / "supernet.safetensors"
    space.write_text(TOML)
    figures("train-supernet", "--space", space, "--images", "digits", "--epochs", 0.5,
            "--out", supernet)  # fmt: skip
    common = ("--supernet", supernet, "--images", "digits", "--validation-images", 100)
    figures("collect", *common, "--count", 10, "--out", folder / "fp32")
    made = figures("collect", *common, "--quantized", "--finetune-steps", 1, "--count", 12,
                   "--out", folder / "quantized")  # fmt: skip
    listed = {row["choice"] for row in made["by_choice"] if row["attribute"] == "pw_w_bits"}
    assert listed == {"ternary", "po2-4", 4, 8}
    figures("train-predictor", "--samples", folder / "fp32", "--quantized-samples",
            folder / "quantized", "--transfer", "--no-compare", "--ensemble", 1,
            "--out", folder / "predictor.safetensors")  # fmt: skip
    run("lut", "build", "--model", "horowitz", "--space", space, "--out", folder / "device.csv")
    return folder


def test_samples_name_what_they_measured(folder):
    frame = pd.read_parquet(folder / "quantized")
    assert {"8", "po2-4"} < set(frame["b00_pw_w_bits"]) <= {"4", "8", "ternary", "po2-4"}
    assert set(frame["b00_pw_a_bits"]) == {4, 8}
    assert pd.read_parquet(folder / "fp32")["b00_pw_w_bits"].isna().all()
    samples = read_samples(folder / "quantized")
    assert samples.space.fingerprint == load_space(str(folder / "mine.toml")).fingerprint
    for row, name in zip(samples.genes, frame["b00_pw_w_bits"], strict=True):
        assert str(samples.space.build(row)["b00_pw_w_bits"]) == name
    predictor = load_predictor(folder / "predictor.safetensors", samples.space)
    assert predictor.bits
    seen = predictor.features.inputs(samples.genes).bits_hot
    assert len(np.unique(seen, axis=0)) > len(set(frame["macs"]))  # formats, not sizes alone
    mean, spread = predictor.predict(samples.genes)
    answers = set(zip(mean.round(9).tolist(), spread.round(9).tolist(), strict=True))
    assert len(answers) > len(set(frame["macs"]))  # it sees the formats


@pytest.mark.parametrize("algorithm", ["nsga2", "evolution", "milp"])
def test_searches_keep_the_budget_when_priced_layer_by_layer(folder, algorithm):
    space, table = load_space(str(folder / "mine.toml")), LookupTable.read(folder / "device.csv")
    out = folder / algorithm
    figures("search", "--space", folder / "mine.toml", "--predictor",
            folder / "predictor.safetensors", "--lut", folder / "device.csv", "--energy-mj", 0.0005,
            "--algorithm", algorithm, "--candidates", 300, "--out", out)  # fmt: skip
    front = pd.read_parquet(out / "front.parquet")
    genes = space.from_values({axis.name: front[axis.name].to_numpy() for axis in space.axes})
    for row, energy in zip(genes, front["energy_mj"], strict=True):
        layers = priced_layers(space, space.build(row), table)
        assert table.price(layers)["energy_mj"].sum() == pytest.approx(energy, rel=1e-9)
        assert energy <= 0.0005
    chosen = json.loads((out / "best.json").read_text())
    assert space.build(space.genes([Candidate.from_dict(chosen["candidate"])])[0])
    page = (out / "report.html").read_text()
    for block in chosen["blocks"][:-1]:
        for kind in ("pw", "dw"):
            for tensor in "wa":  # the page draws from data of its own
                assert json.dumps(block[f"{kind}_{tensor}_bits"]) in page


def test_a_winner_of_named_formats_is_tuned_exported_and_verified(folder):
    out = folder / "fixed"
    figures("search", "--space", folder / "mine.toml", "--predictor",
            folder / "predictor.safetensors", "--lut", folder / "device.csv", "--energy-mj", 0.0005,
            "--fix", "pw_w_bits=ternary,po2-4", "--fix", "dw_w_bits=min", "--candidates", 200,
            "--storage", folder / "studies.log", "--out", out)  # fmt: skip
    best = json.loads((out / "best.json").read_text())
    chosen = best["candidate"].items()
    assert {c for name, c in chosen if name.endswith("pw_w_bits")} <= {"ternary", "po2-4"}
    assert {c for name, c in chosen if name.endswith("dw_w_bits")} == {"binary"}
    model = out / "model.safetensors"
    figures("finetune", "--candidate", out / "best.json", "--supernet",
            folder / "supernet.safetensors", "--images", "digits", "--epochs", 1,
            "--out", model)  # fmt: skip
    pytest.importorskip("onnxruntime")
    made = figures("export", "--model", model, "--out", out / "model.onnx")
    assert made["promised_bytes"] == pytest.approx(best["costs"]["size_mb"] * 1e6, abs=8)
    checked = figures("verify", "--model", model, "--file", out / "model.onnx", "--images",
                      "digits", "--limit", 100)  # fmt: skip
    assert checked["agreement"] == 1
    assert checked["max_difference"] < 1e-5
