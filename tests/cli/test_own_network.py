"""A network that a plain script trained, from its weights to a smaller file, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import figures, run
from documented_json import check
from networks import resnet

from apq.images import load_images
from apq.space import load_space
from apq.supernet import load_supernet
from apq.supernet.evaluate import EvalImages, accuracy, normalise
from apq.supernet.supernet import largest
from apq.training.feed import to_tensor

MODULE = """
import sys
sys.path.insert(0, {tests!r})
import torch
from networks import resnet


def build():
    network = resnet()
    network.load_state_dict(torch.load({weights!r}, weights_only=True))
    return network
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, float]:
    """A module file that builds a network trained on digits, and its validation accuracy."""
    folder = tmp_path_factory.mktemp("own")
    images = load_images("digits", 8, 1, 10)
    torch.manual_seed(0)
    network = resnet()
    pixels, labels = images.splits["train"]
    x, y = normalise(to_tensor(pixels), images.mean, images.std), torch.from_numpy(labels)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(6):
        for pick in torch.randperm(len(y)).split(64):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(x[pick]), y[pick]).backward()
            optimiser.step()
    torch.save(network.state_dict(), folder / "weights.pt")
    text = MODULE.format(tests=str(Path(__file__).parents[1]), weights=str(folder / "weights.pt"))
    (folder / "own_network.py").write_text(text)
    return folder, accuracy(network.eval(), EvalImages.of(images, images.mean, images.std))[0]


def test_a_trained_network_becomes_a_smaller_file(trained, monkeypatch):
    folder, before = trained
    assert before > 0.9
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    images = load_images("digits", 8, 1, 10)
    mean, std = (",".join(map(str, numbers)) for numbers in (images.mean, images.std))
    made = figures("space", "from-model", "own_network:build", "--input", "1x8x8",
                   "--mean", mean, "--std", std)  # fmt: skip
    space, net = load_space("mine.toml"), Path(made["supernet"])
    file = load_supernet(net, space)
    whole = file.network.subnet(largest(space)).eval()
    data = EvalImages.of(images, file.mean, file.std)
    assert accuracy(whole, data)[0] == pytest.approx(before, abs=0.003)

    of = ("--supernet", net, "--images", "digits")
    run("train-supernet", "--space", "mine.toml", "--images", "digits", "--start", net, "--epochs",
        2, "--lr", 0.02, "--out", "elastic.safetensors")  # fmt: skip
    of = ("--supernet", "elastic.safetensors", "--images", "digits")
    run("collect", *of, "--count", 30, "--out", "fp32")
    run("collect", *of, "--quantized", "--count", 24, "--finetune-steps", 5, "--out", "quantized")
    run("train-predictor", "--samples", "fp32", "--quantized-samples", "quantized", "--transfer",
        "--out", "predictor.safetensors")  # fmt: skip
    run("lut", "build", "--model", "bit-serial", "--space", "mine.toml", "--out", "table.csv")
    whole_costs = figures("space", "show", "mine.toml")["largest"]
    half = whole_costs["macs_m"] / 2
    run("search", "--space", "mine.toml", "--predictor", "predictor.safetensors", "--lut",
        "table.csv", "--macs-m", half, "--candidates", 400, "--out", "run")  # fmt: skip
    best = json.loads(Path("run/best.json").read_text())
    assert best["costs"]["macs_m"] <= half
    run("finetune", "--candidate", "run/best.json", *of, "--epochs", 3, "--out",
        "run/model.safetensors")  # fmt: skip
    pytest.importorskip("onnxruntime")
    run("export", "--model", "run/model.safetensors", "--out", "run/model.onnx")
    checked = figures("verify", "--model", "run/model.safetensors", "--file", "run/model.onnx",
                      "--images", "digits")  # fmt: skip
    assert checked["agreement"] == 1
    assert checked["max_difference"] == 0
    assert checked["accuracy"] > before - 0.1


def test_without_training_the_cheapest_network_within_a_drop_is_found(trained, monkeypatch):
    folder, before = trained
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    images = load_images("digits", 8, 1, 10)
    mean, std = (",".join(map(str, numbers)) for numbers in (images.mean, images.std))
    figures("space", "from-model", "own_network:build", "--input", "1x8x8", "--mean", mean,
            "--std", std, "--out", "quick.toml")  # fmt: skip
    of = ("--supernet", "quick.safetensors", "--images", "digits")
    run("collect", "--corrected", *of, "--count", 26, "--out", "quick/fp32")
    run("train-predictor", "--samples", "quick/fp32", "--no-compare", "--out",
        "quick/predictor.safetensors")  # fmt: skip
    best = figures("search", "--space", "quick.toml", "--predictor", "quick/predictor.safetensors",
                   "--accuracy-drop", 3, "--objective", "accuracy", "--objective", "macs_m",
                   "--candidates", 400, "--no-baselines", "--no-picture", "--measure", 3, *of,
                   "--out", "quick/run")  # fmt: skip
    assert best["limits"]["accuracy"] == pytest.approx(before - 0.03, abs=0.004)
    assert best["predicted"]["accuracy"] >= best["limits"]["accuracy"]
    check("search", best)
    (chosen,) = (row for row in best["measured"] if row["chosen"])
    assert chosen["macs_m"] < figures("space", "show", "quick.toml")["largest"]["macs_m"]
    assert chosen["measured"] > before - 0.15
    tuned = figures("finetune", "--candidate", "quick/run/best.json", *of, "--epochs", 0,
                    "--scheme", "fp32", "--out", "quick/model.safetensors")  # fmt: skip
    assert tuned["before"] == pytest.approx(chosen["measured"], abs=0.03)
