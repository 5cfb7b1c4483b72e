"""Search for each of several devices and for all of them together, then price every winner on
every device, as HAQ's Table 1 does for bit policies (Wang et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from apq.errors import ApqError, BudgetError
from apq.hardware.pricing import PricedSpace
from apq.search.problem import Accuracy, Problem
from apq.search.record import OnProgress
from apq.search.region import SLACK, fixed
from apq.search.search import Result, search

ALL = "all of them"
"""Name of the search for one network within the limits of all devices."""


def devices_of(priced: PricedSpace, metric: str = "latency_ms") -> list[str]:
    """Names of the devices on which a space is priced in this metric.

    Raises:
        ApqError: they are fewer than two.
    """
    names = [m.partition("@")[2] for m in priced.metrics if m.startswith(f"{metric}@")]
    if len(names) < 2:
        raise ApqError(f"give at least two devices that have {metric}: --devices TABLE,TABLE")
    return names


def shared_limits(
    priced: PricedSpace,
    share: float,
    metric: str = "latency_ms",
    fix: Sequence[str] = (),
    count: int = 20_000,
) -> dict[str, float]:
    """A limit per device, equally tight on each: a ``share`` of random candidates is within it
    (ours).

    Args:
        priced: A space on at least two devices.
        share: Share of the candidates within a limit, above 0 and below 1.
        metric: The cost that is limited.
        fix: Restrictions of genes.
        count: Number of candidates drawn, always the same ones.

    Returns:
        Limits by name of the cost, ``latency_ms@DEVICE``.
    """
    if not 0 < share < 1:
        raise ApqError(f"the share of candidates that keep a limit lies between 0 and 1: {share:g}")
    names = [f"{metric}@{device}" for device in devices_of(priced, metric)]
    space = fixed(priced, fix).space
    rows = space.snap(space.draw(count, np.random.default_rng(0)))
    return {n: float(np.quantile(c, share)) for n, c in priced.costs(rows, names).items()}


def across(
    priced: PricedSpace,
    accuracy: Accuracy,
    limits: Mapping[str, float],
    candidates: int,
    seeds: Iterable[int] = (0,),
    fix: Sequence[str] = (),
    caution: float = 0.0,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Search for every device alone and for all together, and price every winner on every device.

    For a winner on a device it was not searched for, that device is also searched with the
    winner's cost there as the limit; the difference is the accuracy lost by transfer.

    Args:
        priced: A space on at least two devices.
        accuracy: Predicts accuracy.
        limits: One per device, ``latency_ms@DEVICE``; all of one metric.
        candidates: Number of candidates that every search scores.
        seeds: Random seeds, one matrix each.
        fix, caution: As in :class:`apq.search.problem.Problem`.
        on_progress: Called after every search.

    Returns:
        A row per winner, device and seed: ``searched_for``, ``run_on``, ``seed``, ``limit``,
        ``cost`` (both in the metric's unit), ``kept`` (whether the cost is within the limit),
        ``accuracy`` and ``own_accuracy`` (predicted fractions: the winner's, and that of a search
        for ``run_on`` at the same cost), every gene's value, and ``error``: why nothing was found.

    Raises:
        BudgetError: a device's limit cannot be reached.
        ApqError: a cost does not exist.
    """
    seeds, rows, done = list(seeds), [], 0
    asked: dict[str, dict[str, float]] = {n.partition("@")[2]: {n: v} for n, v in limits.items()}
    total = len(seeds) * (len(asked) + 1) * len(asked) + len(seeds)

    def found(kept: Mapping[str, float], seed: int) -> Result:
        nonlocal done
        problem = Problem(priced, accuracy, ("accuracy",), kept, tuple(fix), caution)
        result = search(problem, "nsga2", candidates, seed)
        done += 1
        if on_progress is not None:
            on_progress(done, total, {"accuracy": result.accuracy})
        return result

    for seed in seeds:
        for name, kept in [*asked.items(), (ALL, dict(limits))]:
            try:
                winner = found(kept, seed)
            except BudgetError as error:
                if name != ALL:
                    raise
                rows.append({"searched_for": name, "seed": seed, "error": str(error)})
                done += 1 + len(asked)
                continue
            genes = winner.front.genes[[winner.chosen]]
            chosen = {gene: column[0] for gene, column in priced.space.values(genes).items()}
            for metric, limit in limits.items():
                device = metric.partition("@")[2]
                cost = float(priced.costs(genes, [metric])[metric][0])
                own = winner if name == device else found({metric: cost}, seed)
                rows.append({
                    "searched_for": name, "run_on": device, "seed": seed, "limit": limit,
                    "cost": cost, "kept": cost <= limit * (1 + SLACK),
                    "accuracy": winner.accuracy,
                    "own_accuracy": max(own.accuracy, winner.accuracy), **chosen, "error": None,
                })  # fmt: skip
    return pd.DataFrame(rows)


def matrix(answers: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table: for each winner its predicted accuracy, smallest and
    largest over seeds; for each device the ratio of its cost to the limit and, in brackets, how
    many percentage points more a search for that device finds at that cost (means over seeds)."""
    devices = list(answers["run_on"].dropna().drop_duplicates())
    head = ["searched for", "accuracy", *(f"on {device}" for device in devices)]
    rows = []
    for name, mine in answers.groupby("searched_for", sort=False):
        accuracy = mine["accuracy"].dropna()
        if not len(accuracy):
            rows.append([str(name), "none", *("" for _ in devices)])
            continue
        told = dict.fromkeys(f"{end:.2%}" for end in (accuracy.min(), accuracy.max()))
        cells = (_cell(mine[mine["run_on"] == device]) for device in devices)
        rows.append([str(name), " … ".join(told), *cells])
    return head, rows


def _cell(here: pd.DataFrame) -> str:
    """``1.31 (2.10)``; without brackets on the device that the winner was searched for."""
    over, missed = here["cost"] / here["limit"], here["own_accuracy"] - here["accuracy"]
    if (here["searched_for"] == here["run_on"]).all():
        return f"{over.mean():.2f}"
    return f"{over.mean():.2f} ({100 * missed.mean():.2f})"


def as_data(answers: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows without genes, for JSON."""
    kept = [
        "searched_for", "run_on", "seed", "limit", "cost", "kept", "accuracy", "own_accuracy",
        "error",
    ]  # fmt: skip
    rows: list[dict[str, Any]] = answers.reindex(columns=kept).to_dict("records")
    return rows
