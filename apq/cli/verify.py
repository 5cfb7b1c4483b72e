"""``apq verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apq.cli.common import images_for, live_line, next_step, out, pairs, print_json
from apq.cli.options import AsJson, Images, ModelPath, OtherImages
from apq.files.places import RUN


def verify(
    model: ModelPath = RUN / "model.safetensors",
    file: Annotated[
        Path | None, typer.Option(help="Exported file; default: the .onnx beside the model.")
    ] = None,
    images: Images = None,
    other_images: OtherImages = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of test images to use (default: all).")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="onnxruntime session option, e.g. session.disable_quant_qdq=1; TFLite: "
            "kernels=xnnpack, builtin or reference."
        ),
    ] = None,
    lut: Annotated[
        str | None,
        typer.Option(help="Latency table of this machine; what it predicts stands beside."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Run an exported file on test images and compare with the torch model and the search.

    Says which kernels ran: onnxruntime's version and threads, whether it added products of unsigned
    and signed bytes exactly on this processor or in 16 bits, which saturate, and what the processor
    has (AVX2, AVX512, VNNI).

    Examples:

      apq verify --model runs/search/model.safetensors --file runs/search/model.onnx --images photos/

      apq verify --model runs/search/model.safetensors --images photos/ --lut lut/x86-onnxruntime-int8-cifar10.csv
    """
    from dataclasses import asdict

    from apq.deploy.model import load_model
    from apq.deploy.verify import verify as run
    from apq.errors import ApqError
    from apq.hardware import load_cost_model, price_space

    options = pairs(option, "--option")
    path = file or model.with_name(model.stem + ".onnx")
    loaded = load_model(model)
    space = loaded.space
    priced: dict[str, float] = {}
    if lut is not None:
        costs = price_space(space, load_cost_model(lut)).costs(space.genes([loaded.candidate]))
        priced = {metric: float(values[0]) for metric, values in costs.items()}
        if "latency_ms" not in priced:
            raise ApqError(f"{lut} has no latency_ms, only {', '.join(priced)}")
    found = images_for(images, space, loaded.metadata, str(model), other_images)
    with live_line("verify") as report:
        result = run(loaded, path, found, limit, options, report)
    if json:
        ran = {"kernels": result.kernels.model_dump() if result.kernels else None}
        print_json({"file": path.as_posix(), "priced": priced} | asdict(result) | ran)
    else:
        _table(path, result, priced.get("latency_ms"))
    next_step("apq lut measure --help   (a latency table of the machine the file will run on)")


def _table(path: Path, result: object, priced_ms: float | None) -> None:
    from rich.table import Table

    from apq.deploy.verify import Verification

    assert isinstance(result, Verification)
    r, said = result, result.predicted
    spread = f" ± {said['spread']:.2%}" if "spread" in said else ""
    predicted = f"{said['accuracy']:.2%}{spread}" if "accuracy" in said else ""
    table = Table("", "search", "torch model", str(path.name), box=None, pad_edge=False)
    table.add_row("accuracy", predicted, f"{r.model_accuracy:.2%}", f"{r.accuracy:.2%}")
    size = f"{1e6 * said['size_mb']:,.0f}" if "size_mb" in said else ""
    table.add_row("size, bytes", size, f"{r.promised_bytes:,}", f"{r.file_bytes:,}")
    if r.latency_ms is not None:
        table.add_row("latency here, ms", "", "", f"{r.latency_ms[0]:.3f} (p10)")
        if priced_ms is not None:
            table.add_row("  by the table", f"{priced_ms:.3f}", "", "")
    if "latency_ms" in said:
        table.add_row("latency on target, ms", f"{said['latency_ms']:.4g}", "", "")
    out.print(table)
    out.print(
        f"{r.images:,} test images: same class on {r.agreement:.2%}, largest logit difference "
        f"{r.max_difference:.2g}, more than {r.tolerance:.2g} on {r.differing:.2%}"
    )
    if r.kernels is not None:
        out.print(f"kernels: {r.kernels}")
    if r.differing and path.suffix in (".tflite", ".c"):
        out.print(
            "LiteRT's built-in kernels round twice; XNNPACK, which runs no 4-bit convolution, is "
            "exact: apq export --format tflite --whole-bytes"
        )
    if r.differing and path.suffix == ".onnx":
        out.print(
            "this runtime does not fuse or rounds differently: apq export --format onnx-integer "
            "writes a file that computes the same everywhere, and slower"
        )
