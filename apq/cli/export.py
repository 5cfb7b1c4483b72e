"""``apq export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apq.cli.common import next_step, out, print_json
from apq.cli.options import AsJson, ModelPath
from apq.files.places import RUN


def export(
    model: ModelPath = RUN / "model.safetensors",
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx (QuantizeLinear pairs, int4/int8 weights), onnx-integer (same bits on every "
            "runtime, slow), qonnx (FINN, hls4ml), torch (plain module), tflite (LiteRT: int8 "
            "activations, int8/int4 weights), c (the same as C source for microcontrollers).",
        ),
    ] = "onnx",
    out_path: Annotated[
        Path | None, typer.Option("--out", help="File to write; default: beside the model.")
    ] = None,
    int2: Annotated[
        bool, typer.Option("--int2", help="ONNX: 2-bit weights in 2 bits. Opset 25: few read it.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="ONNX: fixed batch size.")] = 1,
    dynamic_batch: Annotated[
        bool,
        typer.Option(
            "--dynamic-batch", help="ONNX: any number of images; the dimension is 'batch'."
        ),
    ] = False,
    opset: Annotated[
        int | None,
        typer.Option(
            help="ONNX: version of the operators, up to the newest of the installed onnx. Default: the "
            "smallest the file can have, 13 if its weights have 5 bits or more, 21 with fewer, 25 "
            "with --int2.",
            show_default=False,
        ),
    ] = None,
    whole_bytes: Annotated[
        bool,
        typer.Option(
            "--whole-bytes",
            help="TFLite: weights of 4 bits or fewer in bytes, which LiteRT's XNNPACK computes exactly.",
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Export a fine-tuned model for other runtimes, with weights packed in as few bits as possible.

      Examples:

        apq export --model runs/search/model.safetensors --format onnx

        apq export --model runs/search/model.safetensors --format qonnx --out for-finn.qonnx.onnx

        apq export --model runs/search/model.safetensors --format tflite

    apq export --model runs/search/model.safetensors --opset 21 --dynamic-batch --out server.onnx
    """
    from dataclasses import asdict

    from apq.deploy.export import FORMATS
    from apq.deploy.export import export as write
    from apq.deploy.model import load_model
    from apq.errors import choose

    choose(form, FORMATS, "format")
    if dynamic_batch and batch != 1:
        raise typer.BadParameter("--batch fixes what --dynamic-batch leaves open; give one")
    path = out_path or model.with_name(model.stem + FORMATS[form])
    made = write(
        load_model(model), path, form, int2, None if dynamic_batch else batch, opset, whole_bytes
    )
    if json:
        print_json(asdict(made) | {"path": path.as_posix()})
    else:
        out.print(
            f"wrote {path}   {made.file_bytes:,} bytes "
            f"({made.weight_bytes:,} of weights; the search counted {made.promised_bytes:,})"
            + (f", opset {made.opset}" if made.opset else "")
        )
        if form == "torch":
            out.print(f"loads with {path.with_name(path.stem.replace('.', '_') + '.py')} and torch")
        if made.micro:
            out.print(f"operators: {', '.join(made.micro.operators)}")
            out.print(f"tensors alive at once: {made.micro.arena_bytes:,} bytes at most")
            if made.micro.coarse_bias:
                out.print(
                    f"biases are rounded by up to {made.micro.coarse_bias:.2f} steps of their "
                    "layer's output; with --whole-bytes they are those of evaluation"
                )
    next_step(f"apq verify --model {model} --file {path}")
