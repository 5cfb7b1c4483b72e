"""The files of a run, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from mobilenet import blocks_of
from typer.testing import CliRunner

from apq.cli import app
from apq.search.explain import block_costs, explain
from apq.search.problem import Problem
from apq.search.run import run_search
from apq.search.sweep import curves, sweep
from apq.space import Candidate


@pytest.fixture
def problem(tiny_priced, tiny_accuracy):
    low, high = tiny_priced.reach("bitops_g")
    limits = {"bitops_g": low + 0.5 * (high - low)}
    return Problem(
        tiny_priced, tiny_accuracy, ("accuracy", "bitops_g"), limits, made_from={"predictor": "abc"}
    )


def test_a_run_writes_what_it_found(problem, tmp_path):
    result = run_search(tmp_path / "a", problem, candidates=500, seed=3)
    front = pd.read_parquet(tmp_path / "a/front.parquet")
    every = pd.read_parquet(tmp_path / "a/evaluations.parquet")
    best = json.loads((tmp_path / "a/best.json").read_text())
    space = problem.priced.space
    assert len(front) == len(result.front)
    assert len(every) == result.candidates
    blocks = block_costs(problem.priced, result.front.genes)
    assert set(front) - {*blocks} == {
        "accuracy",
        "accuracy_spread",
        "source",
        *problem.priced.metrics,
        *(a.name for a in space.axes),
    }
    genes = space.from_values({a.name: front[a.name].to_numpy(dtype=float) for a in space.axes})
    assert (genes == result.front.genes).all()
    assert (front["bitops_g"] <= problem.limits["bitops_g"]).all()
    candidate = Candidate.from_dict(best["candidate"])
    row = space.genes([candidate])
    for metric, cost in problem.priced.costs(row).items():
        assert best["costs"][metric] == pytest.approx(cost[0])
    assert best["made_from"] == {"space": space.fingerprint, "predictor": "abc"}
    assert best["predicted"]["accuracy"] == front["accuracy"].max()
    feasible = every[every["bitops_g"] <= problem.limits["bitops_g"]]
    assert best["predicted"]["accuracy"] == feasible["accuracy"].max()


def test_the_same_seed_writes_the_same_bytes(problem, tmp_path):
    for name in ("a", "b"):
        run_search(tmp_path / name, problem, candidates=300, seed=3)
    for file in ("evaluations.parquet", "front.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    told = [json.loads((tmp_path / name / "best.json").read_text()) for name in "ab"]
    for run in told:
        assert run.pop("checksum")
        cost = run["search"].pop("cost")
        assert 0 < cost["cpu_s"] < 60
        assert cost["wall_s"] > 0
    assert told[0] == told[1]
    assert not [p for p in tmp_path.rglob("*") if "partial" in p.name or ".tmp" in p.name]


def test_an_interrupted_run_leaves_no_half_file(problem, tmp_path):
    def broken(genes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path, replace(problem, accuracy=broken), candidates=300)
    assert list(tmp_path.iterdir()) == []


def test_the_explanation_adds_up(problem, tmp_path):
    result = run_search(tmp_path, problem, candidates=300)
    blocks = explain(problem, result.front, result.chosen)
    candidate = result.front.candidate(result.chosen)
    assert len(blocks) == len(blocks_of(candidate)) + 1
    assert sum(b["bitops_g"] for b in blocks) == pytest.approx(
        result.front.costs["bitops_g"][result.chosen]
    )
    assert sum(b["bitops_g_share"] for b in blocks) == pytest.approx(1)


def test_a_sweep_answers_every_budget(problem):
    low, high = problem.priced.reach("bitops_g")
    budgets = [{"bitops_g": b} for b in np.linspace(low * 0.9, high, 8)]
    asked = curves("here", problem.priced, budgets)
    table = sweep(asked, problem.accuracy, candidates=1000, seed=0)
    assert len(table) == len(budgets)
    first = table.iloc[0]
    assert np.isnan(first["accuracy"])
    assert "reachable" in first["error"]
    rest = table.iloc[1:]
    assert (rest["bitops_g"] <= rest["limit_bitops_g"]).all()
    assert (np.diff(rest["accuracy"]) >= 0).all()
    every = problem.priced.space.every_candidate()
    costs, accuracy = problem.priced.costs(every)["bitops_g"], problem.accuracy(every)[0]
    best = np.array([accuracy[costs <= b["bitops_g"]].max() for b in budgets[1:]])
    assert rest["accuracy"].to_numpy() == pytest.approx(best, abs=2e-3)


def test_a_killed_sweep_keeps_finished_curves(problem, tmp_path):
    low, high = problem.priced.reach("bitops_g")
    sizes = np.linspace(*problem.priced.reach("size_mb"), 4)[1:]
    budgets = [{"bitops_g": b, "size_mb": s} for s in sizes for b in np.linspace(low, high, 6)[1:]]
    asked = curves("here", problem.priced, budgets)
    assert [len(c.budgets) for c in asked] == [5, 5, 5]

    parts = tmp_path / "parts"

    def stops(genes):
        if parts.exists():  # the first curve is done
            raise KeyboardInterrupt
        return problem.accuracy(genes)

    with pytest.raises(KeyboardInterrupt):
        sweep(asked, stops, candidates=100, parts=parts)
    kept = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert 0 < len(kept) < 3
    resumed = sweep(asked, problem.accuracy, candidates=100, parts=parts)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(parts.iterdir())) == 3
    pd.testing.assert_frame_equal(resumed, sweep(asked, problem.accuracy, candidates=100))
    assert resumed["error"].isna().any()
    met = resumed[resumed["error"].isna()]
    for metric in ("bitops_g", "size_mb"):
        assert (met[metric] <= met[f"limit_{metric}"]).all()


def test_several_processes_sweep_alike(problem):
    low, high = problem.priced.reach("bitops_g")
    budgets = [{"bitops_g": b} for b in np.linspace(low, high, 4)]
    asked = curves("a", problem.priced, budgets) + curves("b", problem.priced, budgets)
    alone, together = (sweep(asked, problem.accuracy, candidates=60, workers=n) for n in (1, 2))
    pd.testing.assert_frame_equal(alone, together)
    assert set(together["device"]) == {"a", "b"}


def run(*arguments):
    return CliRunner().invoke(app, ["search", *map(str, arguments)])


@pytest.mark.parametrize("limit", ["1e-6", "nan", "-1", "0"])
def test_a_hopeless_budget_is_answered_before_the_predictor_is_loaded(limit, tmp_path):
    code = "import sys; from apq.cli import app\ntry: app()\nfinally: print('torch' in sys.modules)"
    arguments = [
        "search",
        "--size-mb",
        limit,
        "--predictor",
        str(tmp_path / "none"),
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert "reachable" in done.stderr
    assert done.stdout.strip() == "False"


def test_wrong_usage_exits_with_2():
    assert run("--latency-ms", "fast").exit_code == 2
    assert run("--latency-ms", "4:2:1").exit_code == 2
    assert run("--score", "bitops_g").exit_code == 2


def test_lists_of_budgets_are_read():
    from apq.cli.budgets import numbers, product

    assert numbers("latency_ms", "4,6,8") == [4, 6, 8]
    assert numbers("latency_ms", "1:2:0.25") == [1, 1.25, 1.5, 1.75, 2]
    both = product(
        {"latency_ms": [1.0, 2.0], "size_mb": [3.0]}, ["latency_ms@a", "latency_ms@b", "size_mb"]
    )
    assert both == [{"latency_ms@a": v, "latency_ms@b": v, "size_mb": 3.0} for v in (1.0, 2.0)]


def test_a_missing_predictor_says_how_to_make_one(tmp_path):
    result = run("--bitops-g", 2, "--predictor", tmp_path / "none.safetensors")
    assert result.exit_code == 1
