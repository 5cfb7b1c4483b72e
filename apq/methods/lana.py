"""LANA: a table of what replacements lose, an integer program, many solutions (2107.10624)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError
from apq.methods.book import Book
from apq.search.integer_program import quiet
from apq.search.sequential import largest_row
from apq.search.variation import rank
from apq.space import Genes

POOL, OVERLAP, SOLUTIONS = 197, 0.7, 50
"""Replacements per layer at most, how much a solution may repeat of an earlier one, how many."""
RANKS = 3
"""Replacements beyond so many Pareto ranks of loss and cost are left out of the program: the first
solution needs rank 0 only, later ones some more."""
FORBIDDEN = 1e3
"""Loss of what may not be chosen."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """What may stand in one block's place.

    Attributes:
        rows: Genes of the block, ``(n, own genes)``.
        loss: What the teacher loses with it, ``(n,)``.
        costs: Per limited cost, ``(limits, n)``.
    """

    rows: Genes
    loss: Floats
    costs: Floats


def solve(
    losses: Sequence[Floats],
    costs: Sequence[Floats],
    room: Floats,
    earlier: Sequence[Sequence[int]] = (),
    overlap: float = OVERLAP,
    chains: Sequence[Sequence[int]] = (),
) -> list[int] | None:
    """One choice per layer with the least total loss whose costs fit.

    Args:
        losses: Per layer, of its choices.
        costs: Per layer ``(limits, choices)``.
        room: Per limit.
        earlier: Solutions of which the new one may share at most ``overlap`` of the layers each:
            sum_i <z_i, z_i^k> <= O · N (the paper's diversity).
        overlap: O.
        chains: Layers in a row of which each but the first may be left out, its choice 0, and then
            all after it are.

    Returns:
        Indices, or None: nothing fits.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import lil_array

    starts = np.cumsum([0, *(len(x) for x in losses)])
    rows: list[tuple[dict[int, float], float, float]] = []
    for i, x in enumerate(losses):
        rows.append(({int(starts[i] + j): 1.0 for j in range(len(x))}, 1.0, 1.0))
    for k, most in enumerate(room):
        full = np.concatenate([c[k] for c in costs]) / max(float(most), 1e-12)
        rows.append((dict(enumerate(full.tolist())), -np.inf, 1.0 if most >= 0 else -1.0))
    for known in earlier:
        same = {int(starts[i] + j): 1.0 for i, j in enumerate(known)}
        rows.append((same, -np.inf, float(np.floor(overlap * len(losses) + 1e-9))))
    for chain in chains:
        for before, after in itertools.pairwise(chain):
            rows.append(({int(starts[before]): 1.0, int(starts[after]): -1.0}, -np.inf, 0.0))
    matrix = lil_array((len(rows), int(starts[-1])))
    for r, (cells, _, _) in enumerate(rows):
        for column, cell in cells.items():
            matrix[r, column] = cell
    low, high = np.array([r[1] for r in rows]), np.array([r[2] for r in rows])
    with quiet():
        found = milp(
            np.concatenate(losses), constraints=LinearConstraint(matrix.tocsr(), low, high),
            integrality=np.ones(int(starts[-1])), bounds=Bounds(0, 1),
            options={"mip_rel_gap": 1e-3},
        )  # fmt: skip
    if found.x is None:
        return None
    return [int(found.x[a:b].argmax()) for a, b in itertools.pairwise(starts)]


def lana(book: Book) -> None:
    """The largest network is the teacher; the loss of a replacement is what the predictor says the
    teacher loses with it alone. Half of the calls fill the table, the rest score solutions.

    The paper trains every replacement to imitate its layer; here the supernet's weights stand in
    for that, through the predictor.

    Raises:
        ApqError: blocks share genes, so a replacement of one changes others.
    """
    problem, space = book.problem, book.problem.space
    if problem.priced.bound or space.shared:
        raise ApqError(
            f"LANA replaces blocks one by one, and blocks of space {space.name!r} share genes"
        )
    teacher = space.snap(largest_row(space))
    pools = _pools(book, teacher)
    limits = [m for m in problem.limits if m != "peak_memory_kb"]
    room = np.array([problem.limits[m] - problem.priced.fixed[m] for m in limits])
    chains = [stage.slots for stage in space.stages]
    losses, costs = [p.loss for p in pools], [p.costs for p in pools]
    known: list[list[int]] = []
    for _ in range(min(SOLUTIONS, book.left)):
        found = solve(losses, costs, room, known, OVERLAP, chains)
        if found is None:
            break
        known.append(found)
        book.score(_row(book, teacher, pools, found))
    book.notes["solutions"] = float(len(known))


def _pools(book: Book, teacher: Genes) -> list[Pool]:
    """The table: what may replace every block, with its losses and costs. The first choice of each
    is that the block is left out, at a loss that forbids it where it always runs."""
    problem, space = book.problem, book.problem.space
    base = float(book.score(teacher)[0])
    each = max(2, min(POOL, (book.most // 2) // len(space.slots)))
    limits = [m for m in problem.limits if m != "peak_memory_kb"]
    pools = []
    for f, factor in enumerate(space.factors):
        if factor.slot is None:
            continue
        own = list(factor.axes)
        blocks = _blocks(book, teacher, own, each)
        rows = np.repeat(teacher, len(blocks), axis=0)
        rows[:, own] = blocks
        loss = base - book.score(rows)
        blocks = blocks[: len(loss)]
        cost = np.array([problem.priced.tables[m][f][tuple(blocks.T)] for m in limits])
        cost = cost.reshape(len(limits), len(blocks))
        kept = rank(np.column_stack([loss, cost.T]))[0] < RANKS
        blocks, loss, cost = blocks[kept], loss[kept], cost[:, kept]
        gone = _left_out(book, teacher, factor.slot, base)
        pools.append(
            Pool(
                np.concatenate([blocks[:1], blocks]), np.concatenate([[gone], loss]),
                np.concatenate([np.zeros((len(limits), 1)), cost], axis=1),
            )
        )  # fmt: skip
    return pools


def _blocks(book: Book, teacher: Genes, own: list[int], count: int) -> Genes:
    """The teacher's own block, the cheapest ones, and random ones; each once."""
    problem, space, rng = book.problem, book.problem.space, book.rng
    cheapest = [problem.searched.extreme(m, canonical=False)[1][:, own] for m in problem.limits]
    first = np.unique(np.concatenate([teacher[:, own], *cheapest]), axis=0)
    drawn = space.snap(space.draw(2 * count, rng), canonical=False)[:, own]
    both = np.concatenate([first, drawn])
    order = np.sort(np.unique(both, axis=0, return_index=True)[1])
    kept: Genes = both[order][:count]
    return kept


def _left_out(book: Book, teacher: Genes, slot: int, base: float) -> float:
    """What the teacher loses without a block. All behind it in its stage go too, and each carries
    an equal part of the loss."""
    space = book.problem.space
    stage, position = space.stages[space.slots[slot].stage], space.slots[slot].position
    fits = [g for g in space.allowed[space.slots[slot].stage] if stage.depth[g] <= position]
    if not fits:
        return FORBIDDEN
    shallow = teacher.copy()
    shallow[0, space.slots[slot].stage] = max(fits, key=lambda g: stage.depth[g])
    scored = book.score(shallow)
    gone = sum(space.slots[s].position >= position for s in stage.slots)
    return (base - float(scored[0])) / gone if len(scored) else FORBIDDEN


def _row(book: Book, teacher: Genes, pools: Sequence[Pool], picks: Sequence[int]) -> Genes:
    """The network of a solution."""
    space, row = book.problem.space, teacher.copy()
    for s, stage in enumerate(space.stages):
        count = sum(picks[i] > 0 for i in stage.slots)
        fits = [g for g in space.allowed[s] if stage.depth[g] >= count]
        row[0, s] = min(fits, key=lambda g, d=stage.depth: d[g])  # type: ignore[misc]
    for slot, pool, pick in zip(space.slots, pools, picks, strict=True):
        row[0, list(space.own(slot))] = pool.rows[pick]
    return space.snap(row)
