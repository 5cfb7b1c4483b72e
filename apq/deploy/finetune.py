"""The winner's final training: quantization-aware, distilled, resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from apq.cost import Cost
from apq.deploy.model import Chosen, Model, build_network, save_model
from apq.errors import ApqError, ModelError
from apq.images import ImageSet
from apq.quantize.distribution import BinaryInputs
from apq.quantize.finetune import one_cycle, quantized_step, refit_weights
from apq.search.search import Result
from apq.space import Candidate, Space
from apq.supernet import Subnet, Supernet, SupernetFile, largest
from apq.supernet.correct import Corrector
from apq.supernet.evaluate import EvalImages, Images, accuracy, answers, normalise, recalibrate
from apq.supernet.evaluate import fold as fold_norms
from apq.supernet.files import require_random_start
from apq.supernet.memory import keep_memory
from apq.supernet.statistics import with_statistics
from apq.supernet.task import Task, classification
from apq.training import OnProgress, Training, find_device, sgd
from apq.training.feed import Feed


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
        corrected: Start from weights refitted after cutting (:mod:`apq.supernet.correct`); None: if
            the predictor's samples were of such subnets.
        fixed_weight_bits: Weight bits of stem, first block, head and classifier; None: the space's.
            The model's space says so too, and its size counts them.
        seed: Decides order, augmentation and random starts.
        augment: Key of :data:`apq.supernet.augment.AUGMENTS`: how images are changed. A task of
            one's own has its own ``change``.
        balance: Whether images of all classes are drawn as often, with repetition.

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
    corrected: bool | None = None
    fixed_weight_bits: int | None = None
    seed: int = 0
    augment: str = "shift"
    balance: bool = False


@dataclass(frozen=True)
class FinetuneReport:
    """Accuracies of a fine-tuning, as fractions; those before and after on validation images.

    Attributes:
        before: After quantization and recalibration, before any training step.
        epochs: After each epoch.
        best_epoch: Counted from 1; validation chose it. 0: no epoch was better than the start.
        after: Of the chosen epoch.
        test: Of the chosen epoch, on test images, which nothing else has seen.
        classes: Of the chosen epoch, on the test images of each class that has some, by its name.
        predicted, predicted_spread: What the predictor said, if it was asked.
        cost: Of the training, all parts of an interrupted run together.
    """

    before: float
    epochs: tuple[float, ...]
    best_epoch: int
    after: float
    test: float
    classes: dict[str, float]
    predicted: float | None
    predicted_spread: float | None
    cost: Cost


def finetune_candidate(
    candidate: Candidate | Chosen | Result,
    supernet: SupernetFile,
    images: ImageSet | Task,
    out: Path | str,
    recipe: FinetuneRecipe = FinetuneRecipe(),
    *,
    other_supernet: bool = False,
    checkpoint_seconds: float = 60.0,
    on_progress: OnProgress | None = None,
    device: str = "cpu",
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
        images: Image set with all four splits, or another task, whose score is then called
            accuracy.
        out: Model file to write (safetensors).
        recipe: Hyper-parameters.
        other_supernet: Whether a supernet is meant that is not the one the search is about; the
            model's metadata then has the hash of that one as ``searched_on``.
        checkpoint_seconds: How often to save progress; also at every epoch's end.
        on_progress: Called every step with loss and the best validation accuracy so far.
        device: What to train on: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.

    Raises:
        SpaceError: the candidate is not of the supernet's space.
        ModelError: training diverged, a checkpoint of another fine-tuning is in the way, or the
            search is about another supernet.
        ApqError: unknown scheme or augmentation, bits the scheme does not offer, no such device, or
            a distribution loss where no activation has 1 bit.

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
    if recipe.corrected is None:
        recipe = replace(recipe, corrected=chosen.corrected)
    if recipe.fixed_weight_bits is not None:
        space = space.with_(fixed_weight_bits=recipe.fixed_weight_bits)
    task = images if isinstance(images, Task) else classification(images, recipe.augment)
    images = task.images
    where, mean, std = find_device(device), supernet.mean, supernet.std
    data = EvalImages.of(task, mean, std, device=where)
    keep_memory()
    network, teacher = with_statistics(supernet, data.calibration), None
    if recipe.distil:
        teacher = fold_norms(_subnet(network, largest(space), data.calibration))
    model = _start(candidate, space, network, data.calibration, recipe)

    checkpoint = out.with_name(out.stem + ".checkpoint.safetensors")
    identity = {
        "recipe": asdict(recipe), "candidate": candidate.to_dict(), "supernet": supernet.hash,
        "images": images.digest(),
    }  # fmt: skip
    training = Training(
        model, sgd(model, recipe.lr, recipe.weight_decay), checkpoint, identity,
        {"best": model.state_dict()},
    )  # fmt: skip
    epochs = _Epochs(training, recipe, task, data, (mean, std), teacher, on_progress)
    training.run(
        epochs.total, epochs.rate, epochs.step, epochs.after, epochs.tell, checkpoint_seconds
    )

    model.load_state_dict(training.kept["best"])
    best, scores = epochs.best, training.scores
    held = EvalImages.of(task, mean, std, "test", calibration=0, device=where)
    right = answers(model, held)[0]
    report = FinetuneReport(
        scores[0], tuple(scores[1:]), best, scores[best], float(right.mean()),
        by_class(right, held.labels, images.classes), chosen.accuracy, chosen.spread,
        training.cost(),
    )  # fmt: skip
    made = {
        "recipe": asdict(recipe), "accuracy": asdict(report), "supernet": supernet.hash,
        "costs": chosen.costs, "devices": chosen.devices,
        "images": {"name": images.name, "digest": images.digest()},
        **({"searched_on": chosen.supernet} if others else {}),
    }  # fmt: skip
    result = Model(model.cpu(), space, candidate, recipe.scheme, mean, std, images.classes, made)
    save_model(out, result)
    checkpoint.unlink(missing_ok=True)
    return result, report


def by_class(right: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy on the images of each class that has some.

    Args:
        right: Whether each image was answered right, or its score, ``(n,)``.
        labels: Of each, ``(n,)``.
        classes: Names by label; none where targets are no labels.
    """
    if not classes:
        return {}
    every = labels.cpu().numpy()
    count = np.bincount(every, minlength=len(classes))
    hits = np.bincount(every, right.numpy(), len(classes))
    return {classes[i]: float(hits[i] / count[i]) for i in np.flatnonzero(count).tolist()}


def _chosen(candidate: Candidate | Chosen | Result) -> Chosen:
    """A candidate with what is known of it."""
    if isinstance(candidate, Candidate):
        return Chosen(candidate)
    if isinstance(candidate, Result):
        found, devices = candidate, candidate.problem.priced.sources
        own = found.problem.made_from.get("supernet")
        corrected = found.problem.made_from.get("samples") == "corrected"
        return Chosen(
            found.candidate, found.accuracy, found.spread, found.costs, devices, own,
            corrected=corrected,
        )  # fmt: skip
    return candidate


def _subnet(supernet: Supernet, candidate: Candidate, calibration: Images) -> Subnet:
    net = supernet.subnet(candidate)
    net.to(calibration.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    recalibrate(net, calibration)
    return net.eval()


def _start(
    candidate: Candidate, space: Space, supernet: Supernet, calibration: Images,
    recipe: FinetuneRecipe,
) -> nn.Module:  # fmt: skip
    """The network before its first step."""
    if recipe.from_scratch:
        net = _random(space, candidate, recipe.seed).to(calibration.device)
        recalibrate(net, calibration)
    elif recipe.corrected:
        net = Corrector(supernet, calibration).subnet(candidate)
    else:
        net = _subnet(supernet, candidate, calibration)
    model = build_network(space, candidate, recipe.scheme, net, calibration[:256])
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _random(space: Space, candidate: Candidate, seed: int) -> Subnet:
    require_random_start(space)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Subnet(space, candidate)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return net


class _Epochs:
    """What happens in each step and at each epoch's end of a final tuning."""

    def __init__(
        self,
        training: Training,
        recipe: FinetuneRecipe,
        task: Task,
        data: EvalImages,
        normalisation: tuple[tuple[float, ...], tuple[float, ...]],
        teacher: nn.Module | None,
        on_progress: OnProgress | None,
    ) -> None:
        self.training, self.recipe, self.data, self.teacher = training, recipe, data, teacher
        self.normalisation, self.task, self.on_progress = normalisation, task, on_progress
        self.feed = Feed(task.images.splits["train"], recipe.batch, training.device, recipe.balance)
        self.total = recipe.epochs * self.feed.per_epoch
        self.binary = BinaryInputs(training.model) if recipe.distribution else None
        if self.binary is not None and not self.binary.count:
            raise ApqError(
                f"a distribution loss of {recipe.distribution:g} acts on activations of 1 bit, and "
                "the candidate has none. Leave it out, or search a space that offers them."
            )
        if not training.scores:
            self._measure()

    @property
    def best(self) -> int:
        """The epoch that validation chose, counted from 1; 0: the start."""
        return self.training.scores.index(max(self.training.scores))

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.recipe.lr * one_cycle(step / self.total)

    def step(self, step: int) -> float:
        """Gradients of a step; returns its loss."""
        if step % self.feed.per_epoch == 0:
            refit_weights(self.training.model)
        images, labels = self.feed.at(step, self.recipe.seed)
        rng = np.random.default_rng((self.recipe.seed, 2, step))  # a resumed step draws the same
        changed, labels = self.task.change(images, labels, rng)
        x = normalise(changed, *self.normalisation)
        self.training.model.train()
        extra = self._distribution if self.binary is not None else None
        return quantized_step(self.training, self.task, x, labels, self.teacher, extra)

    def after(self, done: int) -> bool:
        """Measure at an epoch's end; whether one has ended."""
        ended = done % self.feed.per_epoch == 0
        if ended:
            self._measure()
        return ended

    def tell(self, done: int, loss: float) -> None:
        """Say how far it is."""
        if self.on_progress is not None:
            best = max(self.training.scores)
            figures = {"epoch": done / self.feed.per_epoch, "loss": loss, "best_val": best}
            self.on_progress(done, self.total, figures)

    def _measure(self) -> None:
        """Note the validation accuracy; keep the weights if none was better."""
        model, scores = self.training.model, self.training.scores
        recalibrate(model, self.data.calibration)
        score, _ = accuracy(model, self.data)
        if not scores or score > max(scores):
            state = model.state_dict()
            self.training.kept["best"] = {k: v.detach().clone() for k, v in state.items()}
        scores.append(score)
        if self.binary is not None:
            self.binary.collect()  # what recalibration added

    def _distribution(self) -> Tensor:
        assert self.binary is not None
        return self.recipe.distribution * self.binary.collect()
