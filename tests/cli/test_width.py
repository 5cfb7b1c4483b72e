"""Tables fit a terminal of 60 columns, and are whole lines in a pipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import run

from apq.cli.common import out
from apq.cli.train_predictor import _print as show_predictor

ROOT = Path(__file__).parents[2]
TABLE = "lut/bitfusion-apq-cifar10.csv"
SCORES = {
    "pairwise": 0.9, "kendall": 0.81, "kendall_low": 0.8, "kendall_high": 0.82, "rmse": 0.004,
    "coverage_90": 0.9, "count": 100,
}  # fmt: skip
SENTENCES = ("chosen: ", "candidates from", "joint search", "tried as hard", "100 candidates")
"""A terminal breaks these between words; they are no rows of a table."""


@pytest.fixture
def narrow(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(out, "width", 60)  # which it read when the process began
    monkeypatch.chdir(tmp_path)


def test_a_search_and_its_prices_fit(narrow, monkeypatch):
    told = run("search", "--latency-ms", 0.5, "--energy-mj", 2, "--candidates", 100, "--no-picture")
    rows = [line for line in told.splitlines() if not line.startswith(SENTENCES)]
    assert len(rows) > 20
    assert max(map(len, rows)) <= 60
    price = ("lut", "price", "runs/search/best.json", "--lut", TABLE, "--layers")
    _, *rows = run(*price).splitlines()
    assert max(map(len, rows)) <= 60
    monkeypatch.delenv("COLUMNS")
    whole = run(*price).splitlines()[1:]
    assert len(whole) < len(rows)
    assert " ".join(whole).split() == " ".join(rows).split()


def test_costs_fit(narrow):
    told = run("cost", ROOT / "data/cifar10", "--published").splitlines()
    figures = [line for line in told if " to " in line or "CO2e " in line]
    assert len(figures) >= 8
    assert max(map(len, figures)) <= 60


def test_a_predictors_figures_fit(narrow, capsys):
    show_predictor({"counts": {"fp32": 500}, "held_out": {"quantized": {"rescaled fp32": SCORES}}})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert "covered" in " ".join(lines)
