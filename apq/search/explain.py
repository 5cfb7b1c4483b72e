"""Why a candidate costs what it costs: its blocks, and the share of the budget each one takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from apq.search.front import Front
from apq.search.problem import Problem


def explain(problem: Problem, front: Front, row: int) -> list[dict[str, Any]]:
    """The active blocks of one row of a front, in network order, then the fixed layers.

    Returns:
        Per block ``slot``, its choices by attribute (``kernel``, ``width``, bits) and per additive
        cost of the problem ``METRIC`` and ``METRIC_share`` (of the whole candidate). Factors of no
        block follow with the genes they read; the last entry has ``slot`` "fixed".
    """
    space, priced = problem.priced.space, problem.priced
    genes = front.genes[row : row + 1]
    index = priced.combinations(genes)[0]
    runs = space.counted(genes)[0]
    metrics = [m for m in problem.metrics if m != "peak_memory_kb"]
    out: list[dict[str, Any]] = []
    for f, factor in enumerate(space.factors):
        if not runs[f] or not factor.nodes:
            continue
        entry: dict[str, Any] = {"slot": factor.name}
        for i in factor.axes:
            axis = space.axes[i]
            own = axis.slot == factor.slot
            entry[axis.attribute if own else axis.name] = axis.labels[genes[0, i]]
        for metric in metrics:
            cost = float(np.ravel(priced.tables[metric][f])[index[f]])
            entry[metric] = cost
            entry[f"{metric}_share"] = cost / float(front.costs[metric][row])
        out.append(entry)
    fixed: dict[str, Any] = {"slot": "fixed"}
    for metric in metrics:
        fixed[metric] = priced.fixed[metric]
        fixed[f"{metric}_share"] = priced.fixed[metric] / float(front.costs[metric][row])
    return [*out, fixed]
