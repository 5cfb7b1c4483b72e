"""Other budgets for an existing run, from the candidates it scored and a short further search."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from apq.errors import ApqError
from apq.files import Document, parse_json, sealed
from apq.files.reading import Named
from apq.hardware.pricing import PricedSpace
from apq.report.page import render
from apq.report.reading import Source, genes_of
from apq.report.serve import PageServer
from apq.report.view import Cloud, Floats, Run, as_data
from apq.search.explain import additive, block_costs
from apq.search.problem import Accuracy, Forgiving, Problem, Scored
from apq.search.refine import refine
from apq.search.region import within
from apq.search.run import describe, read_table
from apq.search.search import Result
from apq.space import Genes

CANDIDATES, SECONDS = 2_000, 0.4
"""Most candidates that an answer scores, and its time limit (s)."""
DRAWN = 700
"""Most networks of an answer's front that are drawn."""
MOST_KNOWN = 200_000
"""Most candidates that are remembered."""


class Asked(Document):
    """A request of the page.

    Attributes:
        limits: Largest cost by metric; what has no limit is not named.
    """

    what = "a question of an explorer's page"

    limits: Annotated[Named[Annotated[float, Field(gt=0)]], Field(max_length=100)]


@dataclass(frozen=True, eq=False)
class Known:
    """Candidates whose accuracy is known, and all their costs.

    Attributes:
        genes: ``(n, axes)``.
        accuracy, spread: Predictions, fractions, ``(n,)``.
        costs: By metric, ``(n,)`` each.
    """

    genes: Genes
    accuracy: Floats
    spread: Floats
    costs: Mapping[str, Floats]

    def scored(self, problem: Problem) -> Scored:
        """The rows that keep a problem's limits."""
        ok = np.broadcast_to(within(self.costs, problem.limits), len(self.genes))
        return problem.scored(self.genes[ok], self.accuracy[ok], self.spread[ok])

    def more(self, priced: PricedSpace, found: list[Scored]) -> Known:
        """These and others, until there are :data:`MOST_KNOWN`."""
        room = max(0, MOST_KNOWN - len(self.genes))
        if not found or not room:
            return self
        genes = np.concatenate([s.genes for s in found])[:room]
        costs = priced.costs(genes)
        return Known(
            np.concatenate([self.genes, genes]),
            np.concatenate([self.accuracy, *(s.accuracy for s in found)])[:MOST_KNOWN],
            np.concatenate([self.spread, *(s.spread for s in found)])[:MOST_KNOWN],
            {m: np.concatenate([c, costs[m]]) for m, c in self.costs.items()},
        )


class Explorer:
    """Answers for one run.

    Requests are answered one at a time; later answers reuse the candidates scored by earlier ones.

    Args:
        source: The run.
        priced: Its space and prices.
        accuracy: Its predictor; None: answers are chosen among candidates scored already.
        seconds: Time limit of the search for an answer, s.

    Raises:
        ApqError: the run's evaluations are missing or damaged, or its problem can no longer be
            built.
    """

    def __init__(
        self,
        source: Source,
        priced: PricedSpace,
        accuracy: Accuracy | None,
        seconds: float = SECONDS,
    ) -> None:
        self.source, self.priced, self.seconds = source, priced, seconds
        how = source.best.search
        self.problem = Problem(
            priced,
            accuracy or _no_predictor,
            tuple(how.objectives),
            {},
            tuple(how.fix),
            how.caution,
            Forgiving(**how.score.model_dump()) if how.score else None,
            source.best.made_from,
        )
        self.candidates = 0 if accuracy is None else CANDIDATES
        self.known = read_known(source, priced)
        self._lock = threading.Lock()

    @property
    def offer(self) -> dict[str, Any]:
        """Data for the page: reachable ranges of costs, and their current limits."""
        reach = {metric: self.problem.searched.reach(metric) for metric in self.priced.metrics}
        limits = self.source.best.limits
        return {
            "ranges": {metric: [*ends] for metric, ends in reach.items() if ends[1] > ends[0]},
            "limits": {metric: limits[metric] for metric in reach if metric in limits},
            "candidates": self.candidates,
        }

    def solve(self, limits: Mapping[str, float]) -> dict[str, Any]:
        """The front within limits, as a page draws it.

        Args:
            limits: Largest value by metric.

        Returns:
            Plain data: the ``run`` (:func:`apq.report.view.as_data`), how many candidates were
            ``stored`` within the limits and ``scored`` for this answer, the accuracy of the best
            ``stored`` one (None: there was none), ``seconds``, and the chosen candidate as a
            ``file`` that ``apq finetune --candidate`` takes.

        Raises:
            BudgetError: nothing keeps the limits.
            ApqError: a metric that does not exist; without a predictor, nothing scored keeps them.
        """
        begun = time.perf_counter()
        with self._lock:
            problem = replace(self.problem, limits=dict(limits))
            stored, found = self.known.scored(problem), list[Scored]()
            result = refine(problem, stored, self.candidates, self.seconds, on_batch=found.append)
            self.known = self.known.more(self.priced, found)
        return {
            "run": as_data(_run(result), DRAWN),
            "stored": len(stored.genes),
            "best_stored": float(stored.accuracy.max()) if len(stored.genes) else None,
            "scored": result.candidates,
            "seconds": time.perf_counter() - begun,
            "file": _file(result),
        }


def read_known(source: Source, priced: PricedSpace) -> Known:
    """Everything a run scored, its front included, with all costs.

    Raises:
        ApqError: a file is missing or damaged.
    """
    space = source.best.space
    parts = []
    for name in ("evaluations.parquet", "front.parquet"):
        table = read_table(source.folder / name, space, [])
        parts.append(table.select([*_ACCURACY, *(axis.name for axis in space.axes)]).to_pandas())
    genes = np.concatenate([genes_of(part, space) for part in parts])[:MOST_KNOWN]
    mean, spread = (
        np.concatenate([part[name].to_numpy(np.float64) for part in parts])[:MOST_KNOWN]
        for name in _ACCURACY
    )
    good = np.isfinite(mean) & np.isfinite(spread)
    return Known(genes[good], mean[good], spread[good], priced.costs(genes[good]))


_ACCURACY = ("accuracy", "accuracy_spread")


def require_same(made_from: Mapping[str, str], found: Mapping[str, str], folder: Path) -> None:
    """Raise unless tables and predictor are those that a run was searched with.

    Args:
        made_from: Names and hashes of the run.
        found: Current names and hashes; names missing here are not compared.
        folder: The run's, for the message.

    Raises:
        ApqError: one has another hash; says which, and what to do.
    """
    tables = {digest for name, digest in found.items() if name.startswith("lut:")}
    for name, digest in made_from.items():
        if name.startswith("lut:") and tables and digest not in tables:
            raise ApqError(
                f"{folder} was searched with the table {name.removeprefix('lut:')} of hash "
                f"{digest}, which has changed or is another: {', '.join(sorted(tables))}. Name the "
                f"right one with --lut, or search again: apq search --out {folder}"
            )
    was, now = made_from.get("predictor"), found.get("predictor")
    if was and now and was != now:
        raise ApqError(
            f"{folder} was searched with a predictor of hash {was}, this one has {now}. Name the "
            "right one with --predictor, choose among what was scored alone with --stored, or "
            f"search again: apq search --out {folder}"
        )


def _no_predictor(genes: Genes) -> tuple[Floats, Floats]:
    raise ApqError("nothing can be predicted here: no predictor was given")


KEPT = ("candidate", "space", "predicted", "costs", "limits", "devices", "made_from")
"""What a saved network keeps of ``best.json``."""


def _run(result: Result) -> Run:
    """An answer as a page draws a run."""
    front, problem = result.front, result.problem
    return Run(
        "your budgets",
        front.space,
        front.genes,
        front.accuracy,
        front.spread,
        front.costs,
        block_costs(problem.priced, front.genes),
        {metric: problem.priced.fixed[metric] for metric in additive(problem.priced)},
        result.chosen,
        problem.limits,
        problem.objectives,
        {},
        (),
        Cloud({}),
    )


def _file(result: Result) -> dict[str, Any]:
    """The chosen candidate as :class:`apq.search.best.CandidateFile` reads it."""
    told = describe(result)
    return sealed({name: told[name] for name in KEPT})


def serve_run(explorer: Explorer, port: int = 0) -> PageServer:
    """A server of a run's page and its answers, not yet running (``serve_forever``).

    Args:
        explorer: Answers.
        port: Port of 127.0.0.1; 0: a free one.

    Raises:
        ApqError: the port is taken or not allowed.
    """
    page = render([explorer.source], explorer.offer)

    def answer(text: bytes) -> dict[str, Any]:
        return explorer.solve(parse_json(text, Asked, "the question").limits)

    try:
        return PageServer(page, answer, port)
    except OSError as error:
        raise ApqError(
            f"cannot serve at port {port} of 127.0.0.1: {error.strerror}. Take another --port, or "
            "none for a free one."
        ) from error
