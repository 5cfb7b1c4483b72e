"""Search problems for several budgets that share one space and predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from apq.hardware.pricing import PricedSpace
from apq.search.problem import Accuracy, Forgiving, Problem, require_reachable


def scenarios(
    priced: PricedSpace,
    load_accuracy: Callable[[], tuple[Accuracy, Mapping[str, str]]],
    budgets: Sequence[Mapping[str, float]],
    objectives: tuple[str, ...] = (),
    fix: tuple[str, ...] = (),
    caution: float = 0.0,
    forgiving: Forgiving | None = None,
    made_from: Mapping[str, str] | None = None,
) -> list[Problem]:
    """One problem per budget. All budgets are checked before the predictor is loaded.

    Args:
        priced: The space and its prices.
        load_accuracy: Called once, when every budget is known to be reachable; returns the
            predictor and the hashes of what it was made from.
        budgets: Limits per scenario; at least one mapping, which may be empty.
        objectives: Default: accuracy (or the score, if one is defined alone) and the first
            limited cost; without limits the first device cost, else BitOps.
        fix, caution, forgiving, made_from: As in :class:`Problem`.

    Raises:
        BudgetError: a budget cannot be met.
    """
    require_reachable(priced, budgets, fix)
    accuracy, more = load_accuracy()
    problems = []
    for limits in budgets:
        first = next(iter(limits), None) or default_cost(priced)
        problems.append(
            Problem(
                priced,
                accuracy,
                objectives or ("score" if forgiving else "accuracy", first),
                dict(limits),
                fix,
                caution,
                forgiving,
                {**(made_from or {}), **more},
            )
        )
    return problems


def default_cost(priced: PricedSpace) -> str:
    """The default cost: latency on the first device, or else BitOps."""
    for metric in priced.metrics:
        if metric.startswith("latency_ms"):
            return metric
    return "bitops_g"
