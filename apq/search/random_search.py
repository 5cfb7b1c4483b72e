"""Feasibility-aware random sampling: the baseline every front is drawn against."""

from __future__ import annotations

import numpy as np

from apq.search.record import CHUNK, Record
from apq.space import Genes


def random_search(record: Record, seed: int, seeds: Genes, storage: str | None = None) -> None:
    """Score random feasible candidates; ``seeds`` first. Keeps no storage."""
    rng = np.random.default_rng(seed)
    if len(seeds):
        record.score(seeds)
    while record.left > 0:
        rows = record.problem.sample(min(CHUNK, record.left), rng)
        record.score(record.unseen(rows))
