"""A thousand budgets in one sitting: every scenario starts from what the earlier ones found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from apq import __version__
from apq.errors import ApqError
from apq.hardware.pricing import PricedSpace
from apq.search.front import Archive
from apq.search.many import default_cost
from apq.search.problem import Accuracy, Problem
from apq.search.record import OnProgress
from apq.search.search import search
from apq.space import Genes

KEPT = 16
"""Earlier answers a scenario starts from: those with the nearest budgets."""


def sweep(
    priced: PricedSpace,
    accuracy: Accuracy,
    budgets: Sequence[Mapping[str, float]],
    candidates: int = 5_000,
    seed: int = 0,
    fix: tuple[str, ...] = (),
    caution: float = 0.0,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """The most accurate candidate for every budget.

    Args:
        priced: The space, priced on one or more devices.
        accuracy: The predictor.
        budgets: Limits per scenario.
        candidates: Scored per scenario.
        seed: Decides everything random.
        fix, caution: As in :class:`Problem`.
        on_progress: Called after every scenario.

    Returns:
        One row per budget, in order: ``limit_METRIC`` per limit, ``accuracy``,
        ``accuracy_spread``, every cost, every gene's value; ``error`` says why a budget cannot
        be met, and its row is empty otherwise.
    """
    rows: list[dict[str, Any]] = []
    known: list[Genes] = []
    for i, limits in enumerate(budgets):
        row: dict[str, Any] = {f"limit_{metric}": value for metric, value in limits.items()}
        try:
            problem = Problem(priced, accuracy, ("accuracy",), dict(limits), fix, caution)
        except ApqError as error:
            rows.append(row | {"error": str(error)})
        else:
            found = _answer(problem, candidates, seed + i, known)
            known.append(found)
            answer = problem.evaluate(found)
            row |= {
                "accuracy": float(answer.accuracy[0]),
                "accuracy_spread": float(answer.spread[0]),
                **{m: float(c[0]) for m, c in priced.costs(found).items()},
                **{name: float(v[0]) for name, v in priced.space.values(found).items()},
                "error": None,
            }
            rows.append(row)
        if on_progress is not None:
            on_progress(i + 1, len(budgets), {"accuracy": row.get("accuracy", float("nan"))})
    return pd.DataFrame(rows)


def _answer(problem: Problem, candidates: int, seed: int, known: list[Genes]) -> Genes:
    """Best candidate of a search, or an earlier scenario's answer if that is better."""
    archive = Archive()
    seeds = None
    if known:
        rows = np.unique(np.concatenate(known), axis=0)
        archive.add_feasible(problem.evaluate(rows), problem.limits)
        metric = next(iter(problem.limits), default_cost(problem.priced))
        gap = problem.priced.costs(rows, [metric])[metric] - problem.limits.get(metric, np.inf)
        seeds = rows[np.argsort(np.abs(gap), kind="stable")[:KEPT]]
    front = search(problem, "evolution", candidates, seed, seeds=seeds).front
    archive.add(problem.evaluate(front.genes))
    assert archive.best is not None
    return archive.best.genes[:1]


def write_sweep(path: Path, answers: pd.DataFrame, made_from: Mapping[str, str]) -> None:
    """Write a sweep's answers as Parquet (temporary name first), with what they were made from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(answers, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"apq": __version__.encode()}
    metadata |= {name.encode(): value.encode() for name, value in made_from.items()}
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table.replace_schema_metadata(metadata), partial)
    partial.replace(path)
