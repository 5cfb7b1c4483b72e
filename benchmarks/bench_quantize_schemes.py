"""What each scheme costs in accuracy: one mid-size candidate, fine-tuned under every scheme.

    python benchmarks/bench_quantize_schemes.py --supernet FILE --images DIR [--seeds 3]

All runs start from the same supernet weights and take the same number of steps on the same part of
the training images; validation chooses the epoch, the figure is test accuracy. Layers outside the
blocks stay at 8 bits.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from apq.deploy.finetune import FinetuneRecipe, finetune_candidate
from apq.images import ImageSet, load_images
from apq.space import BitChoices, Bits, Block, Candidate
from apq.supernet import Supernet, load_supernet

RUNS = [  # name, weight bits, activation bits, weight of the distribution loss
    ("fp32", 8, 8, 0.0),
    ("uniform", 8, 8, 0.0),
    ("uniform", 4, 8, 0.0),
    ("uniform", 4, 4, 0.0),
    ("haq", 4, 4, 0.0),
    ("uniform", 2, 8, 0.0),
    ("uniform", 2, 2, 0.0),
    ("uniform-lsq", 2, 2, 0.0),
    ("haq", 2, 2, 0.0),
    ("ternary", 2, 8, 0.0),
    ("binary", 1, 8, 0.0),
    ("exponent", 4, 8, 0.0),
    ("flightnn", 8, 8, 0.0),
    ("codebook", 4, 8, 0.0),
    ("mantissa", 4, 8, 0.0),
    ("binary", 1, 1, 0.0),
    ("binary", 1, 1, 2.0),
]


def middle(space):
    """Every axis at its middle choice, without bits."""
    genes = (space.cardinalities - 1) // 2
    return space.build(space.canonical(space.repair(genes[None].astype(np.int16)))[0])


def with_bits(candidate, w, a):
    """The candidate with ``w`` weight and ``a`` activation bits everywhere."""
    bits = Bits(w, a, w, a)
    stages = tuple(tuple(Block(b.kernel, b.width, bits) for b in s) for s in candidate.stages)
    return Candidate(candidate.resolution, stages)


def part_of(images, train, held, test):
    """The first images of every split."""
    sizes = {"train": train, "validation": held, "test": test, "calibration": 1000}
    splits = {k: (x[: sizes[k]], y[: sizes[k]]) for k, (x, y) in images.splits.items()}
    return ImageSet(images.name, splits, images.classes, images.flip)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supernet", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--train", type=int, default=12_800)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="schemes, or scheme:weight:activation bits, comma separated")
    parser.add_argument("--out", type=Path, help="JSON lines, appended")
    told = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_supernet(told.supernet)
    space = loaded.network.space
    images = load_images(told.images, space.resolution, space.in_channels, space.classes)
    images = part_of(images, told.train, 2000, told.test)
    wide = replace(space, bits=BitChoices(*[(1, 2, 4, 8)] * 4))
    network = Supernet(wide)
    network.load_state_dict(loaded.network.state_dict())
    supernet = replace(loaded, network=network.eval())
    candidate = middle(space)
    print(f"candidate {candidate}")
    for seed in range(told.seeds):
        for scheme, w, a, weight in RUNS:
            names = (scheme, f"{scheme}:{w}:{a}")
            if told.only and not set(names) & set(told.only.split(",")):
                continue
            recipe = FinetuneRecipe(
                scheme, told.epochs, distil=False, distribution=weight, seed=seed
            )
            with tempfile.TemporaryDirectory() as folder:
                _, report = finetune_candidate(
                    with_bits(candidate, w, a), supernet, images, Path(folder) / "m", recipe
                )
            line = {
                "scheme": scheme, "weight_bits": w, "activation_bits": a, "distribution": weight,
                "seed": seed, "before": report.before, "after": report.after, "test": report.test,
                "seconds": report.seconds,
            }  # fmt: skip
            print(json.dumps(line), flush=True)
            if told.out:
                with told.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
