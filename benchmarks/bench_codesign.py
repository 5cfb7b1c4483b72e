"""Network and accelerator together against one after the other, and polynomials for the simulator.

python benchmarks/bench_codesign.py [--designs row-stationary bitfusion] [--candidates 2000] [--seeds 3]

The truth is a simulator throughout; accuracy is what the shipped CIFAR-10 predictor predicts.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.stats import spearmanr

from apq.errors import ApqError
from apq.hardware.designs import DESIGNS, Designs, simulate_layers
from apq.hardware.lut import needed_layers
from apq.hardware.polynomial import Surrogate, fit_surrogate, random_designs, simulate_rows
from apq.predictor import load_predictor
from apq.search.codesign import of_network, price_designs
from apq.search.pairs import ORDERS, together
from apq.search.problem import Problem
from apq.space import Space, load_space
from apq.space.layer import to_array


def held_out(surrogate: Surrogate, count: int, networks: int = 50) -> None:
    """Print the polynomials' error on designs they were not fitted to, for whole networks."""
    space, designs = surrogate.space, surrogate.designs
    rows = random_designs(designs, count, np.random.default_rng(1_000))
    begun = time.perf_counter()
    truth = simulate_rows(space, designs, rows)
    simulated = (time.perf_counter() - begun) / count
    begun = time.perf_counter()
    found = surrogate.layer_prices(rows)
    fitted = (time.perf_counter() - begun) / count
    layers = needed_layers(space, designs.models[0]).tolist()
    place = {row: i for i, row in enumerate(layers)}
    genes = space.snap(space.draw(networks, np.random.default_rng(1)))
    parts = [
        [place[row] for row in to_array(list(space.layers(space.build(g)))).tolist()] for g in genes
    ]
    for metric in truth:
        true = np.stack([truth[metric][:, p].sum(axis=1) for p in parts])
        told = np.stack([found[metric][:, p].sum(axis=1) for p in parts])
        off = np.abs(told / true - 1)
        r2 = 1 - ((told - true) ** 2).sum() / ((true - true.mean()) ** 2).sum()
        rank = np.median([spearmanr(a, b)[0] for a, b in zip(true, told, strict=True)])
        degrees = {k: f.degree for (k, m), f in surrogate.fits.items() if m == metric}
        print(
            f"  {metric}, degrees {degrees}: error median {np.median(off):.1%}, 95 % of them below "
            f"{np.quantile(off, 0.95):.1%}; R2 {r2:.4f}, Spearman over designs {rank:.3f}"
        )
    print(
        f"  {count} unseen designs x {networks} networks; table of a design {1e3 * simulated:.2f} ms "
        f"simulated, {1e3 * fitted:.3f} ms by polynomials: {simulated / fitted:,.0f} times faster",
        flush=True,
    )


def compare(
    space: Space, designs: Designs, surrogate: Surrogate, asked: argparse.Namespace
) -> None:
    """Print what every order finds within the same limits with as many candidates."""
    begun = time.perf_counter()
    exact = price_designs(space, designs, simulate_layers(space, designs))
    fitted = price_designs(space, designs, surrogate.table())
    accuracy = load_predictor("data/cifar10/predictor.safetensors", space).predict
    print(f"  {len(designs)} designs priced in {time.perf_counter() - begun:.1f} s", flush=True)
    rows = exact.space.snap(exact.space.draw(4_000, np.random.default_rng(0)))
    limited = ("latency_ms", "energy_mj", "area_mm2")
    costs = exact.costs(rows, limited)
    for share in asked.shares:
        limits = {m: float(np.quantile(costs[m], share)) for m in limited}
        print("  limits " + ", ".join(f"{m} {v:.4g}" for m, v in limits.items()))
        problem = Problem(exact, of_network(exact.space, accuracy), ("accuracy",), limits)
        for name, order in ORDERS.items():
            best, last, error = [], None, ""
            for seed in range(asked.seeds):
                try:
                    last = order(problem, asked.candidates, seed)
                    best.append(last.accuracy)
                except ApqError as wrong:
                    error = str(wrong)
            report(
                name,
                best,
                last and exact.space.designs.values(int(exact.space.design(last.genes)[0])),
                last and last.costs,
                error,
            )
        best, over = [], []
        for seed in range(asked.seeds):
            near = Problem(fitted, of_network(fitted.space, accuracy), ("accuracy",), limits)
            found = together(near, asked.candidates, seed)
            true = exact.costs(found.genes, limited)
            best.append(found.accuracy)
            over.append(max(float(true[m][0]) / limits[m] for m in limited))
        report("together, polynomials", best, None, None, f"truly {max(over):.3f} x limit at worst")


def report(name, best, design, costs, note) -> None:
    """One line."""
    told = f"{np.mean(best):.2%} ({min(best):.2%} … {max(best):.2%})" if best else "none"
    about = ", ".join(f"{m} {v:.4g}" for m, v in (costs or {}).items())
    print(f"    {name:22} {told} {design or ''} {about} {note}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--designs", nargs="*", default=[*DESIGNS])
    parser.add_argument("--candidates", type=int, default=2_000)
    parser.add_argument("--shares", nargs="*", type=float, default=[0.1, 0.3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--simulated", type=int, default=200, help="designs per type of PE")
    parser.add_argument("--unseen", type=int, default=200)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space("cifar10")
    for name in asked.designs:
        designs = DESIGNS[name]()
        begun = time.perf_counter()
        surrogate = fit_surrogate(space, designs, asked.simulated)
        print(f"{name}: polynomials of {asked.simulated} designs per type of PE, fitted in "
              f"{time.perf_counter() - begun:.1f} s with the simulations")  # fmt: skip
        held_out(surrogate, asked.unseen)
        compare(space, designs, surrogate, asked)


if __name__ == "__main__":
    main()
