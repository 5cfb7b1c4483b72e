"""Measurements that a command asks for: more samples, rounds of a search, networks of a front."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from apq.cli.budgets import Judge, load, price_on
from apq.cli.common import OnProgress, err, images_for, live_line, out
from apq.files.places import PREDICTOR, SUPERNET, home
from apq.files.shipped import own_copy

if TYPE_CHECKING:
    from apq.accuracy import SupernetAccuracy
    from apq.iterate import Round
    from apq.predictor.schema import Origin
    from apq.search.many import Scenarios
    from apq.search.search import Result
    from apq.space import Space


def more_samples(
    folder: Path, space: Space, count: int, path: Path | None, luts: Sequence[str] | None, seed: int
) -> int:
    """Choose further samples of a folder with a predictor; how many it is to hold then.

    Raises:
        ModelError, SpaceError: the predictor is missing or of another space.
    """
    from apq.acquire import ask_more

    _own(folder)
    judge = load(path, space)
    assert judge.predictor is not None
    about = {"predictor": str(path or home(space.name) / PREDICTOR)}
    costs = price_on(space, luts).costs
    start, stop = ask_more(folder, costs, judge.predictor, count, seed, about)
    err.print(f"samples {start:,} to {stop - 1:,} may be on the front")
    return stop


def improve(
    wanted: Scenarios,
    predictor: Path | None,
    out: Path,
    rounds: int,
    count: int,
    supernet: Path | None,
    images: str | None,
    samples: Path | None,
    quantized: Path | None,
    seed: int,
    console: Console,
) -> tuple[Path | None, list[Round]]:
    """Run the loop of :func:`apq.iterate.iterate`; the predictor's file and what rounds found.
    Without rounds: the predictor as it was given."""
    if not rounds:
        return predictor, []
    from apq.iterate import iterate
    from apq.supernet import load_supernet

    space = wanted.priced.space
    folder = home(space.name)
    quantized = quantized or folder / "quantized"
    _own(quantized)
    supernet = supernet or folder / SUPERNET
    loaded = load_supernet(supernet, space)
    found = images_for(images, space, loaded.metadata, str(supernet), other=False)
    with _stages() as tell:
        trained, turns = iterate(
            lambda made, turn: wanted.problems(made.predict)[turn % len(wanted.budgets)],
            loaded, found, samples or folder / "fp32", quantized, out / "iterations.json",
            rounds=rounds, count=count, seed=seed, on_stage=tell,
        )  # fmt: skip
    path = out / "predictor.safetensors"
    trained.save(path)
    console.print(*turns, sep="\n")
    return path, turns


def origin(judge: Judge) -> Origin:
    """What the predictor's samples were, and measured of the whole network."""
    from apq.predictor.schema import Origin

    assert judge.predictor is not None
    return Origin.of(dict(judge.predictor.report), "the predictor")


def supernet_accuracy(
    space: Space, supernet: Path | None, images: str | None, judge: Judge | None = None
) -> SupernetAccuracy:
    """The supernet itself in place of a predictor, subnets quantized without a fine-tune; or
    measured as a predictor's samples were."""
    from apq.accuracy import Quantization, SupernetAccuracy
    from apq.supernet import load_supernet

    path = supernet or home(space.name) / SUPERNET
    loaded = load_supernet(path, space)
    found = images_for(images, space, loaded.metadata, str(path), other=False)
    if judge is None:
        return SupernetAccuracy(loaded, found, Quantization(finetune_steps=0))
    made = origin(judge)
    how = Quantization(**made.quantization.model_dump()) if made.quantization else None
    return SupernetAccuracy(loaded, found, how, made.corrected)


def by_supernet(space: Space, supernet: Path | None, images: str | None) -> Judge:
    """The supernet itself as what judges candidates."""
    found = supernet_accuracy(space, supernet, images)
    return Judge(found, found.made_from)


def measure_front(
    result: Result, count: int, judge: Judge, supernet: Path | None, images: str | None
) -> list[dict[str, float]]:
    """Measure some candidates of a front as the predictor's samples were measured, on all
    validation images."""
    from apq.search.run import measured_front

    measured = supernet_accuracy(result.problem.priced.space, supernet, images, judge)
    with live_line("measured") as report:
        return measured_front(result, count, lambda genes: measured(genes, report))


def tell_measured(found: Sequence[Mapping[str, float]]) -> None:
    """Print predicted and measured accuracies beside each other."""
    from scipy.stats import spearmanr

    out.print("predicted   measured")
    for row in found:
        mark = "   chosen" if row["chosen"] else ""
        out.print(f"   {row['predicted']:.2%}     {row['measured']:.2%}{mark}")
    if len(found) > 2:
        rank = spearmanr([r["predicted"] for r in found], [r["measured"] for r in found])
        out.print(f"Spearman {float(rank.statistic):.3f} over {len(found)} candidates")


def _own(folder: Path) -> None:
    """Copy samples installed with apq to the folder where new ones are added."""
    if own_copy(folder):
        err.print(f"copied the samples that apq carries to {folder}, where others are added")


@contextmanager
def _stages() -> Iterator[Callable[[str], OnProgress]]:
    """One live line at a time: a new stage ends the line of the one before."""
    with ExitStack() as stack:

        def tell(name: str) -> OnProgress:
            stack.close()
            return stack.enter_context(live_line(name))

        yield tell
