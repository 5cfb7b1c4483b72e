"""Training speed of the largest CIFAR-10 subnet: plain PyTorch beside kept memory and our gradient.

    python benchmarks/bench_training.py

CPU seconds of one thread per step of 128 images; every variant is a process of its own, in turn,
several rounds. The plain variant is PyTorch as it comes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from apq.space import load_space
from apq.supernet import Supernet, depthwise, largest
from apq.supernet.memory import keep_memory

VARIANTS = ("plain", "memory", "gradient", "both")


def steps(variant: str, count: int = 4, batch: int = 128) -> float:
    """CPU seconds per step."""
    torch.set_num_threads(1)
    if variant in ("memory", "both"):
        keep_memory()
    if variant in ("plain", "memory"):
        depthwise.WORTH_IT = 99
    space = load_space("cifar10")
    network = Supernet(space).to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,))
    top = largest(space)

    def step() -> None:
        network.zero_grad()
        F.cross_entropy(network(x, top), y).backward()

    for _ in range(3):
        step()
    began = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - began) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.variant:
        print(steps(options.variant))
        return
    found: dict[str, list[float]] = {v: [] for v in VARIANTS}
    for _ in range(options.rounds):
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--variant", variant]
            found[variant].append(float(subprocess.check_output(command, text=True)))
    plain = min(found["plain"])
    for variant, values in found.items():
        best = min(values)
        print(
            f"{variant:<9} {best:.3f} s per step, {128 / best:4.0f} images/s, {plain / best:.2f}x"
        )


if __name__ == "__main__":
    main()
