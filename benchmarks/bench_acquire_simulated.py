"""Asking for samples against drawing them, on a table of real measurements, in CPU minutes.

The candidates are the architectures of a table; measuring one looks it up. All ways begin with the
same random rows and add as many per round. Judged is what a user gets: for budgets spread over the
range of a cost, the accuracy of the row that the retrained predictor calls best within the budget,
as points lost to the best row there, on average.

    python benchmarks/bench_acquire_simulated.py accel-nasbench accel_nasbench_public.parquet macs_m
    python benchmarks/bench_acquire_simulated.py samples data/cifar10 latency_ms

With `samples` the table is quantized/ and test/ of a folder of our own, and every predictor starts from
one trained on its fp32/; the cost is that of the simulated bitfusion-apq.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apq.acquire import expected_gain, sampled_fronts
from apq.hardware import load_cost_model
from apq.hardware.lut import build_table
from apq.hardware.pricing import price_space
from apq.predictor import Predictor
from apq.predictor.columns import TableFeatures, load_columns, read_table
from apq.predictor.features import Features, SpaceFeatures
from apq.predictor.training import PRESETS, data_of, learn
from apq.samples import read_samples


def uncertain(mean, spread, unknown, costs, count, rng):
    """The rule before: what lowers the variance of the largest expected gains most."""
    gain = expected_gain(mean, spread, costs)
    weight = np.zeros(len(gain))
    weight[np.argsort(-gain)[: len(gain) // 4]] = 1.0
    noise = np.maximum(spread**2 - unknown.diagonal(), 1e-12)
    return choose(unknown, noise, weight, count)


def choose(covariance, noise, weight, count):
    """One by one, what leaves the least weighted variance (Cohn, 1996, for Gaussian processes)."""
    c, left, taken = covariance.copy(), np.ones(len(covariance), dtype=bool), []
    for _ in range(count):
        total = c.diagonal() + noise
        row = int(np.where(left, weight @ np.square(c) / total, -1.0).argmax())
        taken.append(row)
        left[row] = False
        c -= np.outer(c[:, row], c[row] / total[row])
    return np.array(taken)


def drawn(mean, spread, unknown, costs, count, rng):
    """Fronts of draws from what the predictor holds possible."""
    return sampled_fronts(mean, unknown, costs, count, rng)


def half(mean, spread, unknown, costs, count, rng):
    """Half of each."""
    first = sampled_fronts(mean, unknown, costs, count // 2, rng)
    rest = rng.permutation(np.setdiff1d(np.arange(len(mean)), first))
    return np.concatenate([first, rest[: count - len(first)]])


def chance(mean, spread, unknown, costs, count, rng):
    """Random rows."""
    return rng.permutation(len(mean))[:count]


WAYS: dict[str, Callable[..., np.ndarray]] = {
    "random": chance, "uncertain": uncertain, "drawn": drawn, "half": half
}  # fmt: skip


@dataclass(frozen=True)
class Known:
    """Measured candidates; ``take`` gives those of some rows as the predictor reads them."""

    take: Callable[[Any], Any]
    features: Features
    truth: np.ndarray
    cost: np.ndarray
    base: Predictor | None = None

    def learnt(self, rows: np.ndarray, seed: int) -> Predictor:
        data = data_of(self.features.inputs(self.take(rows)), self.truth[rows], "asked")
        bits = self.base is not None
        return learn(data, self.features, PRESETS["default"], bits=bits, base=self.base, seed=seed)


def of_table(name: str, path: Path, cost: str) -> Known:
    columns = load_columns(name)
    frame = read_table(path, columns).drop_duplicates(columns.group or None)
    truth = frame[columns.target].to_numpy() * columns.unit
    features = TableFeatures.of(frame, columns)
    return Known(lambda rows: frame.iloc[rows], features, truth, frame[cost].to_numpy())


def of_samples(folder: Path, cost: str) -> Known:
    cheap = read_samples(folder / "fp32")
    dear = [read_samples(folder / kind, cheap.space) for kind in ("quantized", "test")]
    genes = np.concatenate([samples.genes for samples in dear])
    truth = np.concatenate([samples.accuracy for samples in dear])
    table = build_table(cheap.space, load_cost_model("bitfusion-apq"), "benchmark")
    features = SpaceFeatures(cheap.space)
    few = data_of(features.inputs(cheap.genes), cheap.accuracy, "fp32")
    base = learn(few, features, PRESETS["default"], bits=False)
    costs = price_space(cheap.space, table).costs(genes, [cost])[cost]
    return Known(lambda rows: genes[rows], features, truth, costs, base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("columns", help="what the table's columns mean, or 'samples'")
    parser.add_argument("table", type=Path)
    parser.add_argument("cost", help="column of the table, to be small")
    parser.add_argument("--start", type=int, default=20)
    parser.add_argument("--step", type=int, default=20)
    parser.add_argument("--most", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pool", type=int, default=600, help="rows looked at per round")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    args = parser.parse_args()
    if args.columns == "samples":
        table = of_samples(args.table, args.cost)
    else:
        table = of_table(args.columns, args.table, args.cost)
    truth, cost = table.truth, table.cost
    budgets = np.quantile(cost, np.linspace(0.1, 1.0, 6))
    best = np.array([truth[cost <= b].max() for b in budgets])
    sizes = list(range(args.start, args.most + 1, args.step))
    curves: dict[str, list[list[float]]] = {way: [] for way in args.ways}
    began = time.process_time()
    for seed in range(args.seeds):
        order = np.random.default_rng(seed).permutation(len(truth))
        for way in args.ways:
            rng = np.random.default_rng([seed, 1])
            known, curve = order[: args.start], []
            for n in sizes:
                predictor = table.learnt(known, seed)
                mean, spread = predictor.predict(table.take(slice(None)))
                picks = [int(np.where(cost <= b, mean, -np.inf).argmax()) for b in budgets]
                curve.append(100 * float(np.mean(best - truth[picks])))
                if n < args.most:
                    pool = _pool(mean, spread, cost, known, args.pool, rng)
                    unknown = predictor.covariance(table.take(pool))
                    rows = WAYS[way](
                        mean[pool], spread[pool], unknown, cost[pool, None], args.step, rng
                    )
                    known = np.concatenate([known, pool[rows]])
            curves[way].append(curve)
            print(f"{way:<10} {seed}: " + " ".join(f"{c:.3f}" for c in curve), flush=True)
    print("points lost" + "".join(f"{f'n = {n}':>16}" for n in sizes))
    for way, all_curves in curves.items():
        cells = zip(np.mean(all_curves, axis=0), np.std(all_curves, axis=0), strict=True)
        print(f"{way:<11}" + "".join(f"{f'{m:.3f} ± {s:.3f}':>16}" for m, s in cells))
    print(f"{time.process_time() - began:.0f} CPU seconds")


def _pool(mean, spread, cost, known, count, rng):
    """Half the largest expected gains, half chance; nothing that is known."""
    free = np.setdiff1d(np.arange(len(mean)), known)
    gain = expected_gain(mean[free], spread[free], cost[free, None])
    good = free[np.argsort(-gain)[: count // 2]]
    rest = rng.permutation(np.setdiff1d(free, good))[: count // 2]
    return np.concatenate([good, rest])


if __name__ == "__main__":
    main()
