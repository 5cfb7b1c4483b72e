"""Search algorithms over a priced space and an accuracy predictor (no torch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from apq.search.options import Options
from apq.search.record import Record
from apq.space import Genes

Engine = Callable[[Record, int, Genes, Options], None]
"""Scores candidates through the record until none are left: (record, seed, seeds, options)."""


@dataclass(frozen=True)
class Algorithm:
    """A search algorithm.

    Attributes:
        path: Module and function of its :data:`Engine`, imported when it first runs.
        options: The settings of :class:`Options` that it takes.
        candidates: Number of candidates it scores by default.
    """

    path: str
    options: tuple[str, ...] = ()
    candidates: int = 20_000

    @property
    def engine(self) -> Engine:
        """The function that runs it."""
        module, _, name = self.path.partition(":")
        engine: Engine = getattr(import_module(f"apq.search.{module}"), name)
        return engine


ALGORITHMS = {
    "nsga2": Algorithm("nsga2:nsga2", ("local_search", "warm_start", "storage", "keep")),
    "evolution": Algorithm("evolution:evolution", ("local_search", "warm_start")),
    "optuna": Algorithm("stock:stock", ("storage",)),
    "paper": Algorithm("paper:paper", candidates=50_100),
    "milp": Algorithm("milp:milp"),
    "random": Algorithm("random_search:random_search"),
}
