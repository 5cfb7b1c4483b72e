"""What each scheme costs in accuracy: one mid-size candidate, fine-tuned under every scheme.

    python benchmarks/bench_quantize_schemes.py --supernet FILE --images DIR

All runs start from the same supernet weights and take the same number of steps on the same part of
the training images; validation chooses the epoch, the figure is test accuracy. "rest" are the weight
bits of the layers outside the blocks, whose activations stay at 8 bits. Every finished run is a line
of --out; the same command continues where it was stopped and prints the table. Differences are to
the float network of the same seed.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from apq.deploy.finetune import FinetuneRecipe, finetune_candidate
from apq.deploy.terms import terms_by_layer
from apq.images import ImageSet, load_images
from apq.space import BitChoices
from apq.supernet import Supernet, load_supernet

RUNS = [  # name, bits of weights, activations, the rest's weights, distribution loss, seeds at most
    ("fp32", 8, 8, 8, 0.0, 3),
    ("uniform", 8, 8, 8, 0.0, 3),
    ("uniform", 4, 8, 8, 0.0, 3),
    ("uniform", 4, 8, 4, 0.0, 3),
    ("uniform", 4, 4, 8, 0.0, 3),
    ("ternary", 2, 8, 8, 0.0, 3),
    ("binary", 1, 8, 8, 0.0, 3),
    ("exponent", 4, 8, 8, 0.0, 3),
    ("binary", 1, 1, 8, 0.0, 3),
    ("binary", 1, 1, 8, 2.0, 3),
    ("uniform", 2, 8, 8, 0.0, 1),
    ("uniform", 2, 2, 8, 0.0, 1),
    ("uniform-lsq", 2, 2, 8, 0.0, 1),
    ("haq", 2, 2, 8, 0.0, 1),
    ("haq", 4, 4, 8, 0.0, 1),
    ("flightnn", 4, 8, 8, 0.0, 3),
    ("flightnn@0", 8, 8, 8, 0.0, 3),
    ("flightnn@0.003", 8, 8, 8, 0.0, 3),
    ("flightnn@0.01", 8, 8, 8, 0.0, 3),
    ("flightnn@0.03", 8, 8, 8, 0.0, 3),
    ("codebook", 4, 8, 8, 0.0, 1),
    ("mantissa", 4, 8, 8, 0.0, 1),
]


def middle(space):
    """Every axis at its middle choice, without bits."""
    genes = (space.cardinalities - 1) // 2
    return space.build(space.canonical(space.snap(genes[None].astype(np.int16)))[0])


def with_bits(candidate, w, a):
    """The candidate with ``w`` weight and ``a`` activation bits everywhere."""
    return candidate.with_(
        **{name: w if "_w_" in name else a for name, _ in candidate.choices if "_bits" in name}
    )


def part_of(images, train, held, test):
    """The first images of every split."""
    sizes = {"train": train, "validation": held, "test": test, "calibration": 1000}
    splits = {k: (x[: sizes[k]], y[: sizes[k]]) for k, (x, y) in images.splits.items()}
    return ImageSet(images.name, splits, images.classes, images.flip)


def key(line):
    return (
        line["scheme"], line["weight_bits"], line["activation_bits"], line["rest_bits"],
        line["distribution"], line["seed"],
    )  # fmt: skip


def read(path, setting):
    """Finished runs by what they are; refuses a file of another setting."""
    if not path.exists():
        return {}
    lines = [json.loads(text) for text in path.read_text().splitlines() if text.endswith("}")]
    if any(line["setting"] != setting for line in lines):
        raise SystemExit(f"{path} holds runs of another setting: give another --out")
    return {key(line): line for line in lines}


def powers(lines):
    """Mean powers of two per filter; 0 where there are none."""
    counts = np.sum([line["terms"] for line in lines if line.get("terms")], axis=0)
    return np.arange(3) @ counts / counts.sum() if np.size(counts) > 1 else 0


def table(done):
    """Test accuracy per scheme over its seeds, beside the float network of the same seeds."""
    print(
        "scheme           w a rest  loss  seeds   before    after     test (min … max)     to fp32"
    )
    floats = {line["seed"]: line["test"] for line in done.values() if line["scheme"] == "fp32"}
    for *what, _ in RUNS:
        lines = [v for k, v in sorted(done.items()) if k[:-1] == tuple(what)]
        if not lines:
            continue
        test = [line["test"] for line in lines]
        behind = [
            t - floats[v["seed"]] for t, v in zip(test, lines, strict=True) if v["seed"] in floats
        ]
        name, w, a, rest, weight = what
        mean = {field: np.mean([line[field] for line in lines]) for field in ("before", "after")}
        print(
            f"{name:<16} {w} {a}    {rest}  {weight:4.1f}  {len(lines):>5}   {mean['before']:6.2%}   "
            f"{mean['after']:6.2%}   {np.mean(test):6.2%} ({min(test):.2%} … {max(test):.2%})   "
            + (f"{100 * np.mean(behind):+.2f}" if behind else "")
            + (f"   powers {power:.2f}" if (power := powers(lines)) else "")
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supernet", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--train", type=int, default=12_800)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=FinetuneRecipe.lr)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="schemes, or scheme:weights:activations[:rest] in bits")
    parser.add_argument("--out", type=Path, default=Path("runs/schemes.jsonl"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_supernet(told.supernet)
    space = loaded.network.space
    setting = {"supernet": loaded.hash} | {
        name: getattr(told, name) for name in ("train", "epochs", "lr", "test")
    }
    done = read(told.out, setting)
    images = load_images(told.images, space.resolution, space.in_channels, space.classes)
    images = part_of(images, told.train, 2000, told.test)
    wide = space.with_(bits=BitChoices(*[(1, 2, 4, 8)] * 4))
    network = Supernet(wide)
    network.load_state_dict(loaded.network.state_dict())
    supernet = replace(loaded, network=network.eval())
    candidate = middle(space)
    print(f"candidate {candidate}")
    told.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(told.seeds):
        for scheme, w, a, rest, weight, seeds in RUNS:
            names = {scheme, f"{scheme}:{w}:{a}", f"{scheme}:{w}:{a}:{rest}"}
            if seed >= seeds or (scheme, w, a, rest, weight, seed) in done:
                continue
            if told.only and not names & set(told.only.split(",")):
                continue
            recipe = FinetuneRecipe(
                scheme, told.epochs, lr=told.lr, distil=False, distribution=weight, seed=seed,
                fixed_weight_bits=rest,
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                model, report = finetune_candidate(
                    with_bits(candidate, w, a), supernet, images, Path(folder) / "m", recipe
                )
            line = {
                "scheme": scheme, "weight_bits": w, "activation_bits": a, "rest_bits": rest,
                "distribution": weight, "seed": seed, "before": report.before, "after": report.after, "test": report.test,
                "seconds": report.cost["wall_s"], "setting": setting,
                "terms": [sum(each) for each in zip(*terms_by_layer(model).values(), strict=True)],
            }  # fmt: skip
            with told.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            done[key(line)] = line
            print(f"{len(done)} runs done, last {scheme} {w} {a}: {report.test:.2%}", flush=True)
    table(done)


if __name__ == "__main__":
    main()
