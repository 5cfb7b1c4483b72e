"""Sweeps over many budgets: each device's budgets are read off one front.

Similar budgets lead to similar networks, so one front of accuracy over the budgeted cost, with the
candidates of all separate searches together, solves a device's budgets better than they would.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from apq.errors import ApqError, BudgetError, choose
from apq.files import whole
from apq.files.tables import read_parquet
from apq.hardware.pricing import PricedSpace
from apq.search.problem import Accuracy, Problem, check_limits
from apq.search.record import OnProgress
from apq.search.region import fixed
from apq.search.search import search
from apq.space import Genes
from apq.version import __version__
from apq.workers import spread


@dataclass(frozen=True, eq=False)
class Curve:
    """Budgets of one cost on one device, with the same other limits.

    Attributes:
        device: Name of the device in the answers.
        priced: The space, priced on it.
        metric: The cost whose budgets vary.
        budgets: Limits of that cost.
        others: Limits of other costs.
    """

    device: str
    priced: PricedSpace
    metric: str
    budgets: tuple[float, ...]
    others: Mapping[str, float]


def curves(device: str, priced: PricedSpace, budgets: Iterable[Mapping[str, float]]) -> list[Curve]:
    """Group one device's budgets into curves: the first limit varies, the others are equal."""
    grouped: dict[tuple[str, tuple[tuple[str, float], ...]], list[float]] = {}
    for limits in budgets:
        (metric, budget), *others = limits.items()
        grouped.setdefault((metric, tuple(others)), []).append(budget)
    return [
        Curve(device, priced, metric, tuple(varied), dict(others))
        for (metric, others), varied in grouped.items()
    ]


def spread_budgets(priced: PricedSpace, metric: str, points: int) -> list[dict[str, float]]:
    """``points`` budgets spread evenly over the reachable range, including its upper end."""
    low, high = priced.reach(choose(metric, priced.metrics, "cost"))
    return [{metric: float(b)} for b in np.linspace(low, high, points + 1)[1:]]


def answer(
    curve: Curve,
    accuracy: Accuracy,
    candidates: int = 4_000,
    seed: int = 0,
    fix: tuple[str, ...] = (),
    caution: float = 0.0,
) -> pd.DataFrame:
    """The most accurate candidate for every budget of a curve.

    Args:
        curve: The budgets.
        accuracy: The predictor.
        candidates: Number of candidates scored per budget, on average.
        seed: Random seed.
        fix, caution: As in :class:`Problem`.

    Returns:
        One row per budget, in order: ``device``, ``limit_METRIC`` per limit, ``accuracy``,
        ``accuracy_spread``, every cost, every gene's value; ``error`` says why a budget cannot
        be met, and its row is empty otherwise.
    """
    searched = fixed(curve.priced, fix)
    errors: list[str | None] = []
    for budget in curve.budgets:
        try:
            check_limits(searched, {curve.metric: budget, **curve.others})
            errors.append(None)
        except BudgetError as error:
            errors.append(str(error))
    rows = pd.DataFrame({"device": curve.device, f"limit_{curve.metric}": curve.budgets})
    rows = rows.assign(**{f"limit_{m}": v for m, v in curve.others.items()})
    met = np.array([error is None for error in errors])
    if met.any():
        budgets = np.array(curve.budgets)[met]
        found = _front(curve, budgets, accuracy, candidates, seed, fix, caution)
        answers = pd.DataFrame(found, index=np.flatnonzero(met))
        rows = rows.join(answers)
    return rows.assign(error=errors)


def _front(
    curve: Curve,
    budgets: np.ndarray,
    accuracy: Accuracy,
    candidates: int,
    seed: int,
    fix: tuple[str, ...],
    caution: float,
) -> dict[str, np.ndarray]:
    """Columns of the answers to reachable budgets."""

    def problem(limit: float, *objectives: str) -> Problem:
        limits = {curve.metric: float(limit), **curve.others}
        return Problem(curve.priced, accuracy, objectives, limits, fix, caution)

    traded = ("accuracy", curve.metric) if len(set(budgets)) > 1 else ("accuracy",)
    tightest: Genes = problem(budgets.min(), "accuracy").anchors  # so every budget has a row
    whole = problem(budgets.max(), *traded)
    front = search(whole, "evolution", candidates * len(budgets), seed, seeds=tightest).front
    # accuracy rises with cost along a front: the last row within a budget is its best
    last = np.searchsorted(front.costs[curve.metric], budgets, side="right") - 1
    return {name: column[last] for name, column in front.table().items()}


def sweep(
    asked: Sequence[Curve],
    accuracy: Accuracy,
    candidates: int = 4_000,
    seed: int = 0,
    fix: tuple[str, ...] = (),
    caution: float = 0.0,
    workers: int = 1,
    parts: Path | None = None,
    made_from: Mapping[str, str] | None = None,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Answer all budgets of all curves, curve by curve over several processes.

    Args:
        asked: The curves.
        accuracy: The predictor; picklable if there are several workers.
        candidates, seed, fix, caution: As in :func:`answer`.
        workers: Number of processes.
        parts: A folder that keeps every finished curve, so that a killed sweep can continue.
        made_from: Hashes of the predictor and other sources; curves from other sources are not
            reused.
        on_progress: Called after every curve with the budgets done and their total.

    Returns:
        The rows of :func:`answer`, in the order of the curves.
    """
    settings = (candidates, seed, fix, caution)
    files = [None if parts is None else parts / _part_name(c, settings, made_from) for c in asked]
    work = (
        (i, curve, accuracy, settings, file)
        for i, (curve, file) in enumerate(zip(asked, files, strict=True))
    )
    total, done = sum(len(curve.budgets) for curve in asked), 0
    tables: dict[int, pd.DataFrame] = {}
    for i, table in spread(_answer_part, work, workers):
        tables[i], done = table, done + len(table)
        if on_progress is not None:
            on_progress(done, total, {"unreachable": float(table["error"].notna().sum())})
    return pd.concat([tables[i] for i in range(len(asked))], ignore_index=True)


def _answer_part(
    index: int, curve: Curve, accuracy: Accuracy, settings: tuple[Any, ...], file: Path | None
) -> tuple[int, pd.DataFrame]:
    """One curve's answers, from its part file if an earlier run left it."""
    if file is not None and file.is_file():
        with contextlib.suppress(ApqError):  # a damaged part is computed again
            return index, read_parquet(file, ApqError, "").to_pandas()
    table = answer(curve, accuracy, *settings)
    if file is not None:
        write_sweep(file, table, {})
    return index, table


def _part_name(curve: Curve, settings: tuple[Any, ...], made_from: Mapping[str, str] | None) -> str:
    """A name derived from everything that decides a curve's answers."""
    about = [
        __version__, curve.device, curve.metric, curve.budgets, dict(curve.others), settings,
        curve.priced.space.fingerprint, curve.priced.fixed, dict(made_from or {}),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(repr(fixed(curve.priced, settings[2]).space.allowed).encode())
    for tables in curve.priced.tables.values():
        for table in tables:
            digest.update(np.ascontiguousarray(table).tobytes())
    return f"{digest.hexdigest()[:16]}.parquet"


def write_sweep(
    path: Path, answers: pd.DataFrame, made_from: Mapping[str, str], parts: Path | None = None
) -> None:
    """Write a sweep's answers and their sources atomically as Parquet, then remove ``parts``."""
    table = pa.Table.from_pandas(answers, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"apq": __version__.encode()}
    metadata |= {name.encode(): value.encode() for name, value in made_from.items()}
    with whole(path) as partial:
        pq.write_table(table.replace_schema_metadata(metadata), partial)
    if parts is not None:
        shutil.rmtree(parts, ignore_errors=True)
