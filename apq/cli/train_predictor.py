"""``apq train-predictor``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apq.cli.common import live_line, next_step, one_thread, out, print_json, table_row
from apq.cli.options import AsJson, Seed
from apq.files.places import PREDICTOR, home

if TYPE_CHECKING:
    from apq.predictor import Predictor


def train_predictor(
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Folder of fp32 samples, cheap and many (default: data/SPACE/fp32); with --columns a "
            "table."
        ),
    ] = None,
    quantized_samples: Annotated[
        Path | None,
        typer.Option(
            help="Folder of quantized samples, expensive and few (default, without --samples: "
            "data/SPACE/quantized)."
        ),
    ] = None,
    transfer: Annotated[
        bool, typer.Option(help="Start the quantized predictor from the fp32 one.")
    ] = True,
    out_path: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where to write it (default: predictor.safetensors beside the samples)."
        ),
    ] = None,
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
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Train an accuracy predictor on samples, and report its errors on held-out ones.

    By default the predictors are Gaussian processes, and the quantized one learns what quantization
    adds to the answer of the fp32 one. --preset paper trains APQ's MLP on fp32 samples and transfers
    its weights to the quantized ones.

    Examples:

      apq train-predictor --space mine.toml

      apq train-predictor --samples data/cifar10/fp32 --quantized-samples data/cifar10/quantized --out runs/predictor.safetensors

      apq train-predictor --quantized-samples data/cifar10/quantized --no-transfer --preset paper --out runs/paper.safetensors

      apq train-predictor --samples measured.csv --space mine.toml   # accuracy, and a column per choice of the space

      apq train-predictor --samples measured.parquet --space ofa-mobilenet-v3 --out ofa.safetensors

    A table of your own is described in a small TOML file for --columns:

      target = "top1"   unit = 0.01   group = "arch_id"   choices = ["d_*", "ks_*"]   costs = ["macs"]

    and, if apq can describe the network (kernel size and expansion of each block slot, 0: no block):

      space = "network.toml"   kernel = "ks_*"   expand = "e_*"
    """
    from apq.cost import Stopwatch, told
    from apq.predictor import COLUMNS

    watch = Stopwatch()
    table = columns or (space if space in COLUMNS and samples and not samples.is_dir() else None)
    if table is None:
        samples, quantized_samples = _folders(samples, quantized_samples, space)
    beside = samples or quantized_samples or Path()
    path = out_path or beside.with_name(PREDICTOR)
    with live_line("predictor") as report, one_thread():
        how = {"preset": preset, "members": ensemble, "compare": compare, "seed": seed}
        if table is not None:
            predictor = _on_table(samples, table, on_progress=report, **how)
        else:
            predictor = _on_samples(
                samples, quantized_samples, space, transfer=transfer, on_progress=report, **how
            )
    cost = watch.cost()
    predictor.save(path, cost)
    if json:
        print_json({"out": path.as_posix(), "cost": cost} | dict(predictor.report))
    else:
        _print(predictor.report)
        out.print(f"wrote {path} in {told(cost)}")
    if table is not None:
        next_step(f"apq predict --predictor {path} --samples OTHER.parquet")
    else:
        next_step(f"apq search --predictor {path} --latency-ms 0.5")


def _folders(
    fp32: Path | None, quantized: Path | None, space: str | None
) -> tuple[Path | None, Path | None]:
    """The samples that were asked for; if none were, those of the space that are there."""
    if fp32 or quantized:
        return fp32, quantized
    from apq.space import load_space

    folder = home(load_space(space or "cifar10").name)
    dear = folder / "quantized"
    return folder / "fp32", dear if dear.is_dir() else None


def _on_samples(
    fp32: Path | None, quantized: Path | None, space: str | None, **how: Any
) -> Predictor:
    """Train on folders of samples."""
    from apq.predictor import train_predictor as train
    from apq.predictor.measurements import is_measured_elsewhere, read_measurements
    from apq.samples import Samples, read_samples
    from apq.space import load_space

    wanted = None if space is None else load_space(space)

    def read(path: Path | None) -> Samples | None:
        if path is not None and wanted is not None and is_measured_elsewhere(path):
            return read_measurements(path, wanted)
        return None if path is None else read_samples(path, wanted)

    return train(read(fp32), read(quantized), **how)


def _on_table(file: Path | None, table: str, **how: Any) -> Predictor:
    """Train on a table measured elsewhere."""
    from apq.errors import SamplesError
    from apq.predictor import load_columns, read_table, train_on_table

    if file is None:
        raise SamplesError("--columns describes a table; pass it with --samples FILE")
    known = load_columns(table)
    return train_on_table(read_table(file, known), known, **how)


def _print(report: Mapping[str, Any]) -> None:
    """The held-out figures, one way of training per line."""
    out.print(", ".join(f"{report['counts'][kind]} {kind} samples" for kind in report["counts"]))
    table_row(
        f"{'held out':<24}", f" {'pairwise':>8}  ", f"{'Kendall tau (95 %)':<22}", f" {'RMSE':>7}",
        f" {'covered':>8}", f" {'n':>6}",
    )  # fmt: skip
    for kind, ways in report["held_out"].items():
        for name, s in ways.items():
            tau = f"{s['kendall']:.3f} ({s['kendall_low']:.3f} .. {s['kendall_high']:.3f})"
            covered = f"{s['coverage_90']:.0%}" if "coverage_90" in s else "-"
            table_row(
                f"{kind + ': ' + name:<24}", f" {s['pairwise']:>8.3f}  ", f"{tau:<22}",
                f" {s['rmse']:>7.2%}", f" {covered:>8}", f" {s['count']:>6}",
            )  # fmt: skip
