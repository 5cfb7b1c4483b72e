"""``apq search``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from apq.cli.common import err, live_line, next_step, one_thread, out, print_json, table_row, typed
from apq.files.places import RUN, file_name, home
from apq.space.axes import is_format

if TYPE_CHECKING:
    from apq.iterate import Round
    from apq.search.problem import Problem
    from apq.search.search import Result


def search(
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
    from apq.report.page import write_report
    from apq.search.many import default_cost, scenarios
    from apq.search.options import Options
    from apq.search.problem import check_limits
    from apq.search.region import fixed
    from apq.search.run import describe, run_search
    from apq.search.tolerance import allow_drop

    options = Options(local_search, warm_start, storage, keep)
    asked = given(latency_ms, energy_mj, size_mb, bitops_g, macs_m, peak_memory_kb)
    chosen, named = space_for(space, predictor)
    if codesign is not None:
        _alone(
            "codesign", lut=lut, objective=objective, score=score, storage=storage, iterations=iterations,
            algorithm=algorithm != "nsga2", local_search=local_search, warm_start=warm_start,
            with_margin=with_margin, accuracy_drop=accuracy_drop, measure=measure, bound=bound,
            supernet_accuracy=supernet_accuracy,
        )  # fmt: skip
        if len(budgets := product(asked, ())) > 1:
            raise typer.BadParameter("--codesign takes one limit per cost")
        search_both(
            codesign, chosen, predictor, budgets[0] | per_device(limit or []), fix or [], caution,
            candidates, seed, baselines, json, out_path,
        )  # fmt: skip
        return
    if supernet_accuracy:
        _alone(
            "supernet-accuracy", iterations=iterations, measure=measure, bound=bound,
            accuracy_drop=accuracy_drop, predictor=predictor,
        )  # fmt: skip
        candidates, baselines, bound = candidates or MEASURED, False, 0.0
    priced = price_on(chosen, lut or [], named)
    budgets = [b | per_device(limit or []) for b in product(asked, priced.costs.metrics)]
    budgets = priced.room(budgets, with_margin)
    forgiving = _forgiving(score)
    if accuracy_drop is not None and not objective:
        objective = ["accuracy", default_cost(priced.costs)]
    priced.require([*(objective or ()), *([forgiving.metric] if forgiving else [])])
    problems_of = partial(
        scenarios,
        priced.costs,
        budgets=budgets,
        objectives=tuple(objective or ()),
        fix=tuple(fix or ()),
        caution=caution,
        forgiving=forgiving,
        made_from=priced.made_from,
    )
    turns: list[Round] = []
    if iterations:
        for budget in budgets:  # before anything is measured for them
            check_limits(fixed(priced.costs, tuple(fix or ())), budget)
        folder = home(priced.space.name)
        predictor, turns = improve(
            lambda made, turn: problems_of(lambda: (made.predict, {}))[turn % len(budgets)],
            priced.space, out_path, iterations, per_iteration, supernet, images,
            samples or folder / "fp32", quantized_samples or folder / "quantized", seed,
        )  # fmt: skip
        for turn in turns:
            (err if json else out).print(words(turn))
    problems = problems_of(
        partial(by_supernet, priced.space, supernet, images)
        if supernet_accuracy
        else partial(load, predictor, priced.space)
    )
    if accuracy_drop is not None:
        known = origin(predictor, priced.space).original_accuracy
        problems = [allow_drop(problem, accuracy_drop, known) for problem in problems]
        _tell_original(problems[0], accuracy_drop, known)
    results: list[Result] = []
    for problem, budget in zip(problems, budgets, strict=True):
        folder = out_path if len(budgets) == 1 else out_path / folder_name(budget)
        with live_line(f"{algorithm} {_words(budget)}") as report, one_thread():
            result = run_search(
                folder, problem, algorithm, candidates, seed, options, results, report,
                baselines, typed(), partial(bound_of, predictor=predictor, seconds=bound),
            )  # fmt: skip
        results.append(result)
        if picture:
            _draw(folder, result)
            write_report(folder)
        if not json:
            show(result, folder)
    checked = [measure_front(r, measure, predictor, supernet, images) for r in results if measure]
    for found in () if json else checked:
        tell_measured(found)
    if json:
        figures = [describe(r, typed()) for r in results]
        if checked:
            figures = [f | {"measured": c} for f, c in zip(figures, checked, strict=True)]
        rounds = {"iterations": as_data(turns)} if turns else {}
        print_json((figures[0] if len(figures) == 1 else {"runs": figures}) | rounds)
    where = out_path if len(budgets) == 1 else out_path / folder_name(budgets[-1])
    first = f"open {where / 'report.html'}, then " if picture else ""
    next_step(f"{first}apq finetune --candidate {where / 'best.json'}")


def _tell_bound(result: Result) -> None:
    """How far from the best prediction the found one can be."""
    bound = result.bound
    if bound is None:
        return
    better = max(bound["points"], 0.0)
    out.print(
        f"at most {better:.2f} points better is predicted for anything within the limits "
        f"({bound['parts']:,.0f} parts of the space, {bound['seconds']:.1f} s)"
    )


def _tell_original(problem: Problem, points: float, measured: float | None) -> None:
    """What the smallest accuracy comes from."""
    least = problem.least or 0.0
    known = "predicted at its highest bits" if measured is None else "measured in full precision"
    err.print(
        f"original network: {least + points / 100:.2%} ({known}); at least {least:.2%} asked for"
    )


def _alone(what: str, **given: Any) -> None:
    """Refuse options that another one has no use for."""
    for name, value in given.items():
        if value:
            option = name.replace("_", "-")
            raise typer.BadParameter(f"--{what} has no use for --{option}: leave it out")


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


def show(result: Result, folder: Path) -> None:
    """Print a front and its chosen candidate."""
    from rich.table import Table

    from apq.cost import told
    from apq.search.run import front_rows

    problem, front = result.problem, result.front
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("predicted accuracy", justify="right")
    for metric in problem.metrics:
        limit = problem.limits.get(metric)
        budget = f" (<= {limit:g})" if limit is not None else ""
        table.add_column(metric + budget, justify="right")
    table.add_column("")
    for row in front_rows(front, 8, result.chosen):
        style = "bold green" if row == result.chosen else None
        mark = "chosen" if row == result.chosen else ""
        table.add_row(
            f"{front.accuracy[row]:.2%} ± {front.spread[row]:.2%}",
            *(f"{front.costs[metric][row]:.4g}" for metric in problem.metrics),
            mark,
            style=style,
        )
    out.print(table)
    row = result.chosen
    out.print(
        f"chosen: {front.accuracy[row]:.2%} ± {front.spread[row]:.2%} predicted; "
        + ", ".join(f"{metric} {cost[row]:.4g}" for metric, cost in front.costs.items())
    )
    _tell_bound(result)
    _explain(result)
    _beside(result)
    if "surrogate_optimum" in result.notes:
        notes = result.notes
        out.print(
            f"additive surrogate: R2 {notes['surrogate_r2']:.3f}, Spearman "
            f"{notes['surrogate_spearman']:.3f} on rows it was not fitted to; its optimum is "
            f"{-notes['surrogate_optimum']:.4f} by its own count (a bound for the surrogate, not "
            f"for the predictor) and {-notes['surrogate_optimum_scored']:.4f} by the predictor"
        )
    total = max(1, sum(counts["candidates"] for counts in result.sources.values()))
    shares = (
        f"{name} {counts['candidates'] / total:.0%} ({counts['front']})"
        for name, counts in result.sources.items()
    )
    out.print(f"candidates from (of them on the front): {', '.join(shares)}")
    volume = (
        f", hypervolume {result.curve[-1].hypervolume:.4f}" if len(problem.objectives) > 1 else ""
    )
    out.print(
        f"{result.candidates:,} candidates scored, {len(front)} on the front{volume}, "
        f"{front.diversity():.0%} of genes differ between two of them; wrote {folder} in "
        f"{told(result.cost)}"
    )


def _beside(result: Result) -> None:
    """Print the baselines, and how far the chosen candidate is from the strongest."""
    problem, names = result.problem, result.baselines
    if names:
        out.print("tried as hard, with as many candidates or until nothing new turned up:")
    pad = max(map(len, names), default=0) + 2
    for name, found in names.items():
        if found is None:
            out.print(f"  {name:<{pad}}none found within the budget")
            continue
        costs = ", ".join(f"{m} {found.costs[m]:.4g}" for m in problem.metrics)
        enough = problem.least is None or found.accuracy >= problem.least
        over = " (over the budget)" if enough else " (not accurate enough)"
        over = "" if found.within_limits else over
        score = f"{found.accuracy:.2%} ± {found.spread:.2%} predicted; "
        table_row(f"  {name:<{pad}}", score, f"{costs}{over}")
    if result.strongest is not None and problem.least is not None:
        metric, best = problem.costs_minimised[0], names[result.strongest]
        share = 1 - result.costs[metric] / best.costs[metric] if best else 0.0
        where = f"{abs(share):.1%} {'less' if share >= 0 else 'more'}"
        out.print(f"joint search needs {where} {metric} than the strongest, {result.strongest}")
    elif result.strongest is not None and problem.limits and problem.objectives[0] == "accuracy":
        best = names[result.strongest]
        gap = 100 * (result.accuracy - (best.accuracy if best else 0.0))
        where = f"{abs(gap):.2f} points {'above' if gap >= 0 else 'below'}"
        out.print(f"joint search is predicted {where} the strongest of these, {result.strongest}")


def _explain(result: Result) -> None:
    from apq.search.explain import explain

    metrics = [m for m in result.problem.metrics if m != "peak_memory_kb"]
    blocks = explain(result.problem, result.front, result.chosen)
    names = [name for name in result.problem.space.place if name in {k for b in blocks for k in b}]
    told = [_choices(block, [*result.problem.space.attributes, *names]) for block in blocks[:-1]]
    told.append("what is not searched")
    pad = max(map(len, told)) + 4
    for block, what in zip(blocks, told, strict=True):
        shares = (f"{m} {block[m]:.4g} ({block[f'{m}_share']:.0%})  " for m in metrics)
        table_row(f"  {block['slot']:<6}{what:<{pad}}", *shares)


def _choices(block: Mapping[str, Any], names: Sequence[str]) -> str:
    """The choices of a block: ``kernel 3  width   64  bits 4/8``."""
    chosen = {name: block[name] for name in dict.fromkeys(names) if name in block}
    words = [f"{name} {choice:>4}" for name, choice in chosen.items() if not is_format(name)]
    bits = "/".join(str(choice) for name, choice in chosen.items() if is_format(name))
    return "  ".join([*words, *([f"bits {bits}"] if bits else [])])


def _draw(folder: Path, result: Result) -> None:
    """Draw the front and the baselines over the first cost."""
    from apq.report.picture import Cloud, draw_front
    from apq.search.baselines import RANDOM, random_cloud

    problem, front = result.problem, result.front
    if not problem.metrics:
        return
    metric = problem.metrics[0]
    drawn = result.baselines.get(RANDOM)
    random = drawn.scored if drawn is not None else None
    if random is None:
        random = random_cloud(problem, min(result.candidates, 20_000), result.seed)
    draw_front(
        [folder / "front.svg"],
        metric,
        [
            Cloud(
                f"front ({result.algorithm})",
                front.costs[metric],
                front.accuracy,
                chosen=result.chosen,
            )
        ],
        [Cloud("random candidates", random.costs[metric], random.accuracy)],
        [
            Cloud(name, found.front.costs[metric], found.front.accuracy)
            for name, found in result.baselines.items()
            if found is not None
        ],
        [problem.limits[metric]] if metric in problem.limits else [],
    )
