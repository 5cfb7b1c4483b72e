"""What a search found, on the screen and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apq.cli.common import out, table_row
from apq.space.axes import is_format

if TYPE_CHECKING:
    from apq.search.search import Result


def show(result: Result, folder: Path) -> None:
    """Print a front and its chosen candidate."""
    from apq.cost import told

    problem, front = result.problem, result.front
    _print_front(result)
    row = result.chosen
    out.print(
        f"chosen: {front.accuracy[row]:.2%} ± {front.spread[row]:.2%} predicted; "
        + ", ".join(f"{metric} {cost[row]:.4g}" for metric, cost in front.costs.items())
    )
    _tell_bound(result)
    _explain(result)
    _beside(result)
    if "surrogate_optimum" in result.notes:
        _tell_surrogate(result.notes)
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


def _print_front(result: Result) -> None:
    """Some rows of the front, the chosen one among them."""
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


def _tell_surrogate(notes: Mapping[str, Any]) -> None:
    """How well the additive surrogate fits, and its optimum."""
    out.print(
        f"additive surrogate: R2 {notes['surrogate_r2']:.3f}, Spearman "
        f"{notes['surrogate_spearman']:.3f} on rows it was not fitted to; its optimum is "
        f"{-notes['surrogate_optimum']:.4f} by its own count (a bound for the surrogate, not "
        f"for the predictor) and {-notes['surrogate_optimum_scored']:.4f} by the predictor"
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


def draw(folder: Path, result: Result) -> None:
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
