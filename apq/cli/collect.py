"""``apq collect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apq.cli.asking import more_samples
from apq.cli.common import OtherImages, images_for, live_line, next_step, out, print_json


def collect(
    images: Annotated[
        str,
        typer.Option(help="'digits', a Parquet file or folder, or a class-per-folder directory."),
    ],
    supernet: Annotated[
        Path, typer.Option(help="Trained supernet; its space is the samples' space.")
    ] = Path("data/cifar10/supernet.safetensors"),
    count: Annotated[
        int, typer.Option(min=1, help="Samples the folder should hold in the end.")
    ] = 2000,
    out_path: Annotated[
        Path, typer.Option("--out", help="Samples folder (a Parquet dataset).")
    ] = Path("data/samples/fp32"),
    quantized: Annotated[
        bool, typer.Option("--quantized", help="Quantize and briefly fine-tune each candidate.")
    ] = False,
    finetune_steps: Annotated[
        int, typer.Option(min=0, help="Fine-tuning steps per quantized sample.")
    ] = 40,
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
            help="Measure on so many, drawn where subnets disagree and weighted (default: all).",
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
    acquire: Annotated[
        int | None,
        typer.Option(
            min=1, help="Instead of --count: add so many quantized samples, chosen by a predictor."
        ),
    ] = None,
    predictor: Annotated[
        Path | None,
        typer.Option(help="Chooses them (default: data/SPACE/predictor.safetensors)."),
    ] = None,
    lut: Annotated[
        list[str] | None,
        typer.Option(
            help="Table or cost model of the front (default: lut/bitfusion-apq-SPACE.csv)."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Decides which candidates are evaluated.")
    ] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure sub-networks of a supernet and store one row per measurement.

    Kill it at any time and run it again: it continues where it was, never twice the same. Several
    processes, also on several machines with a shared folder, may fill one folder.

    Examples:

      apq collect --supernet data/mine/supernet.safetensors --images photos/ --count 2000 --out data/mine/fp32

      apq collect --quantized --finetune-steps 40 --count 200 --images photos/ --supernet data/mine/supernet.safetensors --out data/mine/quantized

      apq collect --quantized --finetune-steps 40 --acquire 40 --predictor data/mine/predictor.safetensors --images photos/ --supernet data/mine/supernet.safetensors --out data/mine/quantized
    """
    from apq.collect import Quantization
    from apq.collect import collect as run
    from apq.cost import told
    from apq.samples import by_choice, read_samples
    from apq.supernet import load_supernet

    loaded = load_supernet(supernet)
    space = loaded.network.space
    found = images_for(images, space, loaded.metadata, str(supernet), other_images)
    how = Quantization(scheme, finetune_steps, lr=finetune_lr) if quantized else None
    if acquire is not None:
        if not quantized:
            raise typer.BadParameter("--acquire chooses quantized samples: add --quantized")
        count = more_samples(out_path, space, acquire, predictor, lut or [], seed)
    kind = "quantized" if quantized else "fp32"
    with live_line(f"{kind} samples") as report:
        before = run(
            loaded,
            found,
            out_path,
            count,
            how,
            seed,
            validation_images,
            calibration_images,
            chunk,
            jobs,
            on_progress=report,
        )
    samples = read_samples(out_path)
    accuracy, choices = samples.accuracy, by_choice(samples)
    figures = {
        "out": out_path.as_posix(),
        "samples": len(samples),
        "new": len(samples) - before,
        "accuracy_min": accuracy.min(),
        "accuracy_median": samples.frame["accuracy"].median(),
        "accuracy_max": accuracy.max(),
        "cost": samples.cost,
        "seconds_per_sample": samples.frame["seconds"].mean(),
        "by_choice": choices.to_dict("records"),
    }
    if json:
        print_json(figures)
    else:
        out.print(
            f"{len(samples):,} {kind} samples in {out_path} ({figures['new']:,} new), accuracy "
            f"{accuracy.min():.2%} … {accuracy.max():.2%}, {figures['seconds_per_sample']:.2f} s each"
        )
        if samples.cost is not None:
            out.print(f"all of them took {told(samples.cost)}, over all processes")
        for attribute, rows in choices.groupby("attribute", sort=False):
            means = "   ".join(
                f"{c}: {a:.2%}" for c, a in zip(rows["choice"], rows["accuracy"], strict=True)
            )
            out.print(f"  by {attribute:<10} {means}")
    if quantized:
        next_step(
            f"apq train-predictor --samples FP32_FOLDER --quantized-samples {out_path} --transfer"
        )
    else:
        next_step(
            f"apq collect --quantized --supernet {supernet} --images {images} --count 200 "
            f"--out {out_path.parent / 'quantized'}"
        )
