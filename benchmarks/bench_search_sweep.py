"""A thousand scenarios with the commands a user has: ten tables by ``apq lut build``, one ``apq sweep``.

    OMP_NUM_THREADS=1 python benchmarks/bench_search_sweep.py [--workers 2] [--points 100] [--out FOLDER]

Uses the shipped CIFAR-10 predictor. Checks that every answer keeps its budget, priced anew layer by
layer. Seconds are wall clock; CPU seconds are of all child processes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from apq.hardware import load_cost_model
from apq.space import load_space
from apq.space.layer import to_array

DEVICES = {
    "bitfusion-8x16": ("bitfusion-apq", "rows=8", "columns=16"),
    "bitfusion-16x16": ("bitfusion-apq", "rows=16", "columns=16"),
    "bitfusion-16x32-1ghz": ("bitfusion-apq", "frequency_mhz=1000"),
    "bitfusion-16x32": ("bitfusion-apq",),
    "bitfusion-public": ("bitfusion-public",),
    "bitfusion-ideal-dw": ("bitfusion-ideal-dw",),
    "bit-serial": ("bit-serial",),
    "row-stationary": ("row-stationary",),
    "roofline": ("roofline",),
    "roofline-slow": ("roofline", "peak_gmacs=50", "bandwidth_gb=6"),
}


def apq(*words):
    """Run a command; its wall-clock seconds."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "from apq.cli import main; main()", *words], check=True)
    return time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workers", default="2")
    parser.add_argument("--points", default="100")
    parser.add_argument("--candidates", default="4000")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-sweep"))
    given = parser.parse_args()
    tables, seconds = [], 0.0
    for name, (model, *settings) in DEVICES.items():
        path = given.out / f"{name}.csv"
        options = [word for setting in settings for word in ("--set", setting)]
        seconds += apq(
            "lut", "build", "--space", "cifar10", "--model", model, *options, "--out", str(path)
        )
        tables += ["--lut", str(path)]
    print(f"{len(DEVICES)} tables built in {seconds:.0f} s")
    answers = given.out / "answers.parquet"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = apq(
        "sweep", "--spread", "latency_ms", "--points", given.points, "--candidates", given.candidates,
        "--workers", given.workers, *tables, "--out", str(answers),
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    frame = pd.read_parquet(answers)
    print(
        f"{len(frame):,} scenarios, {given.workers} workers: {seconds:.0f} s wall, {cpu:.0f} s CPU"
    )
    check(frame)


def check(frame):
    """Every answer priced again, layer by layer, by its own table."""
    space, worst = load_space("cifar10"), 0.0
    names = [axis.name for axis in space.axes]
    for path, rows in frame[frame["error"].isna()].groupby("device"):
        table = load_cost_model(str(path))
        genes = space.from_values({n: rows[n].to_numpy(dtype=float) for n in names})
        for row, limit in zip(genes, rows["limit_latency_ms"], strict=True):
            layers = to_array(list(space.layers(space.build(row))))
            worst = max(worst, table.price(layers)["latency_ms"].sum() / limit)
        rising = (np.diff(rows.sort_values("limit_latency_ms")["accuracy"]) >= 0).all()
        print(
            f"  {Path(path).stem:<22} {len(rows)} answered, accuracy {rows['accuracy'].min():.4f} … "
            f"{rows['accuracy'].max():.4f}, {'rising' if rising else 'NOT rising'} with the budget"
        )
    print(f"  unanswered: {frame['error'].notna().sum()}; largest cost over its limit: {worst:.6f}")


if __name__ == "__main__":
    main()
