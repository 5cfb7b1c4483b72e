"""How many samples a predictor needs: pairwise accuracy on real ImageNet measurements.

For every table, number of samples n and seed: a random 80/20 split by architecture, n training
rows from the larger part, pairwise accuracy on the whole smaller part. The alternatives see the
same columns; "paper" is APQ's MLP on the one-hot code alone.

    python benchmarks/bench_predictor.py ofa-mobilenet-v3 ofa_mbv3_imagenet.parquet --seeds 5
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from apq.predictor.baselines import BASELINES, fit_baseline
from apq.predictor.columns import TableFeatures, load_columns, read_table
from apq.predictor.metrics import pairwise_accuracy
from apq.predictor.training import PRESETS, data_of, learn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("columns")
    parser.add_argument("table", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200, 500])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", default=["default", *BASELINES, "paper"])
    args = parser.parse_args()
    columns = load_columns(args.columns)
    frame = read_table(args.table, columns)
    key = columns.group or list(TableFeatures.of(frame, columns).values)
    target = frame.groupby(key)[columns.target].transform("mean") * columns.unit
    once = ~frame.duplicated(key)
    rows, accuracy = frame[once], target[once].to_numpy()
    print(f"{args.table.name}: {len(rows)} architectures, {args.seeds} seeds, mean ± sd")
    print(f"{'n':>5} " + " ".join(f"{way:>16}" for way in args.ways) + "   seconds (default)")
    for n in args.sizes:
        found: dict[str, list[float]] = {way: [] for way in args.ways}
        seconds = []
        for seed in range(args.seeds):
            order = np.random.default_rng(seed).permutation(len(rows))
            split = int(0.8 * len(rows))
            train, test = order[:split][:n], order[split:]
            for way in args.ways:
                recipe = PRESETS.get(way, PRESETS["default"])
                features = TableFeatures.of(rows.iloc[train], columns, smooth=recipe.smooth)
                data = data_of(features.inputs(rows.iloc[train]), accuracy[train], "the table")
                inputs = features.inputs(rows.iloc[test])
                began = time.perf_counter()
                if way in BASELINES:
                    answer = fit_baseline(way, data.inputs, data.accuracy, bits=False, seed=seed)(
                        inputs
                    )
                else:
                    predictor = learn(data, features, recipe, bits=False, seed=seed)
                    answer = predictor.predict_inputs(inputs)[0]
                if way == "default":
                    seconds.append(time.perf_counter() - began)
                found[way].append(pairwise_accuracy(answer, accuracy[test]))
        cells = [f"{np.mean(v):.4f} ± {np.std(v):.4f}" for v in found.values()]
        line = " ".join(f"{c:>16}" for c in cells)
        print(f"{n:>5} {line}   {np.mean(seconds or [0]):.1f}", flush=True)


if __name__ == "__main__":
    main()
