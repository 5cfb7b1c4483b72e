"""Speed of this tree beside another checkout of apq, command by command, in one run.

    python benchmarks/bench_against_tree.py OTHER_CHECKOUT --images CIFAR [--rounds 3] [--only NAME]

Every case is run with a small and a large count in both trees in turn, each with its own data; the
difference of processor seconds is what the work itself took, without start-up. The least of all
rounds counts. Shown as a ratio, this tree to the other: below 1 is faster.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SEARCH = "search --latency-ms 0.5 --candidates {n} --out {out} --algorithm"
ALONE = "--no-baselines --no-picture"
"""What earlier versions did not do after a search."""
COLLECT = "collect --images {images} --supernet data/cifar10/supernet.safetensors --out {out}/s"
CASES: dict[str, tuple[tuple[str, ...], float, float]] = {
    "evolution, 50,000": (
        (f"{SEARCH} evolution {ALONE}", f"{SEARCH} evolution"), 1_000, 50_000
    ),
    "nsga2, 50,000": ((f"{SEARCH} nsga2 {ALONE}", f"{SEARCH} nsga2"), 1_000, 50_000),
    "fp32 samples": ((f"{COLLECT} --count {{n}}",), 10, 60),
    "quantized samples": ((f"{COLLECT} --quantized --count {{n}}",), 2, 8),
    "supernet training": (
        ("train-supernet --images {images} --epochs {n} --out {out}/s.safetensors",), 0.02, 0.1
    ),
    "table of apq-imagenet": (("lut build --space apq-imagenet --out {out}/t.csv",), 0, 1),
}  # fmt: skip
"""Per case the command in this tree (and in the other, where it is called otherwise), and counts."""


def seconds(tree: Path, command: str, n: float, images: str) -> float:
    """Processor seconds of one command; a count of 0 is the start alone."""
    with tempfile.TemporaryDirectory() as out:
        words = command.format(n=n, out=out, images=images).split() if n else ["--version"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "apq", *words], cwd=tree, env=environment, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{tree}: apq {' '.join(words)}\n{done.stderr.decode()[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("other", type=Path)
    parser.add_argument("--images", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    told = parser.parse_args()
    trees = (HERE, told.other.resolve())
    print(f"{'':<24} {'this':>8} {'other':>8}   ratio   (CPU s, least of {told.rounds})")
    for name, (commands, small, large) in CASES.items():
        if told.only not in name:
            continue
        least: dict[tuple[int, float], float] = {}
        for _ in range(told.rounds):
            for i, tree in enumerate(trees):
                for n in (small, large):
                    took = seconds(tree, commands[min(i, len(commands) - 1)], n, told.images)
                    least[i, n] = min(took, least.get((i, n), took))
        mine, theirs = (least[i, large] - least[i, small] for i in (0, 1))
        print(f"{name:<24} {mine:8.2f} {theirs:8.2f}   {mine / theirs:5.2f}", flush=True)


if __name__ == "__main__":
    main()
