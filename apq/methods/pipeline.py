"""ProxylessNAS, then AMC, then HAQ: the pipeline that APQ sets itself against (its Table 2)."""

from __future__ import annotations

from dataclasses import replace

from apq.methods.amc import choose_widths
from apq.methods.book import Book
from apq.methods.haq import choose_formats
from apq.methods.proxylessnas import proxylessnas
from apq.search.problem import Problem
from apq.search.sequential import steps_of
from apq.space import Genes

STAGES = (13.14 / 8.45, 9.77 / 8.45)
"""What the first two steps may cost, as multiples of the limit: latencies of APQ's Table 2."""


def pipeline(book: Book) -> None:
    """Every step is handed the network of the one before; each has a third of the predictor calls.

    Raises:
        ApqError: a step finds no network, or the last one cannot be brought within the limits.
    """
    problem = book.problem
    share = book.most // 3
    first = Book(_looser(problem, STAGES[0]), share, book.seed)
    proxylessnas(first)
    row = first.outcome().genes
    second = Book(_reachable(_looser(problem, STAGES[1]), row), share, book.seed)
    choose_widths(second, row, share)
    best = second.outcome().genes
    book.calls, book.steps = first.calls + second.calls, first.steps + second.steps
    choose_formats(book, best, book.left)


def _reachable(problem: Problem, row: Genes) -> Problem:
    """Limits no tighter than what the narrowest widths of a network cost: where widths cannot save
    as much as in APQ's table, formats have to."""
    space = problem.space
    low = row.copy()
    for i in steps_of(space)[1]:
        low[0, i] = space.allowed[i][0]
    least = problem.priced.costs(space.snap(low), problem.limits)
    limits = {m: max(v, 1.001 * float(least[m][0])) for m, v in problem.limits.items()}
    return replace(problem, limits=limits)


def _looser(problem: Problem, factor: float) -> Problem:
    return replace(problem, limits={m: factor * v for m, v in problem.limits.items()})
