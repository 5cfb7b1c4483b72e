"""Collect samples: space x supernet (x scheme) -> a folder of Parquet parts.

What is evaluated is decided by seed and index alone: sample i is the same candidate however often
collection is interrupted, whoever does it, and whatever count is asked for.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from apq.errors import SamplesError, side_by_side
from apq.files import whole
from apq.images import ImageSet
from apq.quantize import finetune, quantize_subnet
from apq.runtime.session import fast
from apq.runtime.shared import SharedStart, choices
from apq.samples import part_files, part_metadata, write_part
from apq.space import BIT_ATTRIBUTES, Candidate, Genes, Space
from apq.supernet.evaluate import EvalImages, accuracy, normalise, recalibrate, to_tensor
from apq.supernet.memory import keep_memory
from apq.supernet.network import Subnet, SupernetFile

OnProgress = Callable[[int, int, Mapping[str, float]], None]

_SMALL = 20_000  # spaces up to this size are listed and shuffled instead of sampled
POLICIES = 10  # bit policies per architecture in the grouped half (APQ section 4.1)


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
    """

    scheme: str = "uniform"
    finetune_steps: int = 40
    batch: int = 64
    lr: float = 0.005


def plan(space: Space, count: int, seed: int, quantized: bool) -> Genes:
    """The first ``count`` candidates to evaluate, all different, shape ``(count, len(axes))``.

    fp32: architectures uniform at random (bits at their highest; they are not used). Quantized:
    the paper's mix, in blocks of twenty: ten candidates with architecture and bits both random,
    then one architecture with ten bit policies. A longer plan starts with the shorter one.

    Raises:
        SamplesError: the space holds fewer candidates than asked for.
    """
    total = space.count() if quantized else _architectures(space)
    if count > total:
        kind = "candidates" if quantized else "architectures"
        raise SamplesError(
            f"space {space.name!r} has only {total:,} different {kind}, "
            f"--count {count:,} is too many"
        )
    seen: set[bytes] = set()
    rows: list[NDArray[np.int16]] = []
    for batch in _stream(space, seed, quantized, total):
        for row in batch:
            key = row.tobytes()
            if key not in seen:
                seen.add(key)
                rows.append(row)
                if len(rows) == count:
                    return np.stack(rows)
    raise AssertionError("the stream of candidates is endless")  # pragma: no cover


def planned(folder: Path, space: Space, count: int, seed: int, quantized: bool) -> Genes:
    """The first ``count`` candidates of a folder: its :func:`plan`, with what was asked for
    (:func:`ask`) in its place and not repeated; shape ``(count, len(axes))``."""
    asked = _asked(folder)
    if not asked:
        return plan(space, count, seed, quantized)
    rows = {start + i: row for (start, _), genes in asked.items() for i, row in enumerate(genes)}
    taken = {row.tobytes() for row in rows.values()}
    own = plan(space, min(count + len(rows), space.count()), seed, quantized)
    free = iter([row for row in own if row.tobytes() not in taken])
    try:
        return np.stack([rows[i] if i in rows else next(free) for i in range(count)])
    except StopIteration:
        raise SamplesError(
            f"space {space.name!r} has too few candidates for --count {count:,}"
        ) from None


def ask(
    folder: Path,
    space: Space,
    seed: int,
    choose: Callable[[Genes], Genes],
    about: Mapping[str, str],
) -> tuple[int, int]:
    """Append chosen candidates to what a folder of quantized samples will hold.

    What was asked for before and is not measured yet is kept instead of choosing anew, so that an
    interrupted run continues.

    Args:
        folder: The samples.
        space: Their space.
        seed: The folder's.
        choose: From all candidates of the folder so far, ``(k, axes)``, to those to append.
        about: Written beside them: what made the choice.

    Returns:
        First and one past the last of their places; ``collect`` with that count measures them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".asking.lock"):
        asked = _asked(folder)
        for start, stop in sorted(asked):
            if not covered(folder, stop)[start:].all():
                return start, stop
        stops = [int(path.stem.split("-")[2]) for path in part_files(folder)]
        start = max([0, *stops])
        known = planned(folder, space, start, seed, True) if start else _none(space)
        genes = choose(known)
        stop = start + len(genes)
        text = json.dumps(
            {"fingerprint": space.fingerprint, **about, "genes": genes.tolist()}, sort_keys=True
        )
        with whole(folder / f".asked-{start:06d}-{stop:06d}.json") as path:
            path.write_text(text, encoding="utf-8")
    return start, stop


def _none(space: Space) -> Genes:
    return np.zeros((0, len(space.axes)), dtype=np.int16)


def _asked(folder: Path) -> dict[tuple[int, int], Genes]:
    """What was asked for, by place."""
    found = {}
    for path in folder.glob(".asked-*-*.json"):
        _, start, stop = path.stem.rsplit("-", 2)
        try:
            genes = json.loads(path.read_text(encoding="utf-8"))["genes"]
        except (OSError, ValueError, KeyError) as error:
            raise SamplesError(
                f"{path} is damaged ({error}). Delete it and ask again: samples stay."
            ) from error
        found[int(start), int(stop)] = np.array(genes, dtype=np.int16)
    return found


def _bit_columns(space: Space) -> NDArray[np.bool_]:
    return np.array([axis.attribute in BIT_ATTRIBUTES for axis in space.axes])


def _stream(space: Space, seed: int, quantized: bool, total: int) -> Iterator[Genes]:
    """Batches of candidates, decided by the seed; repeats occur."""
    bits = _bit_columns(space)
    top = (space.cardinalities - 1).astype(np.int16)
    if total <= _SMALL and space.count() <= _SMALL:
        genes = space.every_candidate()
        if not quantized:
            genes = np.unique(space.canonical(np.where(bits, top, genes)), axis=0)
        yield genes[np.random.default_rng([seed, 0]).permutation(len(genes))]
        return
    for index in itertools.count():
        rng = np.random.default_rng([seed, index])
        if not quantized:
            yield space.canonical(np.where(bits, top, space.sample(64, rng)))
            continue
        loose = space.sample(POLICIES, rng)
        architecture = np.repeat(space.sample(1, rng), POLICIES, axis=0)
        policies = (rng.random(architecture.shape) * space.cardinalities).astype(np.int16)
        grouped = space.repair(np.where(bits, policies, architecture))
        # a rule may tie bits to an architecture gene: the architecture of the group must stay
        kept = np.all(grouped[:, ~bits] == architecture[:, ~bits], axis=1)
        yield np.concatenate([loose, space.canonical(grouped[kept])])


def _architectures(space: Space) -> int:
    """Different architectures, exclusions aside."""
    total = 1
    for s, stage in enumerate(space.stages):
        sizes = [len(x.choices[0]) * len(x.choices[1]) for x in space.slots if x.stage == s]
        total *= sum(int(np.prod(sizes[:depth], dtype=object)) for depth in stage.depth)
    return total


@dataclass(frozen=True)
class _Job:
    """All a worker needs: passed once per chunk, arrays memory-mapped between processes."""

    folder: Path
    supernet: SupernetFile
    genes: Genes
    start: int
    seed: int
    quantization: Quantization | None
    calibration: NDArray[np.uint8]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    train: tuple[NDArray[np.uint8], NDArray[np.int64]] | None
    flip: bool
    metadata: dict[str, Any]


def collect(
    supernet: SupernetFile,
    images: ImageSet,
    folder: Path,
    count: int,
    quantization: Quantization | None = None,
    seed: int = 0,
    validation_images: int | None = None,
    calibration_images: int = 1000,
    chunk: int | None = None,
    jobs: int = 1,
    on_progress: OnProgress | None = None,
) -> int:
    """Bring a folder to ``count`` samples.

    Chunks of the plan are locked while they are worked on (a lock dies with its process), so any
    number of processes may fill one folder, and killing one loses at most the chunks in work.

    Args:
        supernet: Trained supernet; its space is the space of the samples.
        images: Image set; accuracy is measured on ``validation``, ranges and batch-norm statistics
            come from ``calibration``, fine-tuning uses ``train``.
        folder: Where the parts are, or will be.
        count: Samples the folder should hold in the end.
        quantization: None for fp32 samples.
        seed: Decides the candidates. A folder has one seed.
        validation_images: Measure on only the first so many validation images.
        calibration_images: Calibration images to use.
        chunk: Samples per part file (default 100, or 5 when quantized).
        jobs: Worker processes.
        on_progress: Called after every chunk with samples done, count, and figures.

    Returns:
        Number of samples in the folder that were already there when the call began.

    Raises:
        SamplesError: the folder holds samples of another kind, seed, supernet or image set, a part
            is damaged, the plan is longer than the space, or the disk is full.
    """
    space = supernet.network.space
    if count < 1:
        raise SamplesError(f"--count {count} must be at least 1")
    genes = planned(folder, space, count, seed, quantization is not None)
    limit = validation_images or len(images.splits["validation"][1])
    pixels, labels = images.splits["validation"]
    pixels, labels = pixels[:limit], labels[:limit]
    calibration = images.splits["calibration"][0][:calibration_images]
    train = images.splits["train"] if quantization else None
    metadata: dict[str, Any] = {
        "supernet": supernet.hash,
        "images": images.digest(),
        "image_set": images.name,
        "split": "validation",
        "validation_images": len(labels),
        "calibration_images": len(calibration),
        "seed": seed,
        "precision": "quantized" if quantization else "fp32",
        "quantization": vars(quantization) if quantization else None,
    }
    _check_folder(folder, metadata)
    size = chunk or (5 if quantization else 100)
    present = int(covered(folder, count).sum())
    done, before, began = present, present, time.monotonic()
    if on_progress is not None:
        on_progress(done, count, {})
    best = 0.0
    while done < count:
        missing = np.flatnonzero(~covered(folder, count))
        starts = sorted({int(i) // size * size for i in missing})
        todo = [
            _Job(
                folder, supernet, genes[s : s + size], s, seed, quantization,
                calibration, pixels, labels, train, images.flip, metadata,
            )
            for s in starts
        ]  # fmt: skip
        worked = 0
        for top in _run(todo, jobs):
            worked += top is not None
            best = max(best, top or 0.0)
            done = int(covered(folder, count).sum())
            if on_progress is not None:
                minutes = max(time.monotonic() - began, 1e-9) / 60
                on_progress(done, count, {"best_acc": best, "per_min": (done - before) / minutes})
        done = int(covered(folder, count).sum())
        if done < count and not worked:
            time.sleep(0.5)  # the rest is being worked on by another process
    if on_progress is not None:
        on_progress(done, count, {"best_acc": best})
    return present


def _run(jobs_todo: list[_Job], jobs: int) -> Iterator[float | None]:
    if jobs <= 1 or len(jobs_todo) <= 1:
        yield from map(_work, jobs_todo)
        return
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", max_nbytes="1M")
    yield from parallel(delayed(_work_alone)(job) for job in jobs_todo)


def _work_alone(job: _Job) -> float | None:
    """A worker process has one core to itself."""
    torch.set_num_threads(1)
    return _work(job)


def covered(folder: Path, count: int) -> NDArray[np.bool_]:
    """Which samples of the plan a folder holds, from the names of its parts; shape ``(count,)``.

    Raises:
        SamplesError: a part does not follow the naming of apq collect.
    """
    have = np.zeros(count, dtype=bool)
    for path in part_files(folder):
        try:
            _, start, stop = path.stem.split("-")
            have[int(start) : int(stop)] = True
        except ValueError:
            raise SamplesError(
                f"{path} was not written by apq collect (its parts are named part-START-STOP). "
                "Use another --out folder."
            ) from None
    return have


def _check_folder(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Refuse to mix: everything already there must have been made the same way."""
    for path in part_files(folder):
        made = part_metadata(path)
        theirs = {key: made.get(key) for key in metadata}
        mine = json.loads(json.dumps(metadata))
        if theirs != mine:
            raise SamplesError(
                f"{folder} already holds samples made differently; use another --out folder, "
                f"or the same options:\n{side_by_side(mine, theirs, ('this command', path.name))}"
            )


def _work(job: _Job) -> float | None:
    """Evaluate one chunk and write its part; None if another process has it or it is done."""
    with contextlib.suppress(Timeout), _chunk_lock(job):
        stop = job.start + len(job.genes)
        have = covered(job.folder, stop)[job.start :]
        if have.all():
            return None
        first = int(np.argmin(have))  # a shorter part may cover the chunk's beginning
        return _evaluate(job, first)
    return None


@contextlib.contextmanager
def _chunk_lock(job: _Job) -> Iterator[None]:
    locks = job.folder / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SamplesError(f"cannot write to {job.folder}: {error.strerror or error}") from error
    with FileLock(locks / f"{job.start:06d}.lock", timeout=0):
        yield


def _evaluate(job: _Job, first: int) -> float:
    mean, std = job.supernet.mean, job.supernet.std
    data = EvalImages(
        normalise(to_tensor(job.calibration), mean, std),
        normalise(to_tensor(job.images), mean, std),
        torch.from_numpy(np.ascontiguousarray(job.labels)),
    )
    space = job.supernet.network.space
    rows = job.genes[first:]
    keep_memory()
    shared = SharedStart(data)
    scores = np.empty((len(rows), 3))
    candidates = [space.build(row) for row in rows]
    blocks = [choices(candidate) for candidate in candidates]
    order = sorted(range(len(rows)), key=blocks.__getitem__)  # equal beginnings come together
    upcoming = [*(blocks[index] for index in order[1:]), ()]
    for index, following in zip(order, upcoming, strict=True):
        began = time.perf_counter()
        candidate = candidates[index]
        subnet = job.supernet.network.subnet(candidate)
        if job.quantization is None:
            score, loss = shared.measure(subnet, blocks[index], following)
        else:
            assert job.train is not None
            number = job.start + first + index
            seed = int(np.random.SeedSequence([job.seed, number]).generate_state(1)[0])
            score, loss = measure_quantized(
                subnet, candidate, space.fixed_layer_bits, data, job.train, job.flip, (mean, std),
                job.quantization, seed,
            )  # fmt: skip
        scores[index] = score, loss, time.perf_counter() - began
    measured: dict[str, list[Any]] = {
        "accuracy": scores[:, 0].tolist(),
        "loss": scores[:, 1].tolist(),
        "scheme": [job.quantization.scheme if job.quantization else None] * len(rows),
        "finetune_steps": [job.quantization.finetune_steps if job.quantization else 0] * len(rows),
        "images": [len(job.labels)] * len(rows),
        "seed": [job.seed] * len(rows),
        "seconds": scores[:, 2].round(4).tolist(),
    }
    start, stop = job.start + first, job.start + len(job.genes)
    path = job.folder / f"part-{start:06d}-{stop:06d}.parquet"
    write_part(path, space, rows, measured, job.metadata["precision"], job.metadata)
    return float(max(measured["accuracy"]))


RANGE_IMAGES = 128
"""Calibration images that quantizer ranges are fitted to."""
FIRST_IMAGES = 250
"""Calibration images for batch norm before the ranges are fitted; after the fine-tune, all are."""


def measure_quantized(
    subnet: Subnet,
    candidate: Candidate,
    fixed_bits: tuple[int, int],
    data: EvalImages,
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    flip: bool,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    how: Quantization,
    seed: int,
) -> tuple[float, float]:
    """Accuracy and loss of a candidate after quantization and a short fine-tune.

    Batch norm is recalibrated before the ranges are fitted and again after the fine-tune.
    """
    recalibrate(subnet, data.calibration[:FIRST_IMAGES])
    model = quantize_subnet(
        subnet, candidate, fixed_bits, data.calibration[:RANGE_IMAGES], how.scheme
    )
    if how.finetune_steps:
        rng = np.random.default_rng(seed)
        pick = np.sort(rng.permutation(len(train[1]))[: how.finetune_steps * how.batch])
        mean, std = normalisation
        finetune(
            model, to_tensor(train[0][pick]), torch.from_numpy(train[1][pick]), mean=mean, std=std,
            steps=how.finetune_steps, batch=how.batch, lr=how.lr, seed=seed, flip=flip,
        )  # fmt: skip
    recalibrate(model, data.calibration)
    return accuracy(fast(model.integer(), model), data.images, data.labels)
