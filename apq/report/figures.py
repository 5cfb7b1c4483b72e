"""Figures of runs for papers: the fronts, the progress of searches, what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from apq.files.places import file_name
from apq.report.picture import Cloud, draw_front, draw_measured, draw_progress
from apq.report.reading import Source, drawn
from apq.report.view import Run

FORMATS = ("svg", "png", "pdf")
LONGEST = 80
"""Characters of a metric's name in a file's name."""


def write_figures(folder: Path, sources: Sequence[Source]) -> list[Path]:
    """Write every figure as SVG, PNG and PDF.

    ``front-COST`` shows accuracy over a cost, for every cost that a search optimised or limited:
    for one run with its baselines, for several their fronts together. ``progress`` shows the best
    accuracy over candidates scored; ``measured``, if there are any, measured accuracies over
    predicted ones.

    Args:
        folder: Created if missing; files of the same names are replaced.
        sources: One run or several.

    Returns:
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draws: dict[str, Callable[[list[Path]], None]] = {}
    for metric in dict.fromkeys(m for s in sources for m in drawn(s.best)[1:]):
        name = file_name(metric[:LONGEST])
        draws[f"front-{name}"] = partial(_front, metric=metric, runs=[s.run for s in sources])
    if curves := [_progress(s.run) for s in sources if s.run.curve]:
        draws["progress"] = partial(draw_progress, curves=curves)
    if measured := [c for s in sources if (c := _measured(s.run)) is not None]:
        draws["measured"] = partial(draw_measured, measured=measured)
    written = []
    for name, draw in draws.items():
        paths = [folder / f"{name}.{ending}" for ending in FORMATS]
        draw(paths)
        written += paths
    return written


def _front(paths: list[Path], metric: str, runs: Sequence[Run]) -> None:
    having = [run for run in runs if metric in run.costs]
    fronts = [
        Cloud(run.name, run.costs[metric][order], run.accuracy[order], run.spread[order], chosen)
        for run in having
        for order in [np.argsort(run.costs[metric], kind="stable")]
        for chosen in [int(np.flatnonzero(order == run.chosen)[0])]
    ]
    beside = [
        Cloud(name, np.array(found.front[metric]), np.array(found.front["accuracy"]))
        for name, found in (having[0].baselines.items() if len(runs) == 1 else ())
        if found is not None and {metric, "accuracy"} <= {*found.front}
    ]
    limits = [run.limits[metric] for run in having if metric in run.limits]
    draw_front(paths, metric, fronts, baselines=beside, limits=limits)


def _progress(run: Run) -> Cloud:
    points = [p for p in run.curve if p.accuracy is not None]
    return Cloud(
        run.name,
        np.array([p.candidates for p in points], dtype=np.float64),
        np.array([p.accuracy for p in points], dtype=np.float64),
    )


def _measured(run: Run) -> Cloud | None:
    known = [m for m in run.measured if m.predicted is not None]
    if not known:
        return None
    return Cloud(
        run.name,
        np.array([m.predicted for m in known], dtype=np.float64),
        np.array([m.test for m in known]),
        np.array([m.spread or 0.0 for m in known]),
    )
