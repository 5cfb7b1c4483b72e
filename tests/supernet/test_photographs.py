"""Augmentation of photographs, and classes drawn as often as each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from apq.deploy.finetune import by_class
from apq.errors import ApqError
from apq.images import load_images
from apq.supernet.augment import AUGMENTS
from apq.supernet.photographs import RANDOM, colour_jitter, crop_and_flip
from apq.supernet.training import Recipe, train
from apq.training.feed import Feed

SIDE = 32


@pytest.fixture(scope="module")
def noise():
    return torch.randint(0, 256, (12, 3, SIDE, SIDE), dtype=torch.uint8)


def ramp(count):
    """Pictures that are brighter to the right, by 6 a pixel."""
    row = (6 * torch.arange(SIDE)).to(torch.uint8)
    return row.expand(count, 1, SIDE, SIDE)


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_seed_decides_what_becomes_of_each_image(noise, name, channels):
    images = noise[:, :channels]
    found = [AUGMENTS[name](images, True, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert found[0].shape == images.shape
    assert found[0].dtype == torch.uint8
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_crops_show_a_part_at_the_size_of_the_whole():
    found = crop_and_flip(ramp(200), False, np.random.default_rng(0)).float()
    slopes = (found[:, 0, :, 24] - found[:, 0, :, 8]).mean(1) / 16 / 6
    assert (slopes > 0.5).all()  # the narrowest: 0.35 of the area, 3:4
    assert (slopes < 1.02).all()
    assert slopes.std() > 0.05
    mirrored = crop_and_flip(ramp(200), True, np.random.default_rng(0)).float()
    left = (mirrored[:, 0, :, 8] > mirrored[:, 0, :, 24]).all(1)
    assert 60 < left.sum() < 140


def test_other_colours_keep_grey_grey_and_change_what_has_colour():
    grey = ramp(8).expand(8, 3, SIDE, SIDE)
    found = colour_jitter(grey, np.random.default_rng(0)).float()
    assert (found - found[:, :1]).abs().max() <= 1  # to rounding
    brightness = found.mean((1, 2, 3)) / grey.float().mean((1, 2, 3))
    assert ((brightness > 0.55) & (brightness < 1.45)).all()
    assert brightness.std() > 0.05


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_random_operation_keeps_size_and_mode(noise, mode):
    dim = (0.8 * noise[0].permute(1, 2, 0).numpy() + 40).astype(np.uint8)
    picture = Image.fromarray(dim).convert(mode)
    idle = {"identity", "colour"} if mode == "L" else {"identity"}
    for name, operation in RANDOM.items():
        both = [operation(picture, strength) for strength in (0.3, -0.3)]
        for changed in both:
            assert (changed.size, changed.mode) == (picture.size, mode), name
        assert (both[0].tobytes() == picture.tobytes()) == (name in idle), name
    moved = np.asarray(RANDOM["shift x"](picture, 1 / (0.45 * SIDE)))  # by one pixel
    assert np.array_equal(moved[:, :-1], np.asarray(picture)[:, 1:])


def test_rare_classes_are_drawn_as_often(noise):
    labels = np.array([0] * 90 + [1] * 9 + [3])
    pixels = np.zeros((100, 2, 2, 1), np.uint8)
    feed = Feed((pixels, labels), 50, torch.device("cpu"), balance=True)
    drawn = torch.cat([feed.at(step, 0)[1] for step in range(60)])
    assert np.bincount(drawn) / len(drawn) == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=0.03)
    again = Feed((pixels, labels), 50, torch.device("cpu"), balance=True)
    assert torch.equal(again.at(0, 0)[1], drawn[:50])


def test_a_supernet_learns_from_changed_and_balanced_images(tiny_space):
    digits = load_images("digits", 8, 1)
    recipe = Recipe(epochs=0.1, batch=32, augment="randaugment", balance=True)
    _, made = train(tiny_space, digits, recipe)
    assert made["recipe"]["augment"] == "randaugment"
    with pytest.raises(ApqError, match=r"unknown augmentation 'foto'"):
        train(tiny_space, digits, Recipe(augment="foto"))


def test_accuracies_of_classes_average_to_the_accuracy():
    labels = torch.tensor([0, 0, 0, 2, 2])
    right = torch.tensor([1.0, 0, 1, 0, 0], dtype=torch.float64)
    found = by_class(right, labels, ("cat", "dog", "owl"))
    assert found == pytest.approx({"cat": 2 / 3, "owl": 0.0})
