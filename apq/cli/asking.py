"""Code shared by ``apq collect --acquire`` and ``apq search --iterations``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apq.cli.common import OnProgress, err, images_for, live_line, out
from apq.files.places import PREDICTOR, SUPERNET, home
from apq.files.shipped import own_copy

if TYPE_CHECKING:
    from apq.collect import SupernetAccuracy
    from apq.iterate import Round
    from apq.predictor import Predictor
    from apq.search.problem import Problem
    from apq.search.search import Result
    from apq.space import Space


def more_samples(
    folder: Path, space: Space, count: int, predictor: Path | None, luts: Sequence[str], seed: int
) -> int:
    """Choose further samples of a folder with a predictor; how many it is to hold then.

    Raises:
        ModelError, SpaceError: the predictor is missing or of another space.
    """
    from apq.acquire import ask_more
    from apq.cli.budgets import price_on
    from apq.predictor import load_predictor

    _own(folder)
    path = predictor or home(space.name) / PREDICTOR
    loaded = load_predictor(path, space)
    costs = price_on(space, luts).costs
    start, stop = ask_more(folder, costs, loaded, count, seed, {"predictor": str(path)})
    err.print(f"samples {start:,} to {stop - 1:,} may be on the front")
    return stop


def improve(
    problems: Callable[[Callable[[], tuple[Any, dict[str, str]]]], list[Problem]],
    space: Space,
    out: Path,
    rounds: int,
    count: int,
    supernet: Path | None,
    images: str | None,
    samples: Path | None,
    quantized: Path | None,
    seed: int,
) -> tuple[Path, list[Round]]:
    """Run the loop of :func:`apq.iterate.iterate`, rounds taking turns among the problems that
    ``problems`` makes with a predictor; the last predictor's file and what rounds found."""
    from apq.iterate import iterate
    from apq.supernet import load_supernet

    own = home(space.name)
    samples, quantized = samples or own / "fp32", quantized or own / "quantized"
    _own(quantized)
    supernet = supernet or own / SUPERNET
    loaded = load_supernet(supernet, space)
    found = images_for(images, space, loaded.metadata, str(supernet), other=False)

    def problem(predictor: Predictor, turn: int) -> Problem:
        every = problems(lambda: (predictor.predict, {}))
        return every[turn % len(every)]

    with _stages() as tell:
        predictor, turns = iterate(
            problem, loaded, found, samples, quantized, out / "iterations.json",
            rounds=rounds, count=count, seed=seed, on_stage=tell,
        )  # fmt: skip
    path = out / "predictor.safetensors"
    predictor.save(path)
    return path, turns


BRIEFLY, TELLING = 1.0, 2.0
"""Default time for a bound (s), and the gap in points from which a default bound is not printed."""

MEASURED = 300
"""Candidates that are measured where the supernet takes the predictor's place."""


def bound_of(
    result: Result, predictor: Path | None, seconds: float | None
) -> dict[str, float] | None:
    """A bound on what could be predicted within a search's limits, as plain data; None: none was
    asked for, and more than number formats was searched."""
    from apq.bound import upper_bound
    from apq.predictor import load_predictor

    problem = result.problem
    if seconds == 0 or (seconds is None and not only_formats(problem.space)):
        return None
    space = problem.priced.space
    loaded = load_predictor(predictor or home(space.name) / PREDICTOR, space)
    best = float(result.front.accuracy.max())
    found = upper_bound(problem, loaded, best, seconds or BRIEFLY).to_dict(best)
    return found if seconds or found["points"] < TELLING else None


def supernet_accuracy(
    space: Space, supernet: Path | None, images: str | None, predictor: Path | None = None
) -> SupernetAccuracy:
    """The supernet itself in place of a predictor, subnets quantized without a fine-tune; or
    measured as a predictor's samples were."""
    from apq.cli.budgets import origin
    from apq.collect import Quantization, SupernetAccuracy
    from apq.supernet import load_supernet

    path = supernet or home(space.name) / SUPERNET
    loaded = load_supernet(path, space)
    found = images_for(images, space, loaded.metadata, str(path), other=False)
    if predictor is None:
        return SupernetAccuracy(loaded, found, Quantization(finetune_steps=0))
    made = origin(predictor, space)
    how = Quantization(**made.quantization.model_dump()) if made.quantization else None
    return SupernetAccuracy(loaded, found, how, made.corrected)


def by_supernet(
    space: Space, supernet: Path | None, images: str | None
) -> tuple[SupernetAccuracy, dict[str, str]]:
    """What :func:`apq.cli.budgets.load` gives, with the supernet itself as the predictor."""
    found = supernet_accuracy(space, supernet, images)
    return found, found.made_from


def only_formats(space: Space) -> bool:
    """Whether nothing but number formats is left to choose, blocks that never run aside."""
    import numpy as np

    every = np.array([[max(allowed) for allowed in space.allowed]], dtype=np.int16)
    runs = space.decides(every)[0]
    return all(
        axis.is_format or len(allowed) == 1 or not there
        for axis, allowed, there in zip(space.axes, space.allowed, runs, strict=True)
    )


def measure_front(
    result: Result, count: int, predictor: Path | None, supernet: Path | None, images: str | None
) -> list[dict[str, float]]:
    """Measure some candidates of a front as the predictor's samples were measured, on all
    validation images: accuracy ``predicted`` and ``measured``, fractions, and ``chosen``, 1 for the
    one that the search chose."""
    from apq.search.run import front_rows

    front, space = result.front, result.problem.priced.space
    measured = supernet_accuracy(space, supernet, images, predictor or home(space.name) / PREDICTOR)
    rows = front_rows(front, count, result.chosen)
    with live_line("measured") as report:
        accuracy = measured(front.genes[rows], report)[0]
    return [
        {"predicted": float(front.accuracy[row]), "measured": float(value)}
        | {metric: float(cost[row]) for metric, cost in front.costs.items()}
        | {"chosen": float(row == result.chosen)}
        for row, value in zip(rows, accuracy, strict=True)
    ]


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


def words(turn: Round) -> str:
    """One round in a line."""
    return (
        f"samples {turn.start:,} to {turn.stop - 1:,}: best {turn.best:.2%}, predictions off by "
        f"{turn.rmse:.2%}, {turn.pairwise:.0%} of pairs in order"
    )


def as_data(turns: Sequence[Round]) -> list[Mapping[str, Any]]:
    """Rounds as plain data."""
    from dataclasses import asdict

    return [asdict(turn) for turn in turns]
