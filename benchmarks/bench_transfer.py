r"""What transfer is worth: quantized samples of a supernet, from n = 25 to 500.

Per n and seed: a random part of the quantized samples to learn from; judged on the test part, or
without one on architectures that were left out. Beside the transferred predictor: the fp32
predictor rescaled by two parameters, training from scratch, and not seeing bits. Intervals are
95 % (Student's t over seeds, which share the test part).

    python benchmarks/bench_transfer.py --samples data/cifar10/fp32 \
        --quantized-samples data/cifar10/quantized --test data/cifar10/test
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from apq.predictor.features import SpaceFeatures
from apq.predictor.metrics import coverage, pairwise_accuracy, regret
from apq.predictor.training import LEVEL_SPREADS, PRESETS, Data, data_of, learn, rescaled
from apq.samples import Samples, read_samples

WAYS = ("transfer", "rescaled", "scratch", "blind")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, default=Path("data/cifar10/fp32"))
    parser.add_argument("--quantized-samples", type=Path, default=Path("data/cifar10/quantized"))
    parser.add_argument("--test", type=Path, help="a further folder of quantized samples")
    parser.add_argument("--sizes", type=int, nargs="+", default=[25, 50, 100, 200, 500])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--preset", default="default")
    args = parser.parse_args()
    costly = read_samples(args.quantized_samples)
    cheap = read_samples(args.samples, costly.space)
    recipe = PRESETS[args.preset]
    features = SpaceFeatures(cheap.space, smooth=recipe.smooth)

    def data(samples: Samples, what: str) -> Data:
        return data_of(features.inputs(samples.genes), samples.accuracy, what)

    base = learn(data(cheap, "fp32"), features, recipe, bits=False)
    known = data(costly, "quantized")
    test = None if args.test is None else data(read_samples(args.test, cheap.space), "test")
    print(
        f"{len(cheap)} fp32, {len(known)} quantized samples, "
        + ("a fifth of the architectures left out" if test is None else f"{len(test)} test samples")
        + f", {args.seeds} seeds"
    )
    print(f"{'n':>4}" + "".join(f"{w:>10}" for w in WAYS) + f"{'transfer - scratch':>26}"
          f"{'- rescaled':>26}  covered  regret of top 1, 5, 10   CPU s")  # fmt: skip
    for n in args.sizes:
        began = time.process_time()
        found = [_once(known, test, base, features, recipe, n, seed) for seed in range(args.seeds)]
        if any(f is None for f in found):
            print(f"{n:>4}   not enough samples")
            continue
        pairs, covered, lost = (np.array(v) for v in zip(*found, strict=True))
        print(
            f"{n:>4}" + "".join(f"{p:>10.3f}" for p in pairs.mean(axis=0))
            + f"{_interval(pairs[:, 0] - pairs[:, 2]):>26}{_interval(pairs[:, 0] - pairs[:, 1]):>26}"
            + f"  {covered.mean():>7.0%}  "
            + "  ".join(f"{100 * r:.2f}" for r in lost.mean(axis=0))
            + f" points   {time.process_time() - began:.0f}",
            flush=True,
        )  # fmt: skip


def _once(known, test, base, features, recipe, n, seed):
    """Pairwise accuracy of every way, coverage and regret of transfer; None if n is too large."""
    rng = np.random.default_rng(seed)
    if test is None:
        held = rng.permutation(known.blocks.max() + 1)[known.blocks] < known.blocks.max() / 5
        known, test = known[~held], known[held]
    if n > len(known):
        return None
    train = known[rng.permutation(len(known))[:n]]
    mean, spread = learn(train, features, recipe, bits=True, base=base, seed=seed).predict_inputs(
        test.inputs
    )
    answers = {
        "transfer": mean,
        "rescaled": rescaled(base, train, test.inputs, recipe),
        "scratch": learn(train, features, recipe, bits=True, seed=seed).predict_inputs(test.inputs)[0],
        "blind": learn(
            train, features, recipe, bits=False, base=base, seed=seed
        ).predict_inputs(test.inputs)[0],
    }  # fmt: skip
    return (
        [pairwise_accuracy(answers[way], test.accuracy) for way in WAYS],
        coverage(mean, spread, test.accuracy, LEVEL_SPREADS),
        [regret(mean, test.accuracy, top) for top in (1, 5, 10)],
    )


def _interval(values: np.ndarray) -> str:
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.3f} ({values.mean() - half:+.3f} .. {values.mean() + half:+.3f})"


if __name__ == "__main__":
    main()
