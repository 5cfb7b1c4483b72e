"""The accuracy of candidates, measured on a supernet: what a sample records.

How a candidate is measured is decided by seed and place alone, whoever measures it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from apq.images import ImageSet
from apq.plan import architectures, plan
from apq.quantize import finetune, quantize_subnet
from apq.quantize.integer import run as run_integers
from apq.runtime.folded import fold
from apq.runtime.session import fast
from apq.runtime.shared import SharedStart, answers_alone, choices
from apq.space import Candidate, Genes
from apq.space.layer import both
from apq.supernet.correct import Corrector
from apq.supernet.drawn import REFERENCES, draw
from apq.supernet.elastic import resized
from apq.supernet.evaluate import EvalImages, answers, estimate, recalibrate, require_converged
from apq.supernet.files import SupernetFile
from apq.supernet.memory import keep_memory
from apq.supernet.network import Subnet
from apq.supernet.statistics import with_statistics
from apq.supernet.task import Task, task_of
from apq.training import OnProgress, find_device
from apq.training.feed import to_tensor

SAME_IMAGES = 250
"""Samples in a row that share their drawn images; mistakes of a draw average out over others."""
RANGE_IMAGES = 128
"""Calibration images that quantizer ranges are fitted to."""
FIRST_IMAGES = 250
"""Calibration images for batch norm before the ranges are fitted; after the fine-tune, all are."""


@dataclass(frozen=True)
class Quantization:
    """How a quantized sample is made; see :mod:`apq.quantize`.

    Attributes:
        scheme: Name in ``SCHEMES``: ``"uniform"`` starts from least squared error, ``"haq"`` from
            the paper's KL rule.
        finetune_steps: Training steps after quantization, on training images.
        batch: Images per step.
        lr: Peak learning rate of the fine-tune. High ones make noise: repeated with other batches,
            accuracies on CIFAR-10 (4 to 8 bits, 20 steps) scatter by 0.7 points at 0.02, by 0.3 at
            0.005, by 0.15 and 0.2 lower at 0.002. Few bits need more to recover.

    Example:
        >>> import apq
        >>> apq.Quantization("haq", finetune_steps=20)
        Quantization(scheme='haq', finetune_steps=20, batch=64, lr=0.005)
    """

    scheme: str = "uniform"
    finetune_steps: int = 40
    batch: int = 64
    lr: float = 0.005


@dataclass(frozen=True)
class Measurement:
    """How the candidates of a supernet are measured.

    Attributes:
        supernet: Whose they are.
        task: What is measured.
        quantization: How they are quantized and fine-tuned; None: not at all.
        corrected: Whether subnets are refitted after cutting (:mod:`apq.supernet.correct`).
        seed: Decides drawn images and fine-tunes.
        device: What to measure on.
        validation_images, calibration_images: How many to use.
        known: What reference subnets answer on each validation image (:func:`references`), if
            images are drawn; None: the first ``validation_images`` are used.
    """

    supernet: SupernetFile
    task: Task
    quantization: Quantization | None
    corrected: bool
    seed: int
    device: torch.device
    validation_images: int
    calibration_images: int = 1000
    known: NDArray[np.float64] | None = None

    def scores(self, rows: Genes, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Accuracy, loss and seconds of candidates by their places in a plan, ``(n, 3)``."""
        keep_memory()
        groups = places // SAME_IMAGES if self.known is not None else np.zeros_like(places)
        scores = np.empty((len(rows), 3))
        for group in np.unique(groups):
            own = np.flatnonzero(groups == group)
            scores[own] = self.on(self.images(int(group)), rows[own], places[own])
        return scores

    def images(self, group: int) -> EvalImages:
        """What a group of samples is measured on."""
        count, drawn = self.validation_images, None
        if self.known is not None:
            rng = np.random.default_rng([self.seed, group])
            drawn = draw(self.known[0], self.known[1], count, rng)
        data = EvalImages.at_places(
            self.task, "validation", self.calibration_images,
            drawn.index if drawn else np.arange(count), (self.supernet.mean, self.supernet.std),
            self.device,
        )  # fmt: skip
        if not drawn:
            return data
        return replace(data, weights=torch.from_numpy(drawn.weights), shift=drawn.shift)

    def on(self, data: EvalImages, rows: Genes, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """As :meth:`scores`, on these images."""
        space = self.supernet.network.space
        scores = np.empty((len(rows), 3))
        candidates = [space.build(row) for row in rows]
        graphs = [space.graph_of(candidate) for candidate in candidates]
        beginnings = [(both(graph.size), choices(graph)) for graph in graphs]
        order = sorted(range(len(rows)), key=beginnings.__getitem__)  # equal ones come together
        upcoming = [*(beginnings[index] for index in order[1:]), ((0, 0), ())]
        size, here, shared = (0, 0), data, SharedStart(data)
        cut = _cut(self.supernet, data, self.corrected)
        for index, (next_size, following) in zip(order, upcoming, strict=True):
            began = time.perf_counter()
            candidate = candidates[index]
            subnet = cut(candidate)
            if size != beginnings[index][0]:
                size = beginnings[index][0]
                here = data.at(size)
                shared = SharedStart(here)
            if self.quantization is None and self.corrected:
                score, loss = estimate(fast(fold(subnet), subnet), here)
            elif self.quantization is None:
                score, loss = shared.measure(subnet, following if next_size == size else ())
            else:
                place = int(places[index])
                seed = int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0])
                score, loss = measure_quantized(
                    subnet, here, self.task,
                    (self.supernet.mean, self.supernet.std), self.quantization, seed,
                )  # fmt: skip
            require_converged(loss, f"candidate {candidate} of the supernet")
            scores[index] = score, loss, time.perf_counter() - began
        return scores


def measure_candidates(
    supernet: SupernetFile,
    images: ImageSet | Task,
    genes: Genes,
    quantization: Quantization | None = None,
    *,
    corrected: bool = False,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """Measure candidates as samples are, on all validation images, and keep nothing.

    Args:
        supernet, images, quantization, corrected, device: As in :func:`apq.collect.collect`.
        genes: The candidates, ``(n, len(space.axes))``.
        seed: Of the short fine-tunes.
        on_progress: Called after every candidate.

    Returns:
        Accuracies, fractions, ``(n,)``.
    """
    task, out = task_of(images), np.empty(len(genes))
    how = Measurement(
        supernet, task, quantization, corrected, seed, find_device(device),
        len(task.images.splits["validation"][1]),
    )  # fmt: skip
    data = how.images(0)
    for place in range(len(genes)):
        row = slice(place, place + 1)
        out[row] = how.on(data, genes[row], np.arange(place, place + 1))[:, 0]
        if on_progress is not None:
            on_progress(place + 1, len(genes), {"accuracy": float(out[place])})
    return out


class SupernetAccuracy:
    """The accuracy of a supernet's subnets in place of a predictor's, for searches of a few hundred
    candidates (SPOS, ECCV 2020, arXiv:1904.00420, searches so): batch norm recalibrated, on all
    validation images. Nothing is measured twice.

    Args:
        supernet, images: As in :func:`apq.collect.collect`.
        quantization: How subnets are quantized and fine-tuned; None: not at all.
        corrected: As in :func:`apq.collect.collect`.
    """

    def __init__(
        self,
        supernet: SupernetFile,
        images: ImageSet | Task,
        quantization: Quantization | None = None,
        corrected: bool = False,
    ) -> None:
        self._how = quantization
        self._measure = partial(measure_candidates, supernet, images, corrected=corrected)
        task = task_of(images)
        self._known: dict[bytes, float] = {}
        self.made_from = {
            "supernet": supernet.hash, "images": task.images.digest(),
            "image_set": task.images.name,
            "accuracy": f"measured on the supernet, {quantization or 'fp32'}",
        }  # fmt: skip

    def __call__(
        self, genes: Genes, on_progress: OnProgress | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Accuracies of candidates and zeros, fractions, ``(n,)`` each."""
        rows = np.ascontiguousarray(genes, dtype=np.int16)
        keys = [row.tobytes() for row in rows]
        fresh = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._known}
        if fresh:
            found = self._measure(np.stack([*fresh.values()]), self._how, on_progress=on_progress)
            self._known |= dict(zip(fresh, found.tolist(), strict=True))
        return np.array([self._known[key] for key in keys]), np.zeros(len(keys))


def measure_quantized(
    subnet: Subnet,
    data: EvalImages,
    task: Task,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    how: Quantization,
    seed: int,
) -> tuple[float, float]:
    """Accuracy and loss of a candidate after quantization and a short fine-tune.

    Batch norm is recalibrated before the ranges are fitted and again after the fine-tune.

    Args:
        subnet: As cut out of the supernet.
        data: Calibration and validation images.
        task: Whose training images and loss the fine-tune uses.
        normalisation: Mean and deviation of pixels.
        how: Scheme and fine-tune.
        seed: Decides which training images are seen.
    """
    size, device = subnet.graph.size, data.images.device
    data, subnet = data.at(size), subnet.to(device)
    recalibrate(subnet, data.calibration[:FIRST_IMAGES])
    images = data.calibration[:RANGE_IMAGES]
    model = quantize_subnet(subnet, subnet.graph, images, how.scheme)
    if how.finetune_steps:
        rng = np.random.default_rng(seed)
        inputs, targets = task.images.splits["train"]
        pick = np.sort(rng.permutation(len(targets))[: how.finetune_steps * how.batch])
        mean, std = normalisation
        finetune(
            model, resized(to_tensor(inputs[pick]).to(device), size),
            torch.from_numpy(targets[pick]).to(device), task, mean=mean, std=std,
            steps=how.finetune_steps, batch=how.batch, lr=how.lr, seed=seed,
        )  # fmt: skip
    recalibrate(model, data.calibration)
    steps = model.integer()
    return estimate(fast(steps, partial(run_integers, steps)), data)


def references(supernet: SupernetFile, data: EvalImages, corrected: bool) -> NDArray[np.float64]:
    """Share of a few random subnets that get each image right, and their mean loss, ``(2, n)``."""
    space = supernet.network.space
    keep_memory()
    total = np.zeros((2, len(data.labels)))
    rows = plan(space, min(REFERENCES, architectures(space)), 0, quantized=False)
    cut = _cut(supernet, data, corrected)
    for row in rows:
        subnet = cut(space.build(row))
        here = data.at(subnet.graph.size)
        if corrected:  # statistics are those of the refitted layers
            found = answers(fast(fold(subnet), subnet), here)
        else:
            found = answers_alone(subnet, here)
        total += torch.stack(found).numpy()
    return total / len(rows)


def _cut(
    supernet: SupernetFile, data: EvalImages, corrected: bool
) -> Callable[[Candidate], Subnet]:
    """From a candidate to its subnet, as it is or corrected."""
    if not corrected:
        return with_statistics(supernet, data.calibration).subnet
    return Corrector(supernet.network, data.calibration).subnet
