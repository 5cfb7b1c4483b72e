"""What ``apq collect --acquire`` and ``apq search --iterations`` share with nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apq.cli.common import OnProgress, err, images_for, live_line, out
from apq.files.places import PREDICTOR, SUPERNET, home
from apq.files.shipped import own_copy
from apq.space.axes import is_format

if TYPE_CHECKING:
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
    problem: Callable[[Predictor, int], Problem],
    space: Space,
    out: Path,
    rounds: int,
    count: int,
    supernet: Path | None,
    images: str | None,
    samples: Path,
    quantized: Path,
    seed: int,
) -> tuple[Path, list[Round]]:
    """Run the loop of :func:`apq.iterate.iterate`; the predictor's file and what rounds found."""
    from apq.iterate import iterate
    from apq.supernet import load_supernet

    _own(quantized)
    supernet = supernet or home(space.name) / SUPERNET
    loaded = load_supernet(supernet, space)
    found = images_for(images, space, loaded.metadata, str(supernet), other=False)
    with _stages() as tell:
        predictor, turns = iterate(
            problem, loaded, found, samples, quantized, out / "iterations.json",
            rounds=rounds, count=count, seed=seed, on_stage=tell,
        )  # fmt: skip
    path = out / "predictor.safetensors"
    predictor.save(path)
    return path, turns


BRIEFLY = 1.0
"""Seconds for a bound that nobody asked for."""


def bound_of(
    result: Result, predictor: Path | None, seconds: float | None
) -> dict[str, float] | None:
    """A bound on what could be predicted within a search's limits, as plain data; None: none was
    asked for, and more than number formats was searched."""
    from apq.bound import upper_bound
    from apq.predictor import load_predictor

    problem = result.problem
    if seconds is None:
        if not only_formats(problem.space):
            return None
        seconds = BRIEFLY
    if not seconds:
        return None
    space = problem.priced.space
    loaded = load_predictor(predictor or home(space.name) / PREDICTOR, space)
    best = float(result.front.accuracy.max())
    return upper_bound(problem, loaded, best, seconds).to_dict(best)


def only_formats(space: Space) -> bool:
    """Whether nothing but number formats is left to choose, blocks that never run aside."""
    import numpy as np

    every = np.array([[max(allowed) for allowed in space.allowed]], dtype=np.int16)
    runs = space.decides(every)[0]
    return all(
        is_format(axis.attribute) or len(allowed) == 1 or not there
        for axis, allowed, there in zip(space.axes, space.allowed, runs, strict=True)
    )


def measure_front(
    result: Result, count: int, predictor: Path | None, supernet: Path | None, images: str | None
) -> list[dict[str, float]]:
    """Measure some candidates of a front as the predictor's samples were measured, on all
    validation images: accuracy ``predicted`` and ``measured``, fractions, and ``chosen``, 1 for the
    one that the search chose."""
    from apq.cli.budgets import origin
    from apq.collect import Quantization, measure_candidates
    from apq.search.run import front_rows
    from apq.supernet import load_supernet

    front, space = result.front, result.problem.priced.space
    path, made = supernet or home(space.name) / SUPERNET, origin(predictor, space)
    loaded = load_supernet(path, space)
    found = images_for(images, space, loaded.metadata, str(path), other=False)
    rows = front_rows(front, count, result.chosen)
    how = Quantization(**made.quantization.model_dump()) if made.quantization else None
    with live_line("measured") as report:
        accuracy = measure_candidates(
            loaded, found, front.genes[rows], how, corrected=made.corrected, on_progress=report
        )
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
    """Samples that apq carries are copied to where they are going to grow."""
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
