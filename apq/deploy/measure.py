"""Tables measured on a device: a folder of ONNX models, their timings, and the table they give.

Runtimes fuse, so a table of single layers overestimates: the unit is the whole block, in the
precision that is deployed. Sums of blocks are then corrected with a few whole networks
(:func:`apq.hardware.calibration.calibrate`).
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import io
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from apq.deploy import timing
from apq.deploy.graphs import BITS, Form, Precision, empty_model, layer_model, network_model
from apq.deploy.kernels import probe_model, read_kernels
from apq.deploy.vela import compile_folder
from apq.errors import ModelError, TableError, choose, side_by_side
from apq.files import Document, read_json, to_json, whole
from apq.files.limits import MOST_ROWS
from apq.files.reading import Count
from apq.hardware.base import BIT_COLUMNS, list_layers
from apq.hardware.calibration import networks_columns
from apq.hardware.columns import METRICS
from apq.hardware.lut import LookupTable, at_bits, needed_layers
from apq.runtime.onnx_file import require_onnx
from apq.space import Genes, Space
from apq.space.layer import LAYER_DTYPE, LayerArray, to_layer
from apq.space.schema import SpaceField
from apq.version import __version__

OnProgress = Callable[[int, int, dict[str, float]], None]

OF_TFLITE = {"litert": "ai_edge_litert", "vela": "ethosu.vela"}
"""Runtimes that take TFLite files, and the Python packages they are."""


def what_to_measure(space: Space, precision: Precision, granularity: str) -> LayerArray:
    """Distinct blocks (or layers) of a space at the width the runtime really uses, shape (n,).

    Raises:
        TableError: the runtime runs some of them otherwise, e.g. weights from a table of values.
    """
    empty = np.zeros(1, dtype=LAYER_DTYPE)
    probe = LookupTable("", "", empty, {METRICS[0]: np.zeros(1)}, granularity=granularity)
    bits = BITS[precision]
    rows = at_bits(needed_layers(space, probe), bits)
    other = np.any([rows[name] > bits for name in BIT_COLUMNS], axis=0)
    if other.any():
        raise TableError(
            f"{list_layers(rows[other])} would not run in {precision}: weights from a table of "
            "values (powers of two, codebooks) run in float, integers in their own width. Take "
            "them off the bit axes of the space, or measure with --precision fp32."
        )
    return np.array(list(dict.fromkeys(rows.tolist())), dtype=LAYER_DTYPE)


def random_networks(space: Space, count: int, seed: int) -> Genes:
    """Distinct architectures for checking sums, all at the highest bits."""
    genes = space.sample(4 * count, np.random.default_rng(seed))
    for j, axis in enumerate(space.axes):
        if axis.is_format:
            genes[:, j] = len(axis.choices) - 1
    unique = np.unique(space.canonical(genes), axis=0)
    chosen: Genes = np.random.default_rng(seed + 1).permutation(unique)[:count]
    return chosen


def prepare(
    folder: Path,
    space: Space,
    precision: Precision,
    networks: int = 40,
    granularity: str = "block",
    seed: int = 0,
    runtime: str = "onnxruntime",
) -> int:
    """Write the folder that a device needs: models, and ``measure.py`` to time them.

    An existing folder made for the same is kept, with its timings.

    Returns:
        How many models the folder holds.

    Raises:
        TableError: the folder was made for something else (shows both side by side), or cannot be
            written.
    """
    told = {
        "space": space.to_dict(),
        "fingerprint": space.fingerprint,
        "precision": precision,
        "runtime": runtime,
        "granularity": granularity,
        "networks": networks,
        "seed": seed,
        "apq": __version__,
    }
    if runtime in OF_TFLITE and precision != "int8":
        raise TableError(f"{runtime} is measured with TFLite files of integers: --precision int8")
    layers = what_to_measure(space, precision, granularity)
    genes = random_networks(space, networks, seed)
    total = len(layers) + len(genes) + 1
    if (folder / "folder.json").exists():
        held = {"runtime": "onnxruntime"} | _read_folder(folder).said
        if held != told:
            raise TableError(
                f"{folder} was made for something else:\n"
                + side_by_side(held, told, ("in the folder", "asked for"))
                + "\nAsk for the same, give another --folder, or remove this one."
            )
        _add_probe(folder, precision, runtime)  # which folders of earlier versions lack
        return total
    files = _models(space, layers, genes, precision, runtime)
    try:
        (folder / "models").mkdir(parents=True, exist_ok=True)
        for name, make in files.items():
            (folder / "models" / name).write_bytes(make())
        shutil.copyfile(timing.__file__, folder / "measure.py")
        _add_probe(folder, precision, runtime)
        with whole(folder / "folder.json") as part:
            part.write_text(json.dumps(told, indent=1), encoding="utf-8")
    except OSError as error:
        raise TableError(f"cannot write {folder}: {error.strerror}") from error
    return total


def _models(
    space: Space, layers: LayerArray, genes: Genes, precision: Precision, runtime: str
) -> Mapping[str, Callable[[], bytes]]:
    """What makes each file of a folder, by its name."""
    form: Form = "tflite" if runtime in OF_TFLITE else "onnx"
    found = {f"empty.{form}": partial(empty_model, form)}
    for i, row in enumerate(layers):
        found[f"layer{i:05d}.{form}"] = partial(layer_model, to_layer(row), precision, i, form)
    for i, row in enumerate(genes):
        made = partial(network_model, space, space.build(row), precision, i, form)
        found[f"network{i:04d}.{form}"] = made
    return found


def _add_probe(folder: Path, precision: Precision, runtime: str) -> None:
    """Write ``kernels.onnx`` for 8-bit models, beside their folder: those in it are all timed."""
    path = folder / "kernels.onnx"
    if precision != "int8" or runtime in OF_TFLITE or path.exists():
        return
    try:
        path.write_bytes(probe_model())
    except OSError as error:
        raise TableError(f"cannot write {path}: {error.strerror}") from error


class FolderTable(Document):
    """What ``folder.json`` says: what a folder was made for, as :func:`prepare` was asked."""

    what = "what apq lut measure --prepare writes"
    remedy = "Prepare the folder again."
    error = TableError

    space: SpaceField
    precision: Precision
    runtime: Literal["onnxruntime", "openvino", "litert", "vela"] = "onnxruntime"
    granularity: Literal["layer", "block"]
    networks: Annotated[int, Field(ge=0, le=MOST_ROWS)]
    seed: Count


def _read_folder(folder: Path) -> FolderTable:
    return read_json(
        folder / "folder.json",
        FolderTable,
        f"{folder} is not a folder that `apq lut measure --prepare` made: it lacks folder.json",
    )


@dataclass(frozen=True)
class Measured:
    """What the timings of a folder say.

    Attributes:
        table: Rows with the runtime's own overhead taken off; not yet calibrated.
        genes: The whole networks, shape (n, axes).
        latency_ms: Their latency, runtime overhead included, shape (n,).
        layer_noise, network_noise: Median over models of (median round / best round - 1).
    """

    table: LookupTable
    space: Space
    genes: Genes
    latency_ms: NDArray[np.float64]
    layer_noise: float
    network_noise: float


def time_models(
    folder: Path, accelerator: str, rounds: int, on_progress: OnProgress | None = None
) -> None:
    """Time the models of a folder on its runtime, or compile them for Arm's ``accelerator``.

    Raises:
        ModelError: a model does not run, or the accelerator is unknown.
    """
    if _read_folder(folder).runtime == "vela":
        compile_folder(folder, accelerator, on_progress)
    else:
        timing.time_folder(folder, rounds, on_progress=on_progress)


def finish(
    folder: Path, device: str, source: str = "", about: Mapping[str, Any] | None = None
) -> Measured:
    """Turn a folder's timings into a table and measured networks (``raw.csv``, ``networks.csv``).

    Args:
        folder: Made by :func:`prepare`, with the ``timings.csv`` of ``measure.py`` and, if that
            noted what it timed with, ``kernels.json``, which goes into the table's header.
        device: Name of the device.
        source: Where it ran, in one line.
        about: More for the table's header, e.g. ``command`` and ``cost``.

    Raises:
        TableError: timings are missing or not positive; names the first and what completes them.
    """
    told = _read_folder(folder)
    space, precision, granularity = told.space, told.precision, told.granularity
    layers = what_to_measure(space, precision, granularity)
    genes = random_networks(space, told.networks, told.seed)
    rounds, runtime = _rounds(folder), told.runtime
    names = [f"layer{i:05d}" for i in range(len(layers))]
    network_names = [f"network{i:04d}" for i in range(len(genes))]
    lacking = [n for n in ("empty", *names, *network_names) if n not in rounds]
    if lacking:
        total = 1 + len(names) + len(network_names)
        raise TableError(
            f"{folder / 'timings.csv'} lacks {len(lacking)} of {total} models "
            f"({lacking[0]}, ...); continue with `python {folder / 'measure.py'}`"
        )
    best = {name: float(np.min(took)) for name, took in rounds.items()}
    # Below the resolution of the clock a layer costs nothing measurable, never less than nothing.
    latency = np.array([max(best[n] - best["empty"], 1e-6) for n in names])
    kernels = " | ".join(map(str, read_kernels(folder)))
    table = LookupTable(
        name=device,
        source=source or f"measured with {runtime}, {precision}, batch 1, whole {granularity}s",
        layers=layers,
        prices={"latency_ms": latency},
        granularity=granularity,
        runs_at_bits=BITS[precision],
        header={
            "space": f"{space.name} {space.fingerprint}",
            "precision": precision,
            "rounds": str(max(len(took) for took in rounds.values())),
            "noise": f"layers {_noise(rounds, names):.1%}, networks "
            f"{_noise(rounds, network_names):.1%} (median round over best round)",
            **({"kernels": kernels} if kernels else {}),
            "apq": __version__,
            **{k: v if isinstance(v, str) else to_json(v) for k, v in (about or {}).items()},
        },
    )
    took = np.array([best[n] for n in network_names])
    table.write(folder / "raw.csv")
    write_networks(folder / "networks.csv", space, genes, took)
    noise = _noise(rounds, names), _noise(rounds, network_names)
    return Measured(table, space, genes, took, *noise)


def _rounds(folder: Path) -> dict[str, NDArray[np.float64]]:
    found: dict[str, list[float]] = {}
    for (_, name), took in timing.read_timings(folder).items():
        if not (np.isfinite(took) and took > 0):
            raise TableError(f"{folder / 'timings.csv'}: {name} took {took} ms")
        found.setdefault(name, []).append(took)
    return {name: np.array(took) for name, took in found.items()}


def _noise(rounds: Mapping[str, NDArray[np.float64]], names: list[str]) -> float:
    if not names:
        return float("nan")
    return float(np.median([np.median(rounds[n]) / np.min(rounds[n]) - 1 for n in names]))


def write_networks(path: Path, space: Space, genes: Genes, latency_ms: NDArray[np.float64]) -> None:
    """Write measured networks as CSV for ``apq lut verify`` and ``calibrate``."""
    columns = networks_columns(space, genes, latency_ms.tolist())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    with whole(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8")


def require_runtime(runtime: str, only_models: bool = False) -> None:
    """Check that a runtime, and what writes its models, can be imported.

    Args:
        runtime: As ``apq lut measure --runtime`` takes it.
        only_models: Models are written for another machine; the runtime is not needed.

    Raises:
        ApqError: there is no such runtime (lists them).
        ModelError: it is not installed; says how to install it.
    """
    choose(runtime, (*timing.RUNTIMES, "vela"), "runtime")
    if runtime not in OF_TFLITE:
        require_onnx()
    if only_models:
        return
    package = OF_TFLITE.get(runtime, runtime)
    if importlib.util.find_spec(package.split(".")[0]) is None:
        extra = "onnx" if runtime == "onnxruntime" else runtime
        raise ModelError(f"this needs {runtime}: pip install 'apq-nas[{extra}]'")


def describe_source(runtime: str, precision: str, accelerator: str) -> str:
    """What a table's prices come from, in one line."""
    host = f"{describe_host(runtime)}, {precision}"
    if runtime != "vela":
        return host
    return f"{host.partition(' on ')[0]}: estimated by Arm's compiler for {accelerator}"


def describe_host(runtime: str = "onnxruntime") -> str:
    """Processor and runtime of this machine, in one line."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    named = {"litert": "ai-edge-litert", "vela": "ethos-u-vela"}.get(runtime, runtime)
    return f"{runtime} {importlib.metadata.version(named)} on {cpu}, 1 thread"
