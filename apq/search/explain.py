"""Why a candidate costs what it costs: its blocks, and the share of the budget each one takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from apq.search.front import Front
from apq.search.problem import Problem


def explain(problem: Problem, front: Front, row: int) -> list[dict[str, Any]]:
    """The active blocks of one row of a front, in network order, then the fixed layers.

    Returns:
        Per block ``slot``, its choices (``kernel``, ``width``, bits) and per additive cost of the
        problem ``METRIC`` and ``METRIC_share`` (of the whole candidate). The last entry has
        ``slot`` "fixed".
    """
    space, priced = problem.priced.space, problem.priced
    genes = front.genes[row : row + 1]
    index = priced.combinations(genes)[0]
    active = space.active(genes)[0]
    metrics = [m for m in problem.metrics if m != "peak_memory_kb"]
    out: list[dict[str, Any]] = []
    for slot in space.slots:
        if not active[slot.index]:
            continue
        choices = space.block_genes(genes)[0, slot.index]
        entry: dict[str, Any] = {"slot": f"b{slot.index:02d}"}
        axes = (axis for axis in space.axes if axis.slot == slot.index)
        for axis, gene in zip(axes, choices, strict=True):
            entry[axis.attribute] = axis.labels[gene]
        for metric in metrics:
            cost = float(np.ravel(priced.tables[metric][slot.index])[index[slot.index]])
            entry[metric] = cost
            entry[f"{metric}_share"] = cost / float(front.costs[metric][row])
        out.append(entry)
    fixed: dict[str, Any] = {"slot": "fixed"}
    for metric in metrics:
        fixed[metric] = priced.fixed[metric]
        fixed[f"{metric}_share"] = priced.fixed[metric] / float(front.costs[metric][row])
    return [*out, fixed]
