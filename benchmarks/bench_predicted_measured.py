"""Predicted beside measured: chosen candidates under the protocol of the quantized samples.

    apq search --latency-ms 0.5 --out runs/search
    python benchmarks/bench_predicted_measured.py --images CIFAR runs/search

Every candidate, that of a run and those of its baselines, is quantized, fine-tuned for as many steps as the shipped samples were, and measured
on the same validation images, with several seeds. The test images are not used.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from apq.collect import Quantization, measure_quantized
from apq.images import load_images
from apq.samples import read_samples
from apq.space import Candidate
from apq.supernet import load_supernet
from apq.supernet.evaluate import EvalImages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of apq search")
    parser.add_argument("--images", required=True)
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    supernet = load_supernet(options.data / "supernet.safetensors")
    samples = read_samples(options.data / "quantized")
    space, how = samples.space, Quantization(**samples.metadata["quantization"])
    images = load_images(options.images, space.resolution, space.in_channels, space.classes)
    data = EvalImages.of(images, supernet.mean, supernet.std, "validation")
    print(
        f"{how.finetune_steps} steps, {len(data.labels)} validation images, {options.seeds} seeds"
    )
    for run in options.runs:
        best = json.loads((run / "best.json").read_text())
        rows = {run.name: best["predicted"] | {"candidate": best["candidate"]}}
        rows |= {f"  {name}": found for name, found in best["baselines"].items() if found}
        for name, found in rows.items():
            candidate = Candidate.from_dict(found["candidate"])
            scores = [
                measure_quantized(
                    supernet.network.subnet(candidate), data, images.splits["train"], images.flip,
                    (supernet.mean, supernet.std), how, seed,
                )[0]
                for seed in range(options.seeds)
            ]  # fmt: skip
            print(
                f"{name:<22} predicted {found['accuracy']:.2%} ± {found['accuracy_spread']:.2%}   "
                f"measured {np.mean(scores):.2%} ({min(scores):.2%} … {max(scores):.2%})",
                flush=True,
            )


if __name__ == "__main__":
    main()
