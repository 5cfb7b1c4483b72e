"""``apq collect --acquire`` and ``apq search --iterations`` on digits, at small counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import figures, run
from typer.testing import CliRunner

from apq.cli import app
from apq.images import load_images
from apq.predictor import load_predictor
from apq.space import load_space
from apq.supernet import Supernet, save_supernet


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An untrained supernet and a few samples of each kind."""
    folder = tmp_path_factory.mktemp("asking")
    digits = load_images("digits", 8, 1, 10)
    torch.manual_seed(0)
    network = Supernet(load_space("digits")).eval()
    save_supernet(
        folder / "supernet.safetensors", network, {"mean": digits.mean, "std": digits.std}
    )
    run(*collect(folder), "--count", 30, "--out", folder / "fp32")
    run(*collect(folder), *QUANTIZED, "--count", 12, "--out", folder / "quantized")
    return folder


def collect(folder: Path) -> tuple[object, ...]:
    net = folder / "supernet.safetensors"
    return "collect", "--supernet", net, "--images", "digits", "--validation-images", 60


QUANTIZED = ("--quantized", "--finetune-steps", 1)


def rows(folder: Path) -> pd.DataFrame:
    frame = pd.read_parquet(folder / "quantized")
    genes = [c for c in frame.columns if c.startswith(("depth", "b0"))]
    assert not frame[genes].duplicated().any()
    return frame


def test_the_loop_measures_learns_and_continues(folder):
    words = (
        "search", "--space", "digits", "--bitops-g", 0.005, "--candidates", 300,
        "--per-iteration", 3, "--supernet", folder / "supernet.safetensors", "--images", "digits",
        "--samples", folder / "fp32", "--quantized-samples", folder / "quantized",
        "--algorithm", "evolution", "--out", folder / "run",
    )  # fmt: skip
    first = figures(*words, "--iterations", 1)
    assert [(r["start"], r["stop"]) for r in first["iterations"]] == [(12, 15)]
    assert len(rows(folder)) == 15
    again = figures(*words, "--iterations", 2)
    assert again["iterations"][0] == first["iterations"][0]
    assert again["iterations"][1]["stop"] == 18
    frame = rows(folder)
    assert len(frame) == 18
    assert again["iterations"][1]["best"] == pytest.approx(frame["accuracy"][15:].max())
    predictor = load_predictor(folder / "run" / "predictor.safetensors")
    assert predictor.report["counts"]["quantized"] == 18
    assert again["costs"]["bitops_g"] <= 0.005
    # nothing is left to do
    assert figures(*words, "--iterations", 2)["iterations"] == again["iterations"]
    assert len(rows(folder)) == 18


def test_a_round_that_was_interrupted_is_finished_first(folder):
    """What is left by a kill after choosing and before measuring: the choice, and no part."""
    before = len(rows(folder))
    last = max((folder / "quantized").glob("part-*"))
    stop = int(last.stem.split("-")[2])
    space = load_space("digits")
    wanted = space.sample(2, np.random.default_rng(77))
    (folder / "quantized" / f".asked-{stop:06d}-{stop + 2:06d}.json").write_text(
        json.dumps({"genes": wanted.tolist()})
    )
    acquire = (*collect(folder), *QUANTIZED, "--acquire", 5, "--out", folder / "quantized")
    predictor = folder / "predictor.safetensors"
    run(
        "train-predictor", "--samples", folder / "fp32", "--quantized-samples",
        folder / "quantized", "--no-compare", "--out", predictor,
    )  # fmt: skip
    run(*acquire, "--predictor", predictor)
    frame = rows(folder)
    assert len(frame) == before + 2
    found = space.from_values({a.name: frame[a.name].to_numpy(float) for a in space.axes})
    assert np.array_equal(found[-2:], wanted)
    run(*acquire, "--predictor", predictor)
    assert len(rows(folder)) == before + 7


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("collect", "--images", "digits", "--acquire", 3), 2, "--quantized"),
        (("collect", "--images", "digits", "--acquire", 0), 2, "--acquire"),
        (("search", "--space", "digits", "--iterations", 1), 1, "no supernet at data/digits"),
    ],
)
def test_what_is_missing_is_named(folder, words, code, part):
    if words[0] == "collect":
        words = (*words, "--supernet", folder / "supernet.safetensors")
    assert part in run(*words, "--out", folder / "never", code=code)
    assert not (folder / "never").exists()


def test_the_supernet_takes_the_predictors_place(folder):
    words = (
        "search", "--space", "digits", "--bitops-g", 0.005, "--supernet-accuracy", "--supernet",
        folder / "supernet.safetensors", "--images", "digits", "--no-picture",
        "--no-warm-start", "--local-search", 0,
    )  # fmt: skip
    found = figures(*words, "--candidates", 12, "--out", folder / "measured")
    assert found["search"]["candidates"] == 12
    assert found["baselines"] == {}
    assert "measured on the supernet" in found["made_from"]["accuracy"]
    scored = pd.read_parquet(folder / "measured/evaluations.parquet")
    assert (scored["accuracy_spread"] == 0).all()
    inside = scored[scored["bitops_g"] <= 0.005]
    assert found["predicted"]["accuracy"] == inside["accuracy"].max()
    refused = CliRunner().invoke(app, [str(w) for w in (*words, "--measure", 3)])
    assert "no use for --measure" in " ".join(refused.output.replace("│", " ").split())


def test_winners_are_measured_beside_what_was_predicted(folder):
    run("train-predictor", "--samples", folder / "fp32", "--quantized-samples",
        folder / "quantized", "--no-compare", "--out", folder / "own.safetensors")  # fmt: skip
    words = (
        "compare", "--space", "digits", "--bitops-g", 0.005, "--predictor",
        folder / "own.safetensors", "--lut", "roofline", "--methods", "random", "--calls", 50,
        "--seeds", 1, "--supernet", folder / "supernet.safetensors", "--images", "digits", "--out",
        folder / "compared",
    )  # fmt: skip
    first = figures(*words)
    assert first["columns"][2].startswith("measured")
    answers = pd.read_parquet(folder / "compared/compare.parquet")
    assert 0 <= answers["measured"][0] <= 1
    assert figures(*words)["rows"] == first["rows"]  # its time too: nothing is done again
