"""What a searched network is measured against."""

from __future__ import annotations

import numpy as np

from apq.search.problem import Problem, Scored, join
from apq.search.record import CHUNK
from apq.space import BIT_ATTRIBUTES, Choice
from apq.space.formats import ordered


def uniform_bits(problem: Problem, most: int = 64, seed: int = 0) -> dict[Choice, Scored]:
    """Networks with one format everywhere, scored; per width (or format) that all axes offer.

    Per format ``most`` architectures from the smallest to the largest: share t of the choices
    of every axis, plus a little noise. Limits are ignored, as for any reference network.
    """
    space, region = problem.priced.space, problem.region
    rng = np.random.default_rng(seed)
    bit_axes = [i for i, axis in enumerate(space.axes) if axis.attribute in BIT_ATTRIBUTES]
    common = set.intersection(*(set(space.axes[i].labels) for i in bit_axes))
    top = np.array([max(a) for a in region.allowed])
    share = np.linspace(0, 1, most)[:, None] + rng.normal(0, 0.1, (most, len(top)))
    rows = np.rint(np.clip(share, 0, 1) * top).astype(np.int16)
    out: dict[Choice, Scored] = {}
    for bits in ordered(common):
        genes = rows.copy()
        for i in bit_axes:
            genes[:, i] = space.axes[i].labels.index(bits)
        genes = space.canonical(genes)
        genes = genes[region.contains(genes)]
        if len(genes):
            out[bits] = problem.evaluate(genes)
    return out


def random_cloud(problem: Problem, count: int, seed: int = 0) -> Scored:
    """``count`` random feasible candidates, scored."""
    rng = np.random.default_rng(seed)
    sizes = [min(CHUNK, count - i) for i in range(0, count, CHUNK)]
    return join(*(problem.evaluate(problem.sample(size, rng)) for size in sizes))
