"""Simulating Bit Fusion: how fast, and what simpler cost models miss.

    python benchmarks/bench_hardware.py

Speed: all layers of a space at once against one at a time, same model, same run. Ranking: layers
and random networks of apq-imagenet, each simpler model against ``bitfusion-apq`` (which reproduces
APQ's published table to 0.05 %).
"""

import os
import time

import numpy as np
from scipy.stats import kendalltau, spearmanr

from apq.hardware import COST_MODELS, build_table, needed_layers, price_space
from apq.space import load_space
from apq.space.layer import bitops, macs

NETWORKS = 2000
PEERS = (
    "bitfusion-public",
    "bitfusion-ideal-dw",
    "roofline",
    "bops",
    "bit-serial",
    "row-stationary",
)


def main():
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    model = COST_MODELS["bitfusion-apq"]()
    for name in ("digits", "cifar10", "apq-imagenet"):
        space = load_space(name)
        start = time.perf_counter()
        table = build_table(space, model)
        together = time.perf_counter() - start
        some = needed_layers(space, model)[:: max(1, len(table.layers) // 100)]
        start = time.perf_counter()
        for row in some:
            model.price(row.reshape(1))
        alone = (time.perf_counter() - start) / len(some) * len(table.layers)
        start = time.perf_counter()
        price_space(space, table)
        pricing = time.perf_counter() - start
        print(
            f"{name:<14} {len(table.layers):>6,} layers in {together:.2f} s, one at a time "
            f"{alone:.2f} s ({alone / together:.0f}x); pricing the space from it {pricing:.2f} s"
        )

    space = load_space("apq-imagenet")
    table = build_table(space, model)
    genes = space.sample(NETWORKS, np.random.default_rng(0))
    truth = price_space(space, table).costs(genes)
    rows, exact = table.layers, table.prices["latency_ms"]
    print(f"\nlatency of {len(rows):,} layers and {NETWORKS:,} random networks, rank correlation")
    print(f"{'model':<20} {'layers rho':>10} {'networks rho':>13} {'tau':>6}")

    def line(name, layers, networks):
        print(
            f"{name:<20} {spearmanr(layers, exact).statistic:>10.3f} "
            f"{spearmanr(networks, truth['latency_ms']).statistic:>13.3f} "
            f"{kendalltau(networks, truth['latency_ms']).statistic:>6.3f}"
        )

    for name in PEERS:
        peer = COST_MODELS[name]()
        costs = price_space(space, build_table(space, peer)).costs(genes)
        line(name, peer.price(rows)["latency_ms"], costs["latency_ms"])
    line("BitOps", bitops(rows), truth["bitops_g"])
    line("MACs", macs(rows), truth["macs_m"])


if __name__ == "__main__":
    main()
