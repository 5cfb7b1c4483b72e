"""A quick answer to a problem of which much is scored already (ours)."""

from __future__ import annotations

import time

import numpy as np

from apq.errors import ApqError
from apq.search.problem import Problem, Scored
from apq.search.record import OnBatch, Record
from apq.search.search import Result, result_of
from apq.search.variation import children
from apq.space import Genes

BROOD = 80
"""Children that are scored together."""


def refine(
    problem: Problem,
    known: Scored,
    candidates: int,
    seconds: float,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> Result:
    """Choose among known candidates, and vary the best of them for a short time.

    Children come of pairs on the front so far, the more accurate ones more often, as in
    :func:`apq.search.variation.children`. It ends when ``candidates`` are scored or ``seconds``
    are over, whichever is first, so that only the former is the same on every machine.

    Args:
        problem: What is asked.
        known: Scored candidates (:meth:`Problem.scored`); rows over a limit are passed over.
        candidates: Most that are scored; 0: choose among what is known.
        seconds: When to stop.
        seed: Decides every draw.
        on_batch: Receives what is scored, batch by batch.

    Raises:
        ApqError: none of the known candidates keeps the limits, and none may be scored.
    """
    record, rng = Record(problem, candidates, on_batch=on_batch), np.random.default_rng(seed)
    record.take(known)
    until = time.perf_counter() + seconds
    if record.archive.best is None and candidates:
        record.score(record.unseen(problem.spread_sample(BROOD, rng)), "random")
    best = record.archive.best
    while best is not None and record.left > 0 and time.perf_counter() < until:
        record.score(record.unseen(_brood(problem, best, rng)), "variation")
        best = record.archive.best
    if best is None:
        raise ApqError(f"none of the {len(known.genes):,} known candidates keeps these limits")
    return result_of(problem, best, record.done, "refine", seed)


def _brood(problem: Problem, best: Scored, rng: np.random.Generator) -> Genes:
    """Children of a front's rows; the chance of a parent falls with its rank in the first
    objective."""
    ranked = best.genes[best.values[:, 0].argsort(kind="stable")]
    places = (len(ranked) * rng.random((2, BROOD)) ** 2).astype(np.intp)
    return children(problem, ranked[places[0]], ranked[places[1]], rng)
