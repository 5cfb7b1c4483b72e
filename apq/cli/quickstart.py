"""``apq quickstart``."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from apq.cli.common import OnProgress, err, live_line, next_step, out, print_json, table_row
from apq.cli.options import AsJson, Seed


def quickstart(
    folder: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path(
        "runs/quickstart"
    ),
    latency_ms: Annotated[
        float | None,
        typer.Option(help="Latency budget; default: a quarter of the largest network's at 8 bits."),
    ] = None,
    seed: Seed = 0,
    json: AsJson = False,
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
        rows = [
            vars(r) | {"candidate": r.candidate.to_dict(), "model": str(r.model)} for r in made.rows
        ]
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
    next_step(
        "apq search --latency-ms 0.5   (CIFAR-10, with the predictor and table shipped in data/ and lut/)"
    )


def _show(made: Any, seconds: float) -> None:
    out.print("\npredictor, held out (95 % intervals)")
    for kind, ways in made.predictor.report["held_out"].items():
        for name, s in ways.items():
            table_row(
                f"  {kind + ': ' + name:<26} Kendall tau {s['kendall']:.2f} ",
                f"({s['kendall_low']:.2f} … {s['kendall_high']:.2f})   ",
                f"pairwise {s['pairwise']:.2f}   ", f"n = {s['count']}",
            )  # fmt: skip
    out.print()
    out.print(f"digits, latency budget {made.budget_ms:.4f} ms on a simulated Bit Fusion")
    table_row(
        f"{'network':<22}", f" {'predicted':>13}", f" {'validation':>11}", f" {'test (95 %)':>13}",
        f" {'ms':>7}", f" {'mJ':>7}", f" {'kB':>6}",
    )  # fmt: skip
    for row in made.rows:
        half = 196 * (row.test * (1 - row.test) / made.test_images) ** 0.5
        table_row(
            f"{row.name:<22}", f" {f'{row.predicted:.1%} ±{row.spread:.1%}':>13}",
            f" {row.validation:>11.1%}", f" {f'{row.test:.1%} ±{half:.1f}':>13}",
            f" {row.latency_ms:>7.4f}", f" {row.energy_mj:>7.4f}", f" {row.size_kb:>6.1f}",
            "  over budget" if row.latency_ms > made.budget_ms else "",
        )  # fmt: skip
    out.print()
    out.print(
        "predicted: after 20 training steps; validation and test: after the final fine-tune.\n"
        f"The supernet's largest subnet, fp32, untuned: {made.supernet_test:.1%} on the test set.\n"
        f"wrote {made.folder}/ in {seconds:.0f} s"
    )
