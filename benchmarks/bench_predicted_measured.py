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
from measuring import measured_rows, options, protocol_of


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
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="names of baselines; default all")
    options(parser)
    told = parser.parse_args()
    todo = [row for run in told.runs for row in wanted(run, told.only)]
    asked = [(row["candidate"], seed) for seed in range(told.seeds) for row in todo]
    protocol = protocol_of(told, Path("data/cifar10/quantized"))
    for row in measured_rows(protocol, asked, told.out, told.workers):
        names = ", ".join(o["method"] for o in todo if o["candidate"] == row["candidate"])
        print(f"{names}  seed {row['seed']}: {row['measured']:.2%}", flush=True)
    found = pd.read_parquet(told.out)[["candidate", "seed", "measured"]]
    print(table(pd.DataFrame(todo).merge(found, on="candidate")))


if __name__ == "__main__":
    main()
