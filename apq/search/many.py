"""Search problems for several budgets that share one space and predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from apq.hardware.pricing import PricedSpace
from apq.search.problem import Accuracy, Forgiving, Problem, require_reachable


@dataclass(frozen=True)
class Scenarios:
    """Several budgets for one space and one predictor, all checked before anything is loaded.

    Attributes:
        priced: The space and its prices.
        budgets: Limits per scenario; at least one mapping, which may be empty.
        objectives: Default: accuracy (or the score, if one is defined alone) and the first
            limited cost; without limits :func:`default_cost`.
        fix, caution, forgiving, made_from: As in :class:`Problem`.

    Raises:
        BudgetError: a budget cannot be met.
    """

    priced: PricedSpace
    budgets: Sequence[Mapping[str, float]]
    objectives: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()
    caution: float = 0.0
    forgiving: Forgiving | None = None
    made_from: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_reachable(self.priced, self.budgets, self.fix)

    def problems(self, accuracy: Accuracy, made_from: Mapping[str, str] = {}) -> list[Problem]:
        """One problem per budget, for a predictor and the hashes of what it was made from."""
        first, made = "score" if self.forgiving else "accuracy", {**self.made_from, **made_from}
        return [
            Problem(
                self.priced, accuracy,
                self.objectives or (first, next(iter(limits), None) or default_cost(self.priced)),
                dict(limits), self.fix, self.caution, self.forgiving, made,
            )
            for limits in self.budgets
        ]  # fmt: skip


def default_cost(priced: PricedSpace) -> str:
    """The default cost: latency on the first device, or else BitOps."""
    for metric in priced.metrics:
        if metric.startswith("latency_ms"):
            return metric
    return "bitops_g"
