"""Pictures of a front (matplotlib, SVG or PNG)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apq.files import whole

Floats = NDArray[np.float64]
COLORS = ("C1", "C3", "C4", "C5", "C6", "C8", "C9")
MARKS = ("x", "+", "1", "2")
"""Of baselines: every one its colour, every three a mark."""


@dataclass(frozen=True)
class Cloud:
    """A named set of points: costs and accuracies (fractions), ``(n,)`` each."""

    name: str
    cost: Floats
    accuracy: Floats


def draw_front(
    path: Path,
    metric: str,
    front: Cloud,
    chosen: int,
    clouds: Sequence[Cloud] = (),
    baselines: Sequence[Cloud] = (),
    limit: float | None = None,
) -> None:
    """Draw accuracy over one cost, on a logarithmic axis where costs differ more than threefold.

    Args:
        path: Ends in ``.svg`` or ``.png``; written under a temporary name first.
        metric: The cost on the horizontal axis, e.g. ``latency_ms``.
        front: The Pareto set.
        chosen: Its row to be built; marked.
        clouds: What else was scored, drawn as dots (e.g. random search).
        baselines: Fronts of other searches, each with a colour and mark of its own.
        limit: The budget; a vertical line.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    # no date and fixed ids: equal data give equal bytes
    with matplotlib.rc_context({"svg.hashsalt": "apq", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.8, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for shade, cloud in zip(("0.75", "0.55", "0.4"), clouds, strict=False):
            (dots,) = axes.plot(cloud.cost, cloud.accuracy, ".", label=cloud.name)
            dots.set(markersize=2, color=shade, rasterized=True)
        axes.step(front.cost, front.accuracy, where="post", color="C0", lw=1)
        axes.plot(front.cost, front.accuracy, "o", ms=3, color="C0", label=front.name)
        for i, cloud in enumerate(baselines):
            color, mark = COLORS[i % len(COLORS)], MARKS[i // 3 % len(MARKS)]
            axes.plot(cloud.cost, cloud.accuracy, mark, ms=3, color=color, label=cloud.name)
        x, y = front.cost[chosen], front.accuracy[chosen]
        label = f"chosen: {y:.2%} at {x:.4g}"
        axes.plot(x, y, "*", ms=14, color="C2", mec="k", mew=0.5, label=label)
        if limit is not None:
            axes.axvline(limit, color="0.2", lw=1, ls="--")
            across = axes.get_xaxis_transform()
            axes.text(limit, 0.015, f"budget {limit:g} ", fontsize=8, ha="right", transform=across)
        costs = np.concatenate([cloud.cost for cloud in (front, *clouds, *baselines)])
        if costs.max() > 3 * costs.min() > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axes.xaxis.set_major_formatter(lambda cost, _: f"{cost:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(metric)
        axes.set_ylabel("predicted accuracy")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        with whole(path) as partial:
            figure.savefig(partial, dpi=150, metadata=metadata)
