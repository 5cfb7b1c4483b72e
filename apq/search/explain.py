"""Breakdown of a candidate's costs by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from apq.hardware.pricing import PricedSpace
from apq.search.front import Front
from apq.search.problem import Floats, Problem
from apq.space import Genes

FIXED = "fixed"
"""Slot name of all layers that are not searched."""


def additive(priced: PricedSpace) -> tuple[str, ...]:
    """The costs that are sums over blocks."""
    return tuple(metric for metric in priced.metrics if metric != "peak_memory_kb")


def block_costs(priced: PricedSpace, genes: Genes) -> dict[str, Floats]:
    """Costs of every block of candidates, as columns ``BLOCK_METRIC``.

    Args:
        priced: The space and its prices.
        genes: ``(n, axes)``.

    Returns:
        For each factor of the space and additive cost, an array ``(n,)``, NaN where the block is
        skipped. With the fixed layers (``PricedSpace.fixed``) they add up to the whole cost.
    """
    space = priced.space
    index, runs = priced.combinations(genes), space.counted(genes)
    return {
        f"{factor.name}_{metric}": np.where(
            runs[:, f], np.ravel(priced.tables[metric][f])[index[:, f]], np.nan
        )
        for f, factor in enumerate(space.factors)
        if factor.nodes
        for metric in additive(priced)
    }


def explain(problem: Problem, front: Front, row: int) -> list[dict[str, Any]]:
    """The active blocks of one row of a front, in network order, then the fixed layers.

    Returns:
        For each block ``slot``, its choices by attribute (``kernel``, ``width``, bits) and, for
        each additive cost, ``METRIC`` and ``METRIC_share`` (of the whole candidate). Factors that
        belong to no block follow with the genes they read; the last entry has ``slot`` "fixed".
    """
    space, priced = problem.priced.space, problem.priced
    genes = front.genes[row : row + 1]
    costs = block_costs(priced, genes)
    runs = space.counted(genes)[0]
    whole = {metric: float(front.costs[metric][row]) for metric in additive(priced)}
    out: list[dict[str, Any]] = []
    for f, factor in enumerate(space.factors):
        if not runs[f] or not factor.nodes:
            continue
        entry: dict[str, Any] = {"slot": factor.name}
        for i in factor.axes:
            axis = space.axes[i]
            own = axis.slot == factor.slot
            entry[axis.attribute if own else axis.name] = axis.labels[genes[0, i]]
        own_costs = {metric: float(costs[f"{factor.name}_{metric}"][0]) for metric in whole}
        out.append(entry | _with_shares(own_costs, whole))
    fixed = {metric: priced.fixed[metric] for metric in whole}
    return [*out, {"slot": FIXED} | _with_shares(fixed, whole)]


def _with_shares(costs: dict[str, float], whole: dict[str, float]) -> dict[str, float]:
    """Costs, each followed by its share of the whole."""
    out: dict[str, float] = {}
    for metric, cost in costs.items():
        out |= {metric: cost, f"{metric}_share": cost / whole[metric] if whole[metric] else 0.0}
    return out
