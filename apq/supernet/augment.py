"""Augmentation of training images."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apq.supernet.photographs import photo, rand_augment


def augment(images: Tensor, flip: bool, rng: np.random.Generator) -> Tensor:
    """Random shift by up to an eighth of the side (zero padded) and, if allowed, mirroring.

    uint8 ``(n, c, h, w)`` in and out, one shift per image.
    """
    n, c, h, w = images.shape
    edge = max(1, h // 8)
    padded = F.pad(images, (edge, edge, edge, edge))
    shift = torch.from_numpy(rng.integers(0, 2 * edge + 1, size=(2, n)))
    columns = torch.arange(w).broadcast_to(n, w)  # made on the CPU, the same for any device
    if flip:
        mirrored = torch.from_numpy(rng.random(n) < 0.5)[:, None]
        columns = torch.where(mirrored, w - 1 - columns, columns)
    rows = (torch.arange(h) + shift[0][:, None])[:, None, :, None].to(images.device)
    cols = (columns + shift[1][:, None])[:, None, None, :].to(images.device)
    index = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(c, device=images.device)[None, :, None, None]
    out = padded[index, channel, rows, cols]
    return out.contiguous(memory_format=torch.channels_last)


AUGMENTS: dict[str, Callable[[Tensor, bool, np.random.Generator], Tensor]] = {
    "shift": augment,
    "photo": photo,
    "randaugment": rand_augment,
}
"""Augmentations by name, of uint8 images ``(n, c, h, w)``, which may be mirrored or not."""


def cutmix(
    images: Tensor, labels: Tensor, classes: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Paste a box of another image of the batch into every image; labels in proportion to area.

    CutMix (Yun et al., ICCV 2019, arXiv:1905.04899) with alpha 1: the box's area is uniform, one
    box per batch. It holds back overfitting where epochs are many and images few.

    Args:
        images: ``(n, c, h, w)``, any type.
        labels: ``(n,)``.
        classes: Number of classes.
        rng: Source of randomness.

    Returns:
        Images like those given, and class probabilities ``(n, classes)``, float32.
    """
    n, _, h, w = images.shape
    side = math.sqrt(1 - rng.random())
    tall, wide = round(h * side), round(w * side)
    top, left = int(rng.integers(0, h - tall + 1)), int(rng.integers(0, w - wide + 1))
    partner = torch.from_numpy(rng.permutation(n)).to(images.device)
    box = (..., slice(top, top + tall), slice(left, left + wide))
    mixed = images.clone()
    mixed[box] = images[partner][box]
    share = tall * wide / (h * w)
    own, other = F.one_hot(labels, classes).float(), F.one_hot(labels[partner], classes).float()
    return mixed, (1 - share) * own + share * other
