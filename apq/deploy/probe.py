"""Probes: one small model per distinct block or layer, named so that any profile can be joined."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Literal

from apq.deploy.graphs import Form, layer_steps, write_model
from apq.deploy.measure import what_to_measure
from apq.errors import TableError
from apq.hardware.profiles import key_of
from apq.runtime.folded import Steps
from apq.space import Layer, Space
from apq.space.layer import to_layer

PAGE = """# Probes of space {space}

Every model in `models/` is one {granularity}, of 8 bits, batch 1, with random weights. Its file,
nodes and tensors carry its table key. Run your device's profiler on each and keep what it writes
under the model's name, e.g. `KEY.csv`: tools that rename operators are joined by the file's name.

    benchmark_model --graph=KEY.tflite --num_threads=1 --enable_op_profiling=true \\
        --profiling_output_csv_file=KEY.csv                      # LiteRT, Android and Linux
    vela KEY.tflite --accelerator-config ethos-u55-128 --verbose-performance   # Arm Ethos-U
    trtexec --onnx=KEY.onnx --int8 --exportProfile=KEY.json      # TensorRT
    benchmark_app -m KEY.onnx -report_type average_counters      # OpenVINO
    onnxruntime: SessionOptions().enable_profiling = True

Profile one model after the other on an otherwise idle device, in the power mode that you deploy in.
Then, on your machine:

    apq lut import PROFILES --space {space} --out lut/DEVICE.csv

Sums of blocks leave out what a whole network costs beside them: measure about ten whole networks,
too, and correct the table with `apq lut calibrate`.
"""


def named_steps(layer: Layer, seed: int = 0) -> Steps:
    """The steps of one block or layer, every name but the image's behind its key."""
    steps, key = layer_steps(layer, "int8", seed), key_of(layer)
    first = steps[0].name

    def name(old: str) -> str:
        return old if old == first else f"{key}/{old}"

    return [
        replace(step, name=name(step.name), inputs=tuple(map(name, step.inputs))) for step in steps
    ]


def write_probes(
    folder: Path, space: Space, granularity: str, form: Form | Literal["both"] = "both"
) -> int:
    """Write models, ``manifest.csv`` and an instruction.

    Args:
        folder: New or empty.
        space: Whose blocks or layers.
        granularity: ``"block"`` or ``"layer"``.
        form: ``"tflite"``, ``"onnx"`` or ``"both"``.

    Returns:
        How many blocks or layers.

    Raises:
        TableError: the folder holds something, or cannot be written.
        ModelError: the package that a format needs is missing.
    """
    if folder.exists() and any(folder.iterdir()):
        raise TableError(f"{folder} is not empty; give another --out, or remove it")
    layers = [to_layer(row) for row in what_to_measure(space, "int8", granularity)]
    forms: tuple[Form, ...] = ("onnx", "tflite") if form == "both" else (form,)
    try:
        (folder / "models").mkdir(parents=True, exist_ok=True)
        for i, layer in enumerate(layers):
            steps = named_steps(layer, i)
            shape = (1, layer.in_channels, layer.height, layer.width)
            for kind in forms:
                data = write_model(steps, shape, kind, part=True)
                (folder / "models" / f"{key_of(layer)}.{kind}").write_bytes(data)
        with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("key", "layer"), *((key_of(la), str(la)) for la in layers)])
        page = PAGE.format(space=space.name, granularity=granularity)
        (folder / "README.md").write_text(page, encoding="utf-8")
    except OSError as error:
        raise TableError(f"cannot write {folder}: {error.strerror}") from error
    return len(layers)
