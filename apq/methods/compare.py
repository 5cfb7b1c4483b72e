"""Every method on one problem, at several budgets and seeds, in one table and one page."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from apq.cost import Stopwatch
from apq.errors import ApqError, choose
from apq.files import to_json, whole
from apq.files.tables import read_parquet
from apq.methods import METHODS, run_method
from apq.search import ALGORITHMS
from apq.search.problem import Accuracy, Problem
from apq.search.record import OnProgress
from apq.search.search import search
from apq.space import Genes, Space

OWN = ("nsga2", "paper", "random")
"""apq's own search, APQ's as published, and random search: compared by default too."""

STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.2rem .8rem .2rem 0;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}p.note{color:#666}"
)


def known() -> tuple[str, ...]:
    """Names that can be compared: methods, then search algorithms."""
    return (*METHODS, *ALGORITHMS)


def compare(
    problems: Sequence[Problem],
    names: Sequence[str],
    calls: int,
    seeds: Sequence[int],
    on_progress: OnProgress | None = None,
    measure: Accuracy | None = None,
    earlier: pd.DataFrame | None = None,
    on_answer: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Let every method answer every problem with every seed.

    Args:
        problems: One space, one predictor and one table, different limits.
        names: Of :func:`known`.
        calls: How many candidates the predictor may score per answer.
        seeds: Each decides everything random of one answer.
        on_progress: Called after every answer.
        measure: Measures what was found, e.g. an :class:`apq.accuracy.SupernetAccuracy`.
        earlier: What the same call gave before: those answers are not asked for again.
        on_answer: Receives all answers so far after every new one.

    Returns:
        A row per answer: ``method``, ``limit_METRIC`` per limit, ``seed``, ``accuracy``,
        ``accuracy_spread`` (predicted, fractions), ``measured`` (a fraction, if asked for), every
        cost, ``predictor_calls``, ``training_steps``, ``supernet_passes``, ``wall_s``, ``cpu_s``,
        every gene's value, and ``error``, which says why a method has no answer.

    Raises:
        ApqError: there is no such method.
    """
    for name in names:
        choose(name, known(), "method")
    stored = [] if earlier is None else earlier.to_dict("records")
    given = {_key(row): row for row in stored}
    rows: list[dict[str, Any]] = []
    asked = list(itertools.product(problems, names, seeds))
    for problem, name, seed in asked:
        row: dict[Any, Any] = {"method": name, "seed": seed}
        row |= {f"limit_{m}": v for m, v in problem.limits.items()}
        before = given.get(_key(row))
        row = dict(before) if before is not None else row | _answer(name, problem, calls, seed)
        news = before is None
        if measure is not None and row["error"] is None and pd.isna(row.get("measured")):
            genes = genes_of(problem.priced.space, row)
            row["measured"], news = float(measure(genes)[0][0]), True
        rows.append(row)
        if news and on_answer is not None:
            later = [one for key, one in given.items() if key not in {*map(_key, rows)}]
            on_answer(pd.DataFrame([*rows, *later]))
        if on_progress is not None:
            best = max((r.get("accuracy", 0.0) for r in rows), default=0.0)
            on_progress(len(rows), len(asked), {"best": best})
    return pd.DataFrame(rows)


def _key(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    """What an answer is an answer to."""
    limits = {k: v for k, v in row.items() if str(k).startswith("limit_") and not pd.isna(v)}
    return row["method"], int(row["seed"]), *sorted(limits.items())


def genes_of(space: Space, row: Mapping[Any, Any]) -> Genes:
    """The candidate of an answer, ``(1, axes)``."""
    return space.from_values({axis.name: np.array([row[axis.name]]) for axis in space.axes})


ANSWERS = "answers.parquet"
"""Answers as they come, in a comparison's folder, so that it goes on where it was."""


def read_answers(
    path: Path, asked: Mapping[str, Any], measured: Mapping[str, Any] | None = None
) -> pd.DataFrame | None:
    """The answers that an earlier call left; None if it asked for something else.

    Args:
        path: The file.
        asked: All that decides the answers, plain data.
        measured: All that decides what is measured of them; where it is another, that is left out.

    Raises:
        ApqError: the file is damaged.
    """
    if not path.is_file():
        return None
    table = read_parquet(path, ApqError, f"Delete {path} to begin again.")
    said = table.schema.metadata or {}
    if said.get(b"asked") != to_json(dict(asked)).encode():
        return None
    frame: pd.DataFrame = table.to_pandas()
    if said.get(b"measured") != to_json(measured).encode():
        frame = frame.drop(columns="measured", errors="ignore")
    if missing := {"method", "seed", "error"} - {*frame}:
        raise ApqError(f"{path} has no column {min(missing)}. Delete it to begin again.")
    frame["error"] = frame["error"].astype(object).where(frame["error"].notna(), None)
    return frame


def write_answers(
    path: Path,
    asked: Mapping[str, Any],
    measured: Mapping[str, Any] | None,
    answers: pd.DataFrame,
) -> None:
    """Write what :func:`read_answers` reads."""
    table = pa.Table.from_pandas(answers, preserve_index=False)
    with whole(path) as temporary:
        said = {"asked": to_json(dict(asked)), "measured": to_json(measured)}
        pq.write_table(table.replace_schema_metadata(said), temporary)


def compare_in(
    folder: Path,
    problems: Sequence[Problem],
    names: Sequence[str],
    calls: int,
    seeds: Sequence[int],
    measure: Accuracy | None = None,
    measured_by: Mapping[str, str] | None = None,
    on_progress: OnProgress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> pd.DataFrame:
    """:func:`compare`, with answers kept in a folder, so that the same call goes on where it was;
    then :func:`write_comparison`. ``measured_by`` tells one ``measure`` from another; ``say`` gets
    a sentence where there are answers already."""
    first = problems[0]
    asked = {
        **first.made_from, "calls": calls, "fix": list(first.fix), "caution": first.caution,
        "space": first.priced.space.fingerprint,
    }  # fmt: skip
    before = read_answers(folder / ANSWERS, asked, measured_by)
    if before is not None:
        say(f"{len(before)} answers of the same comparison are in {folder}")
    answers = compare(
        problems, names, calls, seeds, on_progress, measure, before,
        partial(write_answers, folder / ANSWERS, asked, measured_by),
    )  # fmt: skip
    write_comparison(folder, answers, first.made_from)
    return answers


def _answer(name: str, problem: Problem, calls: int, seed: int) -> dict[str, Any]:
    """One method's answer as columns; ``error`` alone where it has none."""
    watch, space = Stopwatch(), problem.priced.space
    try:
        if name in METHODS:
            found = run_method(name, problem, calls, seed)
            genes, accuracy, spread, costs = found.genes, found.accuracy, found.spread, found.costs
            counts = (found.predictor_calls, found.training_steps, found.supernet_passes)
        else:
            result = search(problem, name, calls, seed)
            genes = result.front.genes[[result.chosen]]
            accuracy, spread, costs = result.accuracy, result.spread, result.costs
            counts = (result.candidates, 0, 0)
    except ApqError as error:
        return {"error": str(error), **_spent(watch)}
    values = {gene: column[0] for gene, column in space.values(genes).items()}
    return {
        "accuracy": accuracy, "accuracy_spread": spread, **costs,
        "predictor_calls": counts[0], "training_steps": counts[1], "supernet_passes": counts[2],
        **_spent(watch), **values, "error": None,
    }  # fmt: skip


def _spent(watch: Stopwatch) -> dict[str, float]:
    cost = watch.cost()
    return {"wall_s": cost["wall_s"], "cpu_s": cost["cpu_s"]}


def summary(answers: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table that people read: per method the mean predicted accuracy and, in
    brackets, the smallest and largest over seeds at every budget; then what one answer took."""
    limits = [c for c in answers if c.startswith("limit_")]
    budgets = answers[limits].drop_duplicates().to_dict("records")
    head = ["method", *(_told(b) for b in budgets)]
    columns = [("accuracy", b) for b in budgets]
    if "measured" in answers:
        head += [f"measured, {_told(b)}" for b in budgets]
        columns += [("measured", b) for b in budgets]
    head += ["calls", "training steps", "CPU s"]
    rows = []
    for name, mine in answers.groupby("method", sort=False):
        cells = [str(name)]
        for column, budget in columns:
            here = mine[(mine[[*budget]] == pd.Series(budget)).all(axis=1)] if budget else mine
            cells.append(_over_seeds(here[column] if column in here else here["seed"][:0], here))
        counts = [mine[c].mean() if c in mine else 0 for c in ("predictor_calls", "training_steps")]
        cells += ["" if pd.isna(c) else f"{c:,.0f}" for c in counts]
        rows.append([*cells, f"{mine['cpu_s'].mean():.1f}"])
    return head, rows


def _over_seeds(values: pd.Series[Any], answers: pd.DataFrame) -> str:
    """Mean, smallest and largest, and how many seeds have one if not all do."""
    found = values.dropna()
    if not len(found):
        return "none"
    told = f"{found.mean():.2%} ({found.min():.2%} … {found.max():.2%})"
    return told + (f", {len(found)} of {len(answers)} seeds" if len(found) < len(answers) else "")


def _told(budget: Mapping[Any, float]) -> str:
    words = (f"{str(m).removeprefix('limit_')} ≤ {v:g}" for m, v in budget.items())
    return ", ".join(words) or "no limit"


def _remarks(answers: pd.DataFrame) -> Iterable[tuple[str, str]]:
    """Per method what it is, and why it has no answer where it has none."""
    for name in answers["method"].drop_duplicates():
        about = METHODS[name].about + f" ({METHODS[name].source})" if name in METHODS else (
            f"apq search --algorithm {name}"
        )  # fmt: skip
        failed = answers[(answers["method"] == name) & answers["error"].notna()]["error"]
        yield name, about + "".join(f" No answer: {e}." for e in failed.drop_duplicates()[:1])


def write_comparison(folder: Path, answers: pd.DataFrame, made_from: Mapping[str, str]) -> None:
    """Write ``compare.parquet`` (all rows), ``compare.md`` and ``compare.html`` (one page)."""
    head, rows = summary(answers)
    seeds = answers["seed"].nunique()
    note = (
        f"Best predicted accuracy within the budget: mean over {seeds} seeds (smallest … largest). "
        "Calls: candidates that the predictor scored for one answer."
    )
    if "measured" in answers:
        note += " Measured: the same networks on the validation images, as the predictor's samples."
    text = [f"# Methods compared\n\n{note}\n", "| " + " | ".join(head) + " |"]
    text += ["|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]
    text += [f"- **{name}**: {about}" for name, about in _remarks(answers)]
    text += ["", *(f"- {k}: `{v}`" for k, v in made_from.items())]
    table = "".join(
        "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in (("th", head), *(("td", row) for row in rows))
    )
    listed = "".join(f"<li><b>{escape(n)}</b>: {escape(a)}</li>" for n, a in _remarks(answers))
    sources = "".join(f"<li>{escape(f'{k}: {v}')}</li>" for k, v in made_from.items())
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Methods compared</title>'
        f"<style>{STYLE}</style></head><body><h1>Methods compared</h1><p class=note>{escape(note)}"
        f"</p><table>{table}</table><ul>{listed}</ul><h2>Made from</h2><ul>{sources}</ul>"
        "</body></html>\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / "compare.parquet") as temporary:
        answers.to_parquet(temporary, index=False)
    for name, content in (("compare.md", "\n".join(text) + "\n"), ("compare.html", page)):
        with whole(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
