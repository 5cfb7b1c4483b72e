"""Time the ONNX models of a folder on this device. Needs only onnxruntime and numpy.

    python measure.py [FOLDER] [--rounds 6] [--runs 25] [--threads 1]

Appends to timings.csv; interrupt it whenever you like, the same command continues. Every round
times all models once, in an order of its own, so that a slow minute of the device falls on all of
them alike. A figure is the 10th percentile of its runs; the best round counts.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("round", "name", "latency_ms")


def open_session(path: Path, threads: int) -> Any:
    """An onnxruntime session on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def time_model(path: Path, runs: int, threads: int, warm: int = 5) -> float:
    """10th percentile of ``runs`` inferences on random input, in ms."""
    session = open_session(path, threads)
    rng = np.random.default_rng(0)
    feed = {}
    for entry in session.get_inputs():
        if "float" in entry.type:
            feed[entry.name] = rng.random(entry.shape, dtype=np.float32)
        else:
            feed[entry.name] = rng.integers(0, 256, entry.shape, dtype=np.uint8)
    for _ in range(warm):
        session.run(None, feed)
    took = np.empty(runs)
    for i in range(runs):
        start = time.perf_counter()
        session.run(None, feed)
        took[i] = time.perf_counter() - start
    return float(np.quantile(took, 0.1) * 1e3)


def read_timings(folder: Path) -> dict[tuple[int, str], float]:
    """What timings.csv holds: (round, model) -> ms. A line cut short is ignored."""
    path = folder / "timings.csv"
    found: dict[tuple[int, str], float] = {}
    if path.exists():
        for row in csv.DictReader(path.read_text().splitlines()):
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
    """Time every ``models/*.onnx`` that timings.csv lacks."""
    models = sorted((folder / "models").glob("*.onnx"))
    if not models:
        raise FileNotFoundError(f"no models in {folder / 'models'}")
    done = read_timings(folder)
    path = folder / "timings.csv"
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
                    took = time_model(model, runs, threads)
                    file.write(f"{number},{model.stem},{took:.6f}\n")
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
