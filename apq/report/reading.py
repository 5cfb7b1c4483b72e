"""Read the files of a run's folder for reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from apq.errors import ApqError
from apq.files.headers import read_header
from apq.report.view import Cloud, Floats, Measured, Run, spread_rows
from apq.search.best import Best, read_best
from apq.search.explain import FIXED
from apq.search.run import read_table
from apq.search.tuned import ModelHeader
from apq.space import Genes, Space

CLOUD = 6_000
"""Most evaluations that are drawn."""


@dataclass(frozen=True, eq=False)
class Source:
    """A run's folder.

    Attributes:
        folder: The folder.
        best: Its ``best.json``.
        run: The data that are drawn.
    """

    folder: Path
    best: Best
    run: Run


def read_source(folder: Path, name: str | None = None) -> Source:
    """Read a run's folder.

    Args:
        folder: As ``apq search`` writes it.
        name: Name of the run; default: the folder's name.

    Raises:
        ApqError: a file is missing, damaged, or of another space.
    """
    best = read_best(folder / "best.json")
    space = best.space
    front = read_table(folder / "front.parquet", space, [*best.costs]).to_pandas()
    genes = genes_of(front, space)
    run = Run(
        name or folder.resolve().name,
        space,
        genes,
        _floats(front, "accuracy"),
        _floats(front, "accuracy_spread"),
        {metric: _floats(front, metric) for metric in best.costs},
        _block_costs(front, best),
        {m: cost for block in best.blocks if block.slot == FIXED for m, cost in block.costs.items()
         if m in best.costs},
        _row_of(genes, space.genes([best.candidate])[0], front, best),
        best.limits,
        best.search.objectives,
        best.baselines,
        best.search.curve,
        Cloud(_scored(folder, best)),
        list(_measured(folder, best)),
    )  # fmt: skip
    return Source(folder, best, run)


def read_sources(folders: Sequence[Path]) -> list[Source]:
    """Read several runs' folders; runs of equal names are told apart by a number.

    Raises:
        ApqError: as :func:`read_source`.
    """
    names = unique([folder.resolve().name for folder in folders])
    return [read_source(folder, name) for folder, name in zip(folders, names, strict=True)]


def unique(names: Sequence[str]) -> list[str]:
    """Names, told apart by a number where they are equal."""
    out: list[str] = []
    for name in names:
        text, count = name, 1
        while text in out:
            count += 1
            text = f"{name} ({count})"
        out.append(text)
    return out


def genes_of(table: pd.DataFrame, space: Space) -> Genes:
    """The candidates of a run's table, ``(n, axes)``."""
    values = {axis.name: table[axis.name].to_numpy() for axis in space.axes}
    return space.canonical(space.from_values(values))


def drawn(best: Best) -> list[str]:
    """Accuracy and the costs that were objectives or limited."""
    names = {*best.search.objectives, *best.limits}
    return ["accuracy", *(cost for cost in best.costs if cost in names)]


def _floats(table: pd.DataFrame, name: str) -> Floats:
    column: Floats = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
    return column


def _block_costs(front: pd.DataFrame, best: Best) -> dict[str, Floats]:
    """Columns of what blocks cost; fronts of earlier versions have none."""
    names = (
        f"{factor.name}_{metric}"
        for factor in best.space.factors
        if factor.nodes
        for metric in best.costs
    )
    known = [name for name in names if name in front and front[name].dtype.kind == "f"]
    return {name: _floats(front, name) for name in known}


def _row_of(genes: Genes, wanted: Genes, front: pd.DataFrame, best: Best) -> int:
    """The chosen candidate's row; where it is none, the row of the most similar accuracy."""
    rows = np.flatnonzero((genes == wanted).all(axis=1))
    if len(rows):
        return int(rows[0])
    return int((front["accuracy"] - (best.predicted.accuracy or 0)).abs().argmin())


def _scored(folder: Path, best: Best) -> dict[str, Floats]:
    names = drawn(best)
    table = read_table(folder / "evaluations.parquet", best.space, names[1:]).select(names)
    table = table.take(spread_rows(len(table), CLOUD, 0)).to_pandas()
    return {name: _floats(table, name) for name in names}


def _measured(folder: Path, best: Best) -> Iterator[Measured]:
    """Fine-tuned candidates of this run's space."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            header = read_header(path, ModelHeader)
        except ApqError:  # a checkpoint, an exported file, or somebody else's
            continue
        if header.accuracy is None or header.space.fingerprint != best.space.fingerprint:
            continue
        found = header.accuracy
        yield Measured(
            path.name,
            header.scheme,
            best.space.genes([header.candidate])[0],
            *_promise(best, header),
            found.before,
            found.after,
            found.test,
        )


def _promise(best: Best, header: ModelHeader) -> tuple[float | None, float | None]:
    """Predicted accuracy of a model's candidate and its spread, from this run if possible, else
    from the model's file."""
    if header.candidate == best.candidate and best.predicted.accuracy is not None:
        return best.predicted.accuracy, best.predicted.accuracy_spread
    if header.accuracy is None:
        return None, None
    return header.accuracy.predicted, header.accuracy.predicted_spread
