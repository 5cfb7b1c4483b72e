"""LeGR's learned global ranking: one scale and one shift per layer."""

from __future__ import annotations

from collections import deque
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq.supernet.orders.measured import Measured, gates
from apq.supernet.supernet import Supernet, largest

TOURNAMENT = 8
"""Individuals of which the best has a child; LeGR has 16 of a population of 64."""
MUTATED, KEPT, LEAST = 0.1, 0.5, 0.1
"""Share of the layers that a mutation changes; share of all channels that the ranking is learned
to keep; share of every group that stays in any case (as LeGR's safeguard)."""


@torch.no_grad()
def legr(
    supernet: Supernet, measured: Measured, population: int = 24, generations: int = 96
) -> dict[str, Tensor]:
    """Filters ranked by ``alpha * |w|^2 + kappa``, with ``alpha`` and ``kappa`` of their layer.

    LeGR (Chin et al., CVPR 2020, arXiv:1904.12368); tied filters count the sum over their layers.

    Regularised evolution learns the numbers: fitness is the loss on the calibration images when the
    lowest half of all channels, ranked together, is gated to zero. What is ours: no training step
    before fitness is measured (LeGR's own choice for CIFAR-10), and the share of channels in place
    of a share of FLOPs.

    Args:
        supernet: The supernet.
        measured: Images, labels and the loss.
        population, generations: Size of the evolution; LeGR uses 64 and 400.

    Returns:
        Importance ``(channels,)`` by gene, comparable across genes.
    """
    return _Ranking(supernet, measured).learned(population, generations, np.random.default_rng(0))


class _Ranking:
    """Norms of filters, and what a ranking of them costs."""

    def __init__(self, supernet: Supernet, measured: Measured) -> None:
        self._network = supernet.subnet(largest(supernet.space)).eval()
        self._measured = measured
        self._norms: dict[str, Tensor] = {}
        self._layers: dict[str, list[str]] = {gene: [] for gene in supernet.widths}
        for node in supernet.space.graph.layers:
            if isinstance(node.channels, str):
                weight = supernet.stored(node)
                self._norms[node.name] = weight.flatten(1).square().sum(1)
                self._layers[node.channels].append(node.name)

    def learned(
        self, population: int, generations: int, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """The importance that the best ranking gives."""
        names = list(self._norms)
        spread = np.array([float(n.std(correction=0)) for n in self._norms.values()])
        identity = np.stack([np.ones(len(names)), np.zeros(len(names))])
        first = [identity]
        while len(first) < population:
            first.append(
                np.stack(
                    [np.exp(rng.normal(size=len(names))), rng.normal(size=len(names)) * spread]
                )
            )
        pool = deque((self._loss(one), one) for one in first)
        best = min(pool, key=lambda pair: pair[0])
        for generation in range(generations):
            some = [pool[i] for i in rng.permutation(len(pool))[:TOURNAMENT]]
            child = min(some, key=lambda pair: pair[0])[1].copy()
            hit = rng.random(len(names)) < MUTATED
            hit[rng.integers(len(names))] = True
            size = 1 - generation / (1.25 * generations)
            child[0, hit] *= np.exp(rng.normal(size=hit.sum()) * size)
            child[1, hit] += rng.normal(size=hit.sum()) * spread[hit]
            pool.append((self._loss(child), child))
            pool.popleft()  # the oldest goes, however good (Real et al., AAAI 2019)
            best = min(best, pool[-1], key=lambda pair: pair[0])
        return self._importance(best[1])

    def _importance(self, numbers: NDArray[np.float64]) -> dict[str, Tensor]:
        place = {name: i for i, name in enumerate(self._norms)}
        return {
            gene: reduce(
                torch.add,
                [self._norms[n] * numbers[0, place[n]] + numbers[1, place[n]] for n in names],
            )
            for gene, names in self._layers.items()
        }

    def _loss(self, numbers: NDArray[np.float64]) -> float:
        """Loss without the channels that rank lowest."""
        importance = self._importance(numbers)
        every = torch.cat(list(importance.values()))
        bar = every.kthvalue(max(1, round((1 - KEPT) * len(every)))).values
        of: dict[str, Tensor] = {}
        for gene, own in importance.items():
            safe = torch.zeros_like(own)
            safe[own.argsort(descending=True)[: max(1, round(LEAST * len(own)))]] = 1
            gate = torch.maximum((own > bar).float(), safe)
            of |= dict.fromkeys(self._layers[gene], gate[None])
        total = 0.0
        for images, labels in self._measured.parts():
            total += float(self._measured.loss(gates(self._network, images, of), labels)) * len(
                images
            )
        found = total / len(self._measured.labels)
        return found if np.isfinite(found) else np.inf
