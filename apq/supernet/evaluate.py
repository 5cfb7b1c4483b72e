"""Accuracy of subnets: normalisation, batch-norm recalibration, folding, validation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from apq.errors import ModelError
from apq.images import ImageSet
from apq.supernet.elastic import ConvBN, resized
from apq.training.feed import to_tensor


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 ``(n, c, h, w)`` to float32: ``(x / 255 - mean) / std`` per channel."""
    scale = torch.tensor([1 / (255 * s) for s in std]).view(1, -1, 1, 1).to(images.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(1, -1, 1, 1)
    return images.float().mul_(scale).add_(shift.to(images.device))


CPU = torch.device("cpu")


@dataclass(frozen=True)
class EvalImages:
    """Decoded, normalised tensors one process needs to measure candidates.

    Attributes:
        calibration: Images for batch-norm statistics and quantizer ranges, ``(n, c, h, w)``.
        images, labels: What accuracy is measured on.
        weights: What each image counts, ``(n,)`` float64; None for all the same.
        shift: Added to weighted accuracy and loss (:mod:`apq.supernet.drawn`).
    """

    calibration: Tensor
    images: Tensor
    labels: Tensor
    weights: Tensor | None = None
    shift: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(
        cls,
        images: ImageSet,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        split: str = "validation",
        limit: int | None = None,
        calibration: int = 1000,
        device: torch.device = CPU,
    ) -> EvalImages:
        """Take the first ``limit`` images of a split and ``calibration`` calibration images."""
        pixels, labels = images.splits[split]
        held = images.splits["calibration"][0][:calibration]
        return cls.from_pixels(held, pixels[:limit], labels[:limit], mean, std, device)

    @classmethod
    def from_pixels(
        cls,
        calibration: NDArray[np.uint8],
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device = CPU,
    ) -> EvalImages:
        """Normalise images ``(n, h, w, c)`` on a device."""
        return cls(
            normalise(to_tensor(calibration).to(device), mean, std),
            normalise(to_tensor(pixels).to(device), mean, std),
            torch.from_numpy(np.ascontiguousarray(labels)).to(device),
        )

    def at(self, side: int) -> EvalImages:
        """The same with images of ``side`` pixels (:func:`~apq.supernet.elastic.resized`)."""
        calibration, images = resized(self.calibration, side), resized(self.images, side)
        return replace(self, calibration=calibration, images=images)


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices that cover ``range(count)``."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@torch.no_grad()
def recalibrate(net: nn.Module, images: Tensor, batch: int = 250) -> Tensor:
    """Replace batch-norm statistics by averages over ``images`` (OFA; SPOS section 3.4).

    The images are split into equal batches of at most ``batch`` so that each counts the same.
    Returns what the network answered meanwhile, normalised by the statistics of each batch.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    net.train()
    pieces = max(1, -(-len(images) // batch))
    answers = [net(part) for part in torch.tensor_split(images, pieces)]
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
def answers(
    net: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Whether each image is answered right, and its cross-entropy in nats; float64, ``(n,)``, on
    the CPU."""
    batch = 250 if images.device.type == "cpu" else max(250, GPU_PIXELS // images[0, 0].numel())
    if isinstance(net, nn.Module):
        net.eval()
    right, loss = [], []
    for part in batches(len(labels), batch):
        logits = net(images[part])
        right.append(logits.argmax(1) == labels[part])
        loss.append(F.cross_entropy(logits, labels[part], reduction="none"))
    return torch.cat(right).cpu().double(), torch.cat(loss).cpu().double()


GPU_PIXELS = 2**21
"""Pixels of a batch that is measured on a GPU: few calls keep it busy."""


DIVERGED = 1e4
"""Cross-entropy, in nats, from which weights count as diverged: the largest probability a working
network gives a wrong class leaves it hundreds of times below."""


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


def accuracy(
    net: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> tuple[float, float]:
    """Top-1 accuracy as a fraction, and mean cross-entropy in nats."""
    right, loss = answers(net, images, labels)
    return float(right.mean()), float(loss.mean())


def estimate(net: Callable[[Tensor], Tensor], data: EvalImages) -> tuple[float, float]:
    """Accuracy and loss by the weights of the images; see :mod:`apq.supernet.drawn`."""
    if data.weights is None:
        return accuracy(net, data.images, data.labels)
    right, loss = answers(net, data.images, data.labels)
    found = float(data.weights @ right) + data.shift[0]
    return min(max(found, 0.0), 1.0), max(float(data.weights @ loss) + data.shift[1], 0.0)


def measure(subnet: nn.Module, data: EvalImages) -> tuple[float, float]:
    """Accuracy and loss of an extracted fp32 subnet after recalibration, folded for speed."""
    subnet = subnet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recalibrate(subnet, data.calibration)
    return estimate(fold(subnet), data)
