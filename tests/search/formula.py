"""An accuracy computed by a formula; in a module of its own so that workers find it."""

from __future__ import annotations

import time

import numpy as np

from apq.search.problem import Accuracy
from apq.space import Genes, Space


class FormulaAccuracy:
    """Accuracy that rises with every choice, unevenly, and with products of neighbouring slots."""

    def __init__(self, space: Space) -> None:
        rng = np.random.default_rng(7)
        self.space = space
        self.effect = np.sort(rng.random((len(space.axes), int(space.cardinalities.max()))), axis=1)
        self.calls, self.pause = 0, 0.0

    def __call__(self, genes: Genes) -> tuple[np.ndarray, np.ndarray]:
        self.calls += 1
        time.sleep(self.pause)
        gain = self.effect[np.arange(genes.shape[1]), genes]
        slots = len(self.space.slots)
        blocks = gain[:, -6 * slots :].reshape(len(genes), slots, 6).sum(axis=2)
        blocks = blocks * self.space.active(genes)
        total = blocks.sum(axis=1) + (blocks[:, 1:] * blocks[:, :-1]).sum(axis=1) / 4
        accuracy = 1 - np.exp(-total / 8)
        return accuracy, 0.01 + 0.02 * (genes.sum(axis=1) % 3)


def rising(space: Space) -> Accuracy:
    """An accuracy to which every gene that decides something adds."""
    rng = np.random.default_rng(3)
    gain = np.sort(rng.random((len(space.axes), int(space.cardinalities.max()))), axis=1)

    def predict(genes: Genes) -> tuple[np.ndarray, np.ndarray]:
        chosen = gain[np.arange(genes.shape[1]), genes] * space.decides(genes)
        return 1 - np.exp(-chosen.sum(axis=1) / 8), np.full(len(genes), 0.01)

    return predict
