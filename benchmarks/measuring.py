"""Measuring chosen candidates as quantized samples are: what two benchmarks share.

Every candidate is quantized, fine-tuned for a few steps and measured on all validation images, as
`apq collect --quantized` does it, with one seed after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from apq.accuracy import Quantization, measure_quantized
from apq.cost import Stopwatch
from apq.files import whole
from apq.images import load_images
from apq.samples import read_samples
from apq.space import Candidate
from apq.supernet import load_supernet
from apq.supernet.evaluate import EvalImages
from apq.supernet.task import classification
from apq.training import find_device
from apq.workers import spread


@dataclass(frozen=True)
class Protocol:
    """All that decides a measurement besides candidate and seed."""

    supernet: Path
    quantized: Path
    images: str
    device: str = "cpu"
    steps: int | None = None
    lr: float | None = None

    def how(self) -> Quantization:
        """As the samples were made, except for what is said here."""
        said = read_samples(self.quantized).metadata["quantization"]
        more = {"finetune_steps": self.steps, "lr": self.lr}
        return Quantization(**said | {k: v for k, v in more.items() if v is not None})


@cache
def _loaded(protocol: Protocol) -> Callable[[str, int], float]:
    """Once per process: from a candidate (JSON) and a seed to its accuracy, a fraction."""
    torch.set_num_threads(1)
    space, how = read_samples(protocol.quantized).space, protocol.how()
    supernet = load_supernet(protocol.supernet, space)
    images = load_images(protocol.images, space.resolution, space.in_channels, space.classes)
    data = EvalImages.of(images, supernet.mean, supernet.std, device=find_device(protocol.device))
    task, pixels = classification(images), (supernet.mean, supernet.std)

    def measure(candidate: str, seed: int) -> float:
        subnet = supernet.network.subnet(Candidate.from_dict(json.loads(candidate)))
        return measure_quantized(subnet, data, task, pixels, how, seed)[0]

    return measure


def _one(protocol: Protocol, candidate: str, seed: int) -> dict[str, Any]:
    """One measurement as a row."""
    measure, watch = _loaded(protocol), Stopwatch()
    accuracy = measure(candidate, seed)
    cost = watch.cost()
    return {
        "candidate": candidate, "seed": seed, "measured": accuracy,
        "wall_s": cost["wall_s"], "cpu_s": cost["cpu_s"], "device": protocol.device,
    }  # fmt: skip


def measured_rows(
    protocol: Protocol, todo: Iterable[tuple[str, int]], out: Path, workers: int = 1
) -> Iterator[dict[str, Any]]:
    """Measure candidates (JSON) with seeds; what ``out`` has is not measured again. Every row is in
    ``out`` (Parquet) before it is yielded."""
    how = protocol.how()
    about = {"steps": how.finetune_steps, "lr": how.lr, "scheme": how.scheme}
    rows = pd.read_parquet(out).to_dict("records") if out.exists() else []
    if odd := [row for row in rows if any(row.get(k, v) != v for k, v in about.items())]:
        raise SystemExit(f"{out} holds measurements of another kind: {odd[0]}; give another file")
    done = {(row["candidate"], row["seed"]) for row in rows}
    left = [one for one in dict.fromkeys(todo) if one not in done]
    print(f"{len(done)} measurements in {out}, {len(left)} to make: {how}", flush=True)
    for row in spread(_one, ((protocol, *one) for one in left), workers):
        rows.append(row | about)
        with whole(out) as partial:
            pd.DataFrame(rows).to_parquet(partial, index=False)
        yield row


def options(parser: Any) -> None:
    """Add the options that :func:`protocol_of` reads."""
    parser.add_argument("--images", help="the supernet's images, to measure on")
    parser.add_argument("--supernet", type=Path, default=Path("data/cifar10/supernet.safetensors"))
    parser.add_argument("--quantized", type=Path, help="samples to measure like")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps or auto")
    parser.add_argument("--workers", type=int, default=1, help="processes that measure")
    parser.add_argument("--finetune-steps", type=int, help="default: as the samples")
    parser.add_argument("--finetune-lr", type=float, help="default: as the samples")


def protocol_of(told: Any, quantized: Path) -> Protocol:
    """What the options say; ``quantized`` are the samples to measure like by default."""
    return Protocol(
        told.supernet, told.quantized or quantized, told.images, told.device,
        told.finetune_steps, told.finetune_lr,
    )  # fmt: skip
