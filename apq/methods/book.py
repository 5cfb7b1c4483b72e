"""What all methods share: the problem, a count of what they cost, and the best they found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from apq.cost import Cost, Stopwatch
from apq.errors import ApqError
from apq.search.problem import Problem
from apq.search.sequential import largest, largest_row, steps_of
from apq.space import Genes, Space

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method found.

    Attributes:
        genes: The best feasible row it scored, ``(1, axes)``.
        accuracy, spread: Its prediction, fractions.
        costs: What it costs, by metric.
        predictor_calls: Candidates that the predictor scored for the method.
        training_steps: Updates of its own weights or logits.
        supernet_passes: Sub-networks that were run on images; 0 for methods that run none.
        cost: Time it took.
        notes: What the method has to say.
    """

    genes: Genes
    accuracy: float
    spread: float
    costs: dict[str, float]
    predictor_calls: int
    training_steps: int
    supernet_passes: int
    cost: Cost
    notes: dict[str, float] = field(default_factory=dict)


class Book:
    """Scores rows for a method, counts, and remembers the best row within the limits.

    Args:
        problem: Scores and prices; its limits hold.
        calls: How many rows may be scored.
        seed: Of :attr:`rng`.
    """

    def __init__(self, problem: Problem, calls: int, seed: int) -> None:
        self.problem, self.most = problem, calls
        self.rng, self.seed = np.random.default_rng(seed), seed
        self.calls = self.steps = self.passes = 0
        self.notes: dict[str, float] = {}
        self._best: tuple[float, float, Genes] | None = None
        self._watch = Stopwatch()

    @property
    def left(self) -> int:
        """How many more rows may be scored."""
        return self.most - self.calls

    def narrow(self, space: Space) -> Problem:
        """Go on with a part of the problem's space; the narrowed problem."""
        priced = self.problem.priced.within(space)
        self.problem = replace(self.problem, priced=priced, fix=())
        return self.problem

    def at_eight_bits(self) -> Problem:
        """Go on with every number format at its largest: for methods that choose architectures.

        Raises:
            SpaceError: exclusions leave nothing.
        """
        space = self.problem.space
        places = steps_of(space)[2]
        largest_only = {i: (largest(space, i),) for i in places}
        return self.narrow(space.narrowed(largest_only, "a method's fixed part"))

    def keeps(self, row: Genes) -> bool:
        """Whether a row, snapped into the space, is within the limits."""
        return bool(self.problem.feasible(self.problem.space.snap(row))[0])

    def score(self, genes: Genes) -> Floats:
        """Predicted accuracies of rows, ``(n,)``; of the first ones where fewer are left."""
        genes = self.problem.space.canonical(genes[: max(0, self.left)])
        scored = self.problem.evaluate(genes)
        self.calls += len(genes)
        value = scored.accuracy - self.problem.caution * scored.spread
        ok = np.flatnonzero(self.problem.feasible(genes))
        if len(ok):
            top = int(ok[value[ok].argmax()])
            if self._best is None or value[top] > self._best[0]:
                self._best = float(value[top]), float(scored.spread[top]), genes[[top]]
        found: Floats = value
        return found

    def repaired(self, genes: Genes) -> Genes:
        """Rows pulled within the limits where they are over them (ours)."""
        space, problem = self.problem.space, self.problem
        rows = space.snap(genes)
        anchors = problem.anchors[self.rng.integers(len(problem.anchors), size=len(rows))]
        return problem.cheapen(rows, anchors, self.rng)

    def outcome(self) -> Outcome:
        """The best so far.

        Raises:
            ApqError: no row within the limits was scored.
        """
        if self._best is None:
            raise ApqError("the method scored no candidate within the limits")
        _, spread, genes = self._best
        costs = {m: float(c[0]) for m, c in self.problem.priced.costs(genes).items()}
        accuracy = float(self.problem.accuracy(genes)[0][0])
        return Outcome(
            genes, accuracy, spread, costs, self.calls, self.steps, self.passes,
            self._watch.cost(), dict(self.notes),
        )  # fmt: skip


def reference_network(problem: Problem, formats: str = "fewest") -> Genes:
    """The network that methods for a given network start from: as MobileNetV2 has it, every kernel
    the smallest, every stage the deepest, and one width multiplier for all blocks: the largest
    with which the network can still be brought within the limits (ours). Where even the narrowest
    is too dear, stages lose blocks, the last ones first.

    Args:
        problem: What is searched.
        formats: ``"fewest"``: by formats of the fewest bits; ``"largest"``: it has 8 bits, and
            narrower widths must bring it there.

    Returns:
        A row ``(1, axes)`` at 8 bits and its largest width.

    Raises:
        ApqError: no such network can be brought within the limits.
    """
    space = problem.space
    architecture, widths, bits = steps_of(space)
    row = largest_row(space)
    for i in architecture:
        if not space.axes[i].is_depth:
            row[0, i] = space.allowed[i][0]
    low = row.copy()
    for i in (*widths, *(bits if formats == "fewest" else ())):
        low[0, i] = space.allowed[i][0]
    for s in reversed(range(len(space.stages))):
        choices = space.allowed[s]
        for g in reversed(choices):
            row[0, s] = low[0, s] = g
            shares = np.linspace(1.0, 0.0, 21) if formats == "fewest" else [1.0]
            for share in shares:
                wide = row.copy()
                for i in widths:
                    wide[0, i] = space.allowed[i][round(share * (len(space.allowed[i]) - 1))]
                cheap = wide.copy() if formats == "fewest" else low.copy()
                for i in bits if formats == "fewest" else ():
                    cheap[0, i] = space.allowed[i][0]
                if problem.feasible(space.snap(cheap))[0]:
                    return space.snap(wide)
    raise ApqError("no network of the smallest kernels can be brought within the limits")
