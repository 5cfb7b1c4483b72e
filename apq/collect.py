"""Collect samples: space x supernet (x scheme) -> a folder of Parquet parts.

Which candidates is :mod:`apq.plan`'s matter. How sample i is measured is decided by seed and index
alone, so any number of processes may be interrupted and go on.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apq.accuracy import Measurement, Quantization, references
from apq.claims import claim, missing
from apq.cluster import connected, spread_on
from apq.cost import Stopwatch
from apq.errors import SamplesError, side_by_side
from apq.images import ImageSet
from apq.plan import VERSION, covered, planned
from apq.samples import part_files, part_metadata, write_part
from apq.space import Genes
from apq.supernet.evaluate import EvalImages
from apq.supernet.files import SupernetFile
from apq.supernet.task import Task, task_of
from apq.training import OnProgress, describe, find_device
from apq.workers import spread


@dataclass(frozen=True)
class _Chunk:
    """Consecutive places of a plan, all that a worker needs: passed once per chunk, arrays
    memory-mapped between processes."""

    folder: Path
    how: Measurement
    genes: Genes
    start: int
    metadata: dict[str, Any]

    @property
    def stop(self) -> int:
        return self.start + len(self.genes)


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
    how = Measurement(
        supernet, _needed(task, quantization), quantization, corrected, seed, where,
        min(validation_images or there, there),
        min(calibration_images, len(task.images.splits["calibration"][1])),
    )  # fmt: skip
    metadata = _about(how, task, drawn=how.validation_images < there)
    _check_folder(folder, metadata)
    size = chunk or (100 if not quantization else 20 if corrected else 5)
    present = int(covered(folder, count).sum())
    tell = _Telling(count, present, on_progress)
    if present < count and how.validation_images < there:
        every = EvalImages.of(
            task, supernet.mean, supernet.std, calibration=calibration_images, device=where
        )
        how = replace(how, known=references(supernet, every, corrected))
    with connected(dask if present < count else None) as client:
        while len(gaps := np.flatnonzero(~covered(folder, count))):
            starts = sorted({int(i) // size * size for i in gaps})
            todo = [_Chunk(folder, how, genes[s : s + size], s, metadata) for s in starts]
            worked = 0
            for best in _run(todo, workers, client, device):
                worked += best is not None
                tell(int(covered(folder, count).sum()), best)
            if not (worked or covered(folder, count).all()):
                time.sleep(0.5)  # the rest is being worked on by another process
    tell.end()
    return present


class _Telling:
    """Progress of a collection."""

    def __init__(self, count: int, done: int, on_progress: OnProgress | None) -> None:
        self.count, self.before, self.on_progress = count, done, on_progress
        self.best, self.began = 0.0, time.monotonic()
        if on_progress is not None:
            on_progress(done, count, {})

    def __call__(self, done: int, best: float | None) -> None:
        """After a chunk: samples done, and its best accuracy if it was measured here."""
        self.best = max(self.best, best or 0.0)
        if self.on_progress is not None:
            minutes = max(time.monotonic() - self.began, 1e-9) / 60
            figures = {"best_acc": self.best, "per_min": (done - self.before) / minutes}
            self.on_progress(done, self.count, figures)

    def end(self) -> None:
        """When all are there."""
        if self.on_progress is not None:
            self.on_progress(self.count, self.count, {"best_acc": self.best})


def _about(how: Measurement, task: Task, drawn: bool) -> dict[str, Any]:
    """What parts say of how they were measured."""
    return {
        "supernet": how.supernet.hash,
        "task": task.name,
        "images": task.images.digest(),
        "image_set": task.images.name,
        "split": "validation",
        "validation_images": how.validation_images,
        "drawn": drawn,
        "calibration_images": how.calibration_images,
        "seed": how.seed,
        "plan": VERSION if how.quantization else 1,
        "fingerprint": how.supernet.network.space.fingerprint,
        "precision": "quantized" if how.quantization else "fp32",
        "quantization": vars(how.quantization) if how.quantization else None,
        "corrected": how.corrected,
    }


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


def _needed(task: Task, quantization: Quantization | None) -> Task:
    """A task with no more of its examples than worker processes need."""
    names = ("calibration", "validation", *(("train",) if quantization else ()))
    splits = {name: task.images.splits[name] for name in names}
    return replace(task, examples=replace(task.images, splits=splits))


def _run(todo: list[_Chunk], workers: int, client: Any, device: str) -> Iterator[float | None]:
    if client is not None:
        yield from _run_on(client, todo, device)
    elif workers <= 1 or len(todo) <= 1:
        yield from map(_work, todo)
    else:
        yield from spread(_work_alone, ((job,) for job in todo), workers)


def _run_on(client: Any, todo: list[_Chunk], device: str) -> Iterator[float]:
    """Have chunks measured by a cluster, and write what comes back. Chunks are claimed for it as
    for this process."""
    held: dict[int, tuple[_Chunk, contextlib.ExitStack]] = {}

    def chunks() -> Iterator[tuple[str, int, Genes, list[tuple[int, int]]]]:
        for job in todo:
            place, own = (job.folder, job.start, job.stop), contextlib.ExitStack()
            gaps = missing(*place) if own.enter_context(claim(*place)) else []
            if gaps:
                held[job.start] = job, own
                yield device, job.start, job.genes, gaps
            else:
                own.close()

    try:
        shared = replace(todo[0], genes=todo[0].genes[:0])
        for start, measured in spread_on(client, _work_remote, shared, chunks()):
            job, own = held.pop(start)
            with own:
                yield max(_store(job, part) for part in measured)
    finally:
        for _, own in held.values():
            own.close()


def _work_remote(
    shared: _Chunk, device: str, start: int, genes: Genes, gaps: list[tuple[int, int]]
) -> tuple[int, list[_Measured]]:
    """What a worker of a cluster does with a chunk: all but write it."""
    torch.set_num_threads(1)
    how = replace(shared.how, device=find_device(device))
    job = replace(shared, start=start, genes=genes, how=how)
    return start, [_evaluate(job, *gap) for gap in gaps]


def _work_alone(job: _Chunk) -> float | None:
    """A worker process has one core to itself."""
    torch.set_num_threads(1)
    return _work(job)


def _work(job: _Chunk) -> float | None:
    """Evaluate what is missing of one chunk; None if another process has it or it is done."""
    place = job.folder, job.start, job.stop
    with claim(*place) as own:
        gaps = missing(*place) if own else []
        return max((_store(job, _evaluate(job, *gap)) for gap in gaps), default=None)


@dataclass(frozen=True)
class _Measured:
    """What came out for the places ``first`` to before ``last``: columns of the part that is to
    hold them, and what it cost."""

    first: int
    last: int
    columns: dict[str, list[Any]]
    cost: dict[str, Any]


def _evaluate(job: _Chunk, first: int, last: int) -> _Measured:
    """Measure the candidates at places ``first`` to before ``last``."""
    how, count = job.how, last - first
    watch = Stopwatch(device=describe(how.device))
    rows = job.genes[first - job.start : last - job.start]
    scores = how.scores(rows, np.arange(first, last))
    measured: dict[str, list[Any]] = {
        "accuracy": scores[:, 0].tolist(),
        "loss": scores[:, 1].tolist(),
        "scheme": [how.quantization.scheme if how.quantization else None] * count,
        "finetune_steps": [how.quantization.finetune_steps if how.quantization else 0] * count,
        "images": [how.validation_images] * count,
        "seed": [how.seed] * count,
        "seconds": scores[:, 2].round(4).tolist(),
    }
    return _Measured(first, last, measured, watch.cost())


def _store(job: _Chunk, made: _Measured) -> float:
    """Write what was measured of a chunk as one part; returns the best accuracy."""
    path = job.folder / f"part-{made.first:06d}-{made.last:06d}.parquet"
    space, rows = job.how.supernet.network.space, job.genes[made.first - job.start :]
    rows, about = rows[: made.last - made.first], job.metadata | {"cost": made.cost}
    write_part(path, space, rows, made.columns, job.metadata["precision"], about)
    return float(max(made.columns["accuracy"]))
