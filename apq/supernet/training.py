"""Supernet training: progressive shrinking with distillation from the live largest network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apq.errors import ApqError, SpaceError, choose
from apq.images import ImageSet
from apq.space import Axis, Candidate, Space
from apq.space.graph import parts
from apq.supernet.evaluate import (
    CPU,
    EvalImages,
    accuracy,
    normalise,
    recalibrate,
    require_converged,
)
from apq.supernet.files import SupernetFile, load_supernet, require_random_start, save_supernet
from apq.supernet.memory import keep_memory
from apq.supernet.orders import ORDERS, Measured, sort_channels
from apq.supernet.statistics import absorb_statistics
from apq.supernet.supernet import Supernet, largest, smallest
from apq.supernet.task import Task, classification, soft_cross_entropy, task_of
from apq.training import OnProgress, Training, autocast, find_device, sgd
from apq.training.devices import at_least_float32
from apq.training.feed import Feed
from apq.training.ranks import Ranks

PHASES: tuple[tuple[str, float], ...] = (
    ("largest", 0.40), ("kernel", 0.15), ("depth", 0.15), ("width", 0.30),
)  # fmt: skip
"""Phases of progressive shrinking and each one's share of all steps; genes stay open afterwards."""


ORDER_IMAGES = 512
"""Calibration images that orders of channels are measured on."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, besides space and images.

    ``smoothing``, ``cutmix`` and ``augment`` are of classification; a task of one's own has its own
    ``loss`` and ``change``.

    Attributes:
        epochs: Passes over the training images, all phases together; 0: ``start_from`` as it is.
        batch: Images per step; after the first phase two subnets learn from each batch.
        lr: Peak learning rate of SGD with Nesterov momentum 0.9 (linear warm-up, then cosine).
        weight_decay: On convolution and classifier weights only.
        smoothing: Label smoothing of the cross-entropy.
        cutmix: Share of the batches whose images are mixed (:func:`~apq.supernet.augment.cutmix`).
        average: Share of the steps, the last ones, whose weights are averaged into the result, at
            most those of the last phase; the learning rate stays where it is when they begin (SWA,
            Izmailov et al., UAI 2018, arXiv:1803.05407).
        seed: Random seed of initial weights, batches, augmentation and sampled subnets.
        phases: Which of PHASES to go through; their shares keep their proportions.
        order: By what channels are sorted (:data:`apq.supernet.orders.ORDERS`), once, before the
            first width opens; measured on calibration images.
        augment: Key of :data:`apq.supernet.augment.AUGMENTS`: how images are changed.
        balance: Whether images of all classes are drawn as often, with repetition.
        precision: Key of :data:`apq.training.devices.PRECISIONS`: what convolutions and matrix
            products are computed in; weights and the update stay in float32.

    Example:
        >>> import apq
        >>> apq.SupernetRecipe(epochs=40, batch=64).lr
        0.1
    """

    epochs: float = 10.0
    batch: int = 128
    lr: float = 0.1
    weight_decay: float = 2e-4
    smoothing: float = 0.05
    cutmix: float = 0.0
    average: float = 0.0
    seed: int = 0
    phases: tuple[str, ...] = tuple(name for name, _ in PHASES)
    precision: str = "fp32"
    order: str = "l1"
    augment: str = "shift"
    balance: bool = False


def _first_steps(total: int, phases: tuple[str, ...]) -> dict[str, int]:
    """The step each phase begins with, in order."""
    shares = [(name, share) for name, share in PHASES if name in phases]
    whole, reached, first = sum(share for _, share in shares), 0.0, {}
    for name, share in shares:
        first[name] = round(reached * total)
        reached += share / whole
    return first


def phase_of(step: int, total: int, phases: tuple[str, ...] = Recipe.phases) -> str:
    """Name of the phase that ``step`` of ``total`` belongs to."""
    first = _first_steps(total, phases)
    return next(name for name in reversed(first) if first[name] <= step)


def sample_open(space: Space, phase: str, rng: np.random.Generator) -> Candidate:
    """A random candidate over the axes open in ``phase``; the others stay at their largest."""
    return space.build(_close(space, phase, space.sample(1, rng)[0]))


def _close(space: Space, phase: str, row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    order = [name for name, _ in PHASES]
    opened = order[1 : order.index(phase) + 1]
    top = space.cardinalities - 1
    channels = (part for node in space.graph.nodes for part in parts(node.channels))
    widths = {part for part in channels if isinstance(part, str)}
    closed = [_opens_in(axis, widths) not in opened for axis in space.axes]
    return np.where(closed, top, row)


def _opens_in(axis: Axis, widths: AbstractSet[str]) -> str:
    """The phase that opens a gene; empty for number formats. What is neither a depth nor a width
    opens with the kernels."""
    if axis.is_format:
        return ""
    return "depth" if axis.is_depth else "width" if axis.name in widths else "kernel"


def _smallest_open(space: Space, phase: str) -> Candidate:
    return space.build(_close(space, phase, np.zeros(len(space.axes), dtype=np.int16)))


def _learning_rate(recipe: Recipe, step: int, total: int) -> float:
    warm = max(1, total // 20)
    step = min(step, _first_averaged(recipe, total))
    if step < warm:
        return recipe.lr * (step + 1) / warm
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _first_averaged(recipe: Recipe, total: int) -> int:
    """The step from which weights are averaged; ``total`` if none are.

    Not before the last phase, which may open channels in a new order.
    """
    last_phase = max(_first_steps(total, recipe.phases).values())
    return max(last_phase, total - round(recipe.average * total))


def train(
    space: Space,
    images: ImageSet | Task,
    recipe: Recipe = Recipe(),
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    start_from: Sequence[SupernetFile] = (),
    on_progress: OnProgress | None = None,
    device: str = "cpu",
) -> tuple[Supernet, dict[str, Any]]:
    """Train a supernet on the training split, or continue an interrupted training.

    Progressive shrinking (OFA, arXiv:1908.09791): first the largest network alone; then kernels,
    depths and widths open one after the other, hidden channels being sorted by importance before
    widths do. Ours: in every later step the largest network learns from the labels and one other (a
    quarter of the time the smallest open one: the sandwich rule of BigNAS) from the labels and the
    largest one's answers to the same batch, and one cosine schedule spans all phases. Batch
    statistics are used throughout; at the end the stored ones are those of the largest network.

    Where ``torch.distributed`` is initialised, its processes share the work: each runs the same
    subnets on its part of every batch, and statistics of batch norm, losses and gradients are those
    of the whole batch (:mod:`apq.training.ranks`), so that the loss is that of one process up to
    rounding. The first writes the checkpoint and reports progress; any number may continue.

    Args:
        space: What to train.
        images: Its image set (sizes must fit the space), or another task.
        recipe: Hyper-parameters.
        checkpoint: File to save progress in and to continue from. Same machine and thread count:
            a continued run ends with the same weights as an uninterrupted one.
        checkpoint_seconds: How often to save.
        start_from: Supernets the mean of whose weights to start from (model soup, Wortsman et al.,
            ICML 2022, arXiv:2203.05482); name one twice to count it twice. Their space may differ
            where weights do not: in strides, resolution, bits. A traced network first gets true
            statistics (:func:`~apq.supernet.statistics.absorb_statistics`), keeps its own
            normalisation, and has its channels sorted even if nothing is trained.
        on_progress: Called every step with steps done, all steps, and loss and accuracy so far.
        device: What to train on (:func:`apq.training.find_device`). Initial weights, batches and
            sampled subnets are the same on all.

    Returns:
        The network in eval mode, on the CPU, and metadata: recipe, normalisation, steps, validation
        accuracies, whether hidden channels have been sorted (they are sorted once in a supernet's
        life).

    Raises:
        ModelError: the training diverged, or the checkpoint belongs to another training.
        SpaceError: weights of ``start_from`` do not fit the space, or it needs some.
        ApqError: a phase, the order, the augmentation, the precision or the device is unknown;
            there are more processes than images in a batch, or one of them has ended.
    """
    for name in recipe.phases:
        choose(name, Recipe.phases, "phase")
    choose(recipe.order, ORDERS, "order")
    task, where, ranks = _task(images, recipe), find_device(device), Ranks.here()
    torch.manual_seed(recipe.seed)
    network = Supernet(space)
    network.ranks = ranks
    if start_from:
        _start(network, start_from)
    else:
        require_random_start(space)
    traced = any("traced" in file.metadata for file in start_from)
    normalisation = task.normalisation
    if traced:  # its weights expect what it was trained with
        normalisation = start_from[0].mean, start_from[0].std
        absorb_statistics(network, _measured(images, normalisation, CPU).images)
    network = network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    sorted_already = any(_sorted(file) for file in start_from)
    identity: dict[str, Any] = {
        "start_from": [file.hash for file in start_from],
        "recipe": asdict(recipe), "fingerprint": space.fingerprint, "images": task.images.digest(),
    }  # fmt: skip
    training = Training(
        network, sgd(network, recipe.lr, recipe.weight_decay), checkpoint, identity,
        {"average": dict(network.named_parameters())}, scale=recipe.precision == "fp16",
        ranks=ranks,
    )  # fmt: skip
    steps = _Steps(training, images, recipe, sorted_already, on_progress, normalisation)
    if traced and not steps.total:
        steps.sort_channels()
    keep_memory()
    network.train()
    training.run(steps.total, steps.rate, steps.step, steps.after, steps.tell, checkpoint_seconds)
    network.load_state_dict(training.kept["average"], strict=False)
    scores = _finish(network, images, normalisation, ranks)
    return network.cpu(), training.identity | {
        "mean": normalisation[0],
        "std": normalisation[1],
        "image_set": task.images.name,
        "channels_sorted": sorted_already or ("width" in recipe.phases if steps.total else traced),
        "steps": steps.total,
        "cost": training.cost(),
        "validation_accuracy": scores,
    }


class _Steps:
    """What happens in each step of a supernet's training."""

    def __init__(
        self,
        training: Training,
        images: ImageSet | Task,
        recipe: Recipe,
        sorted_already: bool,
        on_progress: OnProgress | None,
        normalisation: Normalisation,
    ) -> None:
        self.training, self.images, self.recipe = training, images, recipe
        self.task = _task(images, recipe)
        self.normalisation = normalisation
        self.sorted_already, self.on_progress = sorted_already, on_progress
        assert isinstance(training.model, Supernet)
        self.network = training.model
        self.ranks = training.ranks
        if recipe.batch < self.ranks.count:
            raise ApqError(
                f"a batch of {recipe.batch} images is not enough for {self.ranks.count} processes; "
                "use a larger --batch, which is that of all together, or fewer processes"
            )
        split = self.task.images.splits["train"]
        self.feed = Feed(split, recipe.batch, training.device, recipe.balance, self.ranks)
        first = training.identity["start_from"]
        self.total = max(0 if first else 1, round(recipe.epochs * self.feed.per_epoch))
        self.loss_mean, self.hit_mean = float("nan"), float("nan")

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return _learning_rate(self.recipe, step, self.total)

    def step(self, step: int) -> float:
        """Gradients of a step; returns its loss."""
        recipe, network, task = self.recipe, self.network, self.task
        rng = np.random.default_rng([recipe.seed, 2, step])
        phase = phase_of(step, self.total, recipe.phases)
        before = phase_of(step - 1, self.total, recipe.phases) if step else None
        if phase == "width" != before and not self.sorted_already:
            self.sort_channels()
            self.training.optimiser.state.clear()  # momentum belongs to the old channel order
        x, y, share = self._batch(step, rng)
        space, top = network.space, largest(network.space)
        teacher = self._outputs(x, top)
        loss = task.mean_loss(teacher, y)
        self.training.backward(share * (loss if phase == "largest" else loss / 2))
        total = float(loss.detach())
        if phase != "largest":
            smallest_one = rng.random() < 0.25
            other = _smallest_open(space, phase) if smallest_one else sample_open(space, phase, rng)
            outputs = self._outputs(x, other)
            loss = task.mean_loss(outputs, y) + task.imitate(outputs, teacher.detach())
            self.training.backward(share * (loss / 2))
            total = total / 2 + float(loss.detach()) / 2
        hit = float(task.score(teacher.detach(), y).mean())
        own = torch.tensor([share * total, share * hit], dtype=torch.float64, device=x.device)
        total, hit = map(float, self.ranks.sum(own))
        self.loss_mean, self.hit_mean = (
            now if math.isnan(mean) else 0.98 * mean + 0.02 * now
            for mean, now in ((self.loss_mean, total), (self.hit_mean, hit))
        )
        return total

    def sort_channels(self) -> None:
        """Put the channels that matter most first; the first process says which."""
        if self.ranks.first:
            data = _measured(self.images, self.normalisation, self.training.device)
            sort_channels(self.network, self.recipe.order, data)
        self.ranks.take_first(*self.network.state_dict().values())

    def after(self, done: int) -> bool:
        """Average the weights."""
        averaged = done - 1 - _first_averaged(self.recipe, self.total)
        if averaged >= 0:
            _add_to(self.training.kept["average"], self.network, averaged)
        return False

    def tell(self, done: int, _: float) -> None:
        """Report progress."""
        if self.on_progress is not None and self.ranks.first:
            number = Recipe.phases.index(phase_of(done - 1, self.total, self.recipe.phases)) + 1
            figures = {"phase": number, "loss": self.loss_mean, "train_acc": self.hit_mean}
            self.on_progress(done, self.total, figures)

    def _batch(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
        """This process's augmented, normalised images of a step, their labels or class
        probabilities, and their share of the batch. What is random is drawn for the whole batch."""
        x, y = self.task.change(*self.feed.at(step, self.recipe.seed), rng)
        own = self.ranks.part(len(x))
        return normalise(x[own], *self.normalisation), y[own], len(x[own]) / len(x)

    def _outputs(self, x: Tensor, candidate: Candidate) -> Tensor:
        with autocast(x.device, self.recipe.precision):
            return at_least_float32(self.network(x, candidate))


def train_supernet(
    space: Space,
    images: ImageSet | Task,
    out: Path | str,
    recipe: Recipe = Recipe(),
    *,
    start_from: Sequence[SupernetFile] = (),
    checkpoint_seconds: float = 60.0,
    on_progress: OnProgress | None = None,
    device: str = "cpu",
) -> SupernetFile:
    """Train a supernet as :func:`train` does, and write it to a file.

    A checkpoint is kept beside ``out`` during the training; the same call continues from it. A file
    that is there already is replaced in the end.

    Args:
        space: What to train.
        images: Its image set (sizes must fit the space), or another task.
        out: Supernet file to write (safetensors).
        recipe: Hyper-parameters.
        start_from: Supernets the mean of whose weights to start from.
        checkpoint_seconds: How often to save progress.
        on_progress: Called every step with steps done, all steps, and loss and accuracy so far.
        device: What to train on: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.

    Returns:
        The supernet as :func:`load_supernet` reads it; its ``metadata`` has the accuracies of the
        smallest and the largest subnet on validation images, as fractions.

    Raises:
        ModelError: the training diverged, the file cannot be written, or the checkpoint belongs to
            another training.
        SpaceError: weights of ``start_from`` do not fit the space.
        ApqError: a phase, the precision or the device is unknown.

    Example:
        >>> import apq
        >>> space = apq.load_space("digits")
        >>> images = apq.load_images("digits", space.resolution, space.in_channels)
        >>> supernet = apq.train_supernet(
        ...     space, images, "digits/supernet.safetensors", apq.SupernetRecipe(epochs=1, batch=64)
        ... )
        >>> sorted(supernet.metadata["validation_accuracy"])
        ['largest', 'smallest']
    """
    path = Path(out)
    checkpoint = path.with_name(path.stem + ".checkpoint.safetensors")
    network, metadata = train(
        space, images, recipe, checkpoint, checkpoint_seconds, start_from, on_progress, device
    )
    if network.ranks.first:
        save_supernet(path, network, metadata)
        checkpoint.unlink(missing_ok=True)
    network.ranks.wait(find_device(device))
    return load_supernet(path, space)


def _start(network: Supernet, start_from: Sequence[SupernetFile]) -> None:
    """Copy the mean of other supernets' weights.

    Raises:
        SpaceError: one's weights have other names or shapes (the message compares the spaces), or
            some have sorted channels and others not.
    """
    if len({_sorted(file) for file in start_from}) > 1:
        raise SpaceError(
            "the supernets to start from cannot be averaged: some have sorted their channels "
            "(the phase 'width' does), others not"
        )
    weights: dict[str, Tensor] = {}
    for seen, file in enumerate(start_from):
        other = file.network
        try:
            network.load_state_dict(other.state_dict())
        except RuntimeError:
            network.space.require_same(other.space, "the space", "the supernet to start from")
            raise
        _add_to(weights, other, seen)
    network.load_state_dict(weights, strict=False)


def _sorted(file: SupernetFile) -> bool:
    """Whether hidden channels have been sorted."""
    made = file.metadata
    phases = (made.get("recipe") or {}).get("phases", ())
    return bool(made.get("channels_sorted", "width" in phases))


@torch.no_grad()
def _add_to(average: dict[str, Tensor], network: Supernet, seen: int) -> None:
    """Bring a mean of ``seen`` networks' weights to one more network."""
    for name, parameter in network.named_parameters():
        if seen == 0:
            average[name] = parameter.clone()
        else:
            average[name].lerp_(parameter, 1 / (seen + 1))


def _task(images: ImageSet | Task, recipe: Recipe) -> Task:
    """What is trained, changed as the recipe says if it is to tell classes apart."""
    if isinstance(images, Task):
        return images
    return classification(
        images, recipe.augment, recipe.smoothing, recipe.cutmix, soft_cross_entropy
    )


def _measured(
    images: ImageSet | Task, normalisation: Normalisation, device: torch.device
) -> Measured:
    """Calibration images for orders and statistics."""
    task = task_of(images)
    data = EvalImages.of(
        task, *normalisation, "calibration", ORDER_IMAGES, calibration=0, device=device
    )
    return Measured(data.images, data.labels, task.mean_loss)


def _finish(
    network: Supernet, images: ImageSet | Task, normalisation: Normalisation, ranks: Ranks
) -> dict[str, float]:
    """Set the stored statistics to the largest network's and measure both ends on validation: the
    first process does, and tells the others."""
    scores = _ends(network, images, normalisation) if ranks.first else {}
    device = next(network.parameters()).device
    told = torch.tensor([scores.get(n, 0.0) for n in ENDS], dtype=torch.float64, device=device)
    ranks.take_first(told, *network.state_dict().values())
    network.eval()
    return dict(zip(ENDS, told.tolist(), strict=True))


ENDS = ("smallest", "largest")
"""Subnets whose accuracy a supernet's file says."""


def _ends(
    network: Supernet, images: ImageSet | Task, normalisation: Normalisation
) -> dict[str, float]:
    device = next(network.parameters()).device
    data = EvalImages.of(images, *normalisation, calibration=2000, device=device)
    scores: dict[str, float] = {}
    for name, of in zip(ENDS, (smallest, largest), strict=True):
        subnet = network.subnet(of(network.space)).to(device)
        recalibrate(subnet, data.calibration)
        scores[name], loss = accuracy(subnet, data)
        require_converged(loss, f"the {name} subnet")
        if name == "largest":
            _copy_statistics(network, subnet)
    return scores


def _copy_statistics(network: Supernet, subnet: torch.nn.Module) -> None:
    """Store the largest subnet's batch-norm statistics in the supernet (same layout of names)."""
    own = network.state_dict()
    for key, value in subnet.state_dict().items():
        if "running_" in key:
            own[key].copy_(value)
