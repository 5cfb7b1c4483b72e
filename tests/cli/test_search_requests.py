"""Mistaken requests to ``apq search`` are answered in words, before anything is searched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from apq.cli import app
from apq.predictor import train_predictor
from apq.samples import read_samples, write_part

HERE = Path(__file__).parents[2]
TABLE = str(HERE / "lut/bitfusion-apq-cifar10.csv")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--latency-ms", "0,5"], "decimals have a point"),
        (["--latency-ms", "0:1:1e-12"], "1,000,000,000,000 budgets"),
        (["--latency-ms", "inf"], "must be a positive number, got inf; reachable"),
        (["--latency-ms", "0.4:inf:1"], "is not finite"),
        (["--latency-ms", "0.5:0.4:0.1"], "FIRST:LAST:STEP"),
        (["--latency-ms", "0.5", "--lut", TABLE], "two cost models call their device"),
        (["--latency-ms", "0.5", "--caution", "nan"], "caution must be a finite number"),
        (["--latency-ms", "0.5", "--score", "bitops_g=0.5,rate=0"], "a rate above 0"),
        (["--latency-ms", "0.5", "--keep", "all"], "--keep says what a --storage keeps"),
        (
            ["--latency-ms", "0.5", "--algorithm", "paper", "--local-search", "0.5"],
            "has no use for",
        ),
        (["--latency-ms", "0.5", "--algorithm", "nsga3"], "Did you mean 'nsga2'"),
        (["--latency-ms", "0.5", "--local-search", "2"], "0.95"),
    ],
)
def test_it_is_answered_in_words(tmp_path, words, told):
    command = [
        "search", "--predictor", str(HERE / "data/cifar10/predictor.safetensors"), "--lut", TABLE,
        "--candidates", "50", "--no-picture", "--out", str(tmp_path / "run"), *words,
    ]  # fmt: skip
    result = CliRunner().invoke(app, command, env={"COLUMNS": "400"})
    assert result.exit_code in (1, 2), result.output
    assert told in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "run/best.json").exists()


PREDICTOR = str(HERE / "data/cifar10/predictor.safetensors")


def said(*words, code=1):
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "400"})
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    "words",
    [
        ["search", "--latency-ms", "1"],
        ["search", "--energy-mj", "1", "2"],
        ["search", "--size-mb", "1", "--latency-ms", "1"],
        ["search", "--limit", "latency_ms@phone=1"],
        ["search", "--objective", "accuracy", "--objective", "energy_mj"],
        ["search", "--score", "latency_ms=1"],
        ["sweep", "--latency-ms", "1:2:0.5"],
    ],
)
def test_costs_of_a_device_without_a_table_name_the_command_that_builds_one(
    tmp_path, monkeypatch, words
):
    monkeypatch.chdir(tmp_path)  # no lut/ here
    assert "apq lut build --model bitfusion-apq --space digits" in said(*words, "--space", "digits")
    mine = tmp_path / "mine.toml"
    mine.write_text((HERE / "docs/your-space.md").read_text().split("```toml\n")[1].split("```")[0])
    assert f"apq lut build --model bitfusion-apq --space {mine}" in said(
        *words, "--space", str(mine)
    )
    assert not list(tmp_path.glob("r*"))


def test_a_table_that_lacks_the_cost_is_named():
    measured = str(HERE / "lut/x86-onnxruntime-int8-cifar10.csv")
    told = said("search", "--energy-mj", "1", "--lut", measured, "--predictor", PREDICTOR)
    assert "x86-onnxruntime-int8 has no energy_mj" in told
    assert "apq lut build" in told


def test_the_command_that_is_named_makes_the_search_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = said("search", "--latency-ms", "1", "--space", "digits")
    command = told.partition("apq lut build ")[2].split(" Another ")[0]
    said("lut", "build", *command.split(), code=0)
    assert "no predictor at data/digits" in said("search", "--latency-ms", "1", "--space", "digits")


@pytest.fixture(scope="module")
def own_predictor(tmp_path_factory, tiny_space):
    """A predictor of a space that is no preset."""
    folder = tmp_path_factory.mktemp("own")
    genes = tiny_space.sample(40, np.random.default_rng(0))
    n = len(genes)
    accuracy = np.linspace(0.5, 0.9, n)
    measured = {
        "accuracy": accuracy, "loss": 1 - accuracy, "scheme": ["uniform"] * n, "seed": [0] * n,
        "finetune_steps": [0] * n, "images": [1000] * n, "seconds": [0.1] * n,
    }  # fmt: skip
    write_part(folder / "q/part-0.parquet", tiny_space, genes, measured, "quantized", {})
    samples = read_samples(folder / "q")
    predictor = train_predictor(None, samples, transfer=False, members=1, compare=False)
    predictor.save(folder / "own.safetensors")
    return str(folder / "own.safetensors")


def test_the_space_is_the_predictors_unless_one_is_named(tmp_path, monkeypatch, own_predictor):
    monkeypatch.chdir(tmp_path)
    ask = ["search", "--predictor", own_predictor, "--no-picture", "--no-baselines"]
    told = said(*ask, "--size-mb", "1e-9")
    assert f"space tiny, as {own_predictor} was trained for" in told
    assert "no candidate of space 'tiny' has size_mb <= 1e-09" in told
    assert "apq lut build --model bitfusion-apq --space tiny.toml" in said(*ask, "--energy-mj", "1")
    assert "for different spaces" in said(*ask, "--size-mb", "1", "--space", "digits")
    assert "no predictor at absent" in said("search", "--size-mb", "1", "--predictor", "absent")
    said(*ask, "--latency-ms", "1", "--lut", "bitfusion-apq", "--candidates", "60", code=0)
    assert json.loads((tmp_path / "runs/search/best.json").read_text())["space"]["name"] == "tiny"


def test_a_sweep_takes_the_predictors_space_too(tmp_path, monkeypatch, own_predictor):
    monkeypatch.chdir(tmp_path)
    devices = ("--lut", "bitfusion-apq", "--lut", "roofline")
    ask = ["sweep", "--predictor", own_predictor, "--latency-ms", "1", *devices]
    told = said(*ask, "--candidates", "20", code=0)
    assert told.count(f"space tiny, as {own_predictor} was trained for") == 1
    assert "2 scenarios, 2 within reach" in told
    other = ("--size-mb", "1", "--space", "digits")
    assert "for different spaces" in said("sweep", "--predictor", own_predictor, *other)


def test_the_space_is_read_before_the_predictor_is_loaded(tmp_path, own_predictor):
    code = "import sys; from apq.cli import app\ntry: app()\nfinally: print('torch' in sys.modules)"
    words = ["search", "--size-mb", "1e-9", "--predictor", own_predictor, "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert "no candidate of space 'tiny'" in done.stderr
    assert done.stdout.strip() == "False"


def test_a_damaged_predictor_names_no_space(tmp_path, own_predictor):
    path = tmp_path / "p.safetensors"
    path.write_bytes(Path(own_predictor).read_bytes().replace(b"apq-predictor", b"apq-predicter"))
    assert "no predictor of apq" in said("search", "--size-mb", "1", "--predictor", str(path))
    path.write_bytes(b"")
    assert str(path) in said("search", "--size-mb", "1", "--predictor", str(path))


@pytest.mark.parametrize("algorithm", ["nsga2", "optuna", "paper"])
def test_every_algorithm_answers_and_says_where_candidates_came_from(tmp_path, algorithm):
    command = [
        "search", "--predictor", str(HERE / "data/cifar10/predictor.safetensors"), "--lut", TABLE,
        "--latency-ms", "1.5", "--candidates", "120", "--no-picture", "--no-baselines",
        "--algorithm", algorithm, "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, command, env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.output
    assert "candidates from (of them on the front): " in result.output
    assert "120 candidates scored" in result.output
    assert (tmp_path / "run/best.json").exists()
