"""Batches of training images, out of memory or decoded ahead by worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq.errors import ImagesError
from apq.images.sets import Part
from apq.images.streamed import Streamed, any_order
from apq.training.ranks import ALONE, Ranks


class Feed:
    """Training images in the order of an epoch.

    Args:
        part: Images and labels.
        batch: Images per step.
        device: Where batches go. Images in memory lie there all the time.
        balance: Whether an epoch draws its images with repetition, those of each class as often.
        ranks: The processes that train together. Batches are whole in each; of images that are
            streamed each decodes its part.
    """

    def __init__(
        self,
        part: Part,
        batch: int,
        device: torch.device,
        balance: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self._ranks = ranks
        pixels, numbers = part
        self._streamed = pixels if isinstance(pixels, Streamed) else None
        self._data = None if self._streamed else to_tensor(pixels[:]).to(device)
        self._batch, self._device = min(batch, len(numbers)), device
        self._chance = balanced(numbers) if balance else None
        self._order: NDArray[np.integer[Any]] = np.empty(0, dtype=np.int64)
        self._next: tuple[int, Iterator[NDArray[np.uint8]]] = -1, iter(())
        self.labels = torch.from_numpy(numbers).to(device)

    def begin(self, rng: np.random.Generator) -> None:
        """Draw the order of a new epoch; any in memory, see ``Streamed.order``."""
        if self._streamed is None:
            self._order = any_order(len(self.labels), rng, self._chance)
        else:
            self._order = self._streamed.order(rng, self._chance)
        self._next = -1, iter(())

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch; what does not fill a batch waits for another order."""
        return len(self.labels) // self._batch

    def at(self, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """The batch of a step, counted over all epochs, whose orders ``seed`` decides; as
        :meth:`take`. Steps come one after the other, from any."""
        epoch, position = divmod(step, self.per_epoch)
        if position == 0 or not len(self._order):
            self.begin(np.random.default_rng([seed, 1, epoch]))
        return self.take(position)

    def take(self, position: int) -> tuple[Tensor, Tensor]:
        """Batch ``position`` of the epoch: uint8 images ``(n, c, h, w)`` and labels ``(n,)``."""
        places = self._order[position * self._batch :][: self._batch]
        pick = torch.from_numpy(places).to(self._device)
        if self._data is not None:
            return self._data[pick], self.labels[pick]
        assert self._streamed is not None
        if self._next[0] != position:
            rest = range(position * self._batch, len(self._order), self._batch)
            coming = [self._order[start : start + self._batch] for start in rest]
            own = [where[self._ranks.part(len(where))] for where in coming]
            self._next = position, self._streamed.batches(own)
        pixels = to_tensor(next(self._next[1])).to(self._device)
        self._next = position + 1, self._next[1]
        return self._joined(pixels, len(places)), self.labels[pick]

    def _joined(self, own: Tensor, count: int) -> Tensor:
        """A whole batch out of the parts of all processes."""
        if self._ranks.count == 1:
            return own
        whole = own.new_zeros(count, *own.shape[1:])
        whole[self._ranks.part(count)] = own
        return self._ranks.sum(whole).contiguous(memory_format=torch.channels_last)


def to_tensor(pixels: NDArray[Any]) -> Tensor:
    """Images ``(n, h, w, c)`` as a uint8 tensor ``(n, c, h, w)`` in channels-last memory; inputs of
    other types as they are."""
    with warnings.catch_warnings():  # worker processes map arrays read-only, and nothing writes
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        found = torch.from_numpy(np.ascontiguousarray(pixels))
    return found.permute(0, 3, 1, 2) if found.dtype == torch.uint8 else found


def balanced(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The chance of each image with which all classes that have images are drawn as often.

    Example:
        >>> balanced(np.array([0, 0, 0, 1])).round(2).tolist()
        [0.17, 0.17, 0.17, 0.5]

    Raises:
        ImagesError: there are no labels.
    """
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ImagesError(
            f"classes cannot be drawn as often: targets are {labels.dtype} {labels.shape}, not one "
            "label per example. Leave out --balance (balance=False)."
        )
    weight = 1 / np.bincount(labels)[labels]
    found: NDArray[np.float64] = weight / weight.sum()
    return found
