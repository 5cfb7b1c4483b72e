"""Costs: the arithmetic against APQ's published rows, and what a run's artefacts say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import figures, run
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from apq.cli import app
from apq.cost import APQ_RATES, PUBLISHED, Rates, Stopwatch, device_hours, published, summed

ROWS = {  # GPU hours at N = 1; lb CO2e; $, as the paper prints them
    "ProxylessNAS": (200, "56.72", "148-496"),
    "ProxylessNAS + AMC": (204, "57.85", "151-506"),
    "MobileNetV2 + HAQ": (96, "27.23", "71-238"),
    "ProxylessNAS + AMC + HAQ": (300, "85.08", "222-744"),
    "DNAS": (40, "11.34", "30-99"),
    "SPOS": (288 + 24, "6.81", "18-60"),
    "APQ": (2400 + 0.5, "0.14", "0.4-1.2"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_rows_come_out(name):
    hours, pounds, dollars = ROWS[name]
    total, marginal = published(name)
    assert total == hours
    assert f"{marginal.lb_co2e:.2f}" == pounds
    digits = 1 if name == "APQ" else 0
    assert "-".join(f"{usd:.{digits}f}" for usd in marginal.usd) == dollars


def test_the_constants_are_those_of_the_reference(shared):
    text = (shared / "systems.md").read_text()
    pounds, low, high = map(
        float, re.search(r"([\d.]+) lb CO2e and \$([\d.]+)–([\d.]+) per GPU-h", text).groups()
    )
    hour = APQ_RATES.of({"V100": 1.0})
    assert (round(hour.lb_co2e, 4), *hour.usd) == (pounds, low, high)
    assert f"{published('APQ', 100)[0]:g}" == f"{2400 + 0.5 * 100:g}"


@given(
    st.dictionaries(st.sampled_from(["CPU core", "NVIDIA H100", "Tesla T4", "odd"]),
                    st.floats(0, 1e6), min_size=1),
    st.floats(0, 1e3),
)  # fmt: skip
def test_footprints_are_linear_in_hours(hours, factor):
    rates = Rates()
    one = rates.of(hours)
    more, many = rates.of({k: h * factor for k, h in hours.items()}), one.times(factor)
    assert more.kwh == pytest.approx(many.kwh)
    assert more.usd == pytest.approx(many.usd)
    assert (one + one).kg_co2e == pytest.approx(one.times(2).kg_co2e)


def test_an_accelerator_counts_while_it_is_held_and_parts_add_up():
    before = {"wall_s": 3600.0, "cpu_s": 360.0, "device": "T4", "accelerators": {"T4": 3600.0}}
    cost = Stopwatch(before, "H100", processes=2).cost()
    assert cost["accelerators"]["T4"] == 3600.0
    assert 0 <= cost["accelerators"]["H100"] < 1
    both = summed([before, {"wall_s": 1.0, "cpu_s": 3600.0, "device": "CPU, 2 cores"}])
    assert device_hours(both) == pytest.approx({"CPU core": 1.1, "T4": 1.0})
    assert "accelerators" not in Stopwatch().cost()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A shortened pipeline on digits, by commands, in its default places."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("train-supernet", "--space", "digits", "--images", "digits", "--epochs", 1)
        collected = ("collect", "--images", "digits", "--count", 20)
        run(*collected, "--supernet", "data/digits/supernet.safetensors")
        run("train-predictor", "--space", "digits", "--no-compare", "--ensemble", 1)
        search = ("search", "--space", "digits", "--candidates", 200, "--macs-m", 1)
        run(*search, "--no-baselines", "--no-picture")
        run("finetune", "--epochs", 2)
    return folder


def test_a_run_adds_up_and_names_what_it_assumes(made, monkeypatch):
    monkeypatch.chdir(made)
    told = figures("cost", "--deployments", 10, "--published")
    stages = {stage["stage"]: stage for stage in told["stages"]}
    assert list(stages) == ["supernet", "20 fp32 samples", "predictor", "search", "fine-tune"]
    assert told["not_known"] == 0
    seconds = sum(stage["cost"]["cpu_s"] for stage in stages.values())
    assert told["total"]["device_hours"]["CPU core"] == pytest.approx(seconds / 3600)
    assert told["total"]["kwh"] == pytest.approx(seconds / 3600 * 5 * 1.58 / 1000)
    assert told["total"]["lb_co2e"] == pytest.approx(told["total"]["kwh"] * 0.954)
    more = stages["search"]["cost"]["cpu_s"] + stages["fine-tune"]["cost"]["cpu_s"]
    assert told["one_more_deployment"]["device_hours"]["CPU core"] == pytest.approx(more / 3600)
    alone = stages["fine-tune"]["cost"]["cpu_s"] / 2  # two epochs; the supernet had one
    one = told["training_one_from_scratch"]["device_hours"]["CPU core"]
    assert one == pytest.approx(alone / 3600)
    assert told["training_all_scored"]["kwh"] == pytest.approx(
        told["training_one_from_scratch"]["kwh"] * told["candidates"]
    )
    whole = told["once"]["usd"][0] + 10 * told["one_more_deployment"]["usd"][0]
    assert told["for_all_deployments"]["usd"][0] == pytest.approx(whole)
    assert told["published"]["APQ"]["gpu_hours"] == 2405
    shown = run("cost", "--carbon", 0, "--price", "CPU core=1:2", "--watts", "CPU core=7")
    for line in ("CPU core: 7 W, $ 1 to 2 an hour", "PUE", "0 kg (0 lb) CO2e", "one more deploy"):
        assert line in shown


def test_what_is_of_another_supernet_is_named_and_not_counted(made, monkeypatch, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    again = ("train-supernet", "--space", "digits", "--images", "digits", "--epochs", 1)
    run(*again, "--seed", 1, "--start", "data/digits/supernet.safetensors",
        "--out", "data/digits/other.safetensors")  # fmt: skip
    told = figures("cost", "--supernet", "data/digits/other.safetensors")
    supernet = told["stages"][0]
    assert supernet["cost"] is None
    assert "--supernet" in supernet["note"]
    Path("data/digits/supernet.safetensors").rename("data/digits/first.safetensors")
    Path("data/digits/other.safetensors").rename("data/digits/supernet.safetensors")
    for part in ("fp32", "predictor.safetensors"):
        path = Path("data/digits", part)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    history = figures("cost", "data/digits")  # with the one it was started from
    assert [s["stage"] for s in history["stages"]] == ["supernet", "supernet"]
    assert all(s["cost"] for s in history["stages"])


def test_shipped_files_say_what_they_do_not_know():
    told = figures("cost", Path(__file__).parents[2] / "data/cifar10")
    silent = [s["stage"] for s in told["stages"] if s["cost"] is None]
    assert silent == ["supernet", "earlier supernets", "predictor"]
    assert told["not_known"] == 3
    assert 4 < told["total"]["device_hours"]["CPU core"] < 5  # its README: 5.1 with data/test
    json.dumps(told)


def test_errors_name_what_is_wanted(tmp_path):
    for words in (
        ["cost", str(tmp_path)],
        ["cost", "--watts", "T4"],
        ["cost", "--price", "T4=2:1"],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code in (1, 2)
        assert "Traceback" not in result.output
        assert "runs/search" in result.output or "KIND=" in result.output
