"""SPOS: evolution whose fitness is the accuracy of the network itself (ECCV 2020, 1904.00420)."""

from __future__ import annotations

import numpy as np

from apq.methods.book import Book
from apq.search.paper import Redraw
from apq.search.rows import row_keys

POPULATION, PARENTS, MUTANTS, CROSSES, RATE = 50, 10, 25, 25, 0.1
"""As released. All genes take part, number formats too (the paper's section 4.4)."""


def spos(book: Book, repair: bool = False) -> None:
    """Rounds of 25 mutants and 25 crosses of the ten best; nothing is scored twice, and what is
    over the limits is drawn again. Scores are those of the problem: a predictor's, or, as
    published, a supernet's.

    Args:
        book: Of the method.
        repair: Pull random rows under the limits instead, where few keep them by themselves.
    """
    problem, rng, space = book.problem, book.rng, book.problem.space
    redraw = (lambda count, draw: book.repaired(draw(count))) if repair else Redraw(problem)
    rows = space.canonical(redraw(min(POPULATION, book.left), lambda n: space.draw(n, rng)))
    seen: set[int] = set()
    value = book.score(rows)
    rows = rows[: len(value)]
    seen |= set(row_keys(rows).tolist())
    idle = 0
    while book.left > 0 and idle < 40:
        best = np.argsort(-value, kind="stable")[:PARENTS]
        rows, value = rows[best], value[best]
        mothers, fathers = rows[rng.integers(len(rows), size=(2, MUTANTS + CROSSES))]
        hit = rng.random(mothers.shape) < RATE
        mutants = np.where(hit, space.draw(len(mothers), rng), mothers)[:MUTANTS]
        mixed = np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)[MUTANTS:]
        made = space.snap(np.concatenate([mutants, mixed]).astype(np.int16))
        made = made[problem.feasible(made)]
        fresh = [r for r, key in zip(made, row_keys(made).tolist(), strict=True) if key not in seen]
        missing = min(POPULATION, book.left) - len(fresh)
        if missing > 0 and idle % 2:
            fresh += [*space.canonical(redraw(missing, lambda n: space.draw(n, rng)))]
        idle = 0 if fresh else idle + 1
        if fresh:
            new = np.unique(np.stack(fresh), axis=0)
            scored = book.score(new)
            new = new[: len(scored)]
            seen |= set(row_keys(new).tolist())
            rows, value = np.concatenate([rows, new]), np.concatenate([value, scored])
