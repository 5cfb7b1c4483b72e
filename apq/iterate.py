"""Search, measure what the search likes, learn from it, and search again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apq.accuracy import Quantization
from apq.acquire import next_candidates
from apq.collect import collect
from apq.errors import SamplesError
from apq.files import Document, Schema, read_json, to_json, whole
from apq.files.reading import Count, Items
from apq.images import ImageSet
from apq.plan import ask, planned
from apq.predictor import Predictor, train_predictor
from apq.predictor.metrics import pairwise_accuracy
from apq.samples import read_samples
from apq.search.problem import Problem
from apq.space import Genes
from apq.supernet import SupernetFile
from apq.training import OnProgress

OnStage = Callable[[str], OnProgress]


@dataclass(frozen=True)
class Round:
    """One turn of the loop.

    Attributes:
        start, stop: Places of its samples in the folder.
        best: Best measured accuracy among them, fraction.
        rmse: Of the predictions made before they were measured, fraction.
        pairwise: Share of their pairs that were predicted in the right order.
    """

    start: int
    stop: int
    best: float
    rmse: float
    pairwise: float

    def __str__(self) -> str:
        return (
            f"samples {self.start:,} to {self.stop - 1:,}: best {self.best:.2%}, predictions off "
            f"by {self.rmse:.2%}, {self.pairwise:.0%} of pairs in order"
        )


class TurnTable(Schema):
    """A round: which samples, and the accuracies predicted before they were measured."""

    start: Count
    stop: Count
    predicted: Items[float]


class Journal(Document):
    """The rounds begun so far."""

    what = "a journal of rounds as apq collect --acquire writes it"
    remedy = "Delete it to begin again: samples stay."
    error = SamplesError

    turns: Items[TurnTable]


def iterate(
    problem: Callable[[Predictor, int], Problem],
    supernet: SupernetFile,
    images: ImageSet,
    fp32: Path,
    quantized: Path,
    journal: Path,
    *,
    rounds: int,
    count: int,
    seed: int = 0,
    workers: int = 1,
    on_stage: OnStage | None = None,
) -> tuple[Predictor, list[Round]]:
    """Let a search choose ``rounds`` times ``count`` further quantized samples (after LINAS,
    Cummings et al., 2022, arXiv:2205.10358, whose rounds measure the best of a search).

    Killed at any moment, the same call goes on where it was.

    Args:
        problem: Makes the problem whose front matters, for a predictor and a round (0, 1, …).
        supernet, images: What samples are measured with; as those in the folder.
        fp32, quantized: Folders of samples; the second grows. Its samples so far say how new ones
            are made (fine-tuning steps, validation images, seed).
        journal: JSON file that remembers the rounds begun.
        rounds: How many there are to be in the end.
        count: Samples per round.
        seed: Of training and choosing.
        workers: Worker processes.
        on_stage: Receives the name of every stage, gives back where its progress goes.

    Returns:
        The predictor trained on everything, and what each round found.

    Raises:
        SamplesError: there are no quantized samples to begin with, or they were made otherwise.
    """
    tell = on_stage or (lambda _: lambda *_: None)
    cheap, about = read_samples(fp32), read_samples(quantized).metadata
    made = about.get("quantization")
    if not made:
        raise SamplesError(f"{quantized} holds fp32 samples; pass quantized ones")
    how = Quantization(**made)
    turns: list[dict[str, Any]] = []
    if journal.is_file():
        turns = [dict(turn) for turn in read_json(journal, Journal).turns]

    def trained() -> Predictor:
        dear = read_samples(quantized)
        report = tell(f"train the predictor on {len(dear)} quantized samples")
        made = train_predictor(cheap, dear, compare=False, seed=seed, on_progress=report)
        report(1, 1, {})
        return made

    def measure(stop: int) -> None:
        collect(
            supernet, images, quantized, stop, how, int(about["seed"]),
            int(about["validation_images"]), int(about["calibration_images"]), workers=workers,
            on_progress=tell(f"measure quantized samples up to {stop}"),
            corrected=bool(about.get("corrected", False)),
        )  # fmt: skip

    if turns:
        measure(turns[-1]["stop"])
    predictor = trained()
    while len(turns) < rounds:
        turn = len(turns)

        def choose(known: Genes, predictor: Predictor = predictor, turn: int = turn) -> Genes:
            return next_candidates(
                problem(predictor, turn), predictor.covariance, known, count, seed=seed + turn
            )

        report = tell(f"round {turn + 1} of {rounds}: choose {count} candidates")
        start, stop = ask(quantized, cheap.space, int(about["seed"]), choose, {"round": str(turn)})
        report(1, 1, {})
        rows = planned(quantized, cheap.space, stop, int(about["seed"]), True)[start:]
        expected = predictor.predict(rows)[0]
        turns.append({"start": start, "stop": stop, "predicted": expected.tolist()})
        with whole(journal) as path:
            path.write_text(to_json({"turns": turns}), encoding="utf-8")
        measure(stop)
        predictor = trained()
    return predictor, [_round(quantized, turn) for turn in turns[:rounds]]


def _round(folder: Path, turn: Mapping[str, Any]) -> Round:
    """Set predictions made before a round beside what it measured."""
    start, stop = turn["start"], turn["stop"]
    samples = read_samples(folder)
    space = samples.space
    wanted = planned(folder, space, stop, int(samples.metadata["seed"]), True)[start:]
    measured = {row.tobytes(): a for row, a in zip(samples.genes, samples.accuracy, strict=True)}
    found = np.array([measured[row.tobytes()] for row in wanted])
    predicted = np.array(turn["predicted"])
    rmse = float(np.sqrt(np.mean((predicted - found) ** 2)))
    return Round(start, stop, float(found.max()), rmse, pairwise_accuracy(predicted, found))
