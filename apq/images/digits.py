"""scikit-learn's handwritten digits, plain and drawn into clutter: sources that need no files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from apq.images.decode import Pixels
from apq.images.labels import Labels
from apq.space.layer import Size, both

Floats = NDArray[np.float64]

SEED = 20200615
"""Fixed: the drawings never depend on a command's ``--seed``."""
SIDE = 16
"""Pixels of a cluttered drawing's side, before it is resized."""
DRAWINGS: Mapping[str, int] = {"train": 4, "validation": 4, "test": 8}
"""How often each digit of a part is drawn."""
TURN, SIZES, MOVE = 30.0, (0.9, 1.5), 2.0
"""Of a drawn digit: most degrees to either side, factors of its size, most pixels off centre."""
PIECES, NOISE = 3, 0.1
"""Pieces of other digits that lie about in a drawing; standard deviation of its noise, 0..1."""
NAMES = tuple("0123456789")
"""Names of the classes."""
PIECE = 4
"""Pixels of a piece's side, in the digit that it is cut from."""


def plain(side: Size, channels: int) -> tuple[Pixels, Labels]:
    """The 1,797 digits, 8x8 grey pixels, resized (bilinear) where another size is asked for.

    Returns:
        Images ``(1797, height, width, channels)`` and labels.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = (data.images * 255 / 16).round().astype(np.uint8)
    return _sized(grey, side, channels), data.target.astype(np.int64)


def cluttered(side: Size, channels: int) -> dict[str, tuple[Pixels, Labels]]:
    """Every digit drawn several times at 16x16 pixels: moved, turned, scaled, of another
    brightness, among pieces of other digits and under noise.

    A digit, and what is drawn of it, is in one part alone, and so are the pieces around it. The
    drawings of one digit follow each other (:data:`DRAWINGS`), so that who tests can count digits
    instead of drawings, which are not independent.

    Args:
        side: Height and width, in pixels; other than 16x16 the drawings are resized (bilinear).
        channels: 1 or 3.

    Returns:
        Images ``(n, height, width, channels)`` and labels of ``train`` (5,036), ``validation``
        (716) and ``test`` (2,872).
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(data.target))
    ends = len(order) // 5, len(order) // 5 + len(order) // 10
    cut = dict(zip(("test", "validation", "train"), np.split(order, ends), strict=True))
    drawn = {}
    for part, copies in DRAWINGS.items():
        which = np.repeat(cut[part], copies)
        grey = _draw(data.images[which] / 16, data.images[cut[part]] / 16, rng)
        drawn[part] = _sized(grey, side, channels), data.target[which].astype(np.int64)
    return drawn


def _draw(glyphs: Floats, others: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Drawings of glyphs ``(n, 8, 8)`` on 0..1, among pieces of ``others``: ``(n, 16, 16)``."""
    n = len(glyphs)
    ink = _place(glyphs, MOVE, TURN, rng) * rng.uniform(0.6, 1, (n, 1, 1))
    for _ in range(PIECES):
        whole = others[rng.integers(0, len(others), n)]
        top, left = rng.integers(0, 8 - PIECE + 1, (2, n, 1))
        at = np.arange(8)
        rows, columns = (at >= top) & (at < top + PIECE), (at >= left) & (at < left + PIECE)
        piece = whole * (rows[:, :, None] & columns[:, None, :])
        ink = np.maximum(ink, _place(piece, SIDE / 2, 180, rng) * rng.uniform(0.4, 0.9, (n, 1, 1)))
    ink += rng.normal(0, NOISE, ink.shape)
    return (ink.clip(0, 1) * 255).round().astype(np.uint8)


def _place(glyphs: Floats, move: float, turn: float, rng: np.random.Generator) -> Floats:
    """Glyphs ``(n, 8, 8)`` scaled, turned by up to ``turn`` degrees and moved by up to ``move``
    pixels from the middle of ``(n, 16, 16)``, bilinear, black around them."""
    n = len(glyphs)
    size, angle = rng.uniform(*SIZES, n), np.deg2rad(rng.uniform(-turn, turn, n))
    middle = (SIDE - 1) / 2 + rng.uniform(-move, move, (2, n, 1))
    y, x = np.arange(SIDE) - middle
    y, x = y[:, :, None], x[:, None, :]
    cos, sin = ((f(angle) / size)[:, None, None] for f in (np.cos, np.sin))
    row = np.clip(cos * y - sin * x + 4.5, 0, 8.999)  # in glyphs with an edge of one black pixel
    column = np.clip(sin * y + cos * x + 4.5, 0, 8.999)
    edged = np.pad(glyphs, ((0, 0), (1, 1), (1, 1)))
    i, j = row.astype(int), column.astype(int)
    down, right = row - i, column - j
    corner = 100 * np.arange(n)[:, None, None] + 10 * i + j  # places in 10x10 pixels, one by one
    above = (1 - right) * edged.take(corner) + right * edged.take(corner + 1)
    below = (1 - right) * edged.take(corner + 10) + right * edged.take(corner + 11)
    placed: Floats = (1 - down) * above + down * below
    return placed


def _sized(grey: NDArray[np.uint8], side: Size, channels: int) -> Pixels:
    """Square images ``(n, k, k)`` at another size and with a channel axis."""
    if both(side) != grey.shape[1:]:
        from PIL import Image

        asked = both(side)[::-1]
        bilinear = Image.Resampling.BILINEAR
        grey = np.stack([np.asarray(Image.fromarray(g).resize(asked, bilinear)) for g in grey])
    return np.repeat(grey[..., None], channels, axis=3)
