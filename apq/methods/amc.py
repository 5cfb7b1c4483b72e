"""AMC: an agent chooses how many channels every layer keeps (ECCV 2018, arXiv 1802.03494)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from apq.methods.book import Book, reference_network
from apq.methods.ddpg import Agent
from apq.search.sequential import steps_of
from apq.space import Genes

EPISODES, WARM, DECAY = 800, 100, 0.95


def kept_index(ratio: float, widths: Sequence[int], allowed: Sequence[int]) -> int:
    """The smallest permitted width that keeps at least a ratio of the largest: channels are rounded
    up to what the space offers (multiples of 8 in the release)."""
    wanted = ratio * widths[allowed[-1]]
    return next((g for g in allowed if widths[g] >= wanted - 1e-9), allowed[-1])


def largest_kept(
    row: Genes,
    place: int,
    later: Sequence[int],
    allowed: Sequence[Sequence[int]],
    keeps: Callable[[Genes], bool],
) -> int:
    """The constraint by construction: the largest width of one layer with which the limits can
    still be kept if all later layers keep as few channels as they may.

    Args:
        row: ``(1, axes)`` with earlier layers as chosen.
        place: The layer's gene.
        later: Genes of the layers after it.
        allowed: Permitted indices per gene of the space, ascending.
        keeps: Whether a row keeps the limits.

    Returns:
        Its index; the smallest if none suffices.
    """  # fmt: skip
    trial = row.copy()
    for i in later:
        trial[0, i] = allowed[i][0]
    for g in reversed(allowed[place]):
        trial[0, place] = g
        if keeps(trial):
            return g
    return allowed[place][0]


def amc(book: Book) -> None:
    """Widths of the reference network at 8 bits; the reward of an episode is the accuracy, by the
    predictor. Which channels are kept, and the least-squares refit, are the supernet's business.

    Raises:
        ApqError: at 8 bits no width suffices.
    """
    row = reference_network(book.problem, "largest")
    choose_widths(book, row, min(EPISODES, book.most))


def choose_widths(book: Book, row: Genes, episodes: int) -> None:
    """Let an agent choose the widths of a network, for so many episodes."""
    problem, space = book.problem, book.problem.space
    decides = space.decides(row)[0]
    axes = [i for i in steps_of(space)[1] if decides[i] and len(space.allowed[i]) > 1]
    states = _states(book, row, axes)
    agent = Agent(states.shape[1], book.seed, warm=min(WARM, episodes // 4), decay=DECAY)
    metric = next(iter(problem.limits), problem.priced.metrics[0])

    whole = float(problem.priced.costs(row, [metric])[metric][0])
    for _ in range(episodes):
        if book.left <= 0:
            break
        trial, actions, seen, previous = row.copy(), [], [], 1.0
        for step, i in enumerate(axes):
            state = states[step].copy()
            cost = float(problem.priced.costs(space.snap(trial), [metric])[metric][0])
            state[-2:] = 1 - cost / whole, previous
            action = agent.act(state)
            wanted = kept_index(action, space.axes[i].choices, space.allowed[i])
            most = largest_kept(trial, i, axes[step + 1 :], space.allowed, book.keeps)
            trial[0, i] = min(wanted, most)
            previous = space.axes[i].choices[trial[0, i]] / space.axes[i].choices[-1]
            seen.append(state)
            actions.append(action)
        book.steps += agent.finish(seen, actions, float(book.score(space.snap(trial))[0]))


def _states(book: Book, row: Genes, axes: Sequence[int]) -> NDArray[np.float64]:
    """Per action: index, widest and narrowest width, share of the cost, and two numbers that are
    filled in as the episode goes: cost removed so far, previous ratio. Scaled to 0 … 1."""
    priced, space = book.problem.priced, book.problem.space
    metric = next(iter(book.problem.limits), priced.metrics[0])
    found = []
    for number, i in enumerate(axes):
        low = row.copy()
        low[0, i] = space.allowed[i][0]
        both = priced.costs(np.concatenate([row, space.snap(low)]), [metric])[metric]
        choices = space.axes[i].choices
        found.append([number, choices[-1], choices[0], float(both[0] - both[1]), 0.0, 0.0])
    table = np.array(found, dtype=np.float64).reshape(len(axes), 6)
    high = table.max(axis=0, initial=1e-12)
    scaled: NDArray[np.float64] = table / np.where(high > 0, high, 1.0)
    return scaled
