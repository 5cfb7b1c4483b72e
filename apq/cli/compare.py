"""``apq compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apq.cli.budgets import (
    Budget,
    Caution,
    Fix,
    OwnSpace,
    PredictorPath,
    given,
    load,
    price_on,
    product,
    space_for,
)
from apq.cli.common import live_line, next_step, one_thread, out, print_json


def compare(
    latency_ms: Budget = None,
    energy_mj: Budget = None,
    size_mb: Budget = None,
    bitops_g: Budget = None,
    macs_m: Budget = None,
    peak_memory_kb: Budget = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Names, with commas between (default: all, and nsga2, paper, random)."),
    ] = None,
    space: OwnSpace = None,
    predictor: PredictorPath = None,
    lut: Annotated[
        list[str] | None,
        typer.Option(help="Table or cost model (default: lut/bitfusion-apq-SPACE.csv)."),
    ] = None,
    fix: Fix = None,
    caution: Caution = 0.0,
    calls: Annotated[
        int, typer.Option(min=50, help="Candidates that the predictor may score per answer.")
    ] = 2_000,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    out_path: Annotated[Path, typer.Option("--out", help="Folder.")] = Path("runs/compare"),
) -> None:
    """Compare published methods on one space, one predictor and one table.

    Writes compare.parquet (every answer), compare.md and compare.html (one page). Methods: haq,
    amc, proxylessnas, pipeline (these three in turn), dnas, singlepath, mpnas, spos, chamnet,
    autoqkeras, lana, and every algorithm of apq search.

    Examples:

      apq compare --latency-ms 0.5 0.6 --methods spos,mpnas,nsga2 --calls 500

      apq compare --latency-ms 0.45 0.5 0.6 --seeds 3 --out runs/methods
    """
    from apq.errors import choose
    from apq.methods import METHODS
    from apq.methods.compare import OWN, known, summary, write_comparison
    from apq.methods.compare import compare as run
    from apq.search.many import scenarios

    names = [n.strip() for n in methods.split(",")] if methods else [*METHODS, *OWN]
    for name in names:
        choose(name, known(), "method")
    asked = given(latency_ms, energy_mj, size_mb, bitops_g, macs_m, peak_memory_kb)
    if not asked:
        raise typer.BadParameter("give a budget, e.g. --latency-ms 0.5")
    chosen, named = space_for(space, predictor)
    priced = price_on(chosen, lut or [], named)
    budgets = product(asked, priced.costs.metrics)
    priced.require(metric for budget in budgets for metric in budget)
    problems = scenarios(
        priced.costs, lambda: load(predictor, priced.space), budgets, ("accuracy",),
        tuple(fix or ()), caution, made_from=priced.made_from,
    )  # fmt: skip
    with live_line("compare") as report, one_thread():
        answers = run(problems, names, calls, range(seeds), report)
    write_comparison(out_path, answers, problems[0].made_from)
    head, rows = summary(answers)
    if json:
        print_json({"columns": head, "rows": rows, "out": out_path.as_posix()})
    else:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in head:
            table.add_column(name, justify="left" if name == "method" else "right")
        for row in rows:
            table.add_row(*row)
        out.print(table)
        for error in answers["error"].dropna().drop_duplicates():
            out.print(f"none: {error}")
    next_step(f"open {out_path / 'compare.html'}")
