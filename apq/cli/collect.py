"""``apq collect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apq.cli.asking import more_samples
from apq.cli.common import images_for, live_line, next_step, out, print_json
from apq.cli.options import (
    AsJson,
    Device,
    Images,
    OtherImages,
    PredictorPath,
    Seed,
    SupernetPath,
    Tables,
    Workers,
)
from apq.files.places import SUPERNET, home

if TYPE_CHECKING:
    from apq.samples import Samples


def collect(
    images: Images = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="Preset or .toml file; may have other number formats than the supernet's "
            "(default: the supernet's, or cifar10)."
        ),
    ] = None,
    supernet: SupernetPath = None,
    count: Annotated[
        int, typer.Option(min=1, help="Samples the folder should hold in the end.")
    ] = 2000,
    out_path: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder, a Parquet dataset (default: fp32 or quantized beside the supernet).",
        ),
    ] = None,
    quantized: Annotated[
        bool, typer.Option("--quantized", help="Quantize and briefly fine-tune each candidate.")
    ] = False,
    finetune_steps: Annotated[
        int | None,
        typer.Option(
            min=0, help="Fine-tuning steps per quantized sample (default: 40; corrected 0)."
        ),
    ] = None,
    finetune_lr: Annotated[
        float, typer.Option(min=1e-7, help="Peak learning rate of the fine-tuning; high is noisy.")
    ] = 0.005,
    scheme: Annotated[
        str,
        typer.Option(help="Scheme of plain widths; 'haq' chooses ranges by the paper's KL rule."),
    ] = "uniform",
    other_images: OtherImages = False,
    validation_images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images to measure on, sampled where subnets disagree and weighted (default: all).",
        ),
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(min=1, help="Training images for batch-norm statistics.")
    ] = 1000,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=1, help="Samples per part file, lost when killed (default: 100, quantized 5)."
        ),
    ] = None,
    corrected: Annotated[
        bool,
        typer.Option(
            "--corrected",
            help="Refit layers after pruned ones instead of training: for a network of your own.",
        ),
    ] = False,
    acquire: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Instead of --count: number of quantized samples to add, chosen by a predictor.",
        ),
    ] = None,
    predictor: PredictorPath = None,
    lut: Tables = None,
    seed: Seed = 0,
    workers: Workers = 1,
    dask: Annotated[
        str | None,
        typer.Option(help="Have it measured by a Dask cluster: the address of its scheduler."),
    ] = None,
    device: Device = "cpu",
    json: AsJson = False,
) -> None:
    """Measure sub-networks of a supernet and store one row per measurement.

    Kill it at any time and run it again: it continues where it was, never twice the same. Several
    processes, also on several machines with a shared folder, may fill one folder.

    Examples:

      apq collect --supernet data/mine/supernet.safetensors --images photos/ --count 2000 --out data/mine/fp32

      apq collect --quantized --finetune-steps 40 --count 200 --images photos/ --supernet data/mine/supernet.safetensors --out data/mine/quantized

      apq collect --dask tcp://10.0.0.5:8786 --supernet data/mine/supernet.safetensors --images photos/ --count 20000 --out data/mine/fp32

      apq collect --corrected --supernet mine.safetensors --images photos/ --count 200 --out data/mine/fp32

      apq collect --quantized --finetune-steps 40 --acquire 40 --predictor data/mine/predictor.safetensors --images photos/ --supernet data/mine/supernet.safetensors --out data/mine/quantized
    """
    from apq.accuracy import Quantization
    from apq.collect import collect as run
    from apq.samples import read_samples
    from apq.space import load_space
    from apq.supernet import load_supernet

    if dask is not None and workers > 1:
        raise typer.BadParameter("--workers are of this machine: give them or --dask")
    if acquire is not None and not quantized:
        raise typer.BadParameter("--acquire chooses quantized samples: add --quantized")
    wanted = load_space(space or "cifar10") if space or supernet is None else None
    path = supernet or home(wanted.name if wanted else "") / SUPERNET
    loaded = load_supernet(path, wanted)
    own = loaded.network.space
    found = images_for(images, own, loaded.metadata, str(path), other_images)
    kind = "quantized" if quantized else "fp32"
    folder = out_path or path.with_name(kind)
    steps = (0 if corrected else 40) if finetune_steps is None else finetune_steps
    how = Quantization(scheme, steps, lr=finetune_lr) if quantized else None
    if acquire is not None:
        count = more_samples(folder, own, acquire, predictor, lut, seed)
    with live_line(f"{kind} samples") as report:
        before = run(
            loaded, found, folder, count, how, seed, validation_images, calibration_images, chunk,
            workers, report, device, corrected, dask,
        )  # fmt: skip
    samples = read_samples(folder)
    if json:
        print_json({"out": folder.as_posix()} | _figures(samples, before))
    else:
        _show(samples, before, f"{kind} samples in {folder}")
    if quantized:
        fp32 = folder.with_name("fp32")
        next_step(f"apq train-predictor --samples {fp32} --quantized-samples {folder}")
    else:
        where = f" --out {folder.with_name('quantized')}" if out_path else ""
        which = f"--supernet {path} --images {images or 'digits'}"
        kind = " --corrected" if corrected else ""
        next_step(f"apq collect --quantized{kind} {which} --count 200{where}")


def _figures(samples: Samples, before: int) -> dict[str, Any]:
    """What ``--json`` prints of a folder of samples."""
    from apq.samples import by_choice

    frame = samples.frame
    return {
        "samples": len(samples),
        "new": len(samples) - before,
        "accuracy_min": frame["accuracy"].min(),
        "accuracy_median": frame["accuracy"].median(),
        "accuracy_max": frame["accuracy"].max(),
        "cost": samples.cost,
        "seconds_per_sample": frame["seconds"].mean(),
        "by_choice": by_choice(samples).to_dict("records"),
    }


def _show(samples: Samples, before: int, what: str) -> None:
    """The same in words."""
    from apq.cost import told
    from apq.samples import by_choice

    figures = _figures(samples, before)
    low, high, each = (figures[n] for n in ("accuracy_min", "accuracy_max", "seconds_per_sample"))
    out.print(
        f"{len(samples):,} {what} ({figures['new']:,} new), accuracy {low:.2%} … {high:.2%}, "
        f"{each:.2f} s each"
    )
    if samples.cost is not None:
        out.print(f"all of them took {told(samples.cost)}, over all processes")
    for attribute, rows in by_choice(samples).groupby("attribute", sort=False):
        means = "   ".join(
            f"{c}: {a:.2%}" for c, a in zip(rows["choice"], rows["accuracy"], strict=True)
        )
        out.print(f"  by {attribute:<10} {means}")
