"""``apq search``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apq.cli.asking import by_supernet, improve, measure_front, origin, tell_measured
from apq.cli.budgets import (
    Judge,
    given,
    load,
    per_device,
    price_on,
    product,
    room,
    space_for,
)
from apq.cli.codesign import search_both
from apq.cli.common import (
    err,
    live_line,
    next_step,
    one_thread,
    out,
    print_json,
    refuse_unused,
    typed,
)
from apq.cli.found import draw, show
from apq.cli.options import (
    AsJson,
    Budget,
    Caution,
    Fix,
    Limit,
    OwnSpace,
    PredictorPath,
    Seed,
    SupernetPath,
    Tables,
    WithMargin,
)
from apq.files.places import RUN, file_name

if TYPE_CHECKING:
    from apq.hardware.chosen import Priced
    from apq.iterate import Round
    from apq.search.many import Scenarios
    from apq.search.problem import Problem
    from apq.search.search import Result
    from apq.space import Space

MEASURED = 300
"""Candidates that are measured where the supernet takes the predictor's place."""


def search(
    ctx: typer.Context,
    latency_ms: Budget = None,
    energy_mj: Budget = None,
    size_mb: Budget = None,
    bitops_g: Budget = None,
    macs_m: Budget = None,
    peak_memory_kb: Budget = None,
    limit: Limit = None,
    accuracy_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Choose the cheapest network within this many points of the original (see below).",
        ),
    ] = None,
    space: OwnSpace = None,
    predictor: PredictorPath = None,
    lut: Tables = None,
    algorithm: Annotated[
        str, typer.Option(help="nsga2, evolution, optuna, paper, milp or random (see below).")
    ] = "nsga2",
    objective: Annotated[
        list[str] | None,
        typer.Option(help="Objective, repeatable (default: accuracy and the first limited cost)."),
    ] = None,
    codesign: Annotated[
        str | None,
        typer.Option(help="Search the accelerator too: row-stationary or bitfusion (simulated)."),
    ] = None,
    with_margin: WithMargin = False,
    fix: Fix = None,
    caution: Caution = 0.0,
    score: Annotated[
        str | None,
        typer.Option(
            help="Define objective 'score': COST=REFERENCE[,smaller=8,larger=8,rate=2,stress=1]."
        ),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(min=10, help="How many candidates to score (default: 20,000; paper 50,100)."),
    ] = None,
    local_search: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.95,
            help="Share of the candidates for local search; 0: none (default: up to 0.75).",
        ),
    ] = None,
    warm_start: Annotated[
        bool | None,
        typer.Option(
            help="Begin with the optima of an additive model, not at random (default: yes)."
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Journal file, sqlite:///… or postgresql://…: resumes, optuna-dashboard shows it."
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Candidates stored as trials: front (default), or all."),
    ] = None,
    iterations: Annotated[
        int,
        typer.Option(
            min=0, help="Rounds of measuring candidates of the front and retraining the predictor."
        ),
    ] = 0,
    per_iteration: Annotated[int, typer.Option(min=2, help="Quantized samples per round.")] = 20,
    samples: Annotated[
        Path | None, typer.Option(help="fp32 samples (default: data/SPACE/fp32).")
    ] = None,
    quantized_samples: Annotated[
        Path | None,
        typer.Option(help="Quantized samples, which grow (default: data/SPACE/quantized)."),
    ] = None,
    measure: Annotated[
        int,
        typer.Option(
            min=0, help="Measure this many networks of the front, including the chosen one."
        ),
    ] = 0,
    bound: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Seconds for an upper bound of the prediction within the limits (see below).",
        ),
    ] = None,
    supernet: SupernetPath = None,
    images: Annotated[str | None, typer.Option(help="As for apq collect.")] = None,
    supernet_accuracy: Annotated[
        bool,
        typer.Option(
            "--supernet-accuracy", help="Measure candidates on the supernet, without a predictor."
        ),
    ] = False,
    seed: Seed = 0,
    baselines: Annotated[
        bool,
        typer.Option(
            help="Also run baselines: one format everywhere, random, sequential, bits-blind."
        ),
    ] = True,
    picture: Annotated[bool, typer.Option(help="Draw the front and the baselines.")] = True,
    json: AsJson = False,
    out_path: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = RUN,
) -> None:
    """Search architecture, widths and bitwidths together, within budgets.

    Writes evaluations.parquet, front.parquet, best.json, front.svg and report.html; with several
    budgets one sub-folder each.

    With --accuracy-drop the cheapest network is chosen instead of the most accurate one: the lowest
    in the first cost among the objectives (default: latency) whose predicted accuracy is within
    this many percentage points of the original network's. The original's accuracy is measured in
    full precision if the predictor's samples hold it, as those of apq collect --corrected do; else
    it is predicted at the highest bits.

    Algorithms: nsga2 is Optuna's NSGA-II sampler with generations that vary as arrays, a warm
    start and local search; evolution is the same with the mutants and crossovers of APQ's paper;
    optuna is Optuna's own sampler, one trial at a time; paper is the search of APQ's paper as
    published; milp solves an additive model exactly; random draws within the budget.

    --supernet-accuracy takes the supernet in place of a predictor, as SPOS does: every candidate's
    batch norm is recalibrated, it is quantized and run on the validation images (300 candidates
    unless --candidates says otherwise, no baselines). "Predicted" then means that measurement.

    --bound 30 spends 30 seconds per budget on an upper bound of the predicted accuracy within the
    limits. If only number formats are searched, one second is the default (0: none); the larger the
    searched part of the architecture, the looser the bound (docs/methods.md).

    --codesign chooses the accelerator too: its processing elements, rows, columns, buffers and
    bandwidth. Limits may include its area_mm2 and peak power_mw; device.json and device.csv
    describe it. Latency, energy, area and power come from a simulator.

    Examples:

      apq search --latency-ms 0.5

      apq search --accuracy-drop 1.0 --measure 10 --supernet mine.safetensors --images photos/

      apq search --latency-ms 0.4 0.5 0.6 --size-mb 0.2 --out runs/list

      apq search --latency-ms 0.5 --storage runs/study.log --local-search 0 --no-warm-start

      apq search --bitops-g 1.5 --fix bits=8 --algorithm evolution

      apq search --latency-ms 0.5 --supernet-accuracy --supernet mine.safetensors --images photos/

      apq search --latency-ms 0.5 --fix architecture=runs/search/best.json --out runs/bits

      apq search --codesign bitfusion --latency-ms 0.5 --limit area_mm2=1.5 --limit power_mw=2000

      apq search --latency-ms 0.5 --iterations 3 --supernet data/mine/supernet.safetensors --images photos/ --samples data/mine/fp32 --quantized-samples data/mine/quantized --out runs/mine
    """
    from apq.search.options import Options
    from apq.search.run import run_search

    options = Options(local_search, warm_start, storage, keep)
    refuse_unused(ctx, UNUSED)
    asked = given(latency_ms, energy_mj, size_mb, bitops_g, macs_m, peak_memory_kb)
    chosen, named = space_for(space, predictor)
    if codesign is not None:
        search_both(
            codesign, chosen, predictor, _one(asked) | per_device(limit), fix or [], caution,
            candidates, seed, baselines, json, out_path,
        )  # fmt: skip
        return
    if supernet_accuracy:
        candidates, baselines, bound = candidates or MEASURED, False, 0.0
    priced = price_on(chosen, lut, named)
    budgets = [b | per_device(limit) for b in product(asked, priced.costs.metrics)]
    wanted = _scenarios(
        priced, room(priced, budgets, with_margin), objective, fix, caution, score, accuracy_drop
    )
    predictor, turns = improve(
        wanted, predictor, out_path, iterations, per_iteration, supernet, images, samples,
        quantized_samples, seed, err if json else out,
    )  # fmt: skip
    judge = _judge(chosen, predictor, supernet_accuracy, supernet, images)
    problems = _within_drop(wanted.problems(judge.accuracy, judge.made_from), accuracy_drop, judge)
    results: list[Result] = []
    folders = _folders(out_path, wanted.budgets)
    for problem, folder in zip(problems, folders, strict=True):
        with live_line(f"{algorithm} {_words(problem.limits)}") as report, one_thread():
            result = run_search(
                folder, problem, algorithm, candidates, seed, options, results, report,
                baselines, typed(), partial(_bound, judge=judge, seconds=bound),
            )  # fmt: skip
        results.append(result)
        _show(result, folder, picture, json)
    checked = [measure_front(r, measure, judge, supernet, images) for r in results if measure]
    _tell(results, checked, turns, json)
    first = f"open {folder / 'report.html'}, then " if picture else ""
    next_step(f"{first}apq finetune --candidate {folder / 'best.json'}")


UNUSED = {
    "codesign": (
        "lut", "objective", "score", "storage", "iterations", "algorithm", "local_search",
        "warm_start", "with_margin", "accuracy_drop", "measure", "bound", "supernet_accuracy",
    ),
    "supernet_accuracy": ("iterations", "measure", "bound", "accuracy_drop", "predictor"),
}  # fmt: skip
"""Options that one of ``apq search`` has no use for."""


def _one(asked: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The one limit per cost that ``--codesign`` takes."""
    if len(budgets := product(asked, ())) > 1:
        raise typer.BadParameter("--codesign takes one limit per cost")
    return budgets[0]


def _scenarios(
    priced: Priced, budgets: list[dict[str, float]], objective: list[str] | None,
    fix: list[str] | None, caution: float, score: str | None, accuracy_drop: float | None,
) -> Scenarios:  # fmt: skip
    """What is searched; all that can be refused without a predictor is refused here."""
    from apq.search.many import Scenarios, default_cost

    forgiving = _forgiving(score)
    if accuracy_drop is not None and not objective:
        objective = ["accuracy", default_cost(priced.costs)]
    priced.require([*(objective or ()), *([forgiving.metric] if forgiving else [])])
    return Scenarios(
        priced.costs, budgets, tuple(objective or ()), tuple(fix or ()), caution, forgiving,
        priced.made_from,
    )  # fmt: skip


def _judge(
    space: Space, predictor: Path | None, measured: bool, supernet: Path | None, images: str | None
) -> Judge:
    """What says how accurate candidates are: a predictor, or the supernet itself."""
    return by_supernet(space, supernet, images) if measured else load(predictor, space)


def _folders(folder: Path, budgets: Sequence[Mapping[str, float]]) -> list[Path]:
    """A run's folder, or for each of several budgets a sub-folder."""
    return [folder] if len(budgets) == 1 else [folder / folder_name(b) for b in budgets]


def _bound(result: Result, judge: Judge, seconds: float | None) -> dict[str, float] | None:
    """The bound that ``--bound`` asks for."""
    from apq.bound.brief import bound_of

    return bound_of(result, judge.predictor, seconds)


def _within_drop(problems: list[Problem], points: float | None, judge: Judge) -> list[Problem]:
    """The problems with the least accuracy that ``--accuracy-drop`` allows, if it is given."""
    if points is None:
        return problems
    from apq.search.tolerance import allow_drop

    measured = origin(judge).original_accuracy
    problems = [allow_drop(problem, points, measured) for problem in problems]
    least = problems[0].least or 0.0
    known = "predicted at its highest bits" if measured is None else "measured in full precision"
    err.print(
        f"original network: {least + points / 100:.2%} ({known}); at least {least:.2%} asked for"
    )
    return problems


def _show(result: Result, folder: Path, picture: bool, json: bool) -> None:
    """Draw and print what one search found."""
    from apq.report.page import write_report

    if picture:
        draw(folder, result)
        write_report(folder)
    if not json:
        show(result, folder)


def _tell(
    results: Sequence[Result], checked: Sequence[Any], turns: Sequence[Round], json: bool
) -> None:
    """Print what was measured; with ``--json`` everything."""
    from apq.search.run import describe

    if not json:
        for found in checked:
            tell_measured(found)
        return
    figures = [describe(result, typed()) for result in results]
    if checked:
        figures = [f | {"measured": c} for f, c in zip(figures, checked, strict=True)]
    rounds = {"iterations": [asdict(turn) for turn in turns]} if turns else {}
    print_json((figures[0] if len(figures) == 1 else {"runs": figures}) | rounds)


def _forgiving(text: str | None) -> Any:
    from apq.search.problem import Forgiving

    if text is None:
        return None
    (metric, reference), *rest = (part.partition("=")[::2] for part in text.split(","))
    try:
        return Forgiving(metric, float(reference), **{k.strip(): float(v) for k, v in rest})
    except (TypeError, ValueError):
        raise typer.BadParameter(
            f"--score {text!r} is not COST=REFERENCE[,smaller=8,larger=8,rate=2,stress=1]"
        ) from None


def _words(budget: Mapping[str, float]) -> str:
    return " ".join(f"{metric}<={value:g}" for metric, value in budget.items())


def folder_name(budget: Mapping[str, float]) -> str:
    """Sub-folder of one budget among several; a device's name is made safe for paths."""
    return file_name("-".join(f"{metric}-{value:.12g}" for metric, value in budget.items()))
