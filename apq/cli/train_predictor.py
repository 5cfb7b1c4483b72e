"""``apq train-predictor``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from apq.cli.common import live_line, next_step, out, print_json


def train_predictor(
    samples: Annotated[
        Path | None, typer.Option(help="Folder of fp32 samples (cheap, many).")
    ] = None,
    quantized_samples: Annotated[
        Path | None, typer.Option(help="Folder of quantized samples (expensive, few).")
    ] = None,
    transfer: Annotated[
        bool, typer.Option(help="Start the quantized predictor from the fp32 one.")
    ] = True,
    out_path: Annotated[
        Path, typer.Option("--out", help="Where to write the predictor (.safetensors).")
    ] = Path("data/predictor.safetensors"),
    preset: Annotated[str, typer.Option(help="'default', or 'paper' for APQ's form.")] = "default",
    ensemble: Annotated[int | None, typer.Option(min=1, help="Number of MLPs.")] = None,
    compare: Annotated[
        bool, typer.Option(help="Also train the alternatives and judge all on held-out samples.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Decides weights, splits and order.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train an accuracy predictor on samples, and say how far it can be trusted.

    Examples:

      apq train-predictor --samples data/cifar10/fp32 --quantized-samples data/cifar10/quantized --transfer --out data/cifar10/predictor.safetensors

      apq train-predictor --quantized-samples data/cifar10/quantized --no-transfer --preset paper
    """
    from apq.predictor import train_predictor as train
    from apq.samples import read_samples

    cheap = None if samples is None else read_samples(samples)
    dear = None if quantized_samples is None else read_samples(quantized_samples)
    with live_line("predictor") as report:
        predictor = train(
            cheap, dear, transfer=transfer, preset=preset, members=ensemble, compare=compare,
            seed=seed, on_progress=report,
        )  # fmt: skip
    predictor.save(out_path)
    if json:
        print_json({"out": out_path.as_posix()} | dict(predictor.report))
    else:
        _print(predictor.report)
        out.print(f"wrote {out_path}")
    next_step(f"apq search --predictor {out_path} --latency-ms 0.5")


def _print(report: Mapping[str, Any]) -> None:
    """The held-out figures, one way of training per line."""
    out.print(f"{report['fp32_count']} fp32 and {report['quantized_count']} quantized samples")
    rows = {"fp32 stage": report["fp32"]} if "fp32" in report else {}
    rows |= report.get("quantized", {})
    if rows:
        out.print(f"{'held out':<18} {'pairwise':>8}  {'Kendall tau (95 %)':<22} {'RMSE':>8} {'n':>6}")
    for name, s in rows.items():
        tau = f"{s['kendall']:.3f} ({s['kendall_low']:.3f} .. {s['kendall_high']:.3f})"
        out.print(f"{name:<18} {s['pairwise']:>8.3f}  {tau:<22} {s['rmse']:>8.2%} {s['count']:>6}")
