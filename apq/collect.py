"""Collect samples: space x supernet (x scheme) -> a folder of Parquet parts.

Which candidates is :mod:`apq.plan`'s matter. How sample i is measured is decided by seed and index
alone, so any number of processes may be interrupted and go on.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from apq.cluster import connected, spread_on
from apq.cost import Stopwatch
from apq.errors import SamplesError, side_by_side
from apq.images import ImageSet
from apq.plan import VERSION, architectures, covered, plan, planned
from apq.quantize import finetune, quantize_subnet
from apq.quantize.integer import run as run_integers
from apq.runtime.folded import fold
from apq.runtime.session import fast
from apq.runtime.shared import SharedStart, answers_alone, choices
from apq.samples import part_files, part_metadata, write_part
from apq.space import Candidate, Genes
from apq.space.layer import both
from apq.supernet.correct import Corrector
from apq.supernet.drawn import REFERENCES, draw
from apq.supernet.elastic import resized
from apq.supernet.evaluate import EvalImages, estimate, recalibrate, require_converged
from apq.supernet.files import SupernetFile
from apq.supernet.memory import keep_memory
from apq.supernet.network import Subnet
from apq.supernet.task import Task, task_of
from apq.training import OnProgress, describe, find_device
from apq.training.feed import to_tensor
from apq.workers import spread

SAME_IMAGES = 250
"""Samples in a row that share their drawn images; mistakes of a draw average out over others."""


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
class _Job:
    """All a worker needs: passed once per chunk, arrays memory-mapped between processes."""

    folder: Path
    supernet: SupernetFile
    genes: Genes
    start: int
    seed: int
    quantization: Quantization | None
    corrected: bool
    task: Task
    known: NDArray[np.float64] | None  # what reference subnets answer on each image; None: use all
    metadata: dict[str, Any]
    device: torch.device


def collect(
    supernet: SupernetFile,
    images: ImageSet | Task,
    folder: Path | str,
    count: int,
    quantization: Quantization | None = None,
    seed: int = 0,
    validation_images: int | None = None,
    calibration_images: int = 1000,
    chunk: int | None = None,
    workers: int = 1,
    on_progress: OnProgress | None = None,
    device: str = "cpu",
    corrected: bool = False,
    dask: str | None = None,
) -> int:
    """Bring a folder to ``count`` samples.

    Chunks of the plan are locked while they are worked on (a lock dies with its process), so any
    number of processes may fill one folder, and killing one loses at most the chunks in work.

    Args:
        supernet: Trained supernet; its space is the space of the samples.
        images: Image set, or another task, whose score is then called accuracy; it is measured on
            ``validation``, ranges and batch-norm statistics come from ``calibration``, fine-tuning
            uses ``train``.
        folder: Where the parts are, or will be.
        count: Samples the folder should hold in the end.
        quantization: None for fp32 samples.
        seed: Decides the candidates. A folder has one seed.
        validation_images: Measure on so many drawn validation images and estimate the accuracy on
            all from them (:mod:`apq.supernet.drawn`); None: on all.
        calibration_images: Calibration images to use.
        chunk: Samples per part file (default 100, or 5 when quantized).
        workers: Worker processes.
        on_progress: Called after every chunk with samples done, count, and figures.
        device: What to measure on: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``. One folder
            may be filled from several kinds: integer arithmetic is exact on all of them, and what
            training rounds otherwise changes accuracies by less than other batches do.
        corrected: Refit every subnet after cutting, so that it does what the whole network does
            (:mod:`apq.supernet.correct`): for the supernet of a trained network, without training
            it. The plan is another one then, and a folder holds samples of one kind.
        dask: Address of the scheduler of a Dask cluster whose workers measure, on a ``device`` of
            their own. What they answer is written here, so they need not see the folder.

    Returns:
        Number of samples in the folder that were already there when the call began.

    Raises:
        SamplesError: the folder holds samples of another kind, seed, supernet or image set, a part
            is damaged, the plan is longer than the space, or the disk is full.
        ApqError: there is no such device, or no such cluster.

    Example:
        >>> import apq
        >>> supernet = apq.load_supernet("digits/supernet.safetensors")
        >>> space = supernet.network.space
        >>> images = apq.load_images("digits", space.resolution, space.in_channels)
        >>> apq.collect_samples(supernet, images, "digits/fp32", 30)  # none were there before
        0
        >>> how = apq.Quantization(finetune_steps=2)
        >>> apq.collect_samples(supernet, images, "digits/quantized", 20, how)
        0
        >>> apq.collect_samples(supernet, images, "digits/quantized", 20, how)  # nothing to do
        20
    """
    folder, where = Path(folder), find_device("cpu" if dask else device)
    space, task = supernet.network.space, task_of(images)
    if count < 1:
        raise SamplesError(f"--count {count} must be at least 1")
    genes = planned(folder, space, count, seed, quantization is not None, corrected)
    there = len(task.images.splits["validation"][1])
    used = min(validation_images or there, there)
    metadata: dict[str, Any] = {
        "supernet": supernet.hash,
        "task": task.name,
        "images": task.images.digest(),
        "image_set": task.images.name,
        "split": "validation",
        "validation_images": used,
        "drawn": used < there,
        "calibration_images": min(calibration_images, len(task.images.splits["calibration"][1])),
        "seed": seed,
        "plan": VERSION if quantization else 1,
        "fingerprint": space.fingerprint,
        "precision": "quantized" if quantization else "fp32",
        "quantization": vars(quantization) if quantization else None,
        "corrected": corrected,
    }
    _check_folder(folder, metadata)
    size = chunk or (100 if not quantization else 20 if corrected else 5)
    present = int(covered(folder, count).sum())
    done, before, began = present, present, time.monotonic()
    if on_progress is not None:
        on_progress(done, count, {})
    known = None
    if used < there and done < count:
        every = EvalImages.of(
            task, supernet.mean, supernet.std, calibration=calibration_images, device=where
        )
        known = _references(supernet, every, corrected)
    best, needed = 0.0, _needed(task, quantization)
    with connected(dask if done < count else None) as client:
        while done < count:
            missing = np.flatnonzero(~covered(folder, count))
            starts = sorted({int(i) // size * size for i in missing})
            todo = [
                _Job(
                    folder, supernet, genes[s : s + size], s, seed, quantization, corrected,
                    needed, known, metadata, where,
                )
                for s in starts
            ]  # fmt: skip
            worked = 0
            for top in _run(todo, workers, client, device):
                worked += top is not None
                best = max(best, top or 0.0)
                done = int(covered(folder, count).sum())
                if on_progress is not None:
                    minutes = max(time.monotonic() - began, 1e-9) / 60
                    on_progress(
                        done, count, {"best_acc": best, "per_min": (done - before) / minutes}
                    )
            done = int(covered(folder, count).sum())
            if done < count and not worked:
                time.sleep(0.5)  # the rest is being worked on by another process
    if on_progress is not None:
        on_progress(done, count, {"best_acc": best})
    return present


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
        supernet, images, quantization, corrected, device: As in :func:`collect`.
        genes: The candidates, ``(n, len(space.axes))``.
        seed: Of the short fine-tunes.
        on_progress: Called after every candidate.

    Returns:
        Accuracies, fractions, ``(n,)``.
    """
    task = task_of(images)
    about = {
        "validation_images": len(task.images.splits["validation"][1]), "calibration_images": 1000,
    }  # fmt: skip
    job = _Job(
        Path(), supernet, genes, 0, seed, quantization, corrected, task, None, about,
        find_device(device),
    )  # fmt: skip
    data, out = _images(job, 0), np.empty(len(genes))
    for place in range(len(genes)):
        row = slice(place, place + 1)
        out[row] = _measure(job, genes[row], np.arange(place, place + 1), data)[:, 0]
        if on_progress is not None:
            on_progress(place + 1, len(genes), {"accuracy": float(out[place])})
    return out


class SupernetAccuracy:
    """The accuracy of a supernet's subnets in place of a predictor's, for searches of a few hundred
    candidates (SPOS, ECCV 2020, arXiv:1904.00420, searches so): batch norm recalibrated, on all
    validation images. Nothing is measured twice.

    Args:
        supernet, images: As in :func:`collect`.
        quantization: How subnets are quantized and fine-tuned; None: not at all.
        corrected: As in :func:`collect`.
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


def _needed(task: Task, quantization: Quantization | None) -> Task:
    """A task with no more of its examples than worker processes need."""
    names = ("calibration", "validation", *(("train",) if quantization else ()))
    splits = {name: task.images.splits[name] for name in names}
    return replace(task, examples=replace(task.images, splits=splits))


def _run(todo: list[_Job], workers: int, client: Any, device: str) -> Iterator[float | None]:
    if client is not None:
        yield from _run_on(client, todo, device)
    elif workers <= 1 or len(todo) <= 1:
        yield from map(_work, todo)
    else:
        yield from spread(_work_alone, ((job,) for job in todo), workers)


def _run_on(client: Any, todo: list[_Job], device: str) -> Iterator[float]:
    """Have chunks measured by a cluster, and write what comes back. Chunks are claimed for it as
    for this process."""
    held: dict[int, tuple[_Job, contextlib.ExitStack]] = {}

    def chunks() -> Iterator[tuple[str, int, Genes, list[tuple[int, int]]]]:
        for job in todo:
            claim = contextlib.ExitStack()
            gaps = _missing(job) if claim.enter_context(_claim(job)) else []
            if gaps:
                held[job.start] = job, claim
                yield device, job.start, job.genes, gaps
            else:
                claim.close()

    try:
        shared = replace(todo[0], genes=todo[0].genes[:0])
        for start, measured in spread_on(client, _work_remote, shared, chunks()):
            job, claim = held.pop(start)
            with claim:
                yield max(_store(job, part) for part in measured)
    finally:
        for _, claim in held.values():
            claim.close()


def _work_remote(
    shared: _Job, device: str, start: int, genes: Genes, gaps: list[tuple[int, int]]
) -> tuple[int, list[_Measured]]:
    """What a worker of a cluster does with a chunk: all but write it."""
    torch.set_num_threads(1)
    job = replace(shared, start=start, genes=genes, device=find_device(device))
    return start, [_evaluate(job, *gap) for gap in gaps]


def _work_alone(job: _Job) -> float | None:
    """A worker process has one core to itself."""
    torch.set_num_threads(1)
    return _work(job)


def _check_folder(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Refuse to mix: everything already there must have been made the same way."""
    for path in part_files(folder):
        made = part_metadata(path)
        theirs = {"task": "classification", "drawn": False, "plan": 1, "corrected": False} | {
            key: made[key] for key in metadata if key in made
        }
        mine = json.loads(json.dumps(metadata))
        if theirs != mine:
            raise SamplesError(
                f"{folder} already holds samples made differently; use another --out folder, "
                f"or the same options:\n{side_by_side(mine, theirs, ('this command', path.name))}"
            )


def _work(job: _Job) -> float | None:
    """Evaluate what is missing of one chunk; None if another process has it or it is done."""
    with _claim(job) as own:
        if not own:
            return None
        return max((_store(job, _evaluate(job, *gap)) for gap in _missing(job)), default=None)


def _missing(job: _Job) -> list[tuple[int, int]]:
    """Rows of a chunk that no part holds: the first and the one after the last of each run."""
    have = covered(job.folder, job.start + len(job.genes))[job.start :]
    edges = np.flatnonzero(np.diff(have, prepend=True, append=True)).reshape(-1, 2)
    return [(int(first), int(last)) for first, last in edges]


@contextlib.contextmanager
def _claim(job: _Job) -> Iterator[bool]:
    """Whether this chunk is this process's until the context ends. No two processes hold places in
    common, however long their chunks are; a claim dies with its process."""
    locks, stop = job.folder / ".locks", job.start + len(job.genes)
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SamplesError(f"cannot write to {job.folder}: {error.strerror or error}") from error
    own = FileLock(locks / f"{job.start:06d}-{stop:06d}.lock")
    with FileLock(locks / "claims.lock"):
        free = not any(
            start < stop and job.start < end and _held(path) for path, start, end in _claims(locks)
        )
        if free:
            own.acquire()
    try:
        yield free
    finally:
        if free:
            own.release()


def _claims(locks: Path) -> Iterator[tuple[Path, int, int]]:
    """Files of claims, held or not, and their places."""
    for path in locks.glob("*-*.lock"):
        start, _, stop = path.stem.partition("-")
        if start.isdecimal() and stop.isdecimal():
            yield path, int(start), int(stop)


def _held(path: Path) -> bool:
    """Whether some process holds this lock."""
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _references(supernet: SupernetFile, data: EvalImages, corrected: bool) -> NDArray[np.float64]:
    """Share of a few random subnets that get each image right, and their mean loss, ``(2, n)``."""
    space = supernet.network.space
    keep_memory()
    total = np.zeros((2, len(data.labels)))
    rows = plan(space, min(REFERENCES, architectures(space)), 0, quantized=False)
    cut = _cut(supernet, data, corrected)
    for row in rows:
        subnet = cut(space.build(row))
        total += torch.stack(answers_alone(subnet, data.at(subnet.graph.size))).numpy()
    return total / len(rows)


def _images(job: _Job, group: int) -> EvalImages:
    """What the samples of a group are measured on."""
    count, drawn = job.metadata["validation_images"], None
    if job.known is not None:
        drawn = draw(job.known[0], job.known[1], count, np.random.default_rng([job.seed, group]))
    data = EvalImages.at_places(
        job.task, "validation", job.metadata["calibration_images"],
        drawn.index if drawn else np.arange(count), (job.supernet.mean, job.supernet.std),
        job.device,
    )  # fmt: skip
    if not drawn:
        return data
    return replace(data, weights=torch.from_numpy(drawn.weights), shift=drawn.shift)


@dataclass(frozen=True)
class _Measured:
    """What came out for a chunk's rows ``first`` to before ``last``: columns of the part that is to
    hold them, and what it cost."""

    first: int
    last: int
    columns: dict[str, list[Any]]
    cost: dict[str, Any]


def _evaluate(job: _Job, first: int, last: int) -> _Measured:
    """Measure the chunk's rows ``first`` to before ``last``."""
    watch = Stopwatch(device=describe(job.device))
    rows = job.genes[first:last]
    keep_memory()
    places = np.arange(job.start + first, job.start + last)
    groups = places // SAME_IMAGES if job.known is not None else np.zeros_like(places)
    scores = np.empty((len(rows), 3))
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        scores[own] = _measure(job, rows[own], places[own], _images(job, int(group)))
    measured: dict[str, list[Any]] = {
        "accuracy": scores[:, 0].tolist(),
        "loss": scores[:, 1].tolist(),
        "scheme": [job.quantization.scheme if job.quantization else None] * len(rows),
        "finetune_steps": [job.quantization.finetune_steps if job.quantization else 0] * len(rows),
        "images": [job.metadata["validation_images"]] * len(rows),
        "seed": [job.seed] * len(rows),
        "seconds": scores[:, 2].round(4).tolist(),
    }
    return _Measured(first, last, measured, watch.cost())


def _store(job: _Job, made: _Measured) -> float:
    """Write what was measured of a chunk as one part; returns the best accuracy."""
    start, stop = job.start + made.first, job.start + made.last
    path = job.folder / f"part-{start:06d}-{stop:06d}.parquet"
    space, rows = job.supernet.network.space, job.genes[made.first : made.last]
    about = job.metadata | {"cost": made.cost}
    write_part(path, space, rows, made.columns, job.metadata["precision"], about)
    return float(max(made.columns["accuracy"]))


def _measure(
    job: _Job, rows: Genes, places: NDArray[np.int64], data: EvalImages
) -> NDArray[np.float64]:
    """Accuracy, loss and seconds of candidates at these places of the plan, ``(len(rows), 3)``."""
    space = job.supernet.network.space
    scores = np.empty((len(rows), 3))
    candidates = [space.build(row) for row in rows]
    graphs = [space.graph_of(candidate) for candidate in candidates]
    beginnings = [(both(graph.size), choices(graph)) for graph in graphs]
    order = sorted(range(len(rows)), key=beginnings.__getitem__)  # equal ones come together
    upcoming = [*(beginnings[index] for index in order[1:]), ((0, 0), ())]
    size, here, shared = (0, 0), data, SharedStart(data)
    cut = _cut(job.supernet, data, job.corrected)
    for index, (next_size, following) in zip(order, upcoming, strict=True):
        began = time.perf_counter()
        candidate = candidates[index]
        subnet = cut(candidate)
        if size != beginnings[index][0]:
            size = beginnings[index][0]
            here = data.at(size)
            shared = SharedStart(here)
        if job.quantization is None and job.corrected:
            score, loss = estimate(fast(fold(subnet), subnet), here)
        elif job.quantization is None:
            score, loss = shared.measure(subnet, following if next_size == size else ())
        else:
            place = int(places[index])
            seed = int(np.random.SeedSequence([job.seed, place]).generate_state(1)[0])
            score, loss = measure_quantized(
                subnet, here, job.task,
                (job.supernet.mean, job.supernet.std), job.quantization, seed,
            )  # fmt: skip
        require_converged(loss, f"candidate {candidate} of the supernet")
        scores[index] = score, loss, time.perf_counter() - began
    return scores


def _cut(
    supernet: SupernetFile, data: EvalImages, corrected: bool
) -> Callable[[Candidate], Subnet]:
    """From a candidate to its subnet, as it is or corrected."""
    if not corrected:
        return supernet.network.subnet
    return Corrector(supernet.network, data.calibration).subnet


RANGE_IMAGES = 128
"""Calibration images that quantizer ranges are fitted to."""
FIRST_IMAGES = 250
"""Calibration images for batch norm before the ranges are fitted; after the fine-tune, all are."""


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
