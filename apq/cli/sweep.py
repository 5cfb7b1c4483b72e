"""``apq sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apq.cli.budgets import given, load, price_on, product, room, space_for
from apq.cli.common import live_line, next_step, one_thread, out, print_json
from apq.cli.options import (
    AsJson,
    Budget,
    Caution,
    Fix,
    OwnSpace,
    PredictorPath,
    Seed,
    Tables,
    WithMargin,
    Workers,
)

if TYPE_CHECKING:
    import pandas as pd

    from apq.search.sweep import Curve


def sweep(
    latency_ms: Budget = None,
    energy_mj: Budget = None,
    size_mb: Budget = None,
    bitops_g: Budget = None,
    macs_m: Budget = None,
    peak_memory_kb: Budget = None,
    spread: Annotated[
        str | None,
        typer.Option(
            metavar="COST", help="Cost whose budgets are spread over each device's reachable range."
        ),
    ] = None,
    points: Annotated[int, typer.Option(min=1, help="Number of budgets.")] = 100,
    space: OwnSpace = None,
    predictor: PredictorPath = None,
    lut: Tables = None,
    with_margin: WithMargin = False,
    fix: Fix = None,
    caution: Caution = 0.0,
    candidates: Annotated[int, typer.Option(min=10, help="Candidates scored per budget.")] = 4_000,
    workers: Workers = 1,
    seed: Seed = 0,
    json: AsJson = False,
    out_path: Annotated[Path, typer.Option("--out", help="Parquet file of answers.")] = Path(
        "runs/sweep.parquet"
    ),
) -> None:
    """Answer many budgets on many devices: the best candidate for each.

    Budgets are lists (4 6 8), ranges FIRST:LAST:STEP, or --spread; several options multiply. Each
    device (--lut) answers all of them. One row per scenario goes to a Parquet file; budgets that
    cannot be met get a row that says why. Killed at any moment, the same command continues.

    Examples:

      apq sweep --latency-ms 0.3:1.3:0.01 --out runs/curve.parquet

      apq sweep --spread latency_ms --points 100 --workers 2 --lut bitfusion-public --lut bit-serial
    """
    from apq.search.sweep import curves, spread_budgets, write_sweep
    from apq.search.sweep import sweep as run

    asked = given(latency_ms, energy_mj, size_mb, bitops_g, macs_m, peak_memory_kb)
    if not asked and spread is None:
        raise typer.BadParameter("give a budget, e.g. --latency-ms 0.3:1.3:0.01, or --spread COST")
    chosen, named = space_for(space, predictor)
    all_curves: list[Curve] = []
    made_from: dict[str, str] = {}
    for device in lut or [""]:
        priced = price_on(chosen, [device] if device else [], named)
        budgets = product(asked, priced.costs.metrics)
        if spread is not None:
            wide = spread_budgets(priced.costs, spread, points)
            budgets = [b | others for others in budgets for b in wide]
        budgets = room(priced, budgets, with_margin)
        name = device or ", ".join(priced.costs.sources)
        all_curves += curves(name, priced.costs, budgets)
        made_from |= priced.made_from
    judge = load(predictor, chosen)
    made_from |= judge.made_from
    parts = out_path.with_name(f"{out_path.name}.parts")
    with live_line("sweep") as report, one_thread():
        answers = run(
            all_curves, judge.accuracy, candidates, seed, tuple(fix or ()), caution,
            workers, parts, made_from, on_progress=report,
        )  # fmt: skip
    write_sweep(out_path, answers, made_from, parts)
    _show(answers, out_path, json)
    next_step(f"python -c \"import pandas as pd; print(pd.read_parquet('{out_path}'))\"")


def _show(answers: pd.DataFrame, path: Path, json: bool) -> None:
    """Print how many scenarios were met, and how well."""
    met = answers["error"].isna()
    figures = {
        "out": path.as_posix(),
        "scenarios": len(answers),
        "within_reach": int(met.sum()),
        "accuracy_min": answers["accuracy"].min() if met.any() else None,
        "accuracy_max": answers["accuracy"].max() if met.any() else None,
    }
    if json:
        print_json(figures)
    elif not met.any():
        out.print(f"none of {len(answers):,} scenarios is within reach; wrote {path}")
    else:
        out.print(
            f"{len(answers):,} scenarios, {figures['within_reach']:,} within reach, predicted accuracy "
            f"{figures['accuracy_min']:.2%} … {figures['accuracy_max']:.2%}; wrote {path}"
        )
