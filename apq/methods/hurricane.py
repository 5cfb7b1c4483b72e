"""HURRICANE: menus that pay on the device, late blocks first, then the early ones
(arXiv:1910.11609)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from apq.errors import BudgetError
from apq.methods.book import Book
from apq.methods.spos import spos
from apq.search.menus import keep_paying
from apq.search.problem import Problem
from apq.space import Space

KEEP = 2
"""Choices that a kernel or format keeps; the paper keeps about four operators of 32 per layer."""


def hurricane(book: Book) -> None:
    """SPOS's evolution twice, with half of the calls each. First the blocks of the later half are
    searched, which the paper finds to matter more, then, with those kept, the earlier ones.

    The paper holds early layers at one cheap operator meanwhile; here they have the middle of
    every menu, or, where that is too dear, its cheap end, so that the late blocks leave them room,
    and what is over the limits is pulled under them (ours).

    Raises:
        ApqError: a stage finds nothing within the limits.
    """
    problem = book.problem
    metric = next((m for m in problem.limits if m != "peak_memory_kb"), problem.metrics[0])
    space = keep_paying(problem.searched, metric, KEEP)
    early = early_genes(space)
    first = Book(_late_only(problem, space, early), book.most // 2, book.seed)
    spos(first, repair=True)
    best = first.outcome().genes
    book.calls = first.calls
    kept = {i: (int(best[0, i]),) for i in range(len(space.axes)) if i not in early}
    book.narrow(space.narrowed(kept, "the late blocks that were found"))
    book.score(best)
    spos(book, repair=True)


def early_genes(space: Space) -> set[int]:
    """Places of the genes of the first half of the slots, and of their stages' depths."""
    slots = space.slots[: len(space.slots) // 2]
    return {slot.stage for slot in slots} | {i for slot in slots for i in space.own(slot)}


def _late_only(problem: Problem, space: Space, early: set[int]) -> Problem:
    """The problem with early genes held, as dear as limits allow."""
    middle, low = ({i: (choose(space.allowed[i]),) for i in early} for choose in (_middle, min))
    for held in (middle, low):
        try:
            priced = problem.priced.within(space.narrowed(held, "early blocks"))
            return replace(problem, priced=priced, fix=())
        except BudgetError as error:
            refused = error
    raise refused


def _middle(menu: Sequence[int]) -> int:
    return menu[len(menu) // 2]
