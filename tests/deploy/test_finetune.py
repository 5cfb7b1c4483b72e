"""The final fine-tuning: honest splits, and a kill at any moment changes nothing."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from apq.accuracy import measure_candidates
from apq.deploy.finetune import FinetuneRecipe, finetune_candidate
from apq.deploy.model import load_model, read_candidate, size_bytes
from apq.errors import ApqError, ModelError
from apq.files.tensors import load_tensors
from apq.hardware import price_space
from apq.images import ImageSet
from apq.search.search import search_front
from apq.search.tuned import ModelHeader
from apq.space.layer import size_bits, to_array
from apq.supernet import largest, load_supernet
from apq.supernet.evaluate import EvalImages, accuracy, normalise
from apq.supernet.files import save_supernet
from apq.supernet.trace import trace
from apq.training.feed import to_tensor

SHORT = FinetuneRecipe(epochs=2, batch=64)


@pytest.fixture(scope="module")
def tuned(tiny_supernet, tiny_space, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("tuned") / "model.safetensors"
    model, report = finetune_candidate(largest(tiny_space), tiny_supernet, digits, path, SHORT)
    return path, model, report


def test_the_model_file_gives_back_the_network_that_was_tuned(tuned, digits):
    path, model, report = tuned
    loaded = load_model(path)
    images = normalise(to_tensor(digits.splits["test"][0]), digits.mean, digits.std)
    labels = torch.from_numpy(digits.splits["test"][1])
    assert torch.equal(loaded.network(images), model.network(images))
    data = EvalImages.of(digits, digits.mean, digits.std, "test")
    assert accuracy(loaded.network, data)[0] == report.test
    assert loaded.metadata["accuracy"]["test"] == report.test
    assert loaded.metadata["accuracy"]["classes"] == report.classes
    share = np.bincount(labels) / len(labels)
    assert share @ list(report.classes.values()) == pytest.approx(report.test)
    assert loaded.classes == digits.classes


def test_what_a_search_found_stands_beside_what_was_measured(
    tiny_supernet, tiny_space, digits, tmp_path
):
    priced = price_space(tiny_space)

    def accuracy_of(genes):
        return np.linspace(0.5, 0.9, len(genes)), np.full(len(genes), 0.02)

    found = search_front(priced, accuracy_of, algorithm="random", candidates=20)
    brief = FinetuneRecipe(epochs=0)
    model, report = finetune_candidate(
        found, tiny_supernet, digits, tmp_path / "model.safetensors", brief
    )
    assert model.candidate == found.candidate
    assert (report.predicted, report.predicted_spread) == (found.accuracy, 0.02)
    assert load_model(tmp_path / "model.safetensors").metadata["costs"] == found.costs


def test_validation_chooses_the_epoch(tuned):
    _, _, report = tuned
    scores = (report.before, *report.epochs)
    assert report.after == max(scores) == scores[report.best_epoch]
    assert len(report.epochs) == SHORT.epochs


def test_the_test_split_decides_nothing(tiny_supernet, tiny_space, digits, tuned, tmp_path):
    """Scrambled test labels change the reported test accuracy, and not one bit of the weights."""
    pixels, labels = digits.splits["test"]
    scrambled = digits.splits | {"test": (pixels[::-1].copy(), (labels + 1) % 10)}
    other = ImageSet(digits.name, scrambled, digits.classes, digits.flip)
    out = tmp_path / "model.safetensors"
    _, report = finetune_candidate(largest(tiny_space), tiny_supernet, other, out, SHORT)
    path, _, original = tuned
    assert report.epochs == original.epochs
    assert report.test != original.test
    a, b = load_tensors(path, ModelHeader)[0], load_tensors(out, ModelHeader)[0]
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_promised_size_is_the_size(tuned, tiny_space):
    _, model, _ = tuned
    layers = to_array(tiny_space.layers(model.candidate))
    assert size_bytes(model.network) == int(size_bits(layers).sum()) // 8


def test_layers_that_are_not_searched_may_get_fewer_weight_bits(
    tiny_supernet, tiny_space, digits, tuned, tmp_path
):
    out = tmp_path / "model.safetensors"
    recipe = replace(SHORT, epochs=1, fixed_weight_bits=4)
    made, _ = finetune_candidate(largest(tiny_space), tiny_supernet, digits, out, recipe)
    model = load_model(out)
    before = {layer.name: layer for layer in tuned[1].network.plan}
    for layer in model.network.plan:
        assert layer.weight == (before[layer.name].weight if layer.searched else 4)
        assert layer.activation == before[layer.name].activation
    layers = to_array(model.space.layers(model.candidate))
    assert size_bytes(model.network) == int(size_bits(layers).sum()) // 8
    assert size_bytes(model.network) < size_bytes(tuned[1].network)
    images = normalise(to_tensor(digits.splits["test"][0]), digits.mean, digits.std)
    assert torch.equal(model.network(images), made.network(images))
    assert tiny_space.fingerprint != model.space.fingerprint
    assert model.space.with_(fixed_weight_bits=None) == tiny_space


SCRIPT = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from apq.deploy.finetune import FinetuneRecipe, finetune_candidate
from apq.images import load_images
from apq.supernet import largest, load_supernet
supernet = load_supernet(sys.argv[1])
finetune_candidate(
    largest(supernet.network.space), supernet, load_images("digits", 8, 1), Path(sys.argv[2]),
    FinetuneRecipe(epochs=3, batch=32, scheme="uniform-lsq"), checkpoint_seconds=0.0,
    on_progress=lambda done, total, figures: print(done, flush=True),
)
"""


def test_killed_and_resumed_is_bit_for_bit_the_same(tiny_supernet, digits, tmp_path):
    path = tmp_path / "supernet.safetensors"
    made = {"mean": tiny_supernet.mean, "std": tiny_supernet.std}
    save_supernet(path, tiny_supernet.network, made)
    supernet = load_supernet(path)
    broken, whole = tmp_path / "broken.safetensors", tmp_path / "whole.safetensors"

    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(path), str(broken)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        for line in process.stdout:
            if int(line) >= 40:  # in the second epoch of 33 steps each
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not broken.exists()

    steps = []
    recipe = FinetuneRecipe(epochs=3, batch=32, scheme="uniform-lsq")
    candidate = largest(supernet.network.space)
    for out in (broken, whole):
        finetune_candidate(
            candidate, supernet, digits, out, recipe,
            on_progress=lambda done, total, figures: steps.append(done),
        )  # fmt: skip
    assert steps[0] >= 40  # it went on where the kill was
    a, b = load_tensors(broken, ModelHeader)[0], load_tensors(whole, ModelHeader)[0]
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key
    assert not list(tmp_path.glob("*checkpoint*"))


def test_a_checkpoint_of_another_run_is_refused(tiny_supernet, tiny_space, digits, tmp_path):
    out = tmp_path / "model.safetensors"

    def stop(done, total, figures):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune_candidate(
            largest(tiny_space), tiny_supernet, digits, out, SHORT, checkpoint_seconds=0,
            on_progress=stop,
        )  # fmt: skip
    with pytest.raises(ModelError, match="checkpoint of another training"):
        finetune_candidate(
            largest(tiny_space), tiny_supernet, digits, out, FinetuneRecipe(epochs=2, lr=0.5)
        )


def test_an_unknown_scheme_names_the_nearest(tiny_supernet, tiny_space, digits, tmp_path):
    with pytest.raises(ApqError, match="Did you mean 'uniform'"):
        finetune_candidate(
            largest(tiny_space), tiny_supernet, digits, tmp_path / "x", FinetuneRecipe("unifrom")
        )


def test_candidates_are_read_from_best_json(tiny_space, tmp_path):
    path = tmp_path / "best.json"
    candidate = largest(tiny_space)
    data = {
        "candidate": candidate.to_dict(),
        "predicted": {"accuracy": 0.9},
        "costs": {"size_mb": 1},
    }
    path.write_text(json.dumps(data))
    chosen = read_candidate(path)
    assert chosen.candidate == candidate
    assert chosen.accuracy == 0.9
    assert chosen.spread is None
    assert chosen.costs == {"size_mb": 1}
    for broken in ("", "[1]", "{}", '{"candidate": {"b00_kernel": 2.5}}'):
        path.write_text(broken)
        with pytest.raises(ModelError, match="not a file with a candidate"):
            read_candidate(path)
    with pytest.raises(ModelError, match="apq search"):
        read_candidate(tmp_path / "absent.json")


def test_broken_model_files_are_refused_in_words(tuned, tmp_path):
    path, _, _ = tuned
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_model(cut)
    with pytest.raises(ModelError, match="apq finetune"):
        load_model(tmp_path / "absent.safetensors")


def test_a_traced_network_without_batch_norm_is_tuned_as_it_is(digits, tmp_path):
    """Its file has placeholders for statistics, which no recalibration may take for its own."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    pixels, labels = digits.splits["train"]
    x, y = normalise(to_tensor(pixels), (0.0,), (0.2,)), torch.from_numpy(labels)
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for pick in torch.randperm(len(y)).split(64) * 3:
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x[pick]), y[pick]).backward()
        optimiser.step()
    traced = trace(network.eval(), x[:2], "plain")
    file = traced.save(tmp_path / "plain.safetensors", (0.0,), (0.2,))
    held = EvalImages.of(digits, file.mean, file.std)
    own, space = accuracy(network, held)[0], traced.space
    recipe, out = FinetuneRecipe(scheme="fp32", epochs=0), tmp_path / "model.safetensors"
    _, report = finetune_candidate(largest(space), file, digits, out, recipe)
    assert own > 0.6
    assert report.before == pytest.approx(own, abs=0.02)
    assert measure_candidates(file, digits, space.whole)[0] == pytest.approx(own, abs=0.02)
