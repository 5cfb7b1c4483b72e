"""What ``apq collect --acquire`` and ``apq search --iterations`` share with nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apq.cli.common import OnProgress, err, images_for, live_line
from apq.files.places import PREDICTOR, SUPERNET, home
from apq.files.shipped import own_copy

if TYPE_CHECKING:
    from apq.iterate import Round
    from apq.predictor import Predictor
    from apq.search.problem import Problem
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
