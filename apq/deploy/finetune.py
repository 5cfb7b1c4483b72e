"""The winner's final training: quantization-aware, distilled, resumable."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from apq.cost import Cost, Stopwatch
from apq.deploy.model import Chosen, Model, build_network, save_model
from apq.errors import ModelError
from apq.files import Schema
from apq.files.headers import Header
from apq.files.reading import CostTable, Count, Fraction, Items, Named
from apq.images import ImageSet
from apq.quantize.distribution import BinaryInputs
from apq.quantize.finetune import (
    distillation_loss,
    normalise,
    one_cycle,
    optimiser,
    penalty,
    refit_weights,
)  # fmt: skip
from apq.search.search import Result
from apq.space import Candidate, Space
from apq.supernet import Subnet, SupernetFile, largest
from apq.supernet.augment import augment
from apq.supernet.evaluate import accuracy, recalibrate, to_tensor
from apq.supernet.evaluate import fold as fold_norms
from apq.supernet.memory import keep_memory
from apq.supernet.tensors import load_tensors, require_tensors, save_tensors

OnProgress = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class FinetuneRecipe:
    """Everything that decides the tuned weights, besides supernet, candidate and images.

    Attributes:
        scheme: Key of ``SCHEMES``, or ``"fp32"`` for a float network (a baseline).
        epochs: Passes over the training images.
        batch: Images per step.
        lr: Peak learning rate (SGD, Nesterov 0.9, one cycle over all epochs). On CIFAR-10, one
            candidate and seed, 200 steps, validation ended at 81.9 % with 0.005 and 81.5 % with
            0.02 at 8 bits, at 81.0 % and 80.9 % at 4.
        weight_decay: On weights only, never on ranges.
        distil: Whether the supernet's largest subnet teaches.
        distribution: Weight of the distribution loss on 1-bit activations (the paper uses 2).
        from_scratch: Start from random weights instead of the supernet's, for comparison.
        fixed_weight_bits: Weight bits of stem, first block, head and classifier; None: the space's.
            The model's space says so too, and its size counts them.
        seed: Decides order, augmentation and random starts.

    Example:
        >>> import apq
        >>> apq.FinetuneRecipe(epochs=30, scheme="fp32").distil
        True
    """

    scheme: str = "uniform"
    epochs: int = 10
    batch: int = 128
    lr: float = 0.005
    weight_decay: float = 1e-4
    distil: bool = True
    distribution: float = 0.0
    from_scratch: bool = False
    fixed_weight_bits: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class FinetuneReport:
    """Accuracies of a fine-tuning, as fractions; those before and after on validation images.

    Attributes:
        before: After quantization and recalibration, before any training step.
        epochs: After each epoch.
        best_epoch: Counted from 1; validation chose it. 0: no epoch was better than the start.
        after: Of the chosen epoch.
        test: Of the chosen epoch, on test images, which nothing else has seen.
        predicted, predicted_spread: What the predictor said, if it was asked.
        cost: Of the training, all parts of an interrupted run together.
    """

    before: float
    epochs: tuple[float, ...]
    best_epoch: int
    after: float
    test: float
    predicted: float | None
    predicted_spread: float | None
    cost: Cost


def finetune_candidate(
    candidate: Candidate | Chosen | Result,
    supernet: SupernetFile,
    images: ImageSet,
    out: Path | str,
    recipe: FinetuneRecipe = FinetuneRecipe(),
    *,
    other_supernet: bool = False,
    checkpoint_seconds: float = 60.0,
    on_progress: OnProgress | None = None,
) -> tuple[Model, FinetuneReport]:
    """Train a candidate under its bits and write the model file.

    Quantizes the supernet's subnet, trains on the train split with the supernet's largest subnet
    as teacher, recalibrates batch norm and measures the validation split after every epoch, keeps
    the best epoch, and reads the test split once, at the end. Weight ranges that are not learned
    are fitted anew at the start of every epoch (ours).

    A checkpoint lies beside ``out`` while the work lasts; the same call continues from it, and ends
    with the same bits as an uninterrupted one on the same machine with the same thread count.

    Args:
        candidate: What to train, of the supernet's space. A search's result, or a candidate with
            what a search said of it, puts the predicted figures beside the measured ones.
        supernet: Starting weights, teacher and normalisation.
        images: Image set with all four splits.
        out: Model file to write (safetensors).
        recipe: Hyper-parameters.
        other_supernet: Whether a supernet is meant that is not the one the search is about; the
            model's metadata then has the hash of that one as ``searched_on``.
        checkpoint_seconds: How often to save progress; also at every epoch's end.
        on_progress: Called every step with loss and the best validation accuracy so far.

    Raises:
        SpaceError: the candidate is not of the supernet's space.
        ModelError: training diverged, a checkpoint of another fine-tuning is in the way, or the
            search is about another supernet.
        ApqError: unknown scheme, or bits it does not offer.

    Example:
        >>> import apq
        >>> supernet = apq.load_supernet("digits/supernet.safetensors")
        >>> space = supernet.network.space
        >>> images = apq.load_images("digits", space.resolution, space.in_channels)
        >>> smallest = space.build([0] * len(space.axes))
        >>> model, report = apq.finetune(
        ...     smallest, supernet, images, "digits/model.safetensors", apq.FinetuneRecipe(epochs=1)
        ... )
        >>> 0 <= report.before <= report.after <= 1  # accuracies on validation images
        True
        >>> model.candidate == smallest
        True
    """
    chosen = _chosen(candidate)
    candidate, space, out = chosen.candidate, supernet.network.space, Path(out)
    others = chosen.supernet not in (None, supernet.hash)
    if others and not other_supernet:
        raise ModelError(
            f"the candidate was searched on the supernet {chosen.supernet}, this one is "
            f"{supernet.hash}: what was predicted does not hold for it. Give its own by "
            "--supernet, or --other-supernet if you mean this one."
        )
    if recipe.fixed_weight_bits is not None:
        space = space.with_(fixed_weight_bits=recipe.fixed_weight_bits)
    mean, std = supernet.mean, supernet.std
    calibration = normalise(to_tensor(images.splits["calibration"][0][:1000]), mean, std)
    held, held_labels = _split(images, "validation", mean, std)
    keep_memory()
    teacher = None
    if recipe.distil:
        teacher = fold_norms(_subnet(supernet, largest(space), calibration))
    model = _start(candidate, space, supernet, calibration, recipe)

    checkpoint = out.with_name(out.stem + ".checkpoint.safetensors")
    identity = {
        "recipe": asdict(recipe), "candidate": candidate.to_dict(), "supernet": supernet.hash,
        "images": images.digest(),
    }  # fmt: skip
    run = _Run(model, optimiser(model, recipe.lr, recipe.weight_decay), checkpoint, identity)
    if checkpoint.exists():
        run.load()
    else:
        recalibrate(model, calibration)
        run.note(accuracy(model, held, held_labels)[0])

    pixels, numbers = images.splits["train"]
    data, labels = to_tensor(pixels), torch.from_numpy(numbers)
    batch = min(recipe.batch, len(labels))
    per_epoch = len(labels) // batch
    total = recipe.epochs * per_epoch
    order = torch.empty(0)
    saved = time.monotonic()
    while run.step < total:
        epoch, position = divmod(run.step, per_epoch)
        if position == 0 or not len(order):
            rng = np.random.default_rng((recipe.seed, 1, epoch))
            order = torch.from_numpy(rng.permutation(len(labels)))
        if position == 0:
            refit_weights(model)
        index = order[position * batch : (position + 1) * batch]
        rng = np.random.default_rng((recipe.seed, 2, run.step))  # a resumed step draws the same
        x = normalise(augment(data[index], images.flip, rng), mean, std)
        loss = _train_step(run, x, labels[index], teacher, recipe.lr * one_cycle(run.step / total))
        if not math.isfinite(loss):
            raise ModelError(
                f"fine-tuning diverged at step {run.step} (loss {loss}). Lower --lr ({recipe.lr})."
            )
        run.step += 1
        ended = run.step % per_epoch == 0
        if ended:
            recalibrate(model, calibration)
            run.note(accuracy(model, held, held_labels)[0])
            if run.binary is not None:
                run.binary.collect()  # what recalibration added
        if ended or time.monotonic() - saved > checkpoint_seconds:
            run.save()
            saved = time.monotonic()
        if on_progress is not None:
            figures = {"epoch": run.step / per_epoch, "loss": loss, "best_val": max(run.scores)}
            on_progress(run.step, total, figures)

    model.load_state_dict(run.best)
    best = run.best_epoch
    test, _ = accuracy(model, *_split(images, "test", mean, std))
    report = FinetuneReport(
        run.scores[0], tuple(run.scores[1:]), best, run.scores[best], test, chosen.accuracy,
        chosen.spread, run.watch.cost(),
    )  # fmt: skip
    made = {
        "recipe": asdict(recipe), "accuracy": asdict(report), "supernet": supernet.hash,
        "costs": chosen.costs, "devices": chosen.devices,
        "images": {"name": images.name, "digest": images.digest()},
        **({"searched_on": chosen.supernet} if others else {}),
    }  # fmt: skip
    result = Model(model, space, candidate, recipe.scheme, mean, std, images.classes, made)
    save_model(out, result)
    checkpoint.unlink(missing_ok=True)
    return result, report


def _chosen(candidate: Candidate | Chosen | Result) -> Chosen:
    """A candidate with what is known of it."""
    if isinstance(candidate, Candidate):
        return Chosen(candidate)
    if isinstance(candidate, Result):
        found, devices = candidate, candidate.problem.priced.sources
        own = found.problem.made_from.get("supernet")
        return Chosen(found.candidate, found.accuracy, found.spread, found.costs, devices, own)
    return candidate


def _split(
    images: ImageSet, name: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    pixels, labels = images.splits[name]
    return normalise(to_tensor(pixels), mean, std), torch.from_numpy(labels)


def _subnet(supernet: SupernetFile, candidate: Candidate, calibration: Tensor) -> Subnet:
    net = supernet.network.subnet(candidate).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recalibrate(net, calibration)
    return net.eval()  # type: ignore[no-any-return]


def _start(
    candidate: Candidate, space: Space, supernet: SupernetFile, calibration: Tensor,
    recipe: FinetuneRecipe,
) -> nn.Module:  # fmt: skip
    """The network before its first step."""
    if recipe.from_scratch:
        net = _random(space, candidate, recipe.seed)
        recalibrate(net, calibration)
    else:
        net = _subnet(supernet, candidate, calibration)
    model = build_network(space, candidate, recipe.scheme, net, calibration[:256])
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _random(space: Space, candidate: Candidate, seed: int) -> Subnet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Subnet(space, candidate)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return net


def _train_step(
    run: _Run, x: Tensor, labels: Tensor, teacher: nn.Module | None, lr: float
) -> float:
    run.model.train()
    for group in run.optimiser.param_groups:
        group["lr"] = lr
    hint = None
    if teacher is not None:
        with torch.no_grad():
            hint = teacher(x)
    loss = distillation_loss(run.model(x), labels, hint) + penalty(run.model)
    if run.binary is not None:
        loss = loss + run.distribution * run.binary.collect()
    run.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimiser.step()
    return float(loss.detach())


class _Progress(Schema):
    """How far a fine-tuning is."""

    step: Count
    best_epoch: Count
    scores: Annotated[Items[Fraction], Field(min_length=1)]


class CheckpointHeader(Header):
    """What the checkpoint of a fine-tuning says.

    Attributes:
        identity: What decides the fine-tuning; a checkpoint is of no use to another.
        progress: How far it is.
        cost: So far.
    """

    what = "a checkpoint of apq finetune"
    remedy = "Delete it to start over."

    kind: Literal["finetune checkpoint"]
    identity: Named[Any]
    progress: _Progress
    cost: CostTable


class _Run:
    """What must survive a kill: weights, momentum, the best epoch and the scores so far."""

    def __init__(
        self, model: nn.Module, optimiser: torch.optim.SGD, path: Path, identity: dict[str, Any]
    ) -> None:
        self.model, self.optimiser, self.path = model, optimiser, path
        self.identity = json.loads(json.dumps(identity))  # as it will be read back
        self.distribution: float = identity["recipe"]["distribution"]
        self.binary = BinaryInputs(model) if self.distribution else None
        self.step, self.best_epoch = 0, 0
        self.scores: list[float] = []
        self.best: dict[str, Tensor] = {}
        self.watch = Stopwatch()

    def note(self, score: float) -> None:
        """Record an epoch's validation accuracy; keep the weights if none was better."""
        if not self.scores or score > max(self.scores):
            self.best_epoch = len(self.scores)
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.scores.append(score)

    def save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for i, parameter in enumerate(self._parameters()):
            momentum = self.optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{i}"] = momentum
        progress = {"step": self.step, "best_epoch": self.best_epoch, "scores": self.scores}
        save_tensors(
            self.path, tensors, {"kind": "finetune checkpoint", "identity": self.identity,
                                 "progress": progress, "cost": self.watch.cost()},
        )  # fmt: skip

    def load(self) -> None:
        tensors, header = load_tensors(self.path, CheckpointHeader)
        if header.identity != self.identity:
            raise ModelError(
                f"{self.path} belongs to another fine-tuning (other candidate, supernet, images or "
                "settings). Delete it, or give another --out."
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "momentum": {}}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            parts.setdefault(kind, {})[name] = value
        expected = self.model.state_dict()
        moving = {str(i): parameter for i, parameter in enumerate(self._parameters())}
        kept = {name: p for name, p in moving.items() if name in parts["momentum"]}
        for kind, wanted in {"model": expected, "best": expected, "momentum": kept}.items():
            require_tensors(f"{self.path} ({kind})", parts[kind], wanted)
        progress = header.progress
        if not progress.best_epoch < len(progress.scores):
            raise ModelError(
                f"{self.path} calls epoch {progress.best_epoch} the best of "
                f"{len(progress.scores) - 1}. Delete it to start over."
            )
        self.model.load_state_dict(parts["model"])
        self.best = parts["best"]
        for i, parameter in enumerate(self._parameters()):
            if str(i) in parts["momentum"]:
                buffer = torch.empty_like(parameter).copy_(parts["momentum"][str(i)])
                self.optimiser.state[parameter]["momentum_buffer"] = buffer
        self.step, self.best_epoch = progress.step, progress.best_epoch
        self.scores = list(progress.scores)
        self.watch = Stopwatch(header.cost.model_dump())

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimiser.param_groups for p in group["params"]]
