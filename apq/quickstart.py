"""The whole chain on scikit-learn's digits, real at every step, in a few minutes on a laptop."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from apq.accuracy import Quantization
from apq.collect import collect
from apq.cost import Stopwatch
from apq.deploy.finetune import FinetuneRecipe, finetune_candidate
from apq.hardware import load_cost_model
from apq.hardware.lut import LookupTable, build_table
from apq.hardware.pricing import PricedSpace, price_space
from apq.images import ImageSet, load_images
from apq.predictor import Predictor, load_predictor, train_predictor
from apq.samples import read_samples
from apq.search.problem import Problem
from apq.search.run import run_search
from apq.search.search import Result, search
from apq.space import Candidate, Space, load_space
from apq.supernet import SupernetFile, largest, load_supernet
from apq.supernet.evaluate import EvalImages, measure
from apq.supernet.training import Recipe, train_supernet
from apq.training import OnProgress

OnStage = Callable[[str], OnProgress]
"""Called at the beginning of every stage with its name; returns where its progress goes."""

DEVICE = "bitfusion-apq"
SUPERNET = Recipe(epochs=40, batch=64)
FP32_SAMPLES, QUANTIZED_SAMPLES = 300, 80
CANDIDATES = 10_000
QUANTIZATION = Quantization(finetune_steps=20, batch=64, lr=0.02)  # small networks learn fast
FINETUNE = FinetuneRecipe(epochs=15, batch=64, lr=0.02)


@dataclass(frozen=True)
class Row:
    """One network of the closing table; accuracies as fractions.

    Attributes:
        name: What it is.
        candidate: The network.
        predicted, spread: What the predictor says of it after quantization and a short fine-tune.
        validation: Measured after the final fine-tune, on the images that chose the epoch.
        test: Measured once, on images nothing else has seen.
        latency_ms, energy_mj, size_kb: From the table and the bits.
        model: The file it was written to.
    """

    name: str
    candidate: Candidate
    predicted: float
    spread: float
    validation: float
    test: float
    latency_ms: float
    energy_mj: float
    size_kb: float
    model: Path


@dataclass(frozen=True)
class Quickstart:
    """What the quickstart made and measured.

    Attributes:
        folder: Where everything lies.
        budget_ms: The latency limit of the search.
        rows: The searched network, then the baselines.
        supernet_test: Test accuracy of the supernet's largest subnet in fp32, untuned.
        test_images: How many images the test accuracies are over.
        predictor: The predictor; its report holds the held-out comparison.
        result: The search.
    """

    folder: Path
    budget_ms: float
    rows: tuple[Row, ...]
    supernet_test: float
    test_images: int
    predictor: Predictor
    result: Result


def quickstart(
    folder: Path,
    seed: int = 0,
    latency_ms: float | None = None,
    on_stage: OnStage | None = None,
) -> Quickstart:
    """Train, collect, transfer, price, search, fine-tune and test on 8x8 digits.

    Stages that are done already are kept, so an interrupted run continues; another seed needs
    another folder.

    Args:
        folder: Where to put the supernet, samples, predictor, table, run and models.
        seed: Of every stage.
        latency_ms: Budget; default a quarter of what the largest network takes at 8 bits.
        on_stage: Receives the name of every stage, gives back where its progress goes.

    Raises:
        BudgetError: ``latency_ms`` cannot be reached.
        ApqError: the folder holds the work of another seed.
    """
    tell = on_stage or (lambda _: lambda *_: None)
    torch.set_num_threads(1)  # on 8x8 images threads wait for each other longer than they work
    space = load_space("digits")
    images = load_images("digits", space.resolution, space.in_channels, space.classes)
    workers = min(4, os.cpu_count() or 1)

    supernet = _supernet(space, images, folder / "supernet.safetensors", seed, tell)
    report = tell(f"collect {FP32_SAMPLES} fp32 samples")
    collect(supernet, images, folder / "fp32", FP32_SAMPLES, seed=seed, on_progress=report)
    report = tell(f"collect {QUANTIZED_SAMPLES} quantized samples")
    collect(
        supernet, images, folder / "quantized", QUANTIZED_SAMPLES, QUANTIZATION, seed,
        workers=workers, on_progress=report,
    )  # fmt: skip
    predictor = _predictor(folder, seed, tell)
    priced = _price(space, folder / f"{DEVICE}.csv", tell)

    biggest = space.genes([largest(space)])
    top = float(priced.costs(biggest, ["latency_ms"])["latency_ms"][0])
    budget = top / 4 if latency_ms is None else latency_ms
    problem = Problem(
        priced, predictor.predict, ("accuracy", "latency_ms"), {"latency_ms": budget},
        made_from={"supernet": supernet.hash, "images": images.digest(), "image_set": images.name},
    )  # fmt: skip
    result = run_search(
        folder, problem, candidates=CANDIDATES, seed=seed, on_progress=tell("search, all jointly")
    )
    winner = result.front.genes[[result.chosen]]

    at_8_bits = ("bits=8",)
    plain = Problem(priced, predictor.predict, problem.objectives, problem.limits, at_8_bits)
    baseline = search(plain, candidates=CANDIDATES, seed=seed, on_progress=tell("search at 8 bits"))
    networks = {
        "apq, joint": winner,
        "8 bits, same budget": baseline.front.genes[[baseline.chosen]],
        "8 bits, largest": biggest,
    }
    rows = tuple(
        _row(name, genes, problem, supernet, images, folder / "models", seed, tell)
        for name, genes in networks.items()
    )
    test = EvalImages.of(images, supernet.mean, supernet.std, "test")
    supernet_test = measure(supernet.network.subnet(largest(space)), test)[0]
    return Quickstart(folder, budget, rows, supernet_test, len(test.labels), predictor, result)


def _supernet(space: Space, images: ImageSet, path: Path, seed: int, tell: OnStage) -> SupernetFile:
    report = tell(f"train the supernet ({SUPERNET.epochs:g} epochs)")
    if not path.exists():
        recipe = Recipe(epochs=SUPERNET.epochs, batch=SUPERNET.batch, seed=seed)
        train_supernet(space, images, path, recipe, on_progress=report)
    return load_supernet(path, space)


def _predictor(folder: Path, seed: int, tell: OnStage) -> Predictor:
    report = tell("train the predictor, transfer it")
    fp32, quantized = read_samples(folder / "fp32"), read_samples(folder / "quantized")
    path = folder / "predictor.safetensors"
    if not path.exists():
        watch = Stopwatch()
        made = train_predictor(fp32, quantized, seed=seed, on_progress=report)
        made.save(path, watch.cost())
    return load_predictor(path, fp32.space)


def _price(space: Space, path: Path, tell: OnStage) -> PricedSpace:
    report = tell(f"price every layer on {DEVICE}")
    if not path.exists():
        build_table(space, load_cost_model(DEVICE), "apq quickstart").write(path)
    priced = price_space(space, LookupTable.read(path))
    report(1, 1, {})
    return priced


def _row(
    name: str,
    genes: np.ndarray[tuple[int, ...], np.dtype[np.int16]],
    problem: Problem,
    supernet: SupernetFile,
    images: ImageSet,
    folder: Path,
    seed: int,
    tell: OnStage,
) -> Row:
    """Fine-tune a network and set prediction, measurement and cost side by side."""
    space = problem.priced.space
    candidate = space.build(genes[0])
    mean, spread = problem.accuracy(genes)
    costs = problem.priced.costs(genes)
    path = folder / f"{name.replace(',', '').replace(' ', '-')}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    recipe = replace(FINETUNE, seed=seed)
    _, tuned = finetune_candidate(
        candidate, supernet, images, path, recipe, on_progress=tell(f"fine-tune: {name}")
    )
    return Row(
        name, candidate, float(mean[0]), float(spread[0]), tuned.after, tuned.test,
        float(costs["latency_ms"][0]), float(costs["energy_mj"][0]),
        1000 * float(costs["size_mb"][0]), path,
    )  # fmt: skip
