"""Every command of the chain, as a user types them, on real photographs at small counts."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from commands import figures, run
from typer.testing import CliRunner

from apq.cli import app
from apq.hardware.lut import LookupTable
from apq.samples import part_metadata
from apq.space import Candidate, load_space


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory) -> Path:
    """600 training and 100 test images of CIFAR-10."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "images").mkdir()
    for part, count in (("train", 600), ("test", 100)):
        table = pq.read_table(shared / f"data/cifar10/{part}.parquet").slice(0, count)
        pq.write_table(table, folder / f"images/{part}.parquet")
    return folder


@pytest.fixture(scope="module")
def supernet(folder) -> Path:
    path = folder / "supernet.safetensors"
    made = figures(
        "train-supernet", "--space", "cifar10", "--images", folder / "images", "--out", path,
        "--epochs", 0.6, "--batch", 32, "--lr", 0.05,
    )  # fmt: skip
    assert made["steps"] == 8
    assert set(made["validation_accuracy"]) == {"largest", "smallest"}
    assert not path.with_name("supernet.checkpoint.safetensors").exists()
    return path


@pytest.fixture(scope="module")
def samples(folder, supernet) -> tuple[Path, Path]:
    common = (
        "--supernet", supernet, "--images", folder / "images", "--validation-images", 60,
        "--calibration-images", 40,
    )  # fmt: skip
    fp32 = figures(
        "collect", *common, "--chunk", 7, "--count", 14,
        "--out", folder / "fp32",
    )  # fmt: skip
    assert (fp32["samples"], fp32["new"]) == (14, 14)
    parts = sorted((folder / "fp32").glob("part-*.parquet"))
    assert [len(pd.read_parquet(part)) for part in parts] == [7, 7]
    assert part_metadata(parts[0])["calibration_images"] == 40
    quantized = figures(
        "collect", *common, "--quantized", "--finetune-steps", 1, "--count", 12,
        "--out", folder / "quantized",
    )  # fmt: skip
    assert quantized["samples"] == 12
    frame = pd.read_parquet(folder / "quantized")
    assert frame["accuracy"].between(0, 1).all()
    assert set(frame["scheme"]) == {"uniform"}
    return folder / "fp32", folder / "quantized"


@pytest.fixture(scope="module")
def predictor(folder, samples) -> Path:
    path = folder / "predictor.safetensors"
    run(
        "train-predictor", "--samples", samples[0], "--quantized-samples", samples[1],
        "--transfer", "--out", path, "--json",
    )  # fmt: skip
    assert path.exists()
    return path


@pytest.fixture(scope="module")
def best(folder, predictor) -> Path:
    table = folder / "device.csv"
    run("lut", "build", "--model", "bitfusion-apq", "--space", "cifar10", "--out", table)
    out = folder / "run"
    run(
        "search", "--latency-ms", 0.6, "--size-mb", 0.2, "--predictor", predictor, "--lut", table,
        "--candidates", 600, "--out", out,
    )  # fmt: skip
    return out / "best.json"


def test_search_keeps_every_budget_when_priced_layer_by_layer(folder, best):
    space = load_space("cifar10")
    table = LookupTable.read(folder / "device.csv")
    front = pd.read_parquet(best.parent / "front.parquet")
    genes = space.from_values({a.name: front[a.name].to_numpy(float) for a in space.axes})
    from apq.space.layer import size_bits, to_array

    for row, ms, mb in zip(genes, front["latency_ms"], front["size_mb"], strict=True):
        layers = to_array(list(space.layers(space.build(row))))
        assert table.price(layers)["latency_ms"].sum() == pytest.approx(ms, rel=1e-9)
        assert size_bits(layers).sum() / 8e6 == pytest.approx(mb, rel=1e-9)
        assert ms <= 0.6
        assert mb <= 0.2
    chosen = json.loads(best.read_text())
    assert space.genes([Candidate.from_dict(chosen["candidate"])]).shape == (1, len(space.axes))
    evaluated = pd.read_parquet(best.parent / "evaluations.parquet")
    assert len(evaluated) >= len(front)


def test_samples_of_the_wrong_kind_and_other_images_are_noticed(folder, supernet, samples):
    swapped = CliRunner().invoke(app, ["train-predictor", "--samples", str(samples[1])])
    assert swapped.exit_code == 1
    assert "quantized ones to --quantized-samples" in swapped.output
    words = ("--supernet", supernet, "--images", "digits", "--count", 1, "--validation-images", 9)
    words += ("--calibration-images", 20)
    command = [str(w) for w in ("collect", *words, "--out", folder / "other")]
    other = CliRunner().invoke(app, command)
    assert other.exit_code == 1
    assert "was made with the images images" in other.output
    assert "these are digits" in other.output
    meant = CliRunner().invoke(app, [*command, "--other-images"])
    assert meant.exit_code == 0


def test_samples_of_two_supernets_teach_no_predictor(folder, samples):
    words = ("--samples", "data/cifar10/fp32", "--quantized-samples", samples[1])
    refused = CliRunner().invoke(app, ["train-predictor", *map(str, words)])
    assert refused.exit_code == 1
    assert "measured on different things" in refused.output
    assert "4a902f2b23e601bf" in refused.output


def test_commands_that_go_on_know_their_images(folder, supernet, best):
    words = ["finetune", "--candidate", str(best), "--supernet", str(supernet), "--epochs", "1"]
    unsaid = CliRunner().invoke(app, words)
    assert unsaid.exit_code == 1
    assert "give --images" in unsaid.output
    wrong = CliRunner().invoke(app, [*words, "--images", "digits"])
    assert wrong.exit_code == 1
    assert "--other-images" in wrong.output
    assert not best.with_name("model.safetensors").exists()


def test_the_winner_is_tuned_and_tested(folder, supernet, best):
    report = figures(
        "finetune", "--candidate", best, "--supernet", supernet, "--images", folder / "images",
        "--epochs", 1, "--out", best.parent / "model.safetensors",
    )  # fmt: skip
    assert (best.parent / "model.safetensors").exists()
    page = Path(figures("report", best.parent)["report"]).read_text()
    assert f"{report['test']:.2%}" in page
    assert f"{json.loads(best.read_text())['predicted']['accuracy']:.2%}" in page


def test_an_unreachable_budget_is_answered_with_the_range(folder, best, predictor):
    result = CliRunner().invoke(
        app,
        ["search", "--latency-ms", "0.0001", "--predictor", str(predictor),
         "--lut", str(folder / "device.csv"), "--out", str(folder / "never")],
    )  # fmt: skip
    assert result.exit_code == 1
    assert "latency_ms" in result.output
    assert not (folder / "never").exists()


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (
            ("train-supernet", "--space", "cifar1O", "--images", "digits"),
            1,
            "Did you mean 'cifar10'",
        ),
        (("train-supernet", "--images", "no/such", "--out", "no.st"), 1, "no images at"),
        (("train-supernet", "--images", "digits", "--epochs", "-1"), 2, "--epochs"),
        (("collect", "--images", "digits", "--supernet", "no.st"), 1, "apq train-supernet"),
        (("collect", "--images", "digits", "--count", "0"), 2, "--count"),
        (("collect",), 1, "give --images"),
        (
            ("train-supernet", "--images", "digits"),
            1,
            "cifar10/supernet.safetensors is there already",
        ),
        (("train-predictor", "--samples", "no/such"), 1, "apq collect"),
        (("search", "--latency-ms", "-1", "--lut", "roofline"), 1, "latency_ms"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_wrong_usage_exits_2_and_mendable_errors_exit_1_in_words(words, code, part):
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code
    assert part in result.output
    assert "Traceback" not in result.output


def test_help_loads_no_heavy_library():
    import subprocess
    import sys

    code = (
        "import sys, apq.cli;"
        "heavy = {'torch', 'optuna', 'sklearn', 'pandas', 'matplotlib', 'pyarrow', 'scipy'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_explains_itself_with_examples():
    top = run("--help")
    for command in ("quickstart", "train-supernet", "collect", "train-predictor", "search",
                    "sweep", "finetune", "export", "verify", "predict", "report"):  # fmt: skip
        assert command in top
        text = run(command, "--help")
        assert f"apq {command}" in text, command
