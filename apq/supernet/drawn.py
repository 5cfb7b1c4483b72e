"""Unbiased estimates from a weighted sample of the images, drawn where subnets disagree.

The difference estimator of survey sampling (Cassel, Sarndal & Wretman, Biometrika 1976): images are
drawn with known probabilities, and the difference between a candidate's and a few reference
subnets' answers is weighted by their inverse (Horvitz & Thompson, 1952). Its mean over draws is the
accuracy on all images, whatever the probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REFERENCES = 8
"""Number of reference subnets whose answers tell easy images from hard ones."""
_LEAST = 0.01  # variance of an image all references agree on: others may still disagree
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """Images to measure on.

    Attributes:
        index: Which, ascending, ``(m,)``.
        weights: Weight of each, ``(m,)``.
        shift: Added to the weighted sums over the images of right answers and of losses.
    """

    index: NDArray[np.int64]
    weights: Floats
    shift: tuple[float, float]


def draw(right: Floats, loss: Floats, count: int, rng: np.random.Generator) -> Drawn:
    """Draw images with probabilities proportional to how much subnets disagree about them.

    Args:
        right: Share of the reference subnets that get each image right, ``(n,)``.
        loss: Their mean loss on it, ``(n,)``.
        count: Images to draw, fewer than ``n``.
        rng: Source of randomness.
    """
    chance = _inclusion(np.sqrt(right * (1 - right) + _LEAST), count)
    # systematic: with steps of one along the cumulated chances none is drawn twice; in order of
    # difficulty, so that every difficulty gets its share
    order = np.lexsort((rng.random(len(right)), loss))
    ends = np.cumsum(chance[order])
    steps = (np.arange(count) + rng.random()) * (ends[-1] / count)
    index = np.sort(order[np.minimum(np.searchsorted(ends, steps, side="right"), len(ends) - 1)])
    weights = 1 / (chance[index] * len(right))
    return Drawn(
        index,
        weights,
        (
            float(right.mean() - weights @ right[index]),
            float(loss.mean() - weights @ loss[index]),
        ),
    )


def _inclusion(size: Floats, count: int) -> Floats:
    """Chances in proportion to ``size``, at most 1, that sum to ``count``."""
    chance = np.full(len(size), 0.0)
    sure = np.zeros(len(size), dtype=bool)
    while True:
        chance = np.where(sure, 1.0, size * (count - sure.sum()) / size[~sure].sum())
        over = (chance > 1) & ~sure
        if not over.any():
            return chance
        sure |= over
