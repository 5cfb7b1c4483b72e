"""Short quantization-aware fine-tuning: tens of steps, enough to rank candidates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apq.errors import ApqError
from apq.quantize.network import QuantizedConv, QuantizedLinear
from apq.supernet import evaluate
from apq.supernet.augment import augment

Net = TypeVar("Net", bound=nn.Module)
OnProgress = Callable[[int, int, Mapping[str, float]], None]


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """:func:`apq.supernet.evaluate.normalise`, channels last in memory whatever came in."""
    x = evaluate.normalise(images, mean, std)
    return x.contiguous(memory_format=torch.channels_last)


def optimiser(model: nn.Module, lr: float, weight_decay: float = 0.0) -> torch.optim.SGD:
    """SGD with Nesterov momentum 0.9; decay only on convolution and linear weights."""
    ranges = (".scale", ".step", ".clip")  # learned ranges must not shrink by decay
    decayed: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        is_weight = parameter.dim() > 1 and not name.endswith(ranges)
        (decayed if is_weight else rest).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def distillation_loss(logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
    """Cross-entropy, or the mean of it and the divergence from a teacher's logits."""
    loss = F.cross_entropy(logits, labels)
    if teacher is None:
        return loss
    soft = F.kl_div(
        F.log_softmax(logits, 1), F.log_softmax(teacher, 1), reduction="batchmean", log_target=True
    )
    return 0.5 * (loss + soft)


def finetune(
    model: Net,
    images: Tensor,
    labels: Tensor,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    steps: int = 40,
    batch: int = 64,
    lr: float = 0.005,
    seed: int = 0,
    teacher: nn.Module | None = None,
    flip: bool = False,
    on_progress: OnProgress | None = None,
) -> Net:
    """Train a (quantized) network for some steps, in place.

    SGD, Nesterov 0.9, one-cycle learning rate; batch norm in training mode. Recalibrate batch norm
    afterwards (``apq.supernet.evaluate.recalibrate``): its running averages lag behind.

    Args:
        model: Network from normalised images to logits, e.g. of ``quantize_subnet``.
        images, labels: Training images, uint8 ``(n, c, h, w)``, and labels ``(n,)``. Never
            validation images: accuracy is measured on those.
        mean, std: Normalisation per channel on the 0..1 scale.
        steps: Gradient steps.
        batch: Images per step.
        lr: Peak of the learning rate.
        seed: Order and augmentation; equal seeds give equal weights on one machine.
        teacher: Its logits are distilled if given.
        flip: Whether images may be mirrored; they are shifted in any case
            (:func:`apq.supernet.augment.augment`).
        on_progress: Called every 10 steps with the mean loss.

    Returns:
        ``model``, in eval mode.

    Raises:
        ApqError: too few images, or the loss is no longer a number.
    """
    if len(images) < 2 or len(images) != len(labels):
        raise ApqError(f"fine-tuning needs images and as many labels: {len(images)}, {len(labels)}")
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optim = optimiser(model, lr)
    batch = min(batch, len(images))
    order, taken, total = torch.randperm(len(images), generator=generator), 0, 0.0
    for step in range(steps):
        if taken + batch > len(order):
            order, taken = torch.randperm(len(images), generator=generator), 0
        index = order[taken : taken + batch]
        taken += batch
        x = normalise(augment(images[index], flip, rng), mean, std)
        hint = None
        if teacher is not None:
            with torch.no_grad():
                hint = teacher(x)
        for group in optim.param_groups:
            group["lr"] = lr * one_cycle(step / steps)
        loss = distillation_loss(model(x), labels[index], hint) + penalty(model)
        optim.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optim.step()
        total += float(loss.detach())
        if on_progress is not None and (step + 1) % 10 == 0:
            on_progress(step + 1, steps, {"loss": total / (step + 1)})
    if not total < float("inf"):
        raise ApqError(f"fine-tuning diverged (loss {total}); use a lower learning rate than {lr}")
    return model.eval()


def one_cycle(progress: float, warm: float = 0.3) -> float:
    """Learning-rate factor: cosine from 1/25 up to 1 during ``warm``, then down to 0.

    ``progress`` runs from 0 to 1 (Smith and Topin, arXiv:1708.07120; cosine form).
    """
    if progress < warm:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * progress / warm)) / 2
    return (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2


def penalty(model: nn.Module) -> Tensor:
    """What the schemes of the weights add to the loss (FLightNN's group lasso); 0 for most."""
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
