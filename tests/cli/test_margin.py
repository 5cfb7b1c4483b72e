"""Budgets on measured tables: by the table, or with room for what it was off by."""

from __future__ import annotations

from pathlib import Path

import pytest

from apq.cli.budgets import price_on, room
from apq.space import load_space

TABLE = Path(__file__).parents[2] / "lut/x86-onnxruntime-int8-cifar10.csv"
SIMULATED = Path(__file__).parents[2] / "lut/bitfusion-apq-cifar10.csv"


def test_limits_leave_room_for_the_tables_error_when_asked(capsys):
    priced = price_on(load_space("cifar10"), [str(TABLE)])
    margin = priced.costs.margins["latency_ms"]
    assert 0 < margin < 0.2
    asked = [{"latency_ms": 0.4, "size_mb": 0.2}]
    (limits,) = room(priced, asked, True)
    assert limits["latency_ms"] * (1 + margin) == pytest.approx(0.4)
    assert limits["size_mb"] == 0.2
    assert "--with-margin" not in capsys.readouterr().err
    assert room(priced, asked, False) == asked
    assert "--with-margin" in capsys.readouterr().err


def test_simulated_tables_have_no_margin_and_two_devices_each_their_own(capsys):
    space = load_space("cifar10")
    assert price_on(space, [str(SIMULATED)]).costs.margins == {}
    both = price_on(space, [str(SIMULATED), str(TABLE)])
    (name,) = both.costs.margins
    assert name == "latency_ms@x86-onnxruntime-int8"
    (limits,) = room(both, [{name: 0.4, "latency_ms@bitfusion-apq": 0.4}], True)
    assert limits[name] < limits["latency_ms@bitfusion-apq"] == 0.4


def test_a_table_under_another_device_s_name_is_said(tmp_path, capsys):
    path = tmp_path / "t.csv"
    text = SIMULATED.read_text()
    path.write_text(text.replace("# device: bitfusion-apq", "# device: roofline"))
    price_on(load_space("cifar10"), [str(SIMULATED)])
    assert "note: " not in capsys.readouterr().err
    price_on(load_space("cifar10"), [str(path)])
    told = " ".join(capsys.readouterr().err.split())
    assert "calls the device 'roofline', and the command in it builds 'bitfusion-apq'" in told
