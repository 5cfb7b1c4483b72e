"""Time the ONNX or TFLite models of a folder on this device. Needs only numpy and the runtime.

    python measure.py [FOLDER] [--rounds 6] [--runs 25] [--threads 1]

Appends to timings.csv, and says in kernels.json what the models were timed with; interrupt it
whenever you like, the same command continues. Every round times all models once, in an order of its
own, so that a slow minute of the device falls on all of them alike. A figure is the 10th percentile
of its runs; the best round counts.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("round", "name", "latency_ms")
PROBE = (1, 64, 4, 4)
"""Shape of what kernels.onnx takes, which tells how a runtime adds products of bytes."""
FEATURES = {
    "flags": {"AVX2": ["avx2"], "AVX512": ["avx512f"], "VNNI": ["avx512_vnni", "avx_vnni"]},
    "Features": {"DOTPROD": ["asimddp"], "I8MM": ["i8mm"]},
}
"""What decides which 8-bit kernels runtimes take, and what Linux calls it: on x86, on Arm. The keys
begin the lines of /proc/cpuinfo that list a processor's features."""

Inference = Callable[[], object]
"""Runs a model once on inputs of its own."""


def random_input(shape: Sequence[int], real: bool) -> np.ndarray[Any, Any]:
    """Floats in [0, 1) or 8-bit codes."""
    rng = np.random.default_rng(0)
    if real:
        return rng.random(shape, dtype=np.float32)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def open_onnxruntime(path: Path, threads: int) -> Inference:
    """A model on onnxruntime's CPU provider."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {i.name: random_input(i.shape, "float" in i.type) for i in session.get_inputs()}
    return lambda: session.run(None, feed)


def open_openvino(path: Path, threads: int) -> Inference:
    """A model on OpenVINO's CPU plugin. It would run float models in bfloat16 where the processor
    has it; the hint keeps them in float."""
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
    }
    model = openvino.Core().compile_model(str(path), "CPU", options)
    feed = {
        i.get_any_name(): random_input(list(i.shape), i.element_type.is_real())
        for i in model.inputs
    }
    request = model.create_infer_request()
    return lambda: request.infer(feed, share_inputs=True)


def open_litert(path: Path, threads: int) -> Inference:
    """A TFLite model on LiteRT, its default kernels (XNNPACK where it has them)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    for entry in interpreter.get_input_details():
        codes = random_input(entry["shape"], real=False).astype(entry["dtype"])
        interpreter.set_tensor(entry["index"], codes)
    return lambda: interpreter.invoke()


RUNTIMES: dict[str, Callable[[Path, int], Inference]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "litert": open_litert,
}
"""What can run the models: opens a file with a number of threads."""


def time_model(path: Path, runtime: str, runs: int, threads: int, warm: int = 5) -> float:
    """10th percentile of ``runs`` inferences on random input, in ms."""
    infer = RUNTIMES[runtime](path, threads)
    for _ in range(warm):
        infer()
    took = np.empty(runs)
    for i in range(runs):
        start = time.perf_counter()
        infer()
        took[i] = time.perf_counter() - start
    return float(np.quantile(took, 0.1) * 1e3)


def processor_features(told: str) -> dict[str, bool]:
    """Which of FEATURES a processor has, by the text of /proc/cpuinfo; empty if it lists none."""
    for line in told.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in FEATURES:
            has, wanted = set(value.split()), FEATURES[key.strip()]
            return {name: not has.isdisjoint(words) for name, words in wanted.items()}
    return {}


def describe_kernels(runtime: str, threads: int, products: str | None) -> dict[str, Any]:
    """An entry of kernels.json: runtime and version, threads, how products were added ("exact",
    "saturating", None: not asked), and features of the processor."""
    module = sys.modules.get("ai_edge_litert" if runtime == "litert" else runtime)
    version = getattr(module, "__version__", "")
    info = Path("/proc/cpuinfo")
    return {
        "runtime": f"{runtime} {version}".strip(),
        "threads": threads,
        "products": products,
        "features": processor_features(info.read_text()) if info.exists() else {},
    }


def adds_exactly(x: np.ndarray[Any, Any], answer: np.ndarray[Any, Any]) -> bool:
    """Whether the model kernels.onnx answered right.

    Sums of pairs of products that saturate at 16 bits lose a sixth of the mean; roundings lose one
    at most.

    Args:
        x: What it got, shape PROBE, in 0..1.
        answer: Mean over the channels in 0..255, shape (1, n, 4, 4).
    """
    mean = np.rint(x * 255).mean(axis=1, keepdims=True)
    return bool(np.abs(answer - mean).max() <= 1)


def note_kernels(folder: Path, runtime: str, threads: int) -> None:
    """Add what models are timed with to kernels.json, unless it says so already. How products are
    added is asked of kernels.onnx, which folders of 8-bit models hold."""
    probe, path, products = folder / "kernels.onnx", folder / "kernels.json", None
    if probe.exists():
        found: Any = RUNTIMES[runtime](probe, threads)()
        answer = next(iter(found.values() if hasattr(found, "values") else found))
        exact = adds_exactly(random_input(PROBE, real=True), np.asarray(answer))
        products = "exact" if exact else "saturating"
    noted = json.loads(path.read_text(encoding="utf-8"))["kernels"] if path.exists() else []
    told = describe_kernels(runtime, threads, products)
    if told not in noted:
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"kernels": [*noted, told]}, indent=1), encoding="utf-8")
        part.replace(path)


def folder_runtime(folder: Path) -> str:
    """The runtime a folder was made for."""
    told = folder / "folder.json"
    if not told.exists():
        return "onnxruntime"
    return str(json.loads(told.read_text(encoding="utf-8")).get("runtime", "onnxruntime"))


def read_timings(folder: Path) -> dict[tuple[int, str], float]:
    """What timings.csv holds: (round, model) -> ms. A line cut short is ignored."""
    path = folder / "timings.csv"
    found: dict[tuple[int, str], float] = {}
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for row in csv.DictReader(line for line in lines if len(line) < 1_000):
            try:
                found[int(row["round"]), row["name"]] = float(row["latency_ms"])
            except (KeyError, TypeError, ValueError):
                continue
    return found


def time_folder(
    folder: Path,
    rounds: int = 6,
    runs: int = 25,
    threads: int = 1,
    on_progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> None:
    """Time every model of ``models/`` that timings.csv lacks, on the folder's runtime, and note in
    kernels.json what they were timed with."""
    runtime, noted = folder_runtime(folder), False

    def measure(model: Path) -> float:
        nonlocal noted
        took = time_model(model, runtime, runs, threads)
        if not noted:
            note_kernels(folder, runtime, threads)
            noted = True
        return took

    fill(folder, rounds, measure, on_progress)


def fill(
    folder: Path,
    rounds: int,
    measure: Callable[[Path], float],
    on_progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> None:
    """Add to timings.csv what it lacks of so many rounds over the models of ``models/``.

    Args:
        folder: Of the models.
        rounds: Each measures every model once, in an order of its own.
        measure: From a model's file to milliseconds.
        on_progress: Called after every model.
    """
    found = (folder / "models").glob("*")
    models = sorted(path for path in found if path.suffix in (".onnx", ".tflite"))
    if not models:
        raise FileNotFoundError(f"no models in {folder / 'models'}")
    done, path = read_timings(folder), folder / "timings.csv"
    fresh = not path.exists() or not path.read_text().strip()
    with path.open("a", newline="") as file:
        if fresh:
            file.write(",".join(COLUMNS) + "\n")
        elif not path.read_text().endswith("\n"):
            file.write("\n")
        for number in range(rounds):
            order = list(models)
            random.Random(number).shuffle(order)
            for i, model in enumerate(order):
                if (number, model.stem) not in done:
                    file.write(f"{number},{model.stem},{measure(model):.9f}\n")
                    file.flush()
                if on_progress:
                    on_progress(number * len(order) + i + 1, rounds * len(order), {"round": number})


def main() -> None:
    """Command line of the copy that lies beside the models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()

    def show(done: int, total: int, _: dict[str, float]) -> None:
        sys.stderr.write(f"\r{done}/{total}")

    time_folder(told.folder, told.rounds, told.runs, told.threads, show)
    print(f"\nwrote {told.folder / 'timings.csv'}; copy this folder back and import it")


if __name__ == "__main__":
    main()
