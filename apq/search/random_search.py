"""Feasibility-aware random sampling: the baseline every front is drawn against."""

from __future__ import annotations

import numpy as np

from apq.search.options import Options
from apq.search.record import CHUNK, Record
from apq.space import Genes


def random_search(record: Record, seed: int, seeds: Genes, options: Options) -> None:
    """Score random feasible candidates; ``seeds`` first. Takes no options."""
    rng = np.random.default_rng(seed)
    if len(seeds):
        record.score(seeds, "given")
    while record.left > 0:
        rows = record.problem.sample(min(CHUNK, record.left), rng)
        record.score(record.unseen(rows), "random")
