"""Options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes.")]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite a table of another space, device or source.")
]

Budget = Annotated[str | None, typer.Option(metavar="NUMBER…", help="Upper limit(s).")]
Limit = Annotated[
    list[str] | None,
    typer.Option(help="Limit of one device among several: latency_ms@DEVICE=8; repeatable."),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(help="Fix genes: b03_kernel=3, bits=8, depth=max, architecture=best.json."),
]
Caution = Annotated[float, typer.Option(help="k in accuracy = mean - k x spread.")]
WithMargin = Annotated[
    bool, typer.Option(help="Divide limits on a measured table by 1 + its error margin.")
]

SpaceName = Annotated[str, typer.Option(help="Preset name, or a .toml file of your own.")]
OwnSpace = Annotated[
    str | None,
    typer.Option(
        "--space",
        help="Preset name, or a .toml file of your own (default: --predictor's, else cifar10).",
    ),
]
Device = Annotated[
    str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps, or auto (the best there is).")
]
Tables = Annotated[
    list[str] | None,
    typer.Option(
        "--lut", help="Table or cost model, repeatable (default: lut/bitfusion-apq-SPACE.csv)."
    ),
]
CostModel = Annotated[
    str, typer.Option("--lut", help="A table (.csv, .parquet) or a simulated device.")
]

SupernetPath = Annotated[
    Path | None, typer.Option(help="Trained supernet (default: data/SPACE/supernet.safetensors).")
]
PredictorPath = Annotated[
    Path | None, typer.Option(help="Trained predictor (default: data/SPACE/predictor.safetensors).")
]
ModelPath = Annotated[Path, typer.Option(help="Model file of apq finetune.")]

Images = Annotated[
    str | None,
    typer.Option(
        help="'digits', 'digits-clutter', a Parquet file or folder, or a class-per-folder "
        "directory; default: those the supernet or model was made with, if they are digits."
    ),
]
OtherImages = Annotated[
    bool, typer.Option(help="Use these images although the weights were made with others.")
]
Augment = Annotated[
    str,
    typer.Option(
        help="How training images are changed: shift (a few pixels, mirrored), photo (crops of any "
        "size, mirrored, other colours) or randaugment (crops, then two random operations)."
    ),
]
Balance = Annotated[bool, typer.Option(help="Draw images of all classes equally often.")]
