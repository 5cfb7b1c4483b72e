"""Drawn images stand for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apq.supernet.drawn import draw


def answered(seed: int, count: int, subnets: int) -> np.ndarray:
    """Right answers of subnets on images of all difficulties, ``(subnets, count)``."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(0, 0.15, (subnets, 1))
    hard = rng.normal(1.8, 1.5, count)
    return (hard + skill + rng.normal(0, 0.7, (subnets, count)) > 0).astype(float)


@given(
    seed=st.integers(0, 1000),
    count=st.integers(20, 300),
    share=st.floats(0.05, 0.95),
    ties=st.booleans(),
)
def test_a_draw_holds_so_many_different_images(seed, count, share, ties):
    rng = np.random.default_rng(seed)
    right = rng.integers(0, 9, count) / 8
    wanted = max(1, int(share * count))
    loss = np.zeros(count) if ties else rng.random(count)
    drawn = draw(right, loss, wanted, rng)
    assert len(np.unique(drawn.index)) == wanted
    assert (np.diff(drawn.index) > 0).all()
    assert (drawn.weights >= 1 / count - 1e-12).all()


def test_the_mean_over_draws_is_the_accuracy_on_all():
    right = answered(0, 1000, 9)
    known, own = right[:8].mean(axis=0), right[8]
    loss = 1 - known
    found = []
    for seed in range(2000):
        drawn = draw(known, loss, 200, np.random.default_rng(seed))
        found.append(drawn.weights @ own[drawn.index] + drawn.shift[0])
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(own.mean(), abs=4 * error)
    assert error < 0.001


def test_nearer_than_the_same_number_of_images_drawn_alike():
    right = answered(1, 4000, 48)
    known, own = right[:8].mean(axis=0), right[8:]
    mine, alike = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        drawn = draw(known, 1 - known, 800, rng)
        mine.append(own[:, drawn.index] @ drawn.weights + drawn.shift[0] - own.mean(axis=1))
        alike.append(own[:, rng.permutation(4000)[:800]].mean(axis=1) - own.mean(axis=1))
    assert np.square(mine).mean() < 0.6 * np.square(alike).mean()
