"""Every command with ``--json`` has a table in ``docs/json.md``; documents that break it fail."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from commands import figures
from documented_json import PAGE, check, promises
from typer.main import get_command

from apq.cli import app

ROOT = Path(__file__).parents[2]


def test_every_command_with_json_has_a_table():
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "docs/build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    having = {
        name for name, command in build.commands(get_command(app))
        if any("--json" in option.opts for option in command.params)
    }  # fmt: skip
    assert set(promises()) == having
    assert all(promises().values()), f"a table of {PAGE.name} is empty"


SWEEP = {
    "out": "a", "scenarios": 2, "within_reach": 0, "accuracy_min": None, "accuracy_max": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"out": 3}, "out"),
        ({"scenarios": True}, "scenarios"),
        ({"within_reach": None}, "within_reach"),
        ({"new": 1}, "new"),
        ({"accuracy_min": "0.5"}, "accuracy_min"),
    ],
)
def test_what_breaks_a_promise_is_found(change, told):
    check("sweep", SWEEP)
    with pytest.raises(AssertionError, match=told):
        check("sweep", SWEEP | change)
    with pytest.raises(AssertionError, match="scenarios"):
        check("sweep", {k: v for k, v in SWEEP.items() if k != "scenarios"})


def test_sweep_compare_and_several_budgets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = figures("sweep", "--latency-ms", 0.1, 0.6, "--candidates", 200)
    assert (told["scenarios"], told["within_reach"]) == (2, 1)
    told = figures(
        "compare", "--latency-ms", 0.6, "--methods", "random", "--calls", 50, "--seeds", 1
    )
    assert told["columns"][0] == "method"
    told = figures(
        "search", "--latency-ms", 0.5, 0.6, "--candidates", 100, "--no-picture", "--no-baselines"
    )
    for found in told["runs"]:
        check("search", found)
