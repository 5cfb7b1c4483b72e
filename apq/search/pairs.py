"""Choose a network and its accelerator together or one after the other, and write both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from apq.errors import ApqError, BudgetError, choose
from apq.files import to_json, whole
from apq.hardware import build_table, price_space
from apq.search.codesign import METRICS, CodesignSpace, joint_of
from apq.search.problem import Accuracy, Problem
from apq.search.record import OnProgress
from apq.search.run import write_run
from apq.search.search import result_of, search
from apq.space import Genes


@dataclass(frozen=True, eq=False)
class Pair:
    """A network and its accelerator.

    Attributes:
        genes: Genes of both, ``(1, axes)`` of the joint space.
        accuracy, spread: Predictions, fractions.
        costs: Costs by metric.
        candidates: Number of networks that the predictor scored.
    """

    genes: Genes
    accuracy: float
    spread: float
    costs: Mapping[str, float]
    candidates: int


def together(
    problem: Problem, candidates: int, seed: int, on_progress: OnProgress | None = None
) -> Pair:
    """Search network and accelerator at once.

    Args:
        problem: A problem over a joint space (:func:`price_designs`), with the accuracy of
            :func:`of_network`.
        candidates: Number of candidates that the predictor scores.
        seed: Random seed.
    """
    found = search(problem, "nsga2", candidates, seed, on_progress=on_progress)
    return _pair(problem, found.front.genes[[found.chosen]], found.candidates)


def _pair(problem: Problem, genes: Genes, candidates: int) -> Pair:
    scored = problem.evaluate(genes)
    costs = {m: float(c[0]) for m, c in problem.priced.costs(genes, METRICS).items()}
    return Pair(genes, float(scored.accuracy[0]), float(scored.spread[0]), costs, candidates)


def network_first(problem: Problem, candidates: int, seed: int) -> Pair:
    """Choose a network, then its accelerator: the front of accuracy and latency on the middle
    design is searched without limits, each of its networks gets the smallest design within the
    limits, and the most accurate network that has one is returned.

    Raises:
        BudgetError: no network of the front has such a design.
    """
    space = joint_of(problem.space)
    assert space.designs is not None
    middle = tuple(len(menu) // 2 for menu in space.knobs.values())
    free = space.narrowed({i: (c,) for i, c in zip(space.device, middle, strict=True)}, "middle")
    asked = replace(
        problem, priced=problem.priced.within(free), fix=(), limits={},
        objectives=("accuracy", "latency_ms"),
    )  # fmt: skip
    found = search(asked, "nsga2", candidates, seed)
    order = np.argsort(-found.front.accuracy, kind="stable")
    for genes in found.front.genes[order]:
        rows = with_every_design(space, genes[None])
        rows = rows[problem.feasible(rows)]
        if len(rows):
            area = problem.priced.costs(rows, ["area_mm2"])["area_mm2"]
            return _pair(problem, rows[[area.argmin()]], found.candidates)
    raise BudgetError("no network that was found without an accelerator has one within the limits")


def accelerator_first(problem: Problem, candidates: int, seed: int, networks: int = 1_000) -> Pair:
    """Choose an accelerator, then its network: the design on which most random networks are within
    the limits (with ties, the smallest), and the best network for it.

    Raises:
        BudgetError: no random network is within the limits on any design.
    """
    space, rng = joint_of(problem.space), np.random.default_rng([seed, 7])
    rows = space.snap(space.draw(networks, rng))
    pairs = with_every_design(space, rows)
    kept = problem.feasible(pairs).reshape(networks, -1).sum(axis=0)
    if not kept.any():
        raise BudgetError(f"none of {networks:,} random networks keeps the limits on any design")
    first = pairs[: len(kept)]
    area = problem.priced.costs(first, ["area_mm2"])["area_mm2"]
    chosen = first[np.lexsort((area, -kept))[0]]
    only = space.narrowed({i: (int(chosen[i]),) for i in space.device}, "accelerator")
    asked = replace(problem, priced=problem.priced.within(only), fix=())
    return together(asked, candidates, seed)


def with_every_design(space: CodesignSpace, networks: Genes) -> Genes:
    """Every network with every permitted design, ``(networks x designs, axes)``; formats that a
    type of PE does not support become the nearest supported ones."""
    menus = np.meshgrid(*(space.allowed[i] for i in space.device), indexing="ij")
    designs = np.stack([m.ravel() for m in menus], axis=1)
    rows = np.repeat(networks, len(designs), axis=0)
    rows[:, list(space.device)] = np.tile(designs, (len(networks), 1))
    return space.snap(rows)


ORDERS: dict[str, Callable[[Problem, int, int], Pair]] = {
    "together": together,
    "network first": network_first,
    "accelerator first": accelerator_first,
}
"""Orders in which network and accelerator are chosen. Each takes a problem, the number of
candidates that the predictor scores, and a seed."""


def try_orders(
    problem: Problem,
    names: Sequence[str],
    candidates: int,
    seed: int,
    on_progress: OnProgress | None = None,
) -> dict[str, Pair | str]:
    """Results of several of :data:`ORDERS` with equal numbers of candidates, or why one failed.

    Args:
        problem: A problem over a joint space.
        names: Keys of :data:`ORDERS`.
        candidates: Number of candidates that the predictor scores for each.
        seed: Random seed.
        on_progress: Called after each.
    """
    found: dict[str, Pair | str] = {}
    for name in names:
        try:
            found[name] = ORDERS[choose(name, ORDERS, "order")](problem, candidates, seed)
        except BudgetError as error:
            found[name] = str(error)
        if on_progress is not None:
            best = max((p.accuracy for p in found.values() if isinstance(p, Pair)), default=0.0)
            on_progress(len(found), len(names), {"accuracy": best})
    return found


def write_pair(
    folder: Path,
    problem: Problem,
    accuracy: Accuracy,
    found: Mapping[str, Pair | str],
    seed: int,
    command: str | None = None,
) -> dict[str, Any]:
    """Write the jointly found network as a run of :func:`apq.search.run.run_search` on its
    accelerator, and the accelerator as ``device.csv``, its table, and ``device.json``.

    Args:
        folder: Created if missing.
        problem: A problem over a joint space.
        accuracy: Predicts the accuracy of networks alone.
        found: Results of :func:`try_orders`, including ``"together"``.
        seed, command: Random seed and command line.

    Returns:
        The contents of ``device.json``.

    Raises:
        ApqError: nothing was found together.
    """
    pair, space = found["together"], joint_of(problem.space)
    if isinstance(pair, str):
        raise ApqError(pair)
    assert space.designs is not None
    index = int(space.design(pair.genes)[0])
    networks = space.networks(index)
    table = build_table(networks, space.designs.models[index], command or "")
    alone = price_space(networks, table)
    limits = {m: v for m, v in problem.limits.items() if m in alone.metrics}
    of_it = Problem(
        alone, accuracy, ("accuracy",), limits, (), problem.caution, None, problem.made_from
    )
    best = of_it.evaluate(np.ascontiguousarray(pair.genes[:, space.network]), "given")
    write_run(folder, result_of(of_it, best, pair.candidates, "nsga2", seed), command)
    table.write(folder / "device.csv")
    told = {
        "model": space.designs.name, "knobs": space.designs.values(index), "costs": pair.costs,
        "limits": dict(problem.limits), "accuracy": pair.accuracy, "candidates": pair.candidates,
        "seed": seed, "out": folder.as_posix(),
        "orders": {n: p if isinstance(p, str) else p.accuracy for n, p in found.items()},
    }  # fmt: skip
    with whole(folder / "device.json") as partial:
        partial.write_text(to_json(told, indent=2) + "\n", encoding="utf-8")
    return told
