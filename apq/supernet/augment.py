"""Augmentation of training images."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, flip: bool, rng: np.random.Generator) -> Tensor:
    """Random shift by up to an eighth of the side (zero padded) and, if allowed, mirroring.

    uint8 ``(n, c, h, w)`` in and out, one shift per image.
    """
    n, c, h, w = images.shape
    edge = max(1, h // 8)
    padded = F.pad(images, (edge, edge, edge, edge))
    shift = torch.from_numpy(rng.integers(0, 2 * edge + 1, size=(2, n)))
    columns = torch.arange(w).expand(n, w)
    if flip:
        mirrored = torch.from_numpy(rng.random(n) < 0.5)[:, None]
        columns = torch.where(mirrored, w - 1 - columns, columns)
    rows = (torch.arange(h) + shift[0][:, None])[:, None, :, None]
    cols = (columns + shift[1][:, None])[:, None, None, :]
    index = torch.arange(n)[:, None, None, None]
    channel = torch.arange(c)[None, :, None, None]
    out = padded[index, channel, rows, cols]
    return out.contiguous(memory_format=torch.channels_last)
