"""Short quantization-aware fine-tuning: tens of steps, enough to rank candidates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from apq.errors import ApqError
from apq.quantize.network import QuantizedConv, QuantizedLinear
from apq.supernet.evaluate import normalise
from apq.supernet.task import Task
from apq.training import OnProgress, Training, sgd

Net = TypeVar("Net", bound=nn.Module)


def distillation_loss(
    task: Task, outputs: Tensor, targets: Tensor, teacher: Tensor | None
) -> Tensor:
    """A task's loss, or the mean of it and the distance from a teacher's outputs."""
    loss = task.mean_loss(outputs, targets)
    if teacher is None:
        return loss
    return 0.5 * (loss + task.imitate(outputs, teacher))


def finetune(
    model: Net,
    images: Tensor,
    labels: Tensor,
    task: Task,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    steps: int = 40,
    batch: int = 64,
    lr: float = 0.005,
    seed: int = 0,
    teacher: nn.Module | None = None,
    on_progress: OnProgress | None = None,
) -> Net:
    """Train a (quantized) network for some steps, in place.

    SGD, Nesterov 0.9, one-cycle learning rate; batch norm in training mode. Recalibrate batch norm
    afterwards (``apq.supernet.evaluate.recalibrate``): its running averages lag behind.

    Args:
        model: Network from normalised images to logits, e.g. of ``quantize_subnet``.
        images, labels: Training images, uint8 ``(n, c, h, w)``, and labels ``(n,)``; of other tasks
            inputs and targets. Never validation images: accuracy is measured on those.
        task: Whose loss it is, and how batches are changed.
        mean, std: Normalisation per channel on the 0..1 scale.
        steps: Gradient steps.
        batch: Images per step.
        lr: Peak of the learning rate.
        seed: Order and augmentation; equal seeds give equal weights on one machine.
        teacher: Its logits are distilled if given.
        on_progress: Called every 10 steps with the mean loss.

    Returns:
        ``model``, in eval mode.

    Raises:
        ApqError: too few images.
        ModelError: the loss is no longer a number.
    """
    if len(images) < 2 or len(images) != len(labels):
        raise ApqError(f"fine-tuning needs images and as many labels: {len(images)}, {len(labels)}")
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    training = Training(model, sgd(model, lr))
    order, total = draws(len(images), batch, steps, generator), 0.0

    def step(number: int) -> float:
        index = order[number].to(images.device)
        x, y = task.change(images[index], labels[index], rng)
        return quantized_step(training, task, normalise(x, mean, std), y, teacher)

    def tell(done: int, loss: float) -> None:
        nonlocal total
        total += loss
        if on_progress is not None and done % 10 == 0:
            on_progress(done, steps, {"loss": total / done})

    training.run(steps, lambda step: lr * one_cycle(step / steps), step, tell=tell)
    return model.eval()


def draws(count: int, batch: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Indices of the images of every step: without repetition until too few are left."""
    batch = min(batch, count)
    order, taken, found = torch.randperm(count, generator=generator), 0, []
    for _ in range(steps):
        if taken + batch > count:
            order, taken = torch.randperm(count, generator=generator), 0
        found.append(order[taken : taken + batch])
        taken += batch
    return found


def quantized_step(
    training: Training,
    task: Task,
    x: Tensor,
    labels: Tensor,
    teacher: nn.Module | None,
    extra: Callable[[], Tensor] | None = None,
) -> float:
    """Gradients of one step of a quantized network; returns the loss.

    Args:
        training: Training state of the network.
        task: Task whose loss it is.
        x, labels: Normalised images and their labels.
        teacher: Its logits are distilled if given.
        extra: Further loss, computed after the forward pass.
    """
    hint = None
    if teacher is not None:
        with torch.no_grad():
            hint = teacher(x)
    loss = distillation_loss(task, training.model(x), labels, hint) + penalty(training.model)
    if extra is not None:
        loss = loss + extra()
    training.backward(loss)
    return float(loss.detach())


def one_cycle(progress: float, warm: float = 0.3) -> float:
    """Learning-rate factor: cosine from 1/25 up to 1 during ``warm``, then down to 0.

    ``progress`` runs from 0 to 1 (Smith and Topin, arXiv:1708.07120; cosine form).
    """
    if progress < warm:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * progress / warm)) / 2
    return (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2


def penalty(model: nn.Module) -> Tensor:
    """Loss terms of the weights' schemes (FLightNN's group lasso); 0 for most."""
    total = torch.zeros(())
    for part in model.modules():
        if isinstance(part, QuantizedConv | QuantizedLinear) and hasattr(part.weights, "penalty"):
            total = total + part.weights.penalty(part.weight)
    return total


def refit_weights(model: nn.Module) -> None:
    """Fit all weight ranges that are not learned to the present weights."""
    for part in model.modules():
        if isinstance(part, QuantizedConv | QuantizedLinear) and not getattr(
            part.weights, "learned", False
        ):
            part.weights.fit(part.weight)
