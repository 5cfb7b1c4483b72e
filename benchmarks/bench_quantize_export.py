"""Exported files beside what was promised: logits, size, and latency on this machine.

    python benchmarks/bench_quantize_export.py --images DIR [--supernet FILE] [--lut FILE] [--sizes]

Two candidates (every axis at its middle, and the largest) at several bitwidths, quantized and not
tuned; w4a8 all: the layers outside the blocks have 4-bit weights too (``apq finetune
--fixed-weight-bits 4``). ``table`` is what the latency table says, ``graph`` the plain int8 graph
such tables are measured with, timed here in turns with the file: one thread, best round of 10th
percentiles, ms.

A second table says where the bytes of such files are, in this space and in the paper's (random
weights). --sizes prints that alone and needs no images.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from bench_quantize_schemes import middle, with_bits

from apq.deploy.export import export
from apq.deploy.graphs import network_model
from apq.deploy.model import Model, build_network
from apq.deploy.verify import open_file
from apq.hardware import load_cost_model, price_space
from apq.images import load_images
from apq.space import PRESETS, BitChoices
from apq.supernet import Subnet, Supernet, largest, load_supernet
from apq.supernet.evaluate import EvalImages, recalibrate

WIDTHS = (2, 4, 6, 8)


def mixed(candidate, rng):
    """The candidate with random bits in every block."""
    bits = [name for name, _ in candidate.choices if name.endswith("_bits")]
    chosen = rng.choice(WIDTHS, len(bits)).tolist()
    return candidate.with_(**dict(zip(bits, chosen, strict=True)))


def plain_graph(space, candidate):
    """The int8 graph with random weights, as a function without arguments."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(
        network_model(space, candidate, "int8"), options, providers=["CPUExecutionProvider"]
    )
    (told,) = session.get_inputs()
    x = np.random.default_rng(0).random(told.shape, dtype=np.float32)
    return lambda: session.run(None, {told.name: x})


def percentile(run, runs=30):
    """10th percentile of some runs, ms."""
    took = np.empty(runs)
    for i in range(runs):
        began = time.perf_counter()
        run()
        took[i] = time.perf_counter() - began
    return float(np.quantile(took, 0.1) * 1e3)


def where_the_bytes_are(folder):
    """Print what files hold, in bytes, for the middle candidate of two spaces."""
    print(
        "space         bits            file  blocks' weights  other weights  scales  biases   graph"
        "  to w8a8"
    )
    for name in ("cifar10", "apq-imagenet"):
        space = PRESETS[name]()
        for bits, rest in ((8, 8), (4, 8), (4, 4)):
            wide = replace(
                space, bits=BitChoices(*[WIDTHS] * 4), exclude=(), fixed_weight_bits=rest
            )
            candidate = with_bits(middle(space), bits, 8)
            net = build_network(wide, candidate, "uniform", Subnet(wide, candidate)).eval()
            classes = tuple(map(str, range(space.classes)))
            model = Model(net, wide, candidate, "uniform", (0,) * 3, (1,) * 3, classes, {})
            made = export(model, folder / "size.onnx")
            held = {"blocks": 0, "rest": 0, "_scale": 0, "bias_codes": 0}
            for tensor in onnx.load(made.path).graph.initializer:
                where = "blocks" if tensor.name.startswith("blocks") else "rest"
                kind = next((k for k in ("_scale", "bias_codes") if tensor.name.endswith(k)), where)
                held[kind] += len(tensor.raw_data)
            if bits == 8:
                whole = made.file_bytes
            print(
                f"{name:<13} w{bits}a8{' all' if rest == 4 else '':<5}{made.file_bytes:>10,}"
                f"{held['blocks']:>17,}{held['rest']:>15,}{held['_scale']:>8,}"
                f"{held['bias_codes']:>8,}{made.file_bytes - sum(held.values()):>8,}"
                f"{made.file_bytes / whole:>9.3f}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supernet", default="data/cifar10/supernet.safetensors")
    parser.add_argument("--images")
    parser.add_argument("--sizes", action="store_true")
    parser.add_argument("--lut", default="lut/x86-onnxruntime-int8-cifar10.csv")
    parser.add_argument("--count", type=int, default=500, help="images compared")
    parser.add_argument("--rounds", type=int, default=8)
    told = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    if told.sizes:
        return where_the_bytes_are(folder)
    loaded = load_supernet(told.supernet)
    space = loaded.network.space
    images = load_images(told.images, space.resolution, space.in_channels, space.classes)
    data = EvalImages.of(images, loaded.mean, loaded.std, limit=told.count, calibration=500)
    wide = space.with_(bits=BitChoices(*[WIDTHS] * 4))
    network = Supernet(wide)
    network.load_state_dict(loaded.network.state_dict())
    priced = price_space(space, load_cost_model(told.lut))
    rng = np.random.default_rng(0)
    rows, runs = [], {}
    for size, base in (("middle", middle(space)), ("largest", largest(space))):
        eight = with_bits(base, 8, 8)
        table = float(priced.costs(space.genes([eight]))["latency_ms"][0])
        runs[f"{size} graph"] = plain_graph(space, eight)
        four = with_bits(base, 4, 8)
        for bits, candidate in (
            ("w8a8", eight), ("w4a8", four), ("w4a8 all", four), ("w4a4", with_bits(base, 4, 4)),
            ("mixed", mixed(base, rng)),
        ):  # fmt: skip
            has = replace(wide, fixed_weight_bits=4 if bits.endswith("all") else None)
            subnet = network.subnet(candidate)
            recalibrate(subnet, data.calibration)
            net = build_network(has, candidate, "uniform", subnet, data.calibration[:256])
            recalibrate(net, data.calibration)
            model = Model(
                net, has, candidate, "uniform", loaded.mean, loaded.std, images.classes, {}
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
        "candidate          bytes  promised  to w8a8  largest diff  same class   file ms  graph  table"
    )
    whole = {size: made.file_bytes for size, bits, made, *_ in rows if bits == "w8a8"}
    for size, bits, made, worst, same, table in rows:
        print(
            f"{size:<8}{bits:<9}{made.file_bytes:>7,}  {made.promised_bytes:>8,}  "
            f"{made.file_bytes / whole[size]:7.3f}  {worst:12.1e}  {same:10.2%}   "
            f"{best[f'{size} {bits}']:7.4f}  {best[f'{size} graph']:.3f}  {table:.3f}"
        )
    print()
    where_the_bytes_are(folder)


if __name__ == "__main__":
    main()
