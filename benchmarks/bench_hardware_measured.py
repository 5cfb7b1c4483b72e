"""How well do tables predict whole networks on this machine?

    python benchmarks/bench_hardware_measured.py [--space cifar10] [--runtime openvino] [--rounds 8]

Per precision: sums of measured blocks against sums of measured layers and scaled MACs, each
corrected with the same 10 networks and checked on the same 30 others, beside the noise of the
end-to-end times themselves (best of the odd rounds against best of the even ones).
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from apq.deploy import timing
from apq.deploy.measure import describe_host, finish, prepare
from apq.hardware import price_space
from apq.hardware.calibration import affine_fit, agreement
from apq.space import load_space

FIT = 10


def halves(folder):
    """Best times of each network in odd and in even rounds."""
    best = [{}, {}]
    for (number, name), took in timing.read_timings(folder).items():
        if name.startswith("network"):
            half = best[number % 2]
            half[name] = min(took, half.get(name, took))
    return [np.array([half[name] for name in sorted(half)]) for half in best]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="cifar10")
    parser.add_argument("--runtime", default="onnxruntime", choices=timing.RUNTIMES)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "apq-measured")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    space = load_space(told.space)
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{describe_host(told.runtime)}; {load}")
    for precision in ("fp32", "int8"):
        found = {}
        for granularity in ("block", "layer"):
            folder = told.folder / f"{space.name}-{told.runtime}-{precision}-{granularity}"
            prepare(folder, space, precision, 40, granularity, told.seed, told.runtime)
            timing.time_folder(folder, told.rounds)
            found[granularity] = finish(folder, granularity)
        block = found["block"]
        measured, genes = block.latency_ms, block.genes
        sums = {
            name: price_space(space, m.table).costs(genes)["latency_ms"]
            for name, m in found.items()
        }
        sums["MACs"] = price_space(space).costs(genes)["macs_m"]
        order = np.random.default_rng(told.seed).permutation(len(measured))
        fit, rest = order[:FIT], order[FIT:]
        print(f"\n{precision}: {len(rest)} held-out networks of {space.name}, "
              f"{measured.min():.3f} .. {measured.max():.3f} ms")  # fmt: skip
        odd, even = halves(told.folder / f"{space.name}-{told.runtime}-{precision}-block")
        print(f"  {'the same network again':<24} {agreement(odd[rest], even[rest])}")
        for name, total in sums.items():
            if name != "MACs":
                print(f"  {'sum of ' + name + 's':<24} {agreement(total[rest], measured[rest])}")
            constant, slope = affine_fit(total[fit], measured[fit])
            after = agreement((constant + slope * total)[rest], measured[rest])
            print(f"  {'  corrected' if name != 'MACs' else 'MACs, corrected':<24} {after}")


if __name__ == "__main__":
    main()
