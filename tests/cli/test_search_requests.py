"""Mistaken requests to ``apq search`` are answered in words, before anything is searched."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from apq.cli import app

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
