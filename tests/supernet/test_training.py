"""Supernet training: what opens when, resumption, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from apq.errors import ApqError, ModelError, SpaceError
from apq.images import load_images
from apq.space import load_space
from apq.supernet import Supernet, largest, load_supernet, save_supernet, smallest, training
from apq.supernet.augment import augment, cutmix
from apq.supernet.evaluate import EvalImages, accuracy, fold, measure, recalibrate
from apq.supernet.training import Recipe, phase_of, sample_open, train, train_supernet


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", 8, 1, 10)


@pytest.fixture(scope="module")
def trained(digits):
    """A short training of every phase, shared by the tests that only look at it."""
    return train(load_space("digits"), digits, Recipe(epochs=8, batch=64))


class Killed(Exception):
    pass


def test_phases_open_one_after_the_other():
    names = [phase_of(step, 1000) for step in range(1000)]
    assert list(dict.fromkeys(names)) == ["largest", "kernel", "depth", "width"]
    assert [names.count(n) for n in ("largest", "kernel", "depth", "width")] == [400, 150, 150, 300]
    assert {phase_of(step, 30, ("kernel", "width")) for step in range(10)} == {"kernel"}
    space = load_space("cifar10")
    rng = np.random.default_rng(0)
    for phase, free in {"largest": set(), "kernel": {"kernel"}, "depth": {"kernel", "depth"},
                        "width": {"kernel", "depth", "width"}}.items():  # fmt: skip
        rows = space.genes([sample_open(space, phase, rng) for _ in range(40)])
        rows = rows[space.active(rows).all(axis=1)] if phase != "depth" else rows
        moved = {space.axes[j].attribute for j in np.flatnonzero(np.ptp(rows[:, :], axis=0))}
        if phase in ("largest", "kernel"):
            assert moved == free
        else:
            assert moved <= {"depth", "kernel", "width", "pw_w_bits", "pw_a_bits", "dw_w_bits",
                             "dw_a_bits"}  # fmt: skip


def test_augmentation_shifts_and_mirrors_whole_images():
    images = torch.arange(2 * 1 * 16 * 16, dtype=torch.uint8).reshape(2, 1, 16, 16)
    out = augment(images, flip=True, rng=np.random.default_rng(0))
    assert out.shape == images.shape
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for before, after in zip(padded, out, strict=True):
        views = [
            view[:, i : i + 16, j : j + 16]
            for i in range(5)
            for j in range(5)
            for view in (before,)
        ]
        views += [v.flip(2) for v in views]
        assert any(torch.equal(after, v) for v in views)


def test_training_learns_and_the_ends_are_both_usable(trained, digits):
    network, metadata = trained
    scores = metadata["validation_accuracy"]
    assert scores["largest"] > 0.85
    assert scores["smallest"] > 0.5
    data = EvalImages.of(digits, digits.mean, digits.std)
    assert measure(network.subnet(largest(network.space)), data)[0] > 0.85
    net = network.subnet(smallest(network.space))
    recalibrate(net, data.calibration)
    with torch.no_grad():
        torch.testing.assert_close(fold(net)(data.images), net(data.images), atol=1e-4, rtol=1e-4)
    assert accuracy(fold(net), data) == pytest.approx(accuracy(net, data), abs=5e-3)


@pytest.mark.parametrize("average", [0.0, 1.0])
def test_a_killed_training_ends_with_the_same_weights(digits, tmp_path, average):
    space = load_space("digits")
    recipe = Recipe(epochs=1.5, batch=128, average=average)
    whole, _ = train(space, digits, recipe)
    checkpoint = tmp_path / "checkpoint.safetensors"

    def die_at(moment: int):
        def progress(done: int, total: int, _: object) -> None:
            if done == moment:
                raise Killed

        return progress

    for moment in (3, 10):
        with pytest.raises(Killed):
            train(space, digits, recipe, checkpoint, 0.0, on_progress=die_at(moment))
    resumed, metadata = train(space, digits, recipe, checkpoint, 0.0)
    assert metadata["steps"] == 12
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    with pytest.raises(ModelError, match="another training: its recipe"):
        train(space, digits, Recipe(epochs=1.5, batch=128, lr=0.2), checkpoint)


def test_a_killed_training_goes_on_from_beside_its_file(digits, tmp_path):
    space, recipe = load_space("digits"), Recipe(epochs=0.5)
    path = tmp_path / "new" / "net.safetensors"

    def die(done: int, total: int, _: object) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        train_supernet(space, digits, path, recipe, checkpoint_seconds=0.0, on_progress=die)
    steps: list[int] = []
    found = train_supernet(
        space, digits, str(path), recipe, on_progress=lambda done, *_: steps.append(done)
    )
    assert steps[0] > 1
    assert [file.name for file in path.parent.iterdir()] == ["net.safetensors"]
    assert found.hash == load_supernet(path, space).hash
    whole, _ = train(space, digits, recipe)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, found.network.state_dict()[name]), name


def test_averaged_weights_are_the_mean_over_the_last_steps(digits, monkeypatch):
    after, seen, rates = training._Steps.after, [], []

    def watched(steps, done):
        network, optimiser = steps.network, steps.training.optimiser
        seen.append({name: p.detach().clone() for name, p in network.named_parameters()})
        rates.append(optimiser.param_groups[0]["lr"])
        return after(steps, done)

    monkeypatch.setattr(training._Steps, "after", watched)
    space = load_space("digits")
    recipe = Recipe(epochs=2, batch=128, average=0.5)
    network, _ = train(space, digits, recipe)
    names = [phase_of(i, len(seen)) for i in range(len(seen))]
    last = names.count("width")
    assert 1 < last < len(seen) / 2  # only the last phase is averaged over
    assert len(set(rates[-last:])) == 1
    assert len(set(rates)) > len(seen) / 3
    for name, weight in network.named_parameters():
        mean = torch.stack([weights[name] for weights in seen[-last:]]).mean(0)
        torch.testing.assert_close(weight.detach(), mean, atol=1e-5, rtol=1e-4)


def test_training_can_start_from_another_supernet(trained, digits, tmp_path):
    network, metadata = trained
    path = tmp_path / "first.safetensors"
    save_supernet(path, network, metadata)
    first = load_supernet(path)
    _, made = train(
        network.space,
        digits,
        Recipe(epochs=0.3, batch=64, lr=1e-5, phases=("width",)),
        start_from=[first],
    )
    assert made["start_from"] == [first.hash]
    assert made["validation_accuracy"]["largest"] == pytest.approx(
        metadata["validation_accuracy"]["largest"], abs=0.03
    )
    assert metadata["channels_sorted"]
    assert made["channels_sorted"]
    with pytest.raises(SpaceError, match="resolution"):
        train(load_space("cifar10"), digits, start_from=[first])
    with pytest.raises(ApqError, match="Did you mean 'width'"):
        train(network.space, digits, Recipe(phases=("widths",)))


def test_training_can_start_from_another_space_whose_weights_fit(trained, digits, tmp_path):
    network, metadata = trained
    path = tmp_path / "first.safetensors"
    save_supernet(path, network, metadata)
    space = network.space
    *stages, last = space.family.stages
    flat = space.with_(stages=(*stages, replace(last, stride=1)))
    longer, made = train(
        flat,
        digits,
        Recipe(epochs=0.1, batch=64, lr=1e-6, phases=("width",)),
        start_from=[load_supernet(path)],
    )
    assert longer.space == flat
    assert made["fingerprint"] == flat.fingerprint
    for name, weight in network.named_parameters():  # not sorted a second time
        assert torch.allclose(weight, longer.get_parameter(name), atol=1e-3), name


def test_training_can_start_from_the_mean_of_supernets(trained, digits, tmp_path):
    network, metadata = trained
    files = []
    for name, factor in (("one", 1.0), ("two", 4.0)):
        other = Supernet(network.space)
        other.load_state_dict(
            {k: v * factor if v.is_floating_point() else v for k, v in network.state_dict().items()}
        )
        save_supernet(tmp_path / name, other, metadata)
        files.append(load_supernet(tmp_path / name))
    recipe = Recipe(epochs=0)
    mean, made = train(network.space, digits, recipe, start_from=[files[0], files[1], files[0]])
    assert made["start_from"] == [files[i].hash for i in (0, 1, 0)]
    assert made["steps"] == 0
    for name, weight in network.named_parameters():
        torch.testing.assert_close(mean.get_parameter(name), weight * 2, atol=1e-6, rtol=1e-6)
    save_supernet(tmp_path / "plain", network, metadata | {"channels_sorted": False})
    files.append(load_supernet(tmp_path / "plain"))
    with pytest.raises(SpaceError, match="some have sorted their channels"):
        train(network.space, digits, recipe, start_from=files)


def test_divergence_is_reported_not_saved(digits, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(ModelError, match=r"diverged at step \d+.*Lower the learning rate \(--lr\)"):
        train(load_space("digits"), digits, Recipe(epochs=2, lr=1e30), checkpoint, 1e9)
    assert not checkpoint.exists()


def test_cutmix_labels_say_how_much_of_each_image_is_there():
    labels = torch.arange(6)
    images = labels[:, None, None, None].expand(6, 3, 8, 8).contiguous()  # an image is its label
    shares = []
    for seed in range(40):
        mixed, weights = cutmix(images, labels, 6, np.random.default_rng(seed))
        for picture, weight in zip(mixed, weights, strict=True):
            counted = torch.bincount(picture.flatten(), minlength=6) / picture.numel()
            torch.testing.assert_close(counted, weight)
        shares.append(float(weights.diagonal().mean()))
    assert images.unique().numel() == 6  # what was given is left alone
    assert 0.35 < np.mean(shares) < 0.75
    assert min(shares) < 0.3
    assert max(shares) > 0.8


def test_training_with_mixed_images_learns(digits):
    space = load_space("digits")
    recipe = Recipe(epochs=4, batch=64, cutmix=0.5)
    whole, told = train(space, digits, recipe)
    assert told["recipe"]["cutmix"] == 0.5
    assert told["validation_accuracy"]["largest"] > 0.6
    plain, _ = train(space, digits, Recipe(epochs=4, batch=64))
    same = [torch.equal(a, b) for a, b in zip(whole.parameters(), plain.parameters(), strict=True)]
    assert not all(same)
