"""The files of a run: everything scored, the front, the chosen candidate."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apq.errors import ApqError
from apq.files import Sealed, sealed, to_json, whole
from apq.files.reading import Text
from apq.files.tables import read_parquet, table_hash
from apq.search import ALGORITHMS
from apq.search.baselines import about, fair_baselines
from apq.search.explain import block_costs, explain
from apq.search.front import Front
from apq.search.options import Options
from apq.search.problem import SOURCES, Accuracy, Problem, Scored
from apq.search.record import OnProgress
from apq.search.search import Result, search
from apq.space import Space
from apq.version import __version__

ROWS = 20_000
"""Evaluations per row group, held in memory until they are written."""


def _schema(space: Space, costs: tuple[str, ...], metadata: Mapping[str, str]) -> pa.Schema:
    floats = [(name, pa.float64()) for name in ("accuracy", "accuracy_spread", *costs)]
    genes = [(axis.name, pa.string() if axis.named else pa.int32()) for axis in space.axes]
    source = [("source", pa.string())]
    return pa.schema([*floats, *source, *genes], metadata=dict(metadata))


def _table(space: Space, schema: pa.Schema, columns: Mapping[str, np.ndarray]) -> pa.Table:
    arrays = []
    for field in schema:
        values = columns[field.name]
        if pa.types.is_integer(field.type):
            absent = np.isnan(values)
            arrays.append(pa.array(np.where(absent, 0, values).astype(np.int32), mask=absent))
        else:
            arrays.append(pa.array(values))
    return pa.Table.from_arrays(arrays, schema=schema)


def _metadata(problem: Problem, algorithm: str, seed: int) -> dict[str, str]:
    return {
        "apq": __version__,
        "space": json.dumps(problem.priced.space.to_dict(), sort_keys=True),
        "fingerprint": problem.priced.space.fingerprint,
        "objectives": json.dumps(problem.objectives),
        "limits": json.dumps(dict(sorted(asked(problem).items()))),
        "fix": json.dumps(problem.fix),
        "devices": json.dumps(problem.priced.sources),
        "algorithm": algorithm,
        "seed": str(seed),
        **problem.made_from,
    }


class TableHeader(Sealed):
    """Metadata of a run's tables, all text.

    Attributes:
        fingerprint: Fingerprint of the space.
        table: Hash of the rows; none for the evaluations, which are written during the search.
    """

    what = "a table of a run as apq search writes it"
    remedy = "Search again."

    fingerprint: Text
    table: Text | None = None


def read_table(path: Path, space: Space, costs: Sequence[str]) -> pa.Table:
    """A table of a run, with all its columns.

    Args:
        path: ``front.parquet`` or ``evaluations.parquet``.
        space: The space of its genes.
        costs: Its cost columns.

    Raises:
        ApqError: it is missing, damaged, of another space, or lacks a column or an accuracy.
    """
    table = read_parquet(path, ApqError, f"Search again: apq search --out {path.parent}")
    try:
        texts = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    except UnicodeDecodeError as error:
        raise ApqError(f"{path} is damaged: its metadata: {error}. Search again.") from error
    header = TableHeader.of(texts, str(path))
    if header.fingerprint != space.fingerprint:
        raise ApqError(
            f"{path} is of another space ({header.fingerprint}) than the best.json beside it "
            f"({space.fingerprint}). Search again."
        )
    wanted = _schema(space, tuple(costs), {})
    for field in wanted:
        found = table.schema.field(field.name) if field.name in table.column_names else None
        if found is None and field.name == "source":  # absent in runs of earlier versions
            continue
        if found is None or found.type != field.type:
            told = "is missing" if found is None else f"holds {found.type}, must be {field.type}"
            raise ApqError(f"{path}: column {field.name} {told}. Search again.")
    if header.table is not None and header.table != table_hash(table):
        raise ApqError(f"{path} is damaged: its rows do not have their hash. Search again.")
    if not len(table):
        raise ApqError(f"{path} has no rows. Search again.")
    return table


class EvaluationLog:
    """Writes everything scored to Parquet while the search runs, so memory stays bounded.

    A context manager whose instance is a search's ``on_batch``; the file gets its final name when
    the search succeeds. With ``goes_on``, for a continued search, existing rows are kept.
    """

    def __init__(
        self, path: Path, problem: Problem, algorithm: str, seed: int, goes_on: bool = False
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.space = path, problem.priced.space
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._schema = _schema(self.space, problem.metrics, _metadata(problem, algorithm, seed))
        earlier = _same_search(path, self._schema) if goes_on else None
        self._writer = pq.ParquetWriter(self._partial, self._schema, write_page_checksum=True)
        if earlier is not None:
            self._writer.write_table(earlier)
        self._held: list[Scored] = []

    def __call__(self, batch: Scored) -> None:
        """Append a batch."""
        self._held.append(batch)
        if sum(len(b.genes) for b in self._held) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        columns = {
            "accuracy": np.concatenate([b.accuracy for b in self._held]),
            "accuracy_spread": np.concatenate([b.spread for b in self._held]),
            "source": np.array(SOURCES)[np.concatenate([b.source for b in self._held])],
            **self.space.values(np.concatenate([b.genes for b in self._held])),
        }
        for metric in self._held[0].costs:
            columns[metric] = np.concatenate([b.costs[metric] for b in self._held])
        self._writer.write_table(_table(self.space, self._schema, columns))
        self._held = []

    def __enter__(self) -> EvaluationLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)


def _same_search(path: Path, schema: pa.Schema) -> pa.Table | None:
    """Rows of an earlier part of the same search; None if the file is of another search."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return None
    return table if table.schema.equals(schema, check_metadata=True) else None


def run_search(
    folder: Path,
    problem: Problem,
    algorithm: str = "nsga2",
    candidates: int | None = None,
    seed: int = 0,
    options: Options | None = None,
    earlier: Sequence[Result] = (),
    on_progress: OnProgress | None = None,
    baselines: bool = False,
    command: str | None = None,
    bound: Callable[[Result], Mapping[str, float] | None] | None = None,
) -> Result:
    """Search and write a run's folder: ``evaluations.parquet``, ``front.parquet``, ``best.json``.

    Args:
        folder: Created if missing; files of the same names are replaced.
        problem, algorithm, candidates, seed, options, on_progress: As in :func:`search`.
        earlier: Results for other budgets; this search starts from their fronts.
        baselines: Whether to search the baselines with the same effort as well
            (:func:`apq.search.baselines.fair_baselines`).
        command: The command line, for the run's files.
        bound: Computes :attr:`apq.search.search.Result.bound`.
    """
    seeds = np.concatenate([r.front.genes for r in earlier]) if earlier else None
    goes_on = options is not None and options.storage is not None
    with EvaluationLog(folder / "evaluations.parquet", problem, algorithm, seed, goes_on) as log:
        result = search(
            problem, algorithm, candidates, seed, options, seeds, on_progress, on_batch=log
        )
    if baselines:
        alike = replace(options or Options(), storage=None, keep=None)
        most = candidates or ALGORITHMS[algorithm].candidates
        beside = fair_baselines(result, most, alike, on_progress)
        result = replace(result, baselines=beside)
    if bound is not None:
        result = replace(result, bound=bound(result))
    write_run(folder, result, command)
    return result


def write_run(folder: Path, result: Result, command: str | None = None) -> dict[str, Path]:
    """Write ``front.parquet`` and ``best.json``, each atomically.

    The front has a row per candidate: the columns of :meth:`apq.search.front.Front.table`, then
    the costs of every block (:func:`apq.search.explain.block_costs`), null where it is skipped.

    Returns:
        Paths of the written files by name.
    """
    problem, front = result.problem, result.front
    metadata = _metadata(problem, result.algorithm, result.seed)
    schema = _schema(front.space, tuple(front.costs), metadata)
    paths = {"front": folder / "front.parquet", "best": folder / "best.json"}
    table = _table(front.space, schema, front.table())
    for name, costs in block_costs(problem.priced, front.genes).items():
        table = table.append_column(name, pa.array(costs, from_pandas=True))
    table = table.replace_schema_metadata(sealed({**metadata, "table": table_hash(table)}))
    with whole(paths["front"]) as partial:
        pq.write_table(table, partial, write_page_checksum=True)
    with whole(paths["best"]) as partial:
        partial.write_text(
            to_json(sealed(describe(result, command)), indent=2) + "\n", encoding="utf-8"
        )
    return paths


def asked(problem: Problem) -> dict[str, float]:
    """The limits of a problem: the largest value per cost, and the smallest accuracy."""
    least = {} if problem.least is None else {"accuracy": problem.least}
    return {**problem.limits, **least}


def describe(result: Result, command: str | None = None) -> dict[str, Any]:
    """A result's chosen candidate and how it was found, as plain data (``best.json``)."""
    problem, front, row = result.problem, result.front, result.chosen
    return {
        "apq": __version__,
        "command": command,
        "versions": _versions(),
        "candidate": front.candidate(row).to_dict(),
        "predicted": {
            "accuracy": float(front.accuracy[row]),
            "accuracy_spread": float(front.spread[row]),
        },
        "costs": {metric: float(cost[row]) for metric, cost in front.costs.items()},
        "limits": asked(problem),
        "baselines": {n: _figures(n, found) for n, found in result.baselines.items()},
        "strongest_baseline": result.strongest,
        "bound": None if result.bound is None else dict(result.bound),
        "blocks": explain(problem, front, row),
        "search": {
            "algorithm": result.algorithm,
            "seed": result.seed,
            "candidates": result.candidates,
            "objectives": list(problem.objectives),
            "fix": list(problem.fix),
            "caution": problem.caution,
            "score": asdict(problem.forgiving) if problem.forgiving else None,
            "sources": {name: dict(counts) for name, counts in result.sources.items()},
            "notes": dict(result.notes),
            "cost": dict(result.cost),
            "front_size": len(front),
            "front_diversity": front.diversity(),
            "hypervolume": result.curve[-1].hypervolume,
            "hypervolume_reference": _finite(
                dict(zip(problem.objectives, result.reference.worst.tolist(), strict=True))
            ),
            "curve": [asdict(point) for point in result.curve],
        },
        "space": front.space.to_dict(),
        "devices": list(problem.priced.sources),
        "made_from": {"space": front.space.fingerprint, **problem.made_from},
    }


def _versions() -> dict[str, str]:
    """Versions of the packages that a search's figures depend on."""
    names = ("numpy", "optuna", "torch")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


BASELINE_ROWS = 100
"""Most rows of a baseline's front that are kept."""


def _figures(name: str, found: Result | None) -> dict[str, Any] | None:
    """A baseline as plain data: ``about`` describes it, ``candidates`` and ``cost`` give its
    effort; only an original network may exceed a limit."""
    if found is None:
        return None
    front, row = found.front, found.chosen
    rows = front_rows(front, BASELINE_ROWS, row)
    columns = {"accuracy": front.accuracy, **front.costs}
    return {
        "about": about(name),
        "front": {name: column[rows].tolist() for name, column in columns.items()},
        "accuracy": float(front.accuracy[row]),
        "accuracy_spread": float(front.spread[row]),
        "costs": {metric: float(cost[row]) for metric, cost in front.costs.items()},
        "within_limits": found.within_limits,
        "candidates": found.candidates,
        "cost": dict(found.cost),
        "candidate": front.candidate(row).to_dict(),
    }


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {k: v if math.isfinite(v) else None for k, v in values.items()}


def front_rows(front: Front, most: int, always: int) -> list[int]:
    """At most ``most`` rows spread evenly over a front, ``always`` among them."""
    picks = {round(i) for i in np.linspace(0, len(front) - 1, min(most, len(front)))}
    return sorted(picks | {always})


def measured_front(result: Result, count: int, measure: Accuracy) -> list[dict[str, float]]:
    """Measure some candidates of a front, the chosen one among them.

    Args:
        result: A search's result.
        count: How many to measure, spread evenly over the front.
        measure: Gives accuracies, e.g. an :class:`apq.accuracy.SupernetAccuracy`.

    Returns:
        Per candidate its accuracy ``predicted`` and ``measured``, fractions, every cost, and
        ``chosen``, 1 for the one that the search chose.
    """
    front = result.front
    rows = front_rows(front, count, result.chosen)
    return [
        {"predicted": float(front.accuracy[row]), "measured": float(value)}
        | {metric: float(cost[row]) for metric, cost in front.costs.items()}
        | {"chosen": float(row == result.chosen)}
        for row, value in zip(rows, measure(front.genes[rows])[0], strict=True)
    ]
