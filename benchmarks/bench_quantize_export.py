"""Exported files beside what was promised: logits, size, and latency on this machine.

    python benchmarks/bench_quantize_export.py --images DIR [--supernet FILE] [--lut FILE]

Two candidates (every axis at its middle, and the largest) at several bitwidths, quantized and not
tuned. ``table`` is what the latency table says, ``graph`` the plain int8 graph such tables are
measured with, timed here in turns with the file: one thread, best round of 10th percentiles, ms.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from bench_quantize_schemes import middle, with_bits

from apq.deploy.export import export
from apq.deploy.graphs import network_model
from apq.deploy.model import Model, build_network
from apq.deploy.verify import open_file
from apq.hardware import load_cost_model, price_space
from apq.images import load_images
from apq.space import BitChoices, Bits, Block, Candidate
from apq.supernet import Supernet, largest, load_supernet
from apq.supernet.evaluate import EvalImages, recalibrate

WIDTHS = (2, 4, 6, 8)


def mixed(candidate, rng):
    """The candidate with random bits in every block."""
    stages = tuple(
        tuple(Block(b.kernel, b.width, Bits(*map(int, rng.choice(WIDTHS, 4)))) for b in stage)
        for stage in candidate.stages
    )
    return Candidate(candidate.resolution, stages)


def plain_graph(space, candidate):
    """The int8 graph with random weights, as a function without arguments."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(
        network_model(space, candidate, "int8"), options, providers=["CPUExecutionProvider"]
    )
    (told,) = session.get_inputs()
    x = np.random.default_rng(0).integers(0, 256, told.shape, dtype=np.uint8)
    return lambda: session.run(None, {told.name: x})


def percentile(run, runs=30):
    """10th percentile of some runs, ms."""
    took = np.empty(runs)
    for i in range(runs):
        began = time.perf_counter()
        run()
        took[i] = time.perf_counter() - began
    return float(np.quantile(took, 0.1) * 1e3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supernet", default="data/cifar10/supernet.safetensors")
    parser.add_argument("--images", required=True)
    parser.add_argument("--lut", default="lut/x86-onnxruntime-int8-cifar10.csv")
    parser.add_argument("--count", type=int, default=500, help="images compared")
    parser.add_argument("--rounds", type=int, default=8)
    told = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_supernet(told.supernet)
    space = loaded.network.space
    images = load_images(told.images, space.resolution, space.in_channels, space.classes)
    data = EvalImages.of(images, loaded.mean, loaded.std, limit=told.count, calibration=500)
    wide = replace(space, bits=BitChoices(*[WIDTHS] * 4))
    network = Supernet(wide)
    network.load_state_dict(loaded.network.state_dict())
    priced = price_space(space, load_cost_model(told.lut))
    rng = np.random.default_rng(0)
    rows, runs = [], {}
    folder = Path(tempfile.mkdtemp())
    for size, base in (("middle", middle(space)), ("largest", largest(space))):
        eight = with_bits(base, 8, 8)
        table = float(priced.costs(space.genes([eight]))["latency_ms"][0])
        runs[f"{size} graph"] = plain_graph(space, eight)
        for bits, candidate in (
            ("w8a8", eight), ("w4a8", with_bits(base, 4, 8)), ("w4a4", with_bits(base, 4, 4)),
            ("mixed", mixed(base, rng)),
        ):  # fmt: skip
            subnet = network.subnet(candidate)
            recalibrate(subnet, data.calibration)
            net = build_network(wide, candidate, "uniform", subnet, data.calibration[:256])
            recalibrate(net, data.calibration)
            model = Model(
                net, wide, candidate, "uniform", loaded.mean, loaded.std, images.classes, {}
            )
            made = export(model, folder / f"{size}-{bits}.onnx")
            runner, _ = open_file(made.path, {})
            x = data.images.contiguous().numpy()
            got, want = runner(x), net(data.images).numpy()
            same = float((got.argmax(1) == want.argmax(1)).mean())
            rows.append((size, bits, made, float(np.abs(got - want).max()), same, table))
            runs[f"{size} {bits}"] = lambda run=runner, one=x[:1]: run(one)
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(told.rounds):
        for name, run in runs.items():
            run()
            best[name] = min(best[name], percentile(run))
    print(
        "candidate       bytes  promised  to w8a8  largest diff  same class   file ms  graph  table"
    )
    whole = {size: made.file_bytes for size, bits, made, *_ in rows if bits == "w8a8"}
    for size, bits, made, worst, same, table in rows:
        print(
            f"{size:<8}{bits:<6}{made.file_bytes:>7,}  {made.promised_bytes:>8,}  "
            f"{made.file_bytes / whole[size]:7.3f}  {worst:12.1e}  {same:10.2%}   "
            f"{best[f'{size} {bits}']:7.4f}  {best[f'{size} graph']:.3f}  {table:.3f}"
        )


if __name__ == "__main__":
    main()
