"""Images that are not kept normalised are measured on as those that are."""

from __future__ import annotations

import pytest
import torch

from apq.images import load_images
from apq.images.streamed import Streamed
from apq.runtime.shared import SharedStart, choices
from apq.space import load_space
from apq.supernet import Supernet, evaluate, smallest
from apq.supernet.evaluate import EvalImages, Normalised, at_once, measure


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
    from PIL import Image

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
