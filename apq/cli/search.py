"""``apq search``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from apq.cli.common import err, live_line, next_step, out, print_json

if TYPE_CHECKING:
    from apq.hardware import PricedSpace
    from apq.search.search import Result
    from apq.space import Space

BUDGETS = ("latency_ms", "energy_mj", "size_mb", "bitops_g", "macs_m", "peak_memory_kb")
_OPTIONS = {f"--{name.replace('_', '-')}" for name in BUDGETS}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(:\S+)?|[+-]?(nan|inf)", re.IGNORECASE)

Budget = Annotated[str | None, typer.Option(metavar="NUMBER…", help="Upper limit(s).")]


class BudgetCommand(TyperCommand):
    """Lets a budget option take several numbers: ``--latency-ms 4 6 8``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the numbers that follow a budget option into one value."""
        joined: list[str] = []
        for arg in args:
            follows = len(joined) > 1 and joined[-2] in _OPTIONS and _NUMBER.fullmatch(arg)
            if follows and all(_NUMBER.fullmatch(n) for n in joined[-1].split(",")):
                joined[-1] += f",{arg}"
            else:
                joined.append(arg)
        return super().parse_args(ctx, joined)


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
    space: Annotated[
        str, typer.Option(help="Preset name, or a .toml file of your own.")
    ] = "cifar10",
    predictor: Annotated[
        Path | None,
        typer.Option(help="Trained predictor (default: data/SPACE/predictor.safetensors)."),
    ] = None,
    lut: Annotated[
        list[str] | None,
        typer.Option(
            help="Table or cost model, repeatable (default: lut/bitfusion-apq-SPACE.csv)."
        ),
    ] = None,
    algorithm: Annotated[str, typer.Option(help="nsga2, evolution, milp or random.")] = "nsga2",
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="What to trade, repeatable (default: accuracy and the first limited cost)."
        ),
    ] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(help="Fix genes: b03_kernel=3, bits=8, depth=max, architecture=best.json."),
    ] = None,
    caution: Annotated[float, typer.Option(help="k in accuracy = mean - k x spread.")] = 0.0,
    score: Annotated[
        str | None,
        typer.Option(
            help="Define objective 'score': COST=REFERENCE[,smaller=8,larger=8,rate=2,stress=1]."
        ),
    ] = None,
    candidates: Annotated[int, typer.Option(min=10, help="How many candidates to score.")] = 20_000,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Journal file, sqlite:///… or postgresql://…: resumes, optuna-dashboard shows it."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides everything random.")] = 0,
    picture: Annotated[bool, typer.Option(help="Draw the front, against random search.")] = True,
    json: Annotated[
        bool, typer.Option("--json", help="Print the chosen candidate as JSON.")
    ] = False,
    out_path: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path(
        "runs/search"
    ),
) -> None:
    """Search architecture, widths and bitwidths together, within budgets.

    Writes evaluations.parquet, front.parquet, best.json and front.svg; with several budgets one
    sub-folder each.

    Examples:

      apq search --latency-ms 0.5

      apq search --latency-ms 0.4 0.5 0.6 --size-mb 0.2 --out runs/list

      apq search --bitops-g 0.5 --fix bits=8 --algorithm evolution

      apq search --latency-ms 0.5 --fix architecture=runs/search/best.json --out runs/bits
    """
    from apq.search.many import scenarios
    from apq.search.run import describe, run_search

    texts = (latency_ms, energy_mj, size_mb, bitops_g, macs_m, peak_memory_kb)
    given = {n: numbers(n, t) for n, t in zip(BUDGETS, texts, strict=True) if t is not None}
    chosen_space, priced, sources = price(space, lut or [])
    budgets = [budget | _per_device(limit or []) for budget in product(given, priced.metrics)]
    problems = scenarios(
        priced,
        lambda: load(
            predictor or Path(f"data/{chosen_space.name}/predictor.safetensors"), chosen_space
        ),
        budgets,
        objectives=tuple(objective or ()),
        fix=tuple(fix or ()),
        caution=caution,
        forgiving=_forgiving(score),
        made_from=sources,
    )
    results: list[Result] = []
    for problem, budget in zip(problems, budgets, strict=True):
        folder = out_path if len(budgets) == 1 else out_path / folder_name(budget)
        with live_line(f"{algorithm} {_words(budget)}") as report:
            result = run_search(
                folder, problem, algorithm, candidates, seed, storage, results, on_progress=report
            )
        results.append(result)
        if picture:
            _draw(folder, result, candidates)
        if not json:
            show(result, folder)
    if json:
        figures = [describe(result) for result in results]
        print_json(figures[0] if len(figures) == 1 else {"runs": figures})
    where = out_path if len(budgets) == 1 else out_path / folder_name(budgets[-1])
    next_step(f"apq finetune --candidate {where / 'best.json'}")


def numbers(metric: str, text: str) -> list[float]:
    """Numbers of a budget option: ``4,6,8`` or a range ``4:20:0.1`` (both ends included)."""
    values: list[float] = []
    for word in text.split(","):
        try:
            parts = [float(p) for p in word.split(":")]
        except ValueError:
            raise typer.BadParameter(f"{metric}: {word!r} is not a number") from None
        if len(parts) == 1:
            values += parts
        elif len(parts) == 3 and parts[2] > 0 and parts[1] >= parts[0]:
            steps = int((parts[1] - parts[0]) / parts[2] + 1e-9)
            values += [round(parts[0] + i * parts[2], 9) for i in range(steps + 1)]
        else:
            raise typer.BadParameter(f"{metric}: a range is FIRST:LAST:STEP, got {word!r}")
    return values


def product(
    budgets: Mapping[str, Sequence[float]], metrics: Sequence[str]
) -> list[dict[str, float]]:
    """Every combination of budgets; with several devices a budget holds on each of them."""
    combined = []
    for values in itertools.product(*budgets.values()):
        one: dict[str, float] = {}
        for metric, value in zip(budgets, values, strict=True):
            devices = [m for m in metrics if m.startswith(f"{metric}@")]
            one |= dict.fromkeys(devices or [metric], value)
        combined.append(one)
    return combined


def price(space: str, luts: Sequence[str]) -> tuple[Space, PricedSpace, dict[str, str]]:
    """The space, its prices, and hashes of the tables."""
    import hashlib

    from apq.hardware import load_cost_model, price_space
    from apq.space import load_space

    found = load_space(space)
    default = Path(f"lut/bitfusion-apq-{found.name}.csv")
    names = list(luts) or ([str(default)] if default.is_file() else [])
    if not names:
        err.print(f"no table at {default}; counted costs only (--lut adds a device)")
    hashes = {"space": found.fingerprint}
    for name in names:
        path = Path(name)
        digest = (
            hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "built in"
        )
        hashes[f"lut:{name}"] = digest
    models = [load_cost_model(name) for name in names]
    return found, price_space(found, models[0] if len(models) == 1 else models), hashes


def load(path: Path, space: Space) -> tuple[Any, dict[str, str]]:
    """The predictor's function and the hashes of what it came from."""
    import hashlib

    from apq.predictor import load_predictor

    predictor = load_predictor(path, space)
    made_from = {"predictor": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}
    supernet = predictor.report.get("supernet")
    if supernet:
        made_from["supernet"] = str(supernet)
    return predictor.predict, made_from


def _per_device(limits: Sequence[str]) -> dict[str, float]:
    out: dict[str, float] = {}
    for text in limits:
        name, _, value = text.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError:
            raise typer.BadParameter(f"--limit {text!r} is not COST=NUMBER") from None
    return out


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
    """Sub-folder of one budget among several."""
    return "-".join(f"{metric}-{value:g}" for metric, value in budget.items())


def show(result: Result, folder: Path) -> None:
    """Print a front and its chosen candidate."""
    from rich.table import Table

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
    _explain(result)
    volume = (
        f", hypervolume {result.curve[-1].hypervolume:.4f}" if len(problem.objectives) > 1 else ""
    )
    out.print(
        f"{result.candidates:,} candidates scored, {len(front)} on the front{volume}, "
        f"{front.diversity():.0%} of genes differ between two of them; wrote {folder}"
    )


def _explain(result: Result) -> None:
    from apq.search.explain import explain

    metrics = [m for m in result.problem.metrics if m != "peak_memory_kb"]
    for block in explain(result.problem, result.front, result.chosen):
        what = "stem, head, classifier"
        if block["slot"] != "fixed":
            bits = "/".join(str(block[f"{n}_bits"]) for n in ("pw_w", "pw_a", "dw_w", "dw_a"))
            what = f"kernel {block['kernel']}  width {block['width']:>4}  bits {bits}"
        shares = "  ".join(f"{m} {block[m]:.4g} ({block[f'{m}_share']:.0%})" for m in metrics)
        out.print(f"  {block['slot']:<6}{what:<38}{shares}")


def _draw(folder: Path, result: Result, candidates: int) -> None:
    """The front beside random search and uniform bitwidths, over its first cost."""
    from apq.report.picture import Cloud, draw_front
    from apq.search.baselines import random_cloud, uniform_bits

    problem, front = result.problem, result.front
    if not problem.metrics:
        return
    metric = problem.metrics[0]
    random = random_cloud(problem, min(candidates, 20_000), result.seed)
    draw_front(
        folder / "front.svg",
        metric,
        Cloud(f"front ({result.algorithm})", front.costs[metric], front.accuracy),
        result.chosen,
        [Cloud("random search", random.costs[metric], random.accuracy)],
        [
            Cloud(f"{bits} bits everywhere", s.costs[metric], s.accuracy)
            for bits, s in uniform_bits(problem).items()
        ],
        problem.limits.get(metric),
    )
