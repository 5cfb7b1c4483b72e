"""``apq train-predictor``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from apq.cli.common import live_line, next_step, out, print_json


def train_predictor(
    samples: Annotated[
        Path | None,
        typer.Option(help="Folder of fp32 samples (cheap, many); with --columns a table."),
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
    space: Annotated[
        str | None,
        typer.Option(help="Refuse samples of another space; or a known table, as --columns."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Samples measured elsewhere: a known table's name, or a .toml file."),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="'default': Gaussian processes; 'paper': the MLP of APQ.")
    ] = "default",
    ensemble: Annotated[int | None, typer.Option(min=1, help="Number of MLPs.")] = None,
    compare: Annotated[
        bool, typer.Option(help="Also train the alternatives and judge all on held-out samples.")
    ] = True,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Decides weights, splits and order.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train an accuracy predictor on samples, and say how far it can be trusted.

    By default the predictors are Gaussian processes, and the quantized one learns what quantization
    adds to the answer of the fp32 one. --preset paper trains APQ's MLP on fp32 samples and transfers
    its weights to the quantized ones.

    Examples:

      apq train-predictor --samples data/cifar10/fp32 --quantized-samples data/cifar10/quantized

      apq train-predictor --quantized-samples data/cifar10/quantized --no-transfer --preset paper

      apq train-predictor --samples measured.parquet --space ofa-mobilenet-v3 --out ofa.safetensors

    A table of your own is described in a small TOML file for --columns:

      target = "top1"   unit = 0.01   group = "arch_id"   choices = ["d_*", "ks_*"]   costs = ["macs"]

    and, if apq can describe the network (kernel size and expansion of each block slot, 0: no block):

      space = "network.toml"   kernel = "ks_*"   expand = "e_*"
    """
    from apq.cost import Stopwatch, told
    from apq.errors import SamplesError
    from apq.predictor import COLUMNS, load_columns, read_table, train_on_table
    from apq.predictor import train_predictor as train
    from apq.samples import read_samples
    from apq.space import load_space

    watch = Stopwatch()
    table = columns or (space if space in COLUMNS else None)
    with live_line("predictor") as report:
        if table is not None:
            if samples is None:
                raise SamplesError("--columns describes a table; pass it with --samples FILE")
            known = load_columns(table)
            predictor = train_on_table(
                read_table(samples, known), known, preset=preset, members=ensemble,
                compare=compare, seed=seed, on_progress=report,
            )  # fmt: skip
        else:
            wanted = None if space is None else load_space(space)
            predictor = train(
                None if samples is None else read_samples(samples, wanted),
                None if quantized_samples is None else read_samples(quantized_samples, wanted),
                transfer=transfer, preset=preset, members=ensemble, compare=compare, seed=seed,
                on_progress=report,
            )  # fmt: skip
    cost = watch.cost()
    predictor.save(out_path, cost)
    if json:
        print_json({"out": out_path.as_posix(), "cost": cost} | dict(predictor.report))
    else:
        _print(predictor.report)
        out.print(f"wrote {out_path} in {told(cost)}")
    if table is not None:
        next_step(f"apq predict --predictor {out_path} --samples OTHER.parquet")
    else:
        next_step(f"apq search --predictor {out_path} --latency-ms 0.5")


def _print(report: Mapping[str, Any]) -> None:
    """The held-out figures, one way of training per line."""
    out.print(", ".join(f"{report['counts'][kind]} {kind} samples" for kind in report["counts"]))
    out.print(
        f"{'held out':<24} {'pairwise':>8}  {'Kendall tau (95 %)':<22} {'RMSE':>7}"
        f" {'covered':>8} {'n':>6}"
    )
    for kind, ways in report["held_out"].items():
        for name, s in ways.items():
            tau = f"{s['kendall']:.3f} ({s['kendall_low']:.3f} .. {s['kendall_high']:.3f})"
            covered = f"{s['coverage_90']:.0%}" if "coverage_90" in s else "-"
            out.print(
                f"{kind + ': ' + name:<24} {s['pairwise']:>8.3f}  {tau:<22} {s['rmse']:>7.2%}"
                f" {covered:>8} {s['count']:>6}"
            )
