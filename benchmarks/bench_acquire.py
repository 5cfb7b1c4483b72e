r"""How many quantized samples a good front needs: asked for against drawn at random, measured.

Both ways begin with the same first samples of the paper's mix; every accuracy is measured on the
supernet as `apq collect --quantized` does. Judged is what a user gets: for budgets spread over the
range of the latency, the measured accuracy of the candidate that the retrained predictor calls
best, on average.

    python benchmarks/bench_acquire.py --supernet runs/quickstart/supernet.safetensors \
        --samples runs/quickstart/fp32 --images digits
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from apq.acquire import next_candidates
from apq.collect import Quantization, measure_quantized
from apq.hardware import load_cost_model
from apq.hardware.lut import build_table
from apq.hardware.pricing import price_space
from apq.images import load_images
from apq.plan import plan
from apq.predictor import Predictor
from apq.predictor.features import SpaceFeatures
from apq.predictor.training import PRESETS, data_of, learn
from apq.samples import read_samples
from apq.search.front import Front
from apq.search.problem import Problem
from apq.search.search import search
from apq.supernet import load_supernet
from apq.supernet.evaluate import EvalImages

OBJECTIVES = ("accuracy", "latency_ms")


class Truth:
    """Measures candidates, each once: a seed that follows from the genes, no noise between ways."""

    def __init__(self, supernet: Path, images: str, steps: int) -> None:
        self.supernet = load_supernet(supernet)
        self.space = space = self.supernet.network.space
        found = load_images(images, space.resolution, space.in_channels, space.classes)
        self.data = EvalImages.of(found, self.supernet.mean, self.supernet.std, "validation")
        self.train, self.flip = found.splits["train"], found.flip
        self.how = Quantization(finetune_steps=steps)
        self.known: dict[bytes, float] = {}

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        return np.array([self._one(row) for row in genes])

    def _one(self, row: np.ndarray) -> float:
        key = row.tobytes()
        if key not in self.known:
            candidate = self.space.build(row)
            self.known[key], _ = measure_quantized(
                self.supernet.network.subnet(candidate), candidate, self.space.fixed_layer_bits,
                self.data, self.train, self.flip, (self.supernet.mean, self.supernet.std),
                self.how, sum(key),
            )  # fmt: skip
        return self.known[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True, help="fp32 samples")
    parser.add_argument("--images", default="digits")
    parser.add_argument("--finetune-steps", type=int, default=20)
    parser.add_argument("--start", type=int, default=20)
    parser.add_argument("--step", type=int, default=20)
    parser.add_argument("--most", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    truth = Truth(args.supernet, args.images, args.finetune_steps)
    space = truth.space
    fp32 = read_samples(args.samples, space)
    priced = price_space(space, build_table(space, load_cost_model("bitfusion-apq"), "benchmark"))
    features, recipe = SpaceFeatures(space), PRESETS["default"]
    base = learn(
        data_of(features.inputs(fp32.genes), fp32.accuracy, "fp32"), features, recipe, bits=False
    )
    cost = priced.costs(space.sample(2000, np.random.default_rng(0)), ["latency_ms"])["latency_ms"]
    budgets = np.geomspace(*np.quantile(cost, [0.02, 0.9]), 6)

    def judged(front: Front) -> float:
        rows = [
            int(np.where(front.costs["latency_ms"] <= b, front.accuracy, -1).argmax())
            for b in budgets
        ]
        return float(truth(front.genes[rows]).mean())

    def problem_of(genes: np.ndarray, accuracy: np.ndarray, seed: int) -> tuple[Predictor, Problem]:
        few = data_of(features.inputs(genes), accuracy, "quantized")
        predictor = learn(few, features, recipe, bits=True, base=base, seed=seed)
        return predictor, Problem(priced, predictor.predict, OBJECTIVES)

    sizes = range(args.start, args.most + 1, args.step)
    curves: dict[str, list[list[float]]] = {"random": [], "asked": []}
    began = time.process_time()
    for seed in range(args.seeds):
        for way, all_curves in curves.items():
            own = plan(space, args.most, 100 + seed, quantized=True)
            known = own[: args.start]
            curve = []
            for n in sizes:
                predictor, problem = problem_of(known, truth(known), seed)
                curve.append(judged(search(problem, "evolution", 12_000, seed).front))
                if way == "random":
                    new = own[n : n + args.step]
                elif n < args.most:
                    new = next_candidates(
                        problem, predictor.covariance, known, args.step, seed=seed
                    )
                known = np.concatenate([known, new])
            all_curves.append(curve)
            print(f"{way} {seed}: " + " ".join(f"{c:.2%}" for c in curve), flush=True)
    print(f"{'n':>5} {'random':>16} {'asked':>16}   mean measured accuracy ± sd over seeds")
    for i, n in enumerate(sizes):
        cells = [
            f"{np.mean([c[i] for c in way]):.2%} ± {np.std([c[i] for c in way]):.2%}"
            for way in curves.values()
        ]
        print(f"{n:>5} " + " ".join(f"{c:>16}" for c in cells))
    goal = np.mean([c[-1] for c in curves["random"]])
    reached = [n for i, n in enumerate(sizes) if np.mean([c[i] for c in curves["asked"]]) >= goal]
    if reached:
        print(f"what random sampling reaches with {args.most}, asking reaches with {reached[0]}")
    else:
        print(f"asking does not reach what random sampling reaches with {args.most}")
    print(f"{len(truth.known)} candidates measured, {time.process_time() - began:.0f} CPU seconds")


if __name__ == "__main__":
    main()
