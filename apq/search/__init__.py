"""Which candidates are best: search algorithms over a priced space and a predictor (no torch)."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from apq.search.record import Record
from apq.space import Genes

Engine = Callable[[Record, int, Genes, "str | None"], None]
"""Scores candidates through the record until none are left: (record, seed, seeds, storage)."""


def _lazy(module: str, name: str) -> Engine:
    """An engine whose module is imported when it is first run."""

    def run(record: Record, seed: int, seeds: Genes, storage: str | None = None) -> None:
        getattr(import_module(f"apq.search.{module}"), name)(record, seed, seeds, storage)

    return run


ALGORITHMS: dict[str, Engine] = {
    "nsga2": _lazy("nsga2", "nsga2"),
    "evolution": _lazy("evolution", "evolution"),
    "milp": _lazy("milp", "milp"),
    "random": _lazy("random_search", "random_search"),
}

STORED = ("nsga2",)
"""Algorithms that keep what they found in an Optuna storage, and continue from it."""
