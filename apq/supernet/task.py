"""What a network is trained for and judged by: examples, a loss and a score.

Telling classes of images apart is the task of an :class:`~apq.images.ImageSet`
(:func:`classification`); :class:`Task` says another one. Training, samples and fine-tuning know no
other way to a loss or a score than these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from apq.errors import ApqError, ImagesError, choose
from apq.images import ImageSet
from apq.images.sets import SPLITS
from apq.images.streamed import Pictures
from apq.supernet.augment import AUGMENTS, cutmix

PerExample = Callable[[Tensor, Tensor], Tensor]
"""From what a network gives and the targets, ``(n, …)`` both, to a number each, ``(n,)``."""
Imitate = Callable[[Tensor, Tensor], Tensor]
"""From what a network gives and what its teacher does to the mean loss, one number."""
Change = Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]]
"""From inputs and targets of a batch to others of the same shapes."""
Judge = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From outputs and targets to score and loss of each example, ``(n,)``."""


def unexplained(outputs: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference from a teacher's outputs, as a share of their variance (Hinton et al.,
    2015, arXiv:1503.02531, match logits so; the division, which rids it of units, is ours)."""
    return F.mse_loss(outputs, teacher) / teacher.var(correction=0).clamp_min(1e-12)


def unchanged(inputs: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """No augmentation."""
    return inputs, targets


@dataclass(frozen=True)
class Task:
    """A task of one's own: in place of images wherever a network is trained, measured or tuned.

    The name stands for the functions: samples and checkpoints of one name are taken to be of the
    same loss and score. All functions get tensors on the device that computes, and must be
    differentiable where they are losses.

    Attributes:
        name: What samples say they are of.
        examples: Image set, or inputs and targets by split: ``train``, ``calibration`` (of the
            training examples: statistics and ranges come from them), ``validation`` and ``test``.
            Inputs are uint8 images ``(n, height, width, channels)``, which are normalised, or
            float32 ``(n, channels, …)``, which the network gets as they are. Targets are
            ``(n, …)`` of any type that torch has.
        loss: From outputs ``(n, …)`` and targets to the loss of each example, ``(n,)``. Training
            takes the mean. Of the size of nats: beyond 10,000 a network counts as diverged.
        score: Likewise, from 0 to 1, more is better: what samples, predictors and searches call
            accuracy. Nothing differentiates it.
        imitate: From outputs and a teacher's outputs to one number, for distillation.
        change: Augmentation of training batches: from inputs as ``examples`` has them (images as
            uint8 ``(n, channels, height, width)``), targets and a generator to others.
        classes: Names of classes, where targets are such.

    Raises:
        ImagesError: a split is missing, empty, or not of such arrays.

    Example:
        >>> import apq, numpy as np, torch
        >>> rng = np.random.default_rng(0)
        >>> signals = rng.standard_normal((60, 2, 40), dtype=np.float32)
        >>> power = (signals**2).mean((1, 2))
        >>> at = {"train": (0, 30), "calibration": (0, 20), "validation": (30, 45),
        ...       "test": (45, 60)}
        >>> task = apq.Task(
        ...     "power of signals",
        ...     {name: (signals[a:b], power[a:b]) for name, (a, b) in at.items()},
        ...     loss=lambda outputs, wanted: (outputs[:, 0] - wanted) ** 2,
        ...     score=lambda outputs, wanted: torch.exp(-(outputs[:, 0] - wanted).abs()),
        ... )
        >>> task.images.splits["test"][0].shape
        (15, 2, 40)
    """

    name: str
    examples: ImageSet | Mapping[str, tuple[NDArray[Any], NDArray[Any]]] = field(repr=False)
    loss: PerExample
    score: PerExample
    imitate: Imitate = unexplained
    change: Change = unchanged
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.examples, ImageSet):
            _require_splits(self.name, self.examples)

    @cached_property
    def images(self) -> ImageSet:
        """The examples; inputs may be no images and targets no labels."""
        if isinstance(self.examples, ImageSet):
            return self.examples
        return ImageSet(self.name, dict(self.examples), self.classes)

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation that images are normalised by; 0 and 1 of other inputs."""
        inputs = self.images.splits["calibration"][0]
        if normalised(inputs):
            return self.images.mean, self.images.std
        return (0.0,) * inputs.shape[1], (1.0,) * inputs.shape[1]

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Score and loss of each example, ``(n,)``.

        Raises:
            ApqError: the task's functions give something else, or scores beyond 0 and 1.
        """
        score, loss = self.score(outputs, targets), self.loss(outputs, targets)
        for what, found in (("score", score), ("loss", loss)):
            if found.shape != (len(targets),):
                raise ApqError(
                    f"the {what} of task {self.name!r} has shape {tuple(found.shape)} for outputs "
                    f"{tuple(outputs.shape)}; it must be one number per example, ({len(targets)},)"
                )
        if bool(((score < 0) | (score > 1)).any()):
            raise ApqError(
                f"the score of task {self.name!r} goes from {float(score.min()):.3g} to "
                f"{float(score.max()):.3g}; it must be from 0 to 1, 1 being best"
            )
        return score, loss

    def mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of a batch, one number."""
        return self.loss(outputs, targets).mean()


def normalised(inputs: Pictures) -> bool:
    """Whether inputs are images of 8 bits, which networks get normalised."""
    return not isinstance(inputs, np.ndarray) or inputs.dtype == np.uint8


def _require_splits(name: str, splits: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """Refuse examples that are not as :class:`Task` says."""
    if {*splits} != {*SPLITS}:
        raise ImagesError(
            f"task {name!r} has the splits {', '.join(splits) or 'none'}; it needs "
            f"{', '.join(SPLITS)}, and no others"
        )
    for split, (inputs, targets) in splits.items():
        images = inputs.dtype == np.uint8 and inputs.ndim == 4
        if not images and not (inputs.dtype == np.float32 and inputs.ndim in (3, 4)):
            raise ImagesError(
                f"inputs of split {split!r} of task {name!r} are {inputs.dtype} "
                f"{inputs.shape}; they must be uint8 images (n, height, width, channels) or "
                "float32 (n, channels, length) or (n, channels, height, width)"
            )
        if not len(inputs) or len(inputs) != len(targets):
            raise ImagesError(
                f"split {split!r} of task {name!r} has {len(inputs)} inputs and {len(targets)} "
                "targets; it needs some, and as many of both"
            )


def right(outputs: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest logit of ``(n, classes)`` is the label's, or the likeliest one's of class
    probabilities; else 0."""
    return (outputs.argmax(1) == (labels if labels.dim() == 1 else labels.argmax(1))).float()


def classified(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the largest logit is the label's, and the cross-entropy in nats; ``(n,)`` each."""
    return right(outputs, labels), F.cross_entropy(outputs, labels, reduction="none")


def divergence(outputs: Tensor, teacher: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of class probabilities from a teacher's, in nats."""
    return F.kl_div(
        F.log_softmax(outputs, 1), F.log_softmax(teacher, 1), reduction="batchmean", log_target=True
    )


def soft_cross_entropy(outputs: Tensor, teacher: Tensor) -> Tensor:
    """Mean cross-entropy with a teacher's class probabilities, in nats: :func:`divergence` but for
    a number that no weight changes."""
    return F.cross_entropy(outputs, teacher.softmax(1))


def classification(
    images: ImageSet,
    augment: str = "shift",
    smoothing: float = 0.0,
    mixed: float = 0.0,
    imitate: Imitate = divergence,
) -> Task:
    """Telling the classes of images apart: cross-entropy in nats, and whether the answer is right.

    Args:
        images: With labels.
        augment: Key of :data:`apq.supernet.augment.AUGMENTS`.
        smoothing: Label smoothing of the loss.
        mixed: Share of the batches whose images are mixed (:func:`~apq.supernet.augment.cutmix`).
        imitate: How a teacher is followed.

    Raises:
        ApqError: there is no such augmentation.
    """
    choose(augment, AUGMENTS, "augmentation")
    loss = partial(F.cross_entropy, label_smoothing=smoothing, reduction="none")
    change = partial(_augmented, augment, images.flip, mixed, len(images.classes))
    return Task("classification", images, loss, right, imitate, change, images.classes)


def _augmented(
    augment: str,
    flip: bool,
    mixed: float,
    classes: int,
    images: Tensor,
    labels: Tensor,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Changed images of a batch with labels or class probabilities."""
    images = AUGMENTS[augment](images, flip, rng)
    if mixed and rng.random() < mixed:
        return cutmix(images, labels, classes, rng)
    return images, labels


def task_of(images: ImageSet | Task) -> Task:
    """A task as it is; of an image set, :func:`classification`."""
    return images if isinstance(images, Task) else classification(images)
