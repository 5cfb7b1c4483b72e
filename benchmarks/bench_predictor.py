"""How many samples a predictor needs: pairwise accuracy on real ImageNet measurements.

For every table, number of samples n and seed: a random 80/20 split by architecture, n training
rows from the larger part, pairwise accuracy on the whole smaller part. ridge, svr, gp, boosting,
lightgbm and xgboost see the same columns; dynas-ridge and dynas-svr (DyNAS-T's) and "paper" (APQ's
and Once-for-All's MLP) the one-hot code alone, as in their projects.

    pip install lightgbm xgboost
    python benchmarks/bench_predictor.py ofa-mobilenet-v3 ofa_mbv3_imagenet.parquet --seeds 5
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from predictor_peers import PEERS, fit_peer

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
    parser.add_argument("--ways", nargs="+", default=["default", *BASELINES, *PEERS, "paper"])
    args = parser.parse_args()
    columns = load_columns(args.columns)
    frame = read_table(args.table, columns)
    key = columns.group or list(TableFeatures.of(frame, columns).values)
    target = frame.groupby(key)[columns.target].transform("mean") * columns.unit
    once = ~frame.duplicated(key)
    rows, accuracy = frame[once], target[once].to_numpy()
    print(f"{args.table.name}: {len(rows)} architectures, {args.seeds} seeds, mean ± sd")
    print(f"{'pairwise accuracy':<18}" + "".join(f"{f'n = {n}':>18}" for n in args.sizes))
    table: dict[str, list[str]] = {}
    times: list[float] = []
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
                began = time.process_time()
                if way in BASELINES:
                    answer = fit_baseline(way, data.inputs, data.accuracy, bits=False, seed=seed)(
                        inputs
                    )
                elif way in PEERS:
                    answer = fit_peer(way, data.inputs, data.accuracy, seed)(inputs)
                else:
                    predictor = learn(data, features, recipe, bits=False, seed=seed)
                    answer = predictor.predict_inputs(inputs)[0]
                if way == "default":
                    seconds.append(time.process_time() - began)
                found[way].append(pairwise_accuracy(answer, accuracy[test]))
        for way, values in found.items():
            table.setdefault(way, []).append(f"{np.mean(values):.4f} ± {np.std(values):.4f}")
        times.append(float(np.mean(seconds or [0])))
    for way, cells in table.items():
        print(f"{way:<18}" + "".join(f"{c:>18}" for c in cells))
    print(f"{'CPU s, default':<18}" + "".join(f"{t:>18.1f}" for t in times))


if __name__ == "__main__":
    main()
