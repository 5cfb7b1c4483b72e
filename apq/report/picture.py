"""Plots of runs (matplotlib: SVG, PNG, PDF), in colour-blind safe colours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.files import whole

Floats = NDArray[np.float64]
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito, "Color universal design" (2008), without yellow, which is faint on white."""
FRONT_MARKS = ("o", "s", "^", "D", "v", "P", "X")
MARKS = ("x", "+", "1", "2")
"""Markers of baselines; the colour changes with each, the marker with every third."""
NAME = 40
"""Characters of a name that a picture shows."""
NO_DATE: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


@dataclass(frozen=True)
class Cloud:
    """A named set of points.

    Attributes:
        name: Name in the legend.
        cost, accuracy: Values of the points; accuracies are fractions, ``(n,)``.
        spread: Spread of each accuracy, a fraction, ``(n,)``; None: not known.
        chosen: The row to be built; marked. None: there is none.
    """

    name: str
    cost: Floats
    accuracy: Floats
    spread: Floats | None = None
    chosen: int | None = None


@contextmanager
def picture(paths: Sequence[Path], size: tuple[float, float] = (8.8, 4.6)) -> Iterator[Any]:
    """Axes to draw on, which are then written to every path; equal drawings give equal bytes.

    Texts are drawn literally: dollar signs start no formula, and glyphs missing from the font cause
    no warning.

    Args:
        paths: Each ends in ``.svg``, ``.png`` or ``.pdf``; written under a temporary name first.
        size: Width and height, inches.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    settings = {"svg.hashsalt": "apq", "svg.fonttype": "none", "text.parse_math": False}
    with matplotlib.rc_context(settings), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph")
        figure = Figure(figsize=size, layout="constrained")
        yield figure.add_subplot()
        for path in paths:
            with whole(path) as partial:
                figure.savefig(partial, dpi=150, metadata=NO_DATE.get(path.suffix))


def shown(name: str, most: int = NAME) -> str:
    """A name for a plot: one line, no control characters, limited length."""
    text = "".join(c if c.isprintable() else " " for c in name)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def draw_front(
    paths: Sequence[Path],
    metric: str,
    fronts: Sequence[Cloud],
    clouds: Sequence[Cloud] = (),
    baselines: Sequence[Cloud] = (),
    limits: Sequence[float] = (),
) -> None:
    """Draw accuracy over one cost, on a logarithmic axis where costs differ more than threefold.

    Args:
        paths: As for :func:`picture`.
        metric: The cost on the horizontal axis, e.g. ``latency_ms``.
        fronts: Pareto sets, each with its spread as bars and its chosen row as a star.
        clouds: Other scored candidates, drawn as dots (e.g. random search).
        baselines: Fronts of other searches, each with a colour and mark of its own.
        limits: Budgets; vertical lines.
    """
    with picture(paths) as axes:
        series: list[tuple[Any, str]] = []
        for shade, cloud in zip(("0.75", "0.55", "0.4"), clouds, strict=False):
            (dots,) = axes.plot(cloud.cost, cloud.accuracy, ".")
            dots.set(markersize=2, color=shade, rasterized=True)
            series.append((dots, cloud.name))
        for i, front in enumerate(fronts):
            series += _front(axes, front, i, several=len(fronts) > 1)
        for i, cloud in enumerate(baselines, start=len(fronts)):
            color, mark = COLORS[i % len(COLORS)], MARKS[i // 3 % len(MARKS)]
            series += [
                (axes.plot(cloud.cost, cloud.accuracy, mark, ms=4, color=color)[0], cloud.name)
            ]
        for limit in dict.fromkeys(limits):
            axes.axvline(limit, color="0.2", lw=1, ls="--")
            across = axes.get_xaxis_transform()
            axes.text(limit, 0.015, f"budget {limit:g} ", fontsize=8, ha="right", transform=across)
        _costs_across(axes, metric, [c.cost for c in (*fronts, *clouds, *baselines)])
        _accuracy_up(axes, "predicted accuracy")
        legend(axes, series)


def _front(axes: Any, front: Cloud, i: int, several: bool) -> list[tuple[Any, str]]:
    """Draw a front; returns what the legend says of it."""
    color, mark = COLORS[i % len(COLORS)], FRONT_MARKS[i % len(FRONT_MARKS)] if several else "o"
    axes.step(front.cost, front.accuracy, where="post", color=color, lw=1)
    if front.spread is not None:
        low, high = front.accuracy - front.spread, front.accuracy + front.spread
        axes.vlines(front.cost, low, high, color=color, lw=0.8, alpha=0.25)
    (dots,) = axes.plot(front.cost, front.accuracy, mark, ms=3, color=color)
    out = [(dots, front.name)]
    if front.chosen is not None:
        x, y = front.cost[front.chosen], front.accuracy[front.chosen]
        fill = color if several else COLORS[2]
        (star,) = axes.plot(x, y, "*", ms=14, color=fill, mec="k", mew=0.5, zorder=5)
        out.append((star, f"chosen: {y:.2%} at {x:.4g}"))
    return out


def _costs_across(axes: Any, metric: str, costs: Sequence[Floats]) -> None:
    """The horizontal axis of a cost."""
    from matplotlib.ticker import LogLocator, NullFormatter

    every = np.concatenate(costs)
    if every.max() > 3 * every.min() > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter(lambda cost, _: f"{cost:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(shown(metric))


def _accuracy_up(axes: Any, label: str) -> None:
    """The vertical axis of accuracies."""
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)


def legend(axes: Any, series: Sequence[tuple[Any, str]]) -> None:
    """Names beside what is drawn. They are set afterwards: matplotlib hides some, such as
    ``_run``."""
    box = axes.legend(
        [drawn for drawn, _ in series],
        ["series"] * len(series),
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
    )
    for text, (_, name) in zip(box.get_texts(), series, strict=True):
        text.set_text(shown(name))


def draw_progress(paths: Sequence[Path], curves: Sequence[Cloud]) -> None:
    """Draw the best accuracy over how many candidates were scored, a line per search.

    Args:
        paths: As for :func:`picture`.
        curves: ``cost`` holds the counts.
    """
    with picture(paths) as axes:
        series = []
        for i, curve in enumerate(curves):
            (line,) = axes.step(curve.cost, curve.accuracy, where="post")
            line.set(color=COLORS[i % len(COLORS)], ls=("-", "--", "-.", ":")[i % 4], lw=1.5)
            series.append((line, curve.name))
        axes.set_xlabel("candidates scored")
        axes.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
        _accuracy_up(axes, "best predicted accuracy")
        legend(axes, series)


def draw_measured(paths: Sequence[Path], measured: Sequence[Cloud]) -> None:
    """Draw measured accuracies over predicted ones, which carry two spreads to either side.

    Args:
        paths: As for :func:`picture`.
        measured: ``cost`` holds the predictions, fractions; ``accuracy`` what was measured.
    """
    from matplotlib.ticker import PercentFormatter

    with picture(paths, (6.2, 4.6)) as axes:
        series = []
        for i, cloud in enumerate(measured):
            color, mark = COLORS[i % len(COLORS)], FRONT_MARKS[i % len(FRONT_MARKS)]
            if cloud.spread is not None:
                around = 2 * cloud.spread
                low, high = cloud.cost - around, cloud.cost + around
                axes.hlines(cloud.accuracy, low, high, color=color, lw=1.5)
            (dots,) = axes.plot(cloud.cost, cloud.accuracy, mark, ms=6, color=color)
            series.append((dots, cloud.name))
        ends = [*axes.get_xlim(), *axes.get_ylim()]
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color="0.4", lw=1, ls="--")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("predicted accuracy, ± two spreads")
        _accuracy_up(axes, "measured on test images")
        legend(axes, series)
