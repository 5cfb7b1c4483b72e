"""What cutting a traced network must give: the original with weights of 0 for what is cut."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apq.space import Space
from apq.space.graph import Follows, parts, resolve


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return float((a.flatten() - b.flatten()).abs().max() / a.abs().max().clamp_min(1e-12))


@torch.no_grad()
def masked(network: nn.Module, space: Space, chosen: dict[str, int]) -> nn.Module | None:
    """The original network with weights of 0 for channels that a candidate lacks; None if a layer
    is not found in it."""
    clone, most = copy.deepcopy(network), {a.name: a.choices[-1] for a in space.axes}
    for node in space.graph.nodes:
        if node.op not in ("conv", "linear") and not node.places:
            continue
        made_of = parts(node.fan_in) if node.places else space.graph.segments(node.inputs[0])
        if node.op == "conv" and node.groups != 1:
            continue
        if not any(isinstance(p, str | Follows) for p in made_of):
            continue
        try:
            weight = clone.get_parameter(f"{node.name}.weight")
        except AttributeError:
            return None
        taps = int(np.prod(weight.shape[2:])) if node.places else 1
        start = 0
        for part in made_of:
            full, kept = int(resolve(part, most)) // taps, int(resolve(part, chosen)) // taps
            weight[:, start + kept : start + full] = 0
            start += full
    return clone


def candidates(space: Space, seed: int = 0) -> list[Any]:
    """Half of every width, and a random choice of each; nothing skipped."""
    rng, rows = np.random.default_rng(seed), []
    for mode in ("half", "random"):
        row = space.cardinalities - 1
        for i, axis in enumerate(space.axes):
            if axis.attribute.endswith("_width"):
                half = min(range(len(axis.choices)),
                           key=lambda k, c=axis.choices: abs(c[k] - c[-1] / 2))  # fmt: skip
                row[i] = half if mode == "half" else rng.integers(len(axis.choices))
        rows.append(space.build(row))
    return rows
