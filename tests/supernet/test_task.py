"""Tasks of one's own: their loss and score are what training, samples and fine-tuning use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apq.accuracy import Quantization
from apq.collect import collect
from apq.deploy.finetune import FinetuneRecipe, finetune_candidate
from apq.deploy.model import load_model
from apq.errors import ApqError, ImagesError, SamplesError, SpaceError
from apq.images import load_images
from apq.samples import read_samples
from apq.supernet.evaluate import EvalImages, accuracy, measure
from apq.supernet.files import SupernetFile
from apq.supernet.orders import sort_channels
from apq.supernet.supernet import smallest
from apq.supernet.task import Task, classification, task_of, unexplained
from apq.supernet.trace import trace
from apq.supernet.training import Recipe, _measured, train_supernet

PARTS = {"train": (0, 64), "calibration": (0, 40), "validation": (64, 96), "test": (96, 128)}


def squares(outputs: Tensor, wanted: Tensor) -> Tensor:
    return (outputs - wanted).square().mean(dim=1)


def close(outputs: Tensor, wanted: Tensor) -> Tensor:
    return torch.exp(-(outputs - wanted).abs().mean(dim=1))


def of_pixels(outputs: Tensor, wanted: Tensor) -> Tensor:
    return F.cross_entropy(outputs, wanted, reduction="none").mean(dim=(1, 2))


def right_pixels(outputs: Tensor, wanted: Tensor) -> Tensor:
    return (outputs.argmax(1) == wanted).float().mean(dim=(1, 2))


def signals() -> tuple[Task, nn.Module]:
    """Where the peak of a signal lies and how high it is: two numbers, no classes."""
    rng = np.random.default_rng(0)
    where, high = rng.uniform(0.2, 0.8, 128), rng.uniform(1, 3, 128)
    at = np.linspace(0, 1, 24)
    curves = high[:, None] * np.exp(-(((at - where[:, None]) / 0.1) ** 2))
    inputs = (curves + rng.normal(0, 0.1, curves.shape))[:, None].astype(np.float32)
    targets = np.stack([where, high], axis=1).astype(np.float32)
    network = nn.Sequential(
        nn.Conv1d(1, 16, 5, 2, padding=2), nn.ReLU(), nn.Conv1d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 12, 16), nn.ReLU(), nn.Linear(16, 2),
    )  # fmt: skip
    splits = {name: (inputs[a:b], targets[a:b]) for name, (a, b) in PARTS.items()}
    return Task("peaks", splits, squares, close), network


def pixels() -> tuple[Task, nn.Module]:
    """Which pixels of a picture, half as high as wide, are bright: a label for each."""
    rng = np.random.default_rng(0)
    bright = np.repeat(np.repeat(rng.random((128, 3, 6)) < 0.5, 2, axis=1), 2, axis=2)
    images = np.clip(80 + 90 * bright + rng.normal(0, 30, bright.shape), 0, 255).astype(np.uint8)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2, 1),
    )  # fmt: skip
    whole = images[..., None], bright.astype(np.int64)
    splits = {name: (whole[0][a:b], whole[1][a:b]) for name, (a, b) in PARTS.items()}
    return Task("pixels", splits, of_pixels, right_pixels), network


@pytest.fixture(scope="module", params=[signals, pixels])
def trained(request, tmp_path_factory) -> tuple[Task, SupernetFile, SupernetFile]:
    """A task and a supernet that has learnt it, from a network that had."""
    torch.manual_seed(0)
    task, network = request.param()
    own = tmp_path_factory.mktemp(task.name)
    normalisation = task.normalisation
    data = EvalImages.of(task, *normalisation, "train", calibration=0)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        task.mean_loss(network(data.images), data.labels).backward()
        optimiser.step()
    start = trace(network, data.images[:2], task.name).save(
        own / "traced.safetensors", *normalisation
    )
    recipe = Recipe(epochs=5, batch=16, lr=0.02)
    out = own / "supernet.safetensors"
    return task, train_supernet(start.network.space, task, out, recipe, start_from=[start]), start


def test_training_lowers_the_loss_and_its_accuracy_is_the_score(trained):
    task, supernet, start = trained
    told = supernet.metadata["validation_accuracy"]
    net = supernet.network.subnet(smallest(supernet.network.space)).eval()
    data = EvalImages.of(task, supernet.mean, supernet.std, calibration=2000)
    score, loss = measure(net, data)
    assert told["smallest"] == pytest.approx(score, abs=1e-6)
    wanted = task.images.splits["validation"][1]
    with torch.inference_mode():
        outputs = net(data.images)
    by_hand = task.score(outputs, torch.from_numpy(wanted))
    assert score == pytest.approx(float(by_hand.mean()), abs=1e-5)
    assert told["largest"] > {"peaks": 0.75, "pixels": 0.85}[task.name]
    cut = start.network.subnet(smallest(start.network.space)).eval()
    assert loss < measure(cut, data)[1]


def test_samples_are_scores_and_say_of_which_task(trained, tmp_path):
    task, supernet, _ = trained
    collect(supernet, task, tmp_path / "fp32", 4)
    samples = read_samples(tmp_path / "fp32")
    assert samples.metadata["task"] == task.name
    space = supernet.network.space
    data = EvalImages.of(task, supernet.mean, supernet.std)
    for row, found in zip(samples.genes, samples.accuracy, strict=True):
        subnet = supernet.network.subnet(space.build(row)).eval()
        assert found == pytest.approx(measure(subnet, data)[0], abs=1e-5)
    collect(supernet, task, tmp_path / "drawn", 4, validation_images=24)
    drawn = read_samples(tmp_path / "drawn").accuracy
    assert np.abs(drawn - samples.accuracy).max() < 0.1
    with pytest.raises(SamplesError, match="task"):
        collect(supernet, replace(task, name="another"), tmp_path / "fp32", 5)


def test_fine_tuning_under_bits_learns_the_task(trained, tmp_path):
    task, supernet, _ = trained
    how = Quantization(finetune_steps=2, batch=16)
    collect(supernet, task, tmp_path / "quantized", 2, how)
    assert (read_samples(tmp_path / "quantized").accuracy > 0.3).all()
    candidate, out = smallest(supernet.network.space), tmp_path / "model.safetensors"
    recipe = FinetuneRecipe(epochs=3, batch=16, lr=0.01)
    model, report = finetune_candidate(candidate, supernet, task, out, recipe)
    assert report.after >= report.before
    assert report.classes == {}
    held = EvalImages.of(task, supernet.mean, supernet.std, "test")
    assert accuracy(load_model(out).network, held)[0] == pytest.approx(report.test)
    assert model.classes == ()


def test_orders_measure_the_loss_of_the_task(trained):
    task, supernet, _ = trained
    measured = _measured(task, (supernet.mean, supernet.std), torch.device("cpu"))
    outputs, targets = torch.randn(3, 2), torch.randn(3, 2)
    if task.name == "peaks":
        assert measured.loss(outputs, targets) == squares(outputs, targets).mean()
    before = EvalImages.of(task, supernet.mean, supernet.std)
    network = supernet.network.subnet(smallest(supernet.network.space)).eval()
    assert np.isfinite(accuracy(network, before)[1])
    for order in ("activation", "taylor"):
        sort_channels(supernet.network, order, measured)


def test_telling_classes_apart_is_a_task_like_others():
    digits = load_images("digits", 8, 1)
    task = task_of(digits)
    outputs = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 3, 9, 1])
    score, loss = task.judge(outputs, labels)
    assert torch.equal(score, (outputs.argmax(1) == labels).float())
    assert torch.equal(loss, F.cross_entropy(outputs, labels, reduction="none"))
    assert task_of(task) is task
    smooth = classification(digits, smoothing=0.1).mean_loss(outputs, labels)
    assert smooth == pytest.approx(float(F.cross_entropy(outputs, labels, label_smoothing=0.1)))


def test_imitation_has_no_units():
    teacher = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    assert unexplained(teacher, teacher) == 0
    guess = teacher.mean().expand_as(teacher)
    assert unexplained(guess, teacher) == pytest.approx(1.0)
    assert unexplained(1000 * guess, 1000 * teacher) == pytest.approx(1.0)


def wrong(**changes) -> Task:
    return replace(signals()[0], **changes)


def test_what_a_task_cannot_be_is_refused_in_words():
    task = signals()[0]
    inputs, targets = task.images.splits["train"]
    with pytest.raises(ImagesError, match="has the splits train; it needs train, calibration"):
        wrong(examples={"train": (inputs, targets)})
    for other, message in (
        ((inputs.astype(np.float64), targets), r"are float64 \(64, 1, 24\); they must be uint8"),
        ((inputs, targets[1:]), "64 inputs and 63 targets"),
        ((inputs[:0], targets[:0]), "0 inputs and 0 targets"),
    ):
        with pytest.raises(ImagesError, match=message):
            wrong(examples={**task.images.splits, "test": other})
    outputs, wanted = torch.zeros(4, 2), torch.ones(4, 2)
    with pytest.raises(ApqError, match=r"loss of task 'peaks' has shape \(4, 2\).*\(4,\)"):
        wrong(loss=lambda y, t: (y - t) ** 2).judge(outputs, wanted)
    with pytest.raises(ApqError, match="score of task 'peaks' goes from -1 to -1"):
        wrong(score=lambda y, t: (y - t).mean(1)).judge(outputs, wanted)


def test_classes_of_what_has_none_cannot_be_balanced(tmp_path):
    task, network = pixels()
    space = trace(network, torch.zeros(2, 1, 6, 12)).space
    with pytest.raises(ImagesError, match=r"targets are int64 \(64, 6, 12\)"):
        train_supernet(space, task, tmp_path / "s.safetensors", Recipe(balance=True))


def test_operations_of_torch_do_not_start_from_random_numbers(tmp_path):
    task, network = signals()
    space = trace(network, torch.zeros(2, 1, 24), "peaks").space
    with pytest.raises(SpaceError, match=r"'peaks' has operations .*train-supernet --start FILE"):
        train_supernet(space, task, tmp_path / "s.safetensors")
