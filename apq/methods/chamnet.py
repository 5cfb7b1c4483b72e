"""ChamNet: a Gaussian process on a few numbers per network, sampled in rounds (1812.08934)."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.methods.book import Book
from apq.search.problem import Floats
from apq.search.search import search
from apq.space import Genes, Space

SAMPLES, FIRST, ROUND, EVOLVED = 240, 60, 30, 1500
"""Samples of accuracy in all, at first and per round; candidates that a round's evolution tries."""


def summary(space: Space, genes: Genes) -> NDArray[np.float64]:
    """The short vector of a network: every depth, and by stage and attribute the mean level of the
    blocks that run, 0 … 1."""
    level = genes / np.maximum(space.cardinalities - 1, 1)
    decides = space.decides(genes)
    columns = [level[:, s] for s in range(len(space.stages))]
    groups: dict[tuple[int, str], list[int]] = {}
    for i, axis in enumerate(space.axes):
        if axis.slot is not None:
            groups.setdefault((space.slots[axis.slot].stage, axis.attribute), []).append(i)
        elif not axis.is_depth:
            columns.append(level[:, i])
    for places in groups.values():
        runs = decides[:, places]
        total = (level[:, places] * runs).sum(axis=1)
        columns.append(total / np.maximum(runs.sum(axis=1), 1))
    return np.stack(columns, axis=1)


def fitted(x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> Any:
    """A Gaussian process with one length for all columns, as published."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0) * RBF(1.0, (0.05, 50)) + WhiteKernel(1e-3, (1e-8, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)
        return model.fit(x, y)


def chamnet(book: Book) -> None:
    """Sample, fit, let an evolution search the process within the limits, sample what it likes and
    what the process knows least about, and again, up to 240 samples; the best sample is the answer.
    Costs come from the table, so the paper's second process, for energy, is not needed."""
    problem, space = book.problem, book.problem.space
    most = min(SAMPLES, book.most)
    rows = np.unique(problem.sample(min(FIRST, most), book.rng), axis=0)
    value = book.score(rows)
    while book.calls < most:
        model = fitted(summary(space, rows), value, book.seed)

        def guess(genes: Genes, model: Any = model) -> tuple[Floats, Floats]:
            mean, spread = model.predict(summary(space, genes), return_std=True)
            return mean, spread

        asked = replace(problem, accuracy=guess, objectives=("accuracy",), caution=0.0)
        count = min(ROUND, most - book.calls)
        liked: list[Genes] = []
        found = search(asked, "evolution", EVOLVED, book.seed + book.calls)
        liked.append(found.front.genes)
        near = problem.space.snap(np.repeat(found.front.genes[:1], 400, axis=0))
        hit = book.rng.random(near.shape) < 0.1
        near = book.repaired(np.where(hit, space.draw(len(near), book.rng), near).astype(np.int16))
        liked.append(near[np.argsort(-guess(near)[0], kind="stable")[: max(1, count // 2)]])
        wide = problem.sample(400, book.rng)
        unsure = wide[np.argsort(-guess(wide)[1], kind="stable")[: count - count // 2]]
        fresh = np.concatenate([*liked, unsure])
        known = {r.tobytes() for r in rows}
        fresh = np.array([r for r in fresh if r.tobytes() not in known], dtype=np.int16)
        if not len(fresh):
            break
        fresh = book.rng.permutation(np.unique(fresh, axis=0))[:count]
        scored = book.score(fresh)
        rows, value = np.concatenate([rows, fresh[: len(scored)]]), np.concatenate([value, scored])
