r"""From many cheap measurements to few expensive ones: Accel-NASBench's two training schedules.

Pre-trains on the short schedule of the large table, then learns the long schedule from n
architectures of the small one; pairwise accuracy on those left, over random resplits. Beside it:
the pre-trained predictor rescaled by two parameters, training from scratch, and the paper's
fine-tuned MLP.

    python benchmarks/bench_two_fidelity.py \
        accel_nasbench_public.parquet accel_nasbench_two_fidelity.parquet
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from apq.predictor.columns import COLUMNS, TableFeatures, read_table
from apq.predictor.metrics import pairwise_accuracy
from apq.predictor.training import PRESETS, data_of, learn, rescaled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cheap", type=Path)
    parser.add_argument("dear", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 40, 60])
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--presets", nargs="+", default=["default", "paper"])
    args = parser.parse_args()
    columns = COLUMNS["accel-nasbench"]
    cheap = read_table(args.cheap, columns).drop_duplicates("arch_id")
    dear = read_table(args.dear, columns, target=False)
    long = dear[[f"top1_long_s{i}" for i in (1, 2, 3)]].mean(axis=1).to_numpy() * columns.unit
    for preset in args.presets:
        recipe = PRESETS[preset]
        features = TableFeatures.of(cheap, columns, smooth=recipe.smooth)
        short = cheap[columns.target].to_numpy() * columns.unit
        known = data_of(features.inputs(cheap), short, "cheap")
        base = learn(known, features, recipe, bits=False)
        everything = data_of(features.inputs(dear), long, "dear")
        zero = pairwise_accuracy(base.predict_inputs(everything.inputs)[0], long)
        print(f"{preset}: pre-trained on {len(known)}, no expensive sample: pairwise {zero:.4f}")
        for n in args.sizes:
            found: dict[str, list[float]] = {}
            for split in range(args.splits):
                order = np.random.default_rng(split).permutation(len(dear))
                train, test = everything[order[:n]], everything[order[n:]]
                moved = learn(train, features, recipe, bits=False, base=base, seed=split)
                scratch = learn(train, features, recipe, bits=False, seed=split)
                answers = {
                    "transfer": moved.predict_inputs(test.inputs)[0],
                    "rescaled": rescaled(base, train, test.inputs, recipe),
                    "scratch": scratch.predict_inputs(test.inputs)[0],
                }
                for way, answer in answers.items():
                    found.setdefault(way, []).append(pairwise_accuracy(answer, test.accuracy))
                    error = float(np.sqrt(np.mean((answer - test.accuracy) ** 2)))
                    found.setdefault(f"{way} rmse", []).append(error)
            cells = [
                f"{way} {np.mean(found[way]):.4f} ± {np.std(found[way]):.4f}"
                f" (rmse {np.mean(found[way + ' rmse']):.2%})"
                for way in answers
            ]
            print(f"  n {n:>3}   " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
