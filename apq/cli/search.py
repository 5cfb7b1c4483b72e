"""``apq search``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apq.cli.asking import (
    MEASURED,
    as_data,
    bound_of,
    by_supernet,
    improve,
    measure_front,
    tell_measured,
    words,
)
from apq.cli.budgets import (
    Budget,
    Caution,
    Fix,
    OwnSpace,
    PredictorPath,
    Seed,
    WithMargin,
    given,
    load,
    origin,
    per_device,
    price_on,
    product,
    space_for,
)
from apq.cli.codesign import search_both
from apq.cli.common import err, live_line, next_step, one_thread, out, print_json, typed
from apq.cli.found import draw, show
from apq.files.places import RUN, file_name

if TYPE_CHECKING:
    from apq.iterate import Round
    from apq.search.options import Options
    from apq.search.problem import Problem
    from apq.search.search import Result


NO_USE = {
    "codesign": (
        "lut", "objective", "score", "storage", "iterations", "algorithm", "local_search",
        "warm_start", "with_margin", "accuracy_drop", "measure", "bound", "supernet_accuracy",
    ),
    "supernet_accuracy": ("iterations", "measure", "bound", "accuracy_drop", "predictor"),
}  # fmt: skip
"""Options that make no sense beside another one."""


def search(
    ctx: typer.Context,
    latency_ms: Budget = None,
    energy_mj: Budget = None,
    size_mb: Budget = None,
    bitops_g: Budget = None,
    macs_m: Budget = None,
    peak_memory_kb: Budget = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="Limit of one device among several: latency_ms@DEVICE=8."),
    ] = None,
    accuracy_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Choose the cheapest network within this many points of the original (see below).",
        ),
    ] = None,
    space: OwnSpace = None,
    predictor: PredictorPath = None,
    lut: Annotated[
        list[str] | None,
        typer.Option(
            help="Table or cost model, repeatable (default: lut/bitfusion-apq-SPACE.csv)."
        ),
    ] = None,
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
    supernet: Annotated[
        Path | None,
        typer.Option(
            help="Supernet that measures rounds (default: data/SPACE/supernet.safetensors)."
        ),
    ] = None,
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
    json: Annotated[
        bool, typer.Option("--json", help="Print the chosen candidate as JSON.")
    ] = False,
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
    from apq.search.many import default_cost, scenarios
    from apq.search.options import Options
    from apq.search.problem import require_reachable

    options = Options(local_search, warm_start, storage, keep)
    asked = given(latency_ms, energy_mj, size_mb, bitops_g, macs_m, peak_memory_kb)
    limits = per_device(limit or [])
    chosen, named = space_for(space, predictor)
    if codesign is not None:
        _alone(ctx, "codesign")
        search_both(
            codesign, chosen, predictor, _one(asked) | limits, fix or [], caution, candidates, seed,
            baselines, json, out_path,
        )  # fmt: skip
        return
    if supernet_accuracy:
        _alone(ctx, "supernet_accuracy")
        candidates, baselines, bound = candidates or MEASURED, False, 0.0
    priced = price_on(chosen, lut or [], named)
    budgets = [budget | limits for budget in product(asked, priced.costs.metrics)]
    budgets = priced.room(budgets, with_margin)
    forgiving = _forgiving(score)
    if accuracy_drop is not None and not objective:
        objective = ["accuracy", default_cost(priced.costs)]
    priced.require([*(objective or ()), *([forgiving.metric] if forgiving else [])])
    problems_of = partial(
        scenarios, priced.costs, budgets=budgets, objectives=tuple(objective or ()),
        fix=tuple(fix or ()), caution=caution, forgiving=forgiving, made_from=priced.made_from,
    )  # fmt: skip
    turns: list[Round] = []
    if iterations:
        require_reachable(priced.costs, budgets, fix or ())  # before anything is measured for them
        predictor, turns = improve(
            problems_of, priced.space, out_path, iterations, per_iteration, supernet, images,
            samples, quantized_samples, seed,
        )  # fmt: skip
        (err if json else out).print(*map(words, turns), sep="\n")
    measured = partial(by_supernet, priced.space, supernet, images)
    predicted = partial(load, predictor, priced.space)
    problems = problems_of(measured if supernet_accuracy else predicted)
    if accuracy_drop is not None:
        problems = _within_drop(problems, accuracy_drop, origin(predictor, priced.space))
    bounded = partial(bound_of, predictor=predictor, seconds=bound)
    found = _results(
        problems, out_path, algorithm, candidates, seed, options, baselines, bounded, picture, json
    )
    results, last = [*found.values()], [*found][-1]
    checked = [measure_front(r, measure, predictor, supernet, images) for r in results if measure]
    _tell(results, checked, turns, json)
    first = f"open {last / 'report.html'}, then " if picture else ""
    next_step(f"{first}apq finetune --candidate {last / 'best.json'}")


def _results(
    problems: Sequence[Problem], folder: Path, algorithm: str, candidates: int | None, seed: int,
    options: Options, baselines: bool, bounded: Callable[[Result], dict[str, float] | None],
    picture: bool, json: bool,
) -> dict[Path, Result]:  # fmt: skip
    """Search, draw and print every problem in turn; what was found by the folder it is in."""
    from apq.search.run import run_search

    found: dict[Path, Result] = {}
    for problem in problems:
        own = folder if len(problems) == 1 else folder / folder_name(problem.limits)
        with live_line(f"{algorithm} {_words(problem.limits)}") as report, one_thread():
            found[own] = run_search(
                own, problem, algorithm, candidates, seed, options, [*found.values()], report,
                baselines, typed(), bounded,
            )  # fmt: skip
        _show(found[own], own, picture, json)
    return found


def _one(asked: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The one limit per cost that ``--codesign`` takes."""
    if len(budgets := product(asked, ())) > 1:
        raise typer.BadParameter("--codesign takes one limit per cost")
    return budgets[0]


def _within_drop(problems: list[Problem], points: float, made: Any) -> list[Problem]:
    """The problems with the least accuracy that ``--accuracy-drop`` allows."""
    from apq.search.tolerance import allow_drop

    known = made.original_accuracy
    problems = [allow_drop(problem, points, known) for problem in problems]
    _tell_original(problems[0], points, known)
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
    rounds = {"iterations": as_data(turns)} if turns else {}
    print_json((figures[0] if len(figures) == 1 else {"runs": figures}) | rounds)


def _tell_original(problem: Problem, points: float, measured: float | None) -> None:
    """What the smallest accuracy comes from."""
    least = problem.least or 0.0
    known = "predicted at its highest bits" if measured is None else "measured in full precision"
    err.print(
        f"original network: {least + points / 100:.2%} ({known}); at least {least:.2%} asked for"
    )


def _alone(ctx: typer.Context, what: str) -> None:
    """Refuse options on the command line that another one has no use for."""
    for name in NO_USE[what]:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            options = (f"--{option.replace('_', '-')}" for option in (what, name))
            raise typer.BadParameter("{} has no use for {}: leave it out".format(*options))


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
