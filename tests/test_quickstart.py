"""The quickstart, shortened: every stage runs for real, interrupted stages are kept."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from mobilenet import blocks_of
from typer.testing import CliRunner

import apq.quickstart as module
from apq.cli import app
from apq.cli.quickstart import _show as show
from apq.hardware.lut import LookupTable
from apq.space import load_space
from apq.space.layer import to_array


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(module, "SUPERNET", replace(module.SUPERNET, epochs=3))
    monkeypatch.setattr(module, "CANDIDATES", 400)
    monkeypatch.setattr(module, "FP32_SAMPLES", 30)
    monkeypatch.setattr(module, "QUANTIZED_SAMPLES", 15)
    monkeypatch.setattr(module, "QUANTIZATION", replace(module.QUANTIZATION, finetune_steps=2))
    monkeypatch.setattr(module, "FINETUNE", replace(module.FINETUNE, epochs=1))
    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)


def table_rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if "tau" in line or "±" in line or "kB" in line]


def test_the_whole_chain_ends_with_a_true_table(short, tmp_path, monkeypatch, capsys):
    made = module.quickstart(tmp_path / "run")
    table = LookupTable.read(tmp_path / "run/bitfusion-apq.csv")
    space = load_space("digits")
    winner, at_8_bits, biggest = made.rows
    for row in (winner, at_8_bits):
        layers = to_array(list(space.layers(row.candidate)))
        assert table.price(layers)["latency_ms"].sum() == pytest.approx(row.latency_ms, rel=1e-9)
        assert row.latency_ms <= made.budget_ms
    blocks = [b for row in (at_8_bits, biggest) for b in blocks_of(row.candidate)]
    assert {bit for b in blocks for name, bit in b.items() if name.endswith("_bits")} == {8}
    for row in made.rows:
        assert 0 <= row.test <= 1
        assert row.model.exists()
    assert len(pd.read_parquet(tmp_path / "run/fp32")) == 30
    assert len(pd.read_parquet(tmp_path / "run/quantized")) == 15

    before = (tmp_path / "run/supernet.safetensors").stat().st_mtime_ns
    shown = CliRunner().invoke(app, ["quickstart", "--out", str(tmp_path / "run")])
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "run/supernet.safetensors").stat().st_mtime_ns == before
    for part in ("predicted", "8 bits, same budget", "test", "Kendall tau", "from scratch"):
        assert part in shown.stdout
    for row in made.rows:  # the same seeds give the same figures
        assert f"{row.latency_ms:.4f}" in shown.stdout
    monkeypatch.setenv("COLUMNS", "60")
    capsys.readouterr()
    show(made, 1.0)
    assert max(map(len, table_rows(capsys.readouterr().out))) <= 60
    result = CliRunner().invoke(
        app, ["quickstart", "--out", str(tmp_path / "run"), "--latency-ms", "1e-6", "--json"]
    )
    assert result.exit_code == 1
    assert "latency_ms" in result.output
