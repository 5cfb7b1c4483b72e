"""Augmentation that photographs are trained with: crops of any size, colours, RandAugment."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

LEAST_AREA = 0.35
"""Share of a picture that a crop has at least. Crops are taken out of pictures that have the
network's size already, so smaller ones would show pixels, not details."""
COLOUR = 0.4
"""Brightness, contrast and saturation change by factors of up to this more or less than 1."""
OPERATIONS, MAGNITUDE = 2, 0.3
"""RandAugment's number of operations per image, and their strength from 0 to 1 (9 of 30)."""


def crop_and_flip(images: Tensor, flip: bool, rng: np.random.Generator) -> Tensor:
    """A random part of each image at the image's size (Szegedy et al., CVPR 2015) and, if allowed,
    mirroring.

    uint8 ``(n, c, h, w)`` in and out; a part has ``LEAST_AREA`` to all of the area and sides that
    relate as 3:4 to 4:3, cut to the image's (ours).
    """
    n = len(images)
    area, ratio = rng.uniform(LEAST_AREA, 1, n), np.exp(rng.uniform(-1, 1, n) * math.log(4 / 3))
    wide, high = np.sqrt(area * ratio).clip(max=1), np.sqrt(area / ratio).clip(max=1)
    x, y = ((2 * rng.random(n) - 1) * (1 - size) for size in (wide, high))
    if flip:
        wide = np.where(rng.random(n) < 0.5, -wide, wide)
    h, w = images.shape[2:]
    columns = _places(x, wide, w)[:, None, :].broadcast_to(n, h, w)
    rows = _places(y, high, h)[:, :, None].broadcast_to(n, h, w)
    grid = torch.stack([columns, rows], dim=3).to(images.device)
    found = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return _whole(found)


def _places(middle: NDArray[np.float64], size: NDArray[np.float64], count: int) -> Tensor:
    """Pixel coordinates of parts of a line, ``(n, count)``, from -1 to 1 on the whole line."""
    steps = (2 * np.arange(count) + 1) / count - 1
    return torch.from_numpy((middle[:, None] + size[:, None] * steps).astype(np.float32))


def colour_jitter(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Other brightness, contrast and, where there are three channels, saturation.

    uint8 ``(n, c, h, w)`` in and out; factors of each image are drawn from 1 ± ``COLOUR``.
    """
    drawn = rng.uniform(1 - COLOUR, 1 + COLOUR, (3, len(images), 1, 1, 1)).astype(np.float32)
    bright, contrast, colour = torch.from_numpy(drawn).to(images.device)
    x = images.float() * bright
    middle = _grey(x).mean((1, 2, 3), keepdim=True)
    x = middle + (x - middle) * contrast
    grey = _grey(x)
    return _whole(grey + (x - grey) * colour)


def photo(images: Tensor, flip: bool, rng: np.random.Generator) -> Tensor:
    """:func:`crop_and_flip`, then :func:`colour_jitter`."""
    return colour_jitter(crop_and_flip(images, flip, rng), rng)


def rand_augment(images: Tensor, flip: bool, rng: np.random.Generator) -> Tensor:
    """:func:`crop_and_flip`, then RandAugment (Cubuk et al., NeurIPS 2020, arXiv:1909.13719).

    ``OPERATIONS`` of Pillow's per image, all as likely, at ``MAGNITUDE``, those with a direction in
    either. uint8 ``(n, c, h, w)`` in and out; computed on the CPU.
    """
    from PIL import Image

    cropped = crop_and_flip(images, flip, rng)
    pixels = cropped.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    names = list(RANDOM)
    for row in range(len(pixels)):
        grey = pixels.shape[3] == 1
        picture = Image.fromarray(pixels[row, :, :, 0] if grey else pixels[row])
        for choice in rng.integers(0, len(names), OPERATIONS).tolist():
            sign = 1 if rng.random() < 0.5 else -1
            picture = RANDOM[names[choice]](picture, sign * MAGNITUDE)
        pixels[row] = np.asarray(picture).reshape(pixels[row].shape)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(images.device)


Operation = Callable[[Any, float], Any]
"""From a picture and a strength, -1 to 1, to a picture of its size."""


def _enhanced(name: str) -> Operation:
    def run(picture: Picture, strength: float) -> Picture:
        from PIL import ImageEnhance

        changed: Picture = getattr(ImageEnhance, name)(picture).enhance(1 + 0.9 * strength)
        return changed

    return run


def _by_ops(name: str, level: Callable[[float], int] | None = None) -> Operation:
    def run(picture: Picture, strength: float) -> Picture:
        from PIL import ImageOps

        changed: Picture = getattr(ImageOps, name)(picture, *([level(strength)] if level else []))
        return changed

    return run


def _moved(of: Callable[[float, int, int], tuple[float, ...]]) -> Operation:
    """Shears and shifts; what comes into view is grey."""

    def run(picture: Picture, strength: float) -> Picture:
        from PIL import Image

        how, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        where = of(strength, *picture.size)
        return picture.transform(picture.size, how, where, bilinear, fillcolor=_middle(picture))

    return run


def _turned(picture: Picture, strength: float) -> Picture:
    from PIL import Image

    turn = 30 * strength
    return picture.rotate(turn, Image.Resampling.BILINEAR, fillcolor=_middle(picture))


def _middle(picture: Picture) -> tuple[int, ...] | int:
    return 128 if picture.mode == "L" else (128, 128, 128)


RANDOM: dict[str, Operation] = {
    "identity": lambda picture, _: picture,
    "autocontrast": _by_ops("autocontrast"),
    "equalize": _by_ops("equalize"),
    "posterize": _by_ops("posterize", lambda s: 8 - round(4 * abs(s))),
    "solarize": _by_ops("solarize", lambda s: round(256 * (1 - abs(s)))),
    "brightness": _enhanced("Brightness"),
    "contrast": _enhanced("Contrast"),
    "colour": _enhanced("Color"),
    "sharpness": _enhanced("Sharpness"),
    "rotate": _turned,
    "shear x": _moved(lambda s, w, h: (1, 0.3 * s, -0.15 * s * h, 0, 1, 0)),
    "shear y": _moved(lambda s, w, h: (1, 0, 0, 0.3 * s, 1, -0.15 * s * w)),
    "shift x": _moved(lambda s, w, h: (1, 0, 0.45 * s * w, 0, 1, 0)),
    "shift y": _moved(lambda s, w, h: (1, 0, 0, 0, 1, 0.45 * s * h)),
}
"""Operations of RandAugment by name."""


def _grey(x: Tensor) -> Tensor:
    """Luminance (ITU-R 601), ``(n, 1, h, w)``."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def _whole(x: Tensor) -> Tensor:
    return x.round_().clamp_(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)
