"""Predicted beside measured: chosen candidates under the protocol of the quantized samples.

    apq search --latency-ms 0.5 --out runs/search
    python benchmarks/bench_predicted_measured.py --images CIFAR --out measured.parquet runs/search

Every candidate, that of a run and those of its baselines, is quantized, fine-tuned for as many
steps as the samples in --quantized were, and measured on the same validation images, with several
seeds. The test images are not used. A row per measurement is added to --out as soon as it is made;
the same command goes on where it was, and prints the table of all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from apq.collect import Quantization, measure_quantized
from apq.images import ImageSet, load_images
from apq.samples import read_samples
from apq.space import Candidate
from apq.supernet import SupernetFile, load_supernet
from apq.supernet.evaluate import EvalImages
from apq.supernet.task import classification


def wanted(run: Path, only: list[str]) -> list[dict[str, Any]]:
    """A row per candidate of a run: its own, and the baselines asked for."""
    best = json.loads((run / "best.json").read_text())
    found = {"joint search": best["predicted"] | {"candidate": best["candidate"]}}
    found |= {name: one for name, one in best["baselines"].items() if one}
    limits = ", ".join(f"{metric} <= {value:g}" for metric, value in best["limits"].items())
    return [
        {
            "limits": limits, "method": name, "predicted": one["accuracy"],
            "spread": one["accuracy_spread"], "candidate": json.dumps(one["candidate"]),
        }
        for name, one in found.items()
        if not only or name in ("joint search", *only)
    ]  # fmt: skip


def measured(
    row: dict[str, Any], seed: int, supernet: SupernetFile, images: ImageSet, data: EvalImages,
    how: Quantization,
) -> float:  # fmt: skip
    """Accuracy of one candidate, a fraction of the validation images."""
    candidate = Candidate.from_dict(json.loads(row["candidate"]))
    return measure_quantized(
        supernet.network.subnet(candidate), data, classification(images),
        (supernet.mean, supernet.std), how, seed,
    )[0]  # fmt: skip


def table(rows: pd.DataFrame) -> str:
    """Predicted and measured of every method, one line per budget and method."""
    lines = []
    for (limits, method), group in rows.groupby(["limits", "method"], sort=False):
        score = group["measured"]
        lines.append(
            f"{limits:<20} {method:<18} predicted {group['predicted'].iloc[0]:.2%} ± "
            f"{group['spread'].iloc[0]:.2%}   measured {score.mean():.2%} "
            f"({score.min():.2%} … {score.max():.2%}, {len(score)} seeds)"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of apq search")
    parser.add_argument("--images", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--supernet", type=Path, default=Path("data/cifar10/supernet.safetensors"))
    parser.add_argument("--quantized", type=Path, default=Path("data/cifar10/quantized"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="names of baselines; default all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = read_samples(options.quantized)
    space, how = samples.space, Quantization(**samples.metadata["quantization"])
    supernet = load_supernet(options.supernet, space)
    images = load_images(options.images, space.resolution, space.in_channels, space.classes)
    data = EvalImages.of(images, supernet.mean, supernet.std, "validation")
    rows = pd.read_parquet(options.out).to_dict("records") if options.out.exists() else []
    done = {(row["candidate"], row["seed"]) for row in rows}
    todo = [row for run in options.runs for row in wanted(run, options.only)]
    for seed in range(options.seeds):
        for row in todo:
            if (row["candidate"], seed) in done:
                continue
            score = measured(row, seed, supernet, images, data, how)
            rows.append(row | {"seed": seed, "measured": score, "steps": how.finetune_steps})
            pd.DataFrame(rows).to_parquet(options.out)
            print(f"{row['limits']}  {row['method']}  seed {seed}: {score:.2%}", flush=True)
    print(table(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
