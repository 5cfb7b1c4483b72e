"""Search in the whole space and in what pays on the device (`apq space filter`), equal evaluations.

python benchmarks/bench_filter.py [--keep 1 2] [--candidates 300 2000 10000] [--seeds 3]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from apq.hardware import load_cost_model, price_space
from apq.predictor import load_predictor
from apq.search.devices import shared_limits
from apq.search.menus import keep_paying
from apq.search.problem import Problem
from apq.search.search import search
from apq.space import Space, load_space

TABLES = ("lut/bitfusion-apq-cifar10.csv", "lut/x86-onnxruntime-int8-cifar10.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--candidates", nargs="*", type=int, default=[300, 2_000, 10_000])
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space("cifar10")
    priced = price_space(space, [load_cost_model(table) for table in TABLES])
    accuracy = load_predictor("data/cifar10/predictor.safetensors", space).predict
    limits = shared_limits(priced, asked.share)
    menus: dict[str, dict[str, Space]] = {metric: {"whole": space} for metric in limits}
    for metric in limits:
        for keep in asked.keep:
            menus[metric][f"keep {keep}"] = keep_paying(priced, metric, keep)
    for keep in asked.keep:
        first, second = (menus[metric][f"keep {keep}"] for metric in limits)
        apart = sum(a != b for a, b in zip(first.allowed, second.allowed, strict=True))
        print(f"keep {keep}: {apart} of {len(space.axes)} menus differ between the devices")
    for count in asked.candidates:
        for home, limit in limits.items():
            for name, part in menus[home].items():
                problem = Problem(priced.within(part), accuracy, ("accuracy",), {home: limit})
                found = [search(problem, "nsga2", count, s) for s in range(asked.seeds)]
                best = np.array([f.accuracy for f in found])
                genes = np.concatenate([f.front.genes[[f.chosen]] for f in found])
                costs = priced.costs(genes, limits)
                ran = ", ".join(f"{m} {c.mean() / limits[m]:.2f} x limit" for m, c in costs.items())
                print(
                    f"{count:6,} candidates, {home} <= {limit:.4g}, {name:7}: {best.mean():.2%} "
                    f"({best.min():.2%} … {best.max():.2%}); {ran}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
