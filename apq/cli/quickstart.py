"""``apq quickstart``."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from apq.cli.common import OnProgress, err, live_line, next_step, out, print_json


def quickstart(
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for everything it makes.")
    ] = Path("runs/quickstart"),
    latency_ms: Annotated[
        float | None,
        typer.Option(help="Latency budget; default: half-way from the fastest network to the largest."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every stage; another seed, another --out.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run the whole chain on scikit-learn's digits: minutes on a laptop, real at every step.

    Trains a supernet, collects fp32 and quantized samples, trains and transfers the predictor,
    prices every layer, searches, fine-tunes the winner and two baselines, and tests all three.
    Run it again and it continues where it was.

    Examples:

      apq quickstart

      apq quickstart --latency-ms 0.03 --out runs/tight
    """
    err.print("loading …")
    from apq.quickstart import quickstart as run

    began = time.monotonic()
    with ExitStack() as stages:

        def on_stage(name: str) -> OnProgress:
            stages.close()
            return stages.enter_context(live_line(name))

        made = run(folder, seed, latency_ms, on_stage)
    seconds = time.monotonic() - began
    if json:
        rows = [vars(r) | {"candidate": r.candidate.to_dict(), "model": str(r.model)} for r in made.rows]
        print_json(
            {
                "budget_ms": made.budget_ms,
                "rows": rows,
                "supernet_largest_test": made.supernet_test,
                "predictor": made.predictor.report,
                "seconds": seconds,
            }
        )
    else:
        _show(made, seconds)
    next_step("apq search --latency-ms 0.5   (CIFAR-10, with the predictor and table shipped in data/ and lut/)")


def _show(made: Any, seconds: float) -> None:
    from rich.table import Table

    held = made.predictor.report["quantized"]
    out.print("\npredictor on held-out quantized samples (95 % intervals)")
    for name, s in held.items():
        out.print(
            f"  {name:<14} Kendall tau {s['kendall']:.2f} ({s['kendall_low']:.2f} … "
            f"{s['kendall_high']:.2f})   pairwise {s['pairwise']:.2f}   n = {s['count']}"
        )
    s = made.predictor.report["fp32"]
    out.print(
        f"  {'fp32 samples':<14} Kendall tau {s['kendall']:.2f} ({s['kendall_low']:.2f} … "
        f"{s['kendall_high']:.2f})   pairwise {s['pairwise']:.2f}   n = {s['count']}\n"
    )
    table = Table(title=f"digits, latency budget {made.budget_ms:.4f} ms on a simulated Bit Fusion")
    for column in ("network", "predicted", "validation", "test (95 %)", "latency ms", "energy mJ", "size kB"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in made.rows:
        half = 196 * (row.test * (1 - row.test) / made.test_images) ** 0.5
        over = " over budget" if row.latency_ms > made.budget_ms else ""
        table.add_row(
            row.name,
            f"{row.predicted:.1%} ±{row.spread:.1%}",
            f"{row.validation:.1%}",
            f"{row.test:.1%} ±{half:.1f}",
            f"{row.latency_ms:.4f}{over}",
            f"{row.energy_mj:.4f}",
            f"{row.size_kb:.1f}",
        )
    out.print(table)
    out.print(
        "predicted: after a fine-tune of 20 steps; validation and test: after the final fine-tune.\n"
        f"The supernet's largest subnet, fp32, untuned: {made.supernet_test:.1%} on the test set.\n"
        f"wrote {made.folder}/ in {seconds:.0f} s"
    )
