"""A quick search that starts from candidates scored earlier (ours)."""

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
"""Number of children scored in one batch."""


def refine(
    problem: Problem,
    known: Scored,
    candidates: int,
    seconds: float,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> Result:
    """Choose among known candidates, and vary the best of them for a short time.

    Parents are pairs on the front so far, the more accurate ones more often; children are made by
    :func:`apq.search.variation.children`. The search ends when ``candidates`` are scored or after
    ``seconds``, whichever comes first; only the former gives the same result on every machine.

    Args:
        problem: The problem.
        known: Scored candidates (:meth:`Problem.scored`); rows over a limit are ignored.
        candidates: Most candidates to score; 0: choose among the known ones.
        seconds: Time limit, s.
        seed: Random seed.
        on_batch: Receives what is scored, batch by batch.

    Raises:
        ApqError: no known candidate is within the limits, and none may be scored.
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
    """Children of a front's rows; a row is less often a parent the lower it ranks in the first
    objective."""
    ranked = best.genes[best.values[:, 0].argsort(kind="stable")]
    places = (len(ranked) * rng.random((2, BROOD)) ** 2).astype(np.intp)
    return children(problem, ranked[places[0]], ranked[places[1]], rng)
