"""HAQ: an agent chooses number formats layer by layer (CVPR 2019, arXiv 1811.08886)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from apq.methods.book import Book, reference_network
from apq.methods.ddpg import Agent
from apq.search.sequential import steps_of
from apq.space import Genes

Floats = NDArray[np.float64]
EPISODES = 600


def action_bits(action: float, low: int, high: int) -> int:
    """b = round(b_min - 0.5 + a · (b_max - b_min + 1)), within the two."""
    bits = math.floor(low - 0.5 + action * (high - low + 1) + 0.5)
    return min(high, max(low, bits))


def budget_walk(
    row: Genes, axes: Sequence[int], lowest: Sequence[int], keeps: Callable[[Genes], bool]
) -> Genes:
    """Lower formats until the budget is kept: from the last layer to the first, every one of its
    genes by one step, activations first; then again from the last.

    Args:
        row: ``(1, axes)``; formats are indices, more bits above.
        axes: Genes in the order of the actions: of each layer the weight, then the activation.
        lowest: Smallest index of each.
        keeps: Whether a row keeps the budget.

    Returns:
        The row within the budget, or at its lowest if that does not suffice.
    """
    row = row.copy()
    while not keeps(row):
        before = row.copy()
        for i, low in zip(reversed(axes), reversed(lowest), strict=True):
            if row[0, i] > low:
                row[0, i] -= 1
                if keeps(row):
                    return row
        if (row == before).all():
            return row
    return row


def layer_states(book: Book, row: Genes, axes: Sequence[int]) -> Floats:
    """Per action ten numbers, each scaled to 0 … 1 over the actions: depthwise or not, input and
    output channels, stride, kernel, weights, input size, index, previous action (filled in as the
    episode goes), and whether the action is for a weight."""
    space = book.problem.space
    candidate = space.build(space.canonical(row)[0])
    values, graph = space.chosen(candidate), space.graph_of(candidate)
    sides = graph.sides()
    found: list[list[float]] = []
    for place in axes:
        axis = space.axes[place]
        nodes = [
            n for n in space.graph.layers if axis.name in (n.weight, n.activation)
        ]  # the first layer that reads the gene stands for all
        node = graph.by_name[nodes[0].name]
        layer = graph.row(node, sides[node.inputs[0]], values)
        kernel, groups = int(layer["kernel"]), int(layer["groups"])
        inside, outside = int(layer["in_channels"]), int(layer["out_channels"])
        weights = kernel**2 * inside * outside / groups
        found.append([
            float(groups > 1), inside, outside, int(layer["stride"]), kernel, weights,
            int(layer["height"]), len(found), 0.0, float(axis.name == nodes[0].weight),
        ])  # fmt: skip
    table = np.array(found, dtype=np.float64)
    low, high = table.min(axis=0), table.max(axis=0)
    scaled: Floats = (table - low) / np.where(high > low, high - low, 1.0)
    return scaled


def haq(book: Book) -> None:
    """Formats of the reference network; the reward of an episode is 0.1 · (accuracy - accuracy at
    8 bits), by the predictor."""
    choose_formats(book, reference_network(book.problem), min(EPISODES, book.most))


def choose_formats(book: Book, row: Genes, episodes: int) -> None:
    """Let an agent choose the formats of a network, for so many episodes."""
    space = book.problem.space
    decides = space.decides(row)[0]
    axes = [i for i in steps_of(space)[2] if decides[i] and len(space.allowed[i]) > 1]
    if not axes:
        book.score(row)
        return
    axes = _alternating(book, axes)
    states = layer_states(book, row, axes)
    agent = Agent(states.shape[1], book.seed)
    original = float(book.score(row)[0])
    lowest = [space.allowed[i][0] for i in axes]

    for _ in range(episodes):
        if book.left <= 0:
            break
        trial, actions, seen, previous = row.copy(), [], [], 0.0
        for step, i in enumerate(axes):
            state = states[step].copy()
            state[8] = previous
            previous = agent.act(state)
            allowed = space.allowed[i]
            trial[0, i] = allowed[action_bits(previous, 1, len(allowed)) - 1]
            seen.append(state)
            actions.append(previous)
        trial = space.snap(budget_walk(trial, axes, lowest, book.keeps))
        reward = 0.1 * (float(book.score(trial)[0]) - original)
        book.steps += agent.finish(seen, actions, reward)


def _alternating(book: Book, axes: Sequence[int]) -> list[int]:
    """Formats in the order in which their layers run, a layer's weight before its activation."""
    space = book.problem.space
    order: dict[str, int] = {}
    for node in space.graph.layers:
        for name in (node.weight, node.activation):
            if isinstance(name, str):
                order.setdefault(name, len(order))
    return sorted(axes, key=lambda i: order.get(space.axes[i].name, i))
