"""CPU seconds to train and candidates predicted per CPU second, of every preset.

The peer is one dense product with the same weights: what the gathers of the first layer save.
CPU seconds add up over threads; with OMP_NUM_THREADS=1 they are what one idle core would take.

    python benchmarks/bench_predictor_speed.py --space cifar10 --fp32 20000 --quantized 500
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

from apq.predictor.features import SpaceFeatures
from apq.predictor.fitting import answers
from apq.predictor.network import Network
from apq.predictor.training import PRESETS, data_of, learn
from apq.space import load_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="cifar10")
    parser.add_argument("--fp32", type=int, default=20000)
    parser.add_argument("--quantized", type=int, default=500)
    parser.add_argument("--candidates", type=int, default=20000)
    args = parser.parse_args()
    space = load_space(args.space)
    rng = np.random.default_rng(0)
    print(f"{torch.get_num_threads()} threads, space {space.name}")
    for name, recipe in (
        ("paper", PRESETS["paper"]),
        ("default, 1 MLP", replace(PRESETS["default"], members=1)),
        ("default", PRESETS["default"]),
    ):
        features = SpaceFeatures(space, smooth=recipe.smooth)
        cheap, dear = space.sample(args.fp32, rng), space.sample(args.quantized, rng)
        # any smooth surface will do: only the time is looked at
        surface = SpaceFeatures(space).inputs
        data = data_of(features.inputs(cheap), _accuracy(surface(cheap).arch, rng), "fp32")
        few = data_of(features.inputs(dear), _accuracy(surface(dear).bits, rng), "quantized")
        began = time.process_time()
        base = learn(data, features, recipe, bits=False)
        first = time.process_time() - began
        moved = learn(few, features, recipe, bits=True, base=base)
        second = time.process_time() - began - first
        many = space.sample(args.candidates, rng)
        rates = []
        for predictor in (base, moved):
            predictor.predict(many[:4096])
            began = time.process_time()
            predictor.predict(many)
            rates.append(args.candidates / (time.process_time() - began))
        dense = 0.0
        network = base.models[0]
        if isinstance(network, Network):
            began = time.process_time()
            for start in range(0, args.candidates, 2048):
                inputs = features.inputs(many[start : start + 2048])
                answers(network.ensemble, *network.dense(inputs))
            dense = args.candidates / (time.process_time() - began)
        print(
            f"{name:<15} train fp32 {first:6.1f} s, transfer {second:5.1f} s   predict "
            f"fp32 {rates[0]:9,.0f}/s (dense {dense:9,.0f}/s), quantized {rates[1]:9,.0f}/s",
            flush=True,
        )


def _accuracy(columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    direction = rng.normal(size=columns.shape[1])
    z = (columns - columns.mean(axis=0)) @ direction
    return 0.7 + 0.05 * np.tanh(z / z.std()) + 0.003 * rng.normal(size=len(z))


if __name__ == "__main__":
    main()
