r"""How many quantized samples a good front needs: asked for against drawn at random, measured.

Both ways begin with the same first samples of the paper's mix; every accuracy is measured on the
supernet as `apq collect --quantized` does. Judged is what a user gets: for budgets spread over the
range of the latency, the measured accuracy of the candidate that the retrained predictor calls
best, on average; measured anew, so that luck a predictor has learnt from does not count.

    python benchmarks/bench_acquire.py --supernet runs/quickstart/supernet.safetensors \
        --samples runs/quickstart/fp32 --images digits
    python benchmarks/bench_acquire.py --supernet data/cifar10/supernet.safetensors \
        --samples data/cifar10/fp32 --random data/cifar10/quantized --images CIFAR --step 40 --workers 2

With `--random` the random samples are taken from a folder of random ones instead of measured anew, others
for every seed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from apq.accuracy import Quantization, measure_quantized
from apq.acquire import next_candidates
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
from apq.supernet.task import classification
from apq.workers import spread

OBJECTIVES = ("accuracy", "latency_ms")


class Truth:
    """Measures candidates, each once: a seed that follows from the genes, no noise between ways.
    With ``anew`` another seed, for judging what was chosen with the first measurement in sight."""

    def __init__(self, supernet: Path, images: str, how: Quantization, jobs: int) -> None:
        self.supernet = load_supernet(supernet)
        self.space = space = self.supernet.network.space
        found = load_images(images, space.resolution, space.in_channels, space.classes)
        normalisation = (self.supernet.mean, self.supernet.std)
        data = EvalImages.of(found, *normalisation, "validation")
        self.fixed = (data, classification(found), normalisation, how)
        self.jobs = jobs
        self.known: dict[tuple[bytes, bool], float] = {}

    def __call__(self, genes: np.ndarray, anew: bool = False) -> np.ndarray:
        keys = [(row.tobytes(), anew) for row in genes]
        new = {key: row for key, row in zip(keys, genes, strict=True) if key not in self.known}
        self.known |= spread(self._one, new.items(), self.jobs)
        return np.array([self.known[key] for key in keys])

    def _one(self, key: tuple[bytes, bool], row: np.ndarray) -> tuple[tuple[bytes, bool], float]:
        torch.set_num_threads(1)
        candidate = self.space.build(row)
        subnet = self.supernet.network.subnet(candidate)
        accuracy, _ = measure_quantized(subnet, *self.fixed, sum(key[0]) + key[1])
        return key, accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True, help="fp32 samples")
    parser.add_argument("--random", type=Path, help="quantized samples, drawn at random")
    parser.add_argument("--images", default="digits")
    parser.add_argument("--finetune-steps", type=int, default=20)
    parser.add_argument("--start", type=int, default=20)
    parser.add_argument("--step", type=int, default=20)
    parser.add_argument("--most", type=int, default=100, help="random samples")
    parser.add_argument("--asked", type=int, default=100, help="samples where some are asked for")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    drawn = read_samples(args.random) if args.random else None
    how = Quantization(finetune_steps=args.finetune_steps)
    if drawn is not None:
        if len(drawn) < args.seeds * args.most:
            parser.error(f"{args.random} has {len(drawn)} samples; --seeds x --most are needed")
        how = Quantization(**drawn.metadata["quantization"])
    truth = Truth(args.supernet, args.images, how, args.workers)
    space = truth.space
    if drawn is not None:
        rows = zip(drawn.genes, drawn.accuracy, strict=True)
        truth.known = {(row.tobytes(), False): float(accuracy) for row, accuracy in rows}
    free = len(truth.known)
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
        return float(truth(front.genes[rows], anew=True).mean())

    def problem_of(genes: np.ndarray, accuracy: np.ndarray, seed: int) -> tuple[Predictor, Problem]:
        few = data_of(features.inputs(genes), accuracy, "quantized")
        predictor = learn(few, features, recipe, bits=True, base=base, seed=seed)
        return predictor, Problem(priced, predictor.predict, OBJECTIVES)

    sizes = range(args.start, args.most + 1, args.step)
    most = {"random": args.most, "asked": min(args.asked, args.most)}
    curves: dict[str, list[list[float]]] = {"random": [], "asked": []}
    began = time.monotonic()
    for seed in range(args.seeds):
        own = plan(space, args.most, 100 + seed, quantized=True)
        if drawn is not None:
            own = drawn.genes[np.random.default_rng(100).permutation(len(drawn))]
            own = own[seed * args.most : (seed + 1) * args.most]
        for way, all_curves in curves.items():
            known = own[: args.start]
            curve = []
            for n in (n for n in sizes if n <= most[way]):
                predictor, problem = problem_of(known, truth(known), seed)
                curve.append(judged(search(problem, "evolution", 12_000, seed).front))
                if way == "random":
                    new = own[n : n + args.step]
                elif n < most[way]:
                    new = next_candidates(
                        problem, predictor.covariance, known, args.step, seed=seed
                    )
                known = np.concatenate([known, new])
            all_curves.append(curve)
            print(f"{way} {seed}: " + " ".join(f"{c:.2%}" for c in curve), flush=True)
    print(f"{'n':>5} {'random':>16} {'asked':>16}   mean measured accuracy ± sd over seeds")
    for i, n in enumerate(sizes):
        found = [[c[i] for c in way if i < len(c)] for way in curves.values()]
        cells = [f"{np.mean(way):.2%} ± {np.std(way):.2%}" if way else "" for way in found]
        print((f"{n:>5} " + " ".join(f"{c:>16}" for c in cells)).rstrip())
    goal = np.mean([c[-1] for c in curves["random"]])
    asked = np.mean(curves["asked"], axis=0)
    reached = [n for n, accuracy in zip(sizes, asked, strict=False) if accuracy >= goal]
    if reached:
        print(f"what random sampling reaches with {args.most}, asking reaches with {reached[0]}")
    else:
        print(f"asking does not reach what random sampling reaches with {args.most}")
    print(f"{len(truth.known) - free} candidates measured, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
