"""Accuracy of subnets, or their score: normalisation, batch-norm recalibration, folding."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from apq.errors import ModelError
from apq.images import ImageSet
from apq.images.streamed import Pictures, Streamed
from apq.space.layer import Size, both, size_of
from apq.supernet.elastic import ConvBN, resized
from apq.supernet.task import Judge, Task, classified, normalised, task_of
from apq.training.feed import to_tensor


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 ``(n, c, h, w)`` to float32: ``(x / 255 - mean) / std`` per channel. Inputs of other
    types are returned as they are."""
    if images.dtype != torch.uint8:
        return images
    scale = torch.tensor([1 / (255 * s) for s in std]).view(1, -1, 1, 1).to(images.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(1, -1, 1, 1)
    return images.float().mul_(scale).add_(shift.to(images.device))


CPU = torch.device("cpu")


HELD, GPU_HELD = 2**28, 2**33
"""Bytes of normalised images that are kept in memory, or on a GPU; larger sets stay uint8, in
memory or on disk, and are normalised batch by batch."""
PIXELS = 2**21
"""Pixels of a batch: on a CPU limited by the caches, on a GPU large, to keep it busy."""


@dataclass(frozen=True)
class Normalised:
    """Images that are read, normalised and resized on demand.

    Attributes:
        pixels: uint8 ``(n, h, w, channels)``, in memory or streamed.
        places: Which of them, in order, ``(m,)``.
        mean, std: Normalisation per channel on the 0..1 scale.
        device: Where they are given.
        size: Height and width to give them.
    """

    pixels: Pictures
    places: NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    size: Size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(m, channels, height, width)``."""
        return len(self), self.pixels.shape[3], *both(self.size)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, part: slice) -> Tensor:
        """float32 images ``(k, channels, height, width)``."""
        return self._made(self.pixels[self.places[part]])

    def in_parts(self, parts: Sequence[slice]) -> Iterator[Tensor]:
        """These parts one after the other; what is streamed is decoded ahead."""
        places = [self.places[part] for part in parts]
        if isinstance(self.pixels, Streamed):
            yield from map(self._made, self.pixels.batches(places))
        else:
            yield from (self._made(self.pixels[place]) for place in places)

    def kept(self) -> Images:
        """All of them as a tensor, if that takes no more than ``HELD`` or ``GPU_HELD``."""
        limit = HELD if self.device.type == "cpu" else GPU_HELD
        if 4 * math.prod(self.shape) > limit:
            return self
        if both(self.size) == self.pixels.shape[1:3]:
            return self[:]
        return torch.cat([*self.in_parts([*batches(len(self), at_once(self))])])

    def _made(self, pixels: NDArray[np.uint8]) -> Tensor:
        return resized(normalise(to_tensor(pixels).to(self.device), self.mean, self.std), self.size)


Images = Tensor | Normalised
"""Normalised images ``(n, c, h, w)``; slices of both are tensors."""


def in_parts(images: Images, parts: Sequence[slice]) -> Iterator[Tensor]:
    """These parts of images, one after the other."""
    if isinstance(images, Normalised):
        yield from images.in_parts(parts)
    else:
        yield from (images[part] for part in parts)


def at_once(images: Images) -> int:
    """Images that go through a network at once: 250, or as few as have ``PIXELS``."""
    return min(250, max(8, PIXELS // math.prod(images.shape[2:])))


@dataclass(frozen=True)
class EvalImages:
    """The normalised images one process needs to measure candidates.

    Attributes:
        calibration: Images for batch-norm statistics and quantizer ranges, ``(n, c, h, w)``.
        images, labels: Images to measure accuracy on; or inputs and targets of a task.
        weights: Weight of each image, ``(n,)`` float64; None: equal.
        shift: Added to weighted accuracy and loss (:mod:`apq.supernet.drawn`).
        judge: From outputs and labels to score and loss of each image.
    """

    calibration: Images
    images: Images
    labels: Tensor
    weights: Tensor | None = None
    shift: tuple[float, float] = (0.0, 0.0)
    judge: Judge = classified

    @classmethod
    def of(
        cls,
        images: ImageSet | Task,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        split: str = "validation",
        limit: int | None = None,
        calibration: int = 1000,
        device: torch.device = CPU,
    ) -> EvalImages:
        """Take the first ``limit`` images of a split and ``calibration`` calibration images."""
        task = task_of(images)
        places = np.arange(len(task.images.splits[split][1]))[:limit]
        return cls.at_places(task, split, calibration, places, (mean, std), device)

    @classmethod
    def at_places(
        cls,
        task: Task,
        split: str,
        calibration: int,
        places: NDArray[np.int64],
        normalisation: tuple[tuple[float, ...], tuple[float, ...]],
        device: torch.device = CPU,
    ) -> EvalImages:
        """Some images to measure on, and the first calibration images.

        Args:
            task: Whose images.
            split: Of those to measure on.
            calibration: How many calibration images to use, at most.
            places: Which to measure on.
            normalisation: Mean and deviation of pixels on the 0..1 scale, per channel.
            device: Where they are needed.
        """

        def images(of: Pictures, which: NDArray[np.int64]) -> Images:
            if not normalised(of):
                return to_tensor(of[which]).to(device)
            return Normalised(of, which, *normalisation, device, size_of(of.shape[1:3])).kept()

        held, (pixels, labels) = task.images.splits["calibration"][0], task.images.splits[split]
        return cls(
            images(held, np.arange(len(held))[:calibration]),
            images(pixels, places),
            torch.from_numpy(labels[places]).to(device),
            judge=task.judge,
        )

    def at(self, size: Size) -> EvalImages:
        """The same with images of a height and width (:func:`~apq.supernet.elastic.resized`)."""

        def sized(images: Images) -> Images:
            if isinstance(images, Normalised):
                return replace(images, size=size).kept()
            return resized(images, size)

        return replace(self, calibration=sized(self.calibration), images=sized(self.images))


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices that cover ``range(count)``."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _equal_parts(count: int, most: int) -> list[slice]:
    """The fewest slices of at most ``most`` that cover ``range(count)``; sizes differ by at most
    one."""
    pieces = max(1, -(-count // most))
    ends = [i * (count // pieces) + min(i, count % pieces) for i in range(pieces + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


@torch.no_grad()
def recalibrate(net: nn.Module, images: Images, batch: int | None = None) -> Tensor:
    """Replace batch-norm statistics by averages over ``images`` (OFA; SPOS section 3.4).

    The images are split into equal batches of at most ``batch`` (:func:`at_once`) so that each
    counts the same.
    Returns the network's outputs during this, normalised by the statistics of each batch.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    net.train()
    parts = _equal_parts(len(images), batch or at_once(images))
    answers = [net(part) for part in in_parts(images, parts)]
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()
    return torch.cat(answers)


@torch.no_grad()
def fold(net: nn.Module) -> nn.Module:
    """A copy in which batch norm is folded into its convolution, for fast evaluation."""
    out = copy.deepcopy(net).eval()
    for part in out.modules():
        if isinstance(part, ConvBN):
            part.conv = nn.utils.fuse_conv_bn_eval(part.conv, part.bn)
            part.bn = nn.Identity()  # type: ignore[assignment]
    return out.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@torch.inference_mode()
def answers(net: Callable[[Tensor], Tensor], data: EvalImages) -> tuple[Tensor, Tensor]:
    """Score and loss of each image, of classes whether it is answered right and its cross-entropy
    in nats; float64, ``(n,)``, on the CPU."""
    images, labels = data.images, data.labels
    batch = at_once(images)
    if images.device.type != "cpu":
        batch = max(250, PIXELS // math.prod(images.shape[2:]))
    if isinstance(net, nn.Module):
        net.eval()
    found = []
    parts = [*batches(len(labels), batch)]
    for part, some in zip(parts, in_parts(images, parts), strict=True):
        found.append(data.judge(net(some), labels[part]))
    score, loss = (torch.cat(each).cpu().double() for each in zip(*found, strict=True))
    return score, loss


DIVERGED = 1e4
"""Cross-entropy, in nats, from which weights count as diverged; hundreds of times as large as that
of a confidently wrong but working network."""


def require_converged(loss: float, what: str) -> None:
    """Refuse weights that are no longer of use.

    Raises:
        ModelError: the loss is not finite, or beyond ``DIVERGED``.
    """
    if not loss < DIVERGED:
        raise ModelError(
            f"{what} has a validation loss of {loss:.3g}: its training diverged. Train again with "
            "a lower learning rate (--lr)."
        )


def accuracy(net: Callable[[Tensor], Tensor], data: EvalImages) -> tuple[float, float]:
    """Mean score and loss of all images alike: of classes top-1 accuracy as a fraction, and mean
    cross-entropy in nats."""
    score, loss = answers(net, data)
    return float(score.mean()), float(loss.mean())


def estimate(net: Callable[[Tensor], Tensor], data: EvalImages) -> tuple[float, float]:
    """Accuracy and loss by the weights of the images; see :mod:`apq.supernet.drawn`."""
    if data.weights is None:
        return accuracy(net, data)
    score, loss = answers(net, data)
    found = float(data.weights @ score) + data.shift[0]
    return min(max(found, 0.0), 1.0), max(float(data.weights @ loss) + data.shift[1], 0.0)


def measure(subnet: nn.Module, data: EvalImages) -> tuple[float, float]:
    """Accuracy and loss of an extracted fp32 subnet after recalibration, folded for speed."""
    subnet = subnet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recalibrate(subnet, data.calibration)
    return estimate(fold(subnet), data)
