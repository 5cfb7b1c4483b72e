"""``apq predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apq.cli.common import next_step, one_thread, out, print_json
from apq.cli.options import AsJson, Seed
from apq.files.places import PREDICTOR


def predict(
    samples: Annotated[
        Path, typer.Option(help="Samples folder, or a table like the one it was trained on.")
    ],
    predictor: Annotated[
        Path | None,
        typer.Option(help="Predictor file (default: predictor.safetensors beside the samples)."),
    ] = None,
    out_path: Annotated[
        Path, typer.Option("--out", help="Where to write the scored rows (.parquet or .csv).")
    ] = Path("predictions.parquet"),
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Score candidates with a predictor; if they have measurements, print its errors.

    Adds the columns predicted and spread (in the unit of the measurements) to every row.

    Examples:

      apq predict --predictor data/cifar10/predictor.safetensors --samples data/cifar10/test

      apq predict --predictor ofa.safetensors --samples OTHER.parquet --out scored.parquet
    """
    from dataclasses import asdict

    from apq.predictor import load_predictor
    from apq.predictor.scoring import score_file

    loaded = load_predictor(predictor or samples.with_name(PREDICTOR))
    with one_thread():
        frame, figures = score_file(loaded, samples, seed=seed)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    if out_path.suffix == ".csv":
        frame.to_csv(out_path, index=False)
    else:
        frame.to_parquet(out_path, index=False)
    if json:
        scores = {} if figures is None else asdict(figures)
        print_json({"out": out_path.as_posix(), "rows": len(frame)} | scores)
    else:
        if figures is not None:
            out.print(
                f"pairwise {figures.pairwise:.4f}   Kendall tau {figures.kendall:.4f} "
                f"({figures.kendall_low:.4f} .. {figures.kendall_high:.4f})   "
                f"RMSE {figures.rmse:.3%}   n {figures.count}"
            )
        out.print(f"wrote {out_path} ({len(frame)} rows)")
    read = "read_csv" if out_path.suffix == ".csv" else "read_parquet"
    next_step(f"python -c \"import pandas; print(pandas.{read}('{out_path}'))\"")
