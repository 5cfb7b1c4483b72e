"""Sequential search: first the architecture, then its widths, then its number formats.

This is the pipeline that joint search replaces (APQ, CVPR 2020, Figure 6); every step is optimised
separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from apq.cost import Stopwatch
from apq.errors import BudgetError, SpaceError
from apq.search.effort import Effort
from apq.search.front import Archive, Front
from apq.search.many import default_cost
from apq.search.problem import GAINS, Problem, Scored
from apq.search.region import within
from apq.search.search import Result, result_of
from apq.space import Genes, Space
from apq.space.formats import BITS, code_of
from apq.space.graph import Follows, parts

Step = tuple[int, ...]
"""Axes of the genes that one step chooses."""

BRANCHES = (8, 4)
"""Number of results of the first step, and of each second step, that are continued."""
FEWEST = 50
"""With fewer candidates per search than this, fewer results are continued."""
LOOKED_AT = 24
"""Number of rows of a step's front that are tested for whether they can meet the limits."""


def sequential(problem: Problem, effort: Effort, candidates: int) -> Result | None:
    """Search depths and kernels at full width and 8 bits, then widths, then formats.

    Every step trades accuracy or score against the first cost, with an equal share of the
    candidates. Which cost in an early step lets later steps meet the limits is not known in
    advance, so several rows of its front are continued, from the best one within the limits to the
    most expensive one that can still meet them, and the best final result is kept.

    Args:
        problem: The joint problem; accuracy or a score is an objective.
        effort: How every step is searched.
        candidates: Number of candidates scored by all steps together.

    Returns:
        The non-dominated networks of the last step; None: none is within the limits.
    """
    watch, archive, scored = Stopwatch(), Archive(), 0
    steps = open_steps(problem.space)
    spaces = [problem.space]
    for number, step in enumerate(steps):
        later = steps[number + 1 :]
        each = max(10, candidates // len(steps) // max(1, len(spaces)))
        grown: list[Space] = []
        for space in spaces:
            asked = _last(problem, space) if not later else _early(problem, space, later)
            if asked is None:
                continue
            take = None if later else partial(_take, archive, problem)
            try:
                found = effort.search(asked, each, take)
            except BudgetError:  # nothing accurate enough can be reached from here
                continue
            scored += found.candidates
            if later:
                most = min(BRANCHES[min(number, 1)], max(1, each // FEWEST))
                grown += _go_on(problem, space, step, found.front, most)
        spaces = grown
    if archive.best is None:
        return None
    found = result_of(problem, archive.best, scored, effort.algorithm, effort.seed)
    return replace(found, cost=watch.cost()) if found.within_limits else None


def _take(archive: Archive, problem: Problem, batch: Scored) -> None:
    archive.add_feasible(batch, problem.limits)


def steps_of(space: Space) -> tuple[Step, Step, Step]:
    """Genes of the architecture (depths, kernels, resolution), of widths, and of formats."""
    read = {part for node in space.graph.nodes for part in parts(node.channels)}
    names = {part.gene if isinstance(part, Follows) else part for part in read}
    kinds: tuple[list[int], list[int], list[int]] = ([], [], [])
    for i, axis in enumerate(space.axes):
        kinds[2 if axis.is_format else 1 if axis.name in names else 0].append(i)
    return tuple(kinds[0]), tuple(kinds[1]), tuple(kinds[2])


def open_steps(space: Space) -> list[Step]:
    """The steps with a gene that is still free."""
    return [step for step in steps_of(space) if any(len(space.allowed[i]) > 1 for i in step)]


def largest(space: Space, place: int) -> int:
    """A gene's index before its step: 8 bits or else the most bits it offers; for other genes the
    largest choice."""
    axis, allowed = space.axes[place], space.allowed[place]
    if not axis.is_format:
        return allowed[-1]
    codes = np.array(axis.choices)
    plain = [i for i in allowed if codes[i] == code_of(8)]
    return plain[0] if plain else max(allowed, key=lambda i: float(BITS[codes[i]]))


def largest_row(space: Space) -> Genes:
    """Every gene as :func:`largest` has it, ``(1, axes)``."""
    return np.array([[largest(space, i) for i in range(len(space.axes))]], dtype=np.int16)


def traded(problem: Problem) -> str:
    """The cost that steps trade: the first limited one, or the first that is minimised."""
    first = next(iter([*problem.limits, *problem.costs_minimised]), None)
    return first or default_cost(problem.priced)


def _early(problem: Problem, space: Space, later: list[Step]) -> Problem | None:
    """The problem of a step with all later genes at their largest, without limits; None: exclusions
    leave no candidate."""
    gain = next(name for name in problem.objectives if name in GAINS)
    try:
        here = space.narrowed({i: (largest(space, i),) for s in later for i in s}, "a step")
    except SpaceError:
        return None
    return replace(
        problem, priced=problem.priced.within(here), fix=(), limits={},
        objectives=(gain, traded(problem)), least=None,
    )  # fmt: skip


def _last(problem: Problem, space: Space) -> Problem | None:
    """The problem of the last step, with the joint problem's limits; None: they cannot be met."""
    try:
        return replace(problem, priced=problem.priced.within(space), fix=())
    except BudgetError:
        return None


def _go_on(problem: Problem, space: Space, step: Step, front: Front, most: int) -> list[Space]:
    """The space with a step's choices fixed, for up to ``most`` rows of its front."""
    kept = np.flatnonzero(within(front.costs, problem.limits) & np.ones(len(front), dtype=bool))
    first = int(kept[-1]) if len(kept) and problem.limits else 0
    rows = np.unique(np.linspace(first, len(front) - 1, LOOKED_AT).astype(int))
    spaces = []
    for genes in front.genes[rows]:
        here = chosen(space, genes, step)
        if here is not None and _last(problem, here) is not None:
            spaces.append(here)
    picks = np.linspace(0, max(0, len(spaces) - 1), most).round().astype(int)
    return [spaces[i] for i in np.unique(picks)] if spaces else []


def chosen(space: Space, row: Genes, places: Sequence[int]) -> Space | None:
    """The space with some genes fixed to a row's choices, except in skipped blocks; None: no
    candidate is left."""
    decides = space.decides(row[None])[0]
    wanted = {i: (int(row[i]),) for i in places if decides[i]}
    try:
        return space.narrowed(wanted, "a step")
    except SpaceError:
        return None
