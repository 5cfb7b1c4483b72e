"""Images that are not kept normalised are measured on as those that are."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from apq.collect import collect
from apq.images import load_images
from apq.images.streamed import Streamed
from apq.runtime.shared import SharedStart, choices
from apq.samples import part_files
from apq.space import load_space
from apq.supernet import Supernet, evaluate, load_supernet, smallest
from apq.supernet.evaluate import EvalImages, Normalised, at_once, measure
from apq.supernet.files import save_supernet


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", 8, 1)


@pytest.fixture
def both(digits, monkeypatch):
    """Images that are kept, and the same that are not."""
    kept = EvalImages.of(digits, digits.mean, digits.std, limit=300, calibration=260)
    monkeypatch.setattr(evaluate, "HELD", 0)
    made = EvalImages.of(digits, digits.mean, digits.std, limit=300, calibration=260)
    assert isinstance(kept.images, torch.Tensor)
    assert isinstance(made.images, Normalised)
    return kept, made


def test_they_are_the_same_numbers_at_every_size(both):
    for kept, made in (both, (both[0].at(6), both[1].at(6))):
        for name in ("images", "calibration"):
            whole, parts = getattr(kept, name), getattr(made, name)
            assert torch.equal(whole, parts[:])
            assert whole.shape == parts.shape
            assert len(whole) == len(parts)
            assert torch.equal(whole[17:40], parts[17:40])


def test_subnets_score_the_same_to_the_last_bit(both):
    torch.manual_seed(0)
    supernet = Supernet(load_space("digits"))
    candidate = smallest(supernet.space)
    scores = {measure(supernet.subnet(candidate), data) for data in both}
    assert len(scores) == 1
    following = choices(supernet.subnet(candidate).graph)
    kept, made = (SharedStart(data).measure(supernet.subnet(candidate), following) for data in both)
    assert kept == pytest.approx(made, abs=1e-6)  # the shared beginning ran in torch


def test_a_size_that_is_small_enough_is_kept(both, monkeypatch):
    kept, made = both
    monkeypatch.setattr(evaluate, "HELD", 4 * 300 * 16)
    small = made.at(4)
    assert isinstance(small.images, torch.Tensor)
    assert torch.equal(small.images, kept.at(4).images)


def test_photographs_go_through_networks_in_smaller_batches(digits):
    data = EvalImages.of(digits, digits.mean, digits.std)
    assert at_once(data.images) == 250
    assert at_once(data.at(90).images) == 250
    assert at_once(torch.empty(1, 3, 224, 224)) == 41


def test_streams_are_read_as_they_are_needed(tmp_path, monkeypatch):
    for i in range(40):
        (tmp_path / f"c{i % 2}").mkdir(exist_ok=True)
        Image.new("L", (8, 8), 6 * i).save(tmp_path / f"c{i % 2}" / f"{i}.png")
    images = load_images(str(tmp_path), 8, 1, memory=0)
    for split in ("validation", "test"):
        pixels, labels = images.splits[split]
        assert isinstance(pixels, Streamed)
        kept = EvalImages.of(images, images.mean, images.std, split)
        monkeypatch.setattr(evaluate, "HELD", 0)
        made = EvalImages.of(images, images.mean, images.std, split)
        monkeypatch.undo()
        parts = [slice(0, 3), slice(3, len(labels))]
        found = torch.cat([*made.images.in_parts(parts)])
        assert torch.equal(found, kept.images)
        assert made.labels.tolist() == labels.tolist()


def test_samples_of_a_stream_are_those_of_the_same_images_in_memory(
    tiny_space, tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    for i in range(100):
        path = tmp_path / "photos" / f"c{i % 10}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    held = load_images(f"{tmp_path / 'photos'}::split=content", 8, 1)
    streamed = load_images(str(tmp_path / "photos"), 8, 1, memory=0)
    torch.manual_seed(0)
    file = tmp_path / "supernet.safetensors"
    network = Supernet(tiny_space).eval()
    save_supernet(file, network, {"mean": held.mean, "std": held.std})
    losses = []
    for name, images in (("held", held), ("streamed", streamed)):
        if name == "streamed":
            monkeypatch.setattr(evaluate, "HELD", 0)
        collect(load_supernet(file), images, tmp_path / name, 2, validation_images=5)
        losses.append([pq.read_table(f)["loss"].to_pylist() for f in part_files(tmp_path / name)])
    for found, expected in zip(*losses, strict=True):
        assert found == pytest.approx(expected, abs=1e-6)  # a shared beginning runs in torch
