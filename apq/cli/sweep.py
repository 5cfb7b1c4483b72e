"""``apq sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apq.cli.common import live_line, next_step, out, print_json
from apq.cli.search import BUDGETS, Budget, load, numbers, price, product


def sweep(
    latency_ms: Budget = None,
    energy_mj: Budget = None,
    size_mb: Budget = None,
    bitops_g: Budget = None,
    macs_m: Budget = None,
    peak_memory_kb: Budget = None,
    space: Annotated[
        str, typer.Option(help="Preset name, or a .toml file of your own.")
    ] = "cifar10",
    predictor: Annotated[
        Path | None,
        typer.Option(help="Trained predictor (default: data/SPACE/predictor.safetensors)."),
    ] = None,
    lut: Annotated[
        list[str] | None,
        typer.Option(help="Table or cost model, repeatable: every device is a scenario."),
    ] = None,
    fix: Annotated[list[str] | None, typer.Option(help="Fix genes, as in apq search.")] = None,
    caution: Annotated[float, typer.Option(help="k in accuracy = mean - k x spread.")] = 0.0,
    candidates: Annotated[int, typer.Option(min=10, help="Scored per scenario.")] = 5_000,
    seed: Annotated[int, typer.Option(help="Decides everything random.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
    out_path: Annotated[Path, typer.Option("--out", help="Parquet file of answers.")] = Path(
        "runs/sweep.parquet"
    ),
) -> None:
    """Answer many budgets on many devices: the best candidate for each.

    Budgets are lists (4 6 8) or ranges FIRST:LAST:STEP; several options multiply. Each device
    (--lut) answers all of them. One row per scenario goes to a Parquet file; budgets that cannot
    be met get a row that says why.

    Examples:

      apq sweep --latency-ms 0.3:1.3:0.01 --out runs/curve.parquet

      apq sweep --latency-ms 0.3:1.3:0.01 --lut lut/bitfusion-apq-cifar10.csv --lut bitfusion-public
    """
    import pandas as pd

    from apq.search.sweep import sweep as run
    from apq.search.sweep import write_sweep

    texts = (latency_ms, energy_mj, size_mb, bitops_g, macs_m, peak_memory_kb)
    given = {n: numbers(n, t) for n, t in zip(BUDGETS, texts, strict=True) if t is not None}
    if not given:
        raise typer.BadParameter("give at least one budget, e.g. --latency-ms 0.3:1.3:0.01")
    tables, accuracy = [], None
    sources: dict[str, str] = {}
    for device in lut or [""]:
        chosen, priced, hashes = price(space, [device] if device else [])
        if accuracy is None:
            path = predictor or Path(f"data/{chosen.name}/predictor.safetensors")
            accuracy, made_from = load(path, chosen)
            sources |= made_from
        sources |= hashes
        budgets = product(given, priced.metrics)
        with live_line(f"{device or 'scenarios'}") as report:
            table = run(
                priced,
                accuracy,
                budgets,
                candidates,
                seed,
                tuple(fix or ()),
                caution,
                on_progress=report,
            )
        tables.append(table.assign(device=device or ", ".join(priced.sources)))
    answers = pd.concat(tables, ignore_index=True)
    write_sweep(out_path, answers, sources)
    failed = answers["error"].notna()
    figures = {
        "out": out_path.as_posix(),
        "scenarios": len(answers),
        "within_reach": int((~failed).sum()),
        "accuracy_min": answers["accuracy"].min(),
        "accuracy_max": answers["accuracy"].max(),
    }
    if json:
        print_json(figures)
    else:
        out.print(
            f"{len(answers):,} scenarios, {figures['within_reach']:,} within reach, predicted accuracy "
            f"{figures['accuracy_min']:.2%} … {figures['accuracy_max']:.2%}; wrote {out_path}"
        )
    next_step(f"python -c \"import pandas as pd; print(pd.read_parquet('{out_path}'))\"")
