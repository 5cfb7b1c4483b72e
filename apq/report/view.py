"""A run as plain data for the page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.search.best import Baseline, Point
from apq.space import Genes, Space
from apq.space.formats import stored_bits

Floats = NDArray[np.float64]

DIGITS = 6
"""Significant digits of every number on the page."""
CURVE = 300
"""Most points of a search's progress that are drawn."""


@dataclass(frozen=True)
class Cloud:
    """Everything a search scored, or a sample of it.

    Attributes:
        columns: ``accuracy`` and the costs that decided anything, ``(n,)`` each.
    """

    columns: Mapping[str, Floats]


@dataclass(frozen=True)
class Measured:
    """A fine-tuned candidate with predicted and measured accuracies, fractions.

    Attributes:
        file: Its name.
        scheme: How it was quantized.
        genes: Genes of the candidate, ``(axes,)``.
        predicted, spread: The search's prediction and its spread.
        before, after, test: Before fine-tuning and after it on validation images; test images.
    """

    file: str
    scheme: str
    genes: Genes
    predicted: float | None
    spread: float | None
    before: float
    after: float
    test: float


@dataclass(frozen=True, eq=False)
class Run:
    """The parts of a run that reports show.

    Attributes:
        name: Name of the run.
        space: Space of its candidates.
        genes: Genes of the front, ``(n, axes)``.
        accuracy, spread: Predictions, fractions, ``(n,)``.
        costs: By metric, ``(n,)`` each.
        block_costs: As :func:`apq.search.explain.block_costs`; empty: not known.
        fixed: Cost of the layers that are not searched, by metric.
        chosen: The row that was chosen.
        limits: By metric.
        objectives: The search's objectives.
        baselines: By name.
        curve: How the search went.
        scored: Other candidates it scored.
        measured: Fine-tuned candidates.
    """

    name: str
    space: Space
    genes: Genes
    accuracy: Floats
    spread: Floats
    costs: Mapping[str, Floats]
    block_costs: Mapping[str, Floats]
    fixed: Mapping[str, float]
    chosen: int
    limits: Mapping[str, float]
    objectives: Sequence[str]
    baselines: Mapping[str, Baseline | None]
    curve: Sequence[Point]
    scored: Cloud
    measured: Sequence[Measured] = ()


def as_data(run: Run, rows: int | None = None) -> dict[str, Any]:
    """A run as JSON holds it.

    Args:
        run: The run.
        rows: Most candidates of the front to keep, spread evenly and including the chosen one.

    Returns:
        Plain data. Candidates are rows of ``front``; a block lists the combinations of choices
        that occur (``options``) with their costs, and ``which`` says, per row, which one it is:
        unsigned integers, little endian, in base64, the largest for a skipped block.
    """
    kept = spread_rows(len(run.genes), rows or len(run.genes), run.chosen)
    genes = run.genes[kept]
    return {
        "name": run.name,
        "metrics": [*run.costs],
        "objectives": list(run.objectives),
        "limits": dict(run.limits),
        "all": len(run.genes),
        "chosen": int(np.searchsorted(kept, run.chosen)),
        "front": {
            "accuracy": short(run.accuracy[kept]),
            "spread": short(run.spread[kept]),
            "costs": {metric: short(cost[kept]) for metric, cost in run.costs.items()},
        },
        "blocks": _blocks(run, genes, kept),
        "fixed": {metric: _rounded(cost) for metric, cost in run.fixed.items()},
        "bits": _stored(run.space),
        "scored": {name: short(column) for name, column in run.scored.columns.items()},
        "baselines": [_baseline(name, found) for name, found in run.baselines.items()],
        "curve": _curve(run.curve),
        "measured": [_measured(found, genes) for found in run.measured],
    }


def spread_rows(count: int, most: int, always: int) -> NDArray[np.intp]:
    """At most about ``most`` of ``count`` rows, evenly, ``always`` among them, ascending."""
    if count <= most:
        return np.arange(count)
    picks = np.linspace(0, count - 1, max(most, 2)).round().astype(np.intp)
    return np.unique(np.append(picks, always))


def short(values: Iterable[float]) -> list[float | None]:
    """Numbers with few digits; None for what is none."""
    return [_rounded(value) if np.isfinite(value) else None for value in values]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _blocks(run: Run, genes: Genes, kept: NDArray[np.intp]) -> list[dict[str, Any]]:
    """Per factor of the space, what the rows choose in it and what that costs."""
    space = run.space
    index, runs = space.combinations(genes), space.counted(genes)
    out = []
    for f, factor in enumerate(space.factors):
        if not factor.nodes:
            continue
        there = np.flatnonzero(runs[:, f])
        _, first, where = np.unique(index[there, f], return_index=True, return_inverse=True)
        axes = [(i, space.axes[i]) for i in factor.axes]
        which = np.full(len(genes), -1)
        which[there] = where.ravel()
        shown = there[first]
        priced = {m: run.block_costs.get(f"{factor.name}_{m}") for m in run.costs}
        out.append(
            {
                "name": factor.name,
                "choices": [a.attribute if a.slot == factor.slot else a.name for _, a in axes],
                "formats": [axis.is_format for _, axis in axes],
                "options": [[axis.labels[genes[row, i]] for i, axis in axes] for row in shown],
                "costs": {m: short(c[kept][shown]) for m, c in priced.items() if c is not None},
                "which": _packed(which, len(first)),
            }
        )
    return out


def _packed(which: NDArray[np.intp], count: int) -> dict[str, Any]:
    """Small integers as base64; -1 becomes the largest of the type."""
    size = 1 if count < 2**8 else 2
    return {
        "bytes": size,
        "base64": b64encode(which.astype(f"<i{2 * size}").astype(f"<u{size}").tobytes()).decode(),
    }


def _stored(space: Space) -> dict[str, float]:
    """Stored bits of the formats that have names."""
    names = {label for axis in space.axes if axis.is_format for label in axis.labels}
    return {name: float(stored_bits(name)) for name in sorted(map(str, names))}


def _baseline(name: str, found: Baseline | None) -> dict[str, Any]:
    if found is None:
        return {"name": name, "found": False}
    return {
        "name": name,
        "found": True,
        "about": found.about,
        "accuracy": _rounded(found.accuracy),
        "spread": None if found.accuracy_spread is None else _rounded(found.accuracy_spread),
        "costs": {metric: _rounded(cost) for metric, cost in found.costs.items()},
        "candidates": found.candidates,
        "front": {metric: short(column) for metric, column in found.front.items()},
    }


def _curve(curve: Sequence[Point]) -> list[dict[str, float | None]]:
    if not curve:
        return []
    return [curve[i].model_dump() for i in spread_rows(len(curve), CURVE, len(curve) - 1)]


def _measured(found: Measured, genes: Genes) -> dict[str, Any]:
    rows = np.flatnonzero((genes == found.genes).all(axis=1))
    return {
        "file": found.file,
        "scheme": found.scheme,
        "row": int(rows[0]) if len(rows) else None,
        "predicted": found.predicted,
        "spread": found.spread,
        "before": found.before,
        "after": found.after,
        "test": found.test,
    }
