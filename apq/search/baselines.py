"""Baselines of a joint search, each with the same effort.

They have the same problem as the joint search (space, prices, limits, predictor), the same
algorithm and options, and the same number of calls of the predictor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np

from apq.cost import Stopwatch
from apq.errors import ApqError, BudgetError
from apq.search.effort import Effort
from apq.search.options import Options
from apq.search.problem import GAINS, Floats, Problem, Scored, join
from apq.search.record import CHUNK, OnProgress
from apq.search.rows import nondominated
from apq.search.search import Result, result_of, search
from apq.search.sequential import largest, largest_row, open_steps, sequential
from apq.space import Choice, Genes, Space
from apq.space.families import Traced
from apq.space.formats import ordered

RANDOM, SEQUENTIAL, BLIND, ORIGINAL = (
    "random search",
    "sequential search",
    "bits-blind search",
    "original network",
)

_ABOUT: Mapping[str, str] = {
    RANDOM: "random candidates within the limits",
    SEQUENTIAL: "depths and kernels at 8 bits and full width, then widths, then formats; each step "
    "searched for its own optimum, and of what a step may leave to the next the best is kept",
    BLIND: "searched with a predictor that takes every network for one of 8 bits, then predicted "
    "with its formats",
    ORIGINAL: "the network that was traced, whole, at 8 bits; it may be over a limit",
}


def about(name: str) -> str:
    """A description of a baseline."""
    return _ABOUT.get(name, "the same search with this one format everywhere")


def fair_baselines(
    found: Result,
    candidates: int | None = None,
    options: Options | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Result | None]:
    """All baselines of a search's result, each with the same effort.

    Args:
        found: The joint result; its problem, algorithm and seed are used.
        candidates: Number of candidates for each baseline; None: as many as the joint search
            scored. A baseline that runs out of new candidates ends earlier.
        options: Options of the joint search.
        on_progress: As in :func:`apq.search.search.search`.

    Returns:
        Results by name, None where no such network is within the limits: one uniform format, for
        each that all layers offer (``"4 bits everywhere"``); ``"random search"``; ``"sequential
        search"``; ``"bits-blind search"``; for a traced space ``"original network"``, the only one
        that may exceed a limit (:attr:`Result.within_limits`). Baselines that make no sense for
        the problem are missing, e.g. the bits-blind search if all formats are fixed.

    Example:
        >>> import apq
        >>> space = apq.load_space("digits")
        >>> table = apq.build_table(space, apq.load_cost_model("bitfusion-apq"))
        >>> priced = apq.price_space(space, table)
        >>> predictor = apq.load_predictor("digits/predictor.safetensors", space)
        >>> found = apq.search_front(
        ...     priced, predictor.predict, {"latency_ms": 0.02}, candidates=300
        ... )
        >>> [*apq.fair_baselines(found)][4:]
        ['sequential search', 'bits-blind search']
    """
    problem, candidates = found.problem, candidates or found.candidates
    effort = Effort(found.algorithm, candidates, found.seed, options, on_progress)
    beside: dict[str, Result | None] = {
        f"{bits} bits everywhere": result
        for bits, result in uniform_bits(
            problem, effort.algorithm, candidates, effort.seed, options, on_progress
        ).items()
    }
    kinds: dict[str, Callable[[Problem, Effort, int], Result | None]] = {
        RANDOM: random, SEQUENTIAL: sequential, BLIND: bits_blind
    }  # fmt: skip
    gains = {*GAINS} & {*problem.objectives}
    free = {SEQUENTIAL: len(open_steps(problem.space)) > 1, BLIND: _formats_free(problem.space)}
    for name, kind in kinds.items():
        if name == RANDOM or (gains and free[name]):
            with suppress(ApqError):
                beside[name] = None
                beside[name] = kind(problem, effort, candidates)
    if isinstance(problem.priced.space.family, Traced):
        beside[ORIGINAL] = original(problem)
    return beside


def uniform_bits(
    problem: Problem,
    algorithm: str,
    candidates: int | None,
    seed: int,
    options: Options | None = None,
    on_progress: OnProgress | None = None,
) -> dict[Choice, Result | None]:
    """Results of the same search with one number format everywhere, by format.

    Algorithm, options, candidates, seed and budgets are those of the joint search, and every other
    gene is free. None: no such network is within the budgets. Formats that some layer does not
    offer, or that the problem excludes, are omitted; so are all if the problem fixes the bits.
    """
    space = problem.space
    bit_axes = [i for i, axis in enumerate(space.axes) if axis.is_format]
    if not _formats_free(space):
        return {}
    common = set.intersection(
        *({space.axes[i].labels[c] for c in space.allowed[i]} for i in bit_axes)
    )
    found: dict[Choice, Result | None] = {}
    for bits in ordered(common):
        try:
            fixed = replace(problem, fix=(*problem.fix, f"bits={bits}"))
        except BudgetError:
            found[bits] = None
            continue
        except ApqError:  # the space excludes blocks of this format
            continue
        with suppress(ApqError):  # an engine that redraws may find none within a tight budget
            found[bits] = None
            found[bits] = search(
                fixed, algorithm, candidates, seed, options, on_progress=on_progress
            )
    return found


def random(problem: Problem, effort: Effort, candidates: int) -> Result:
    """The best of random feasible candidates; the result keeps all it scored, for plots."""
    scored: list[Scored] = []
    found = search(
        problem, "random", candidates, effort.seed,
        on_progress=effort.on_progress, on_batch=scored.append,
    )  # fmt: skip
    return replace(found, scored=join(*scored))


def random_cloud(problem: Problem, count: int, seed: int = 0) -> Scored:
    """``count`` random feasible candidates, scored."""
    rng = np.random.default_rng(seed)
    sizes = [min(CHUNK, count - i) for i in range(0, count, CHUNK)]
    return join(*(problem.evaluate(problem.sample(size, rng), "random") for size in sizes))


def bits_blind(problem: Problem, effort: Effort, candidates: int) -> Result:
    """The result of a search whose predictor does not see formats, as in APQ's released search: it
    predicts every network as if it had 8 bits. The result's figures are the true predictor's.

    A twentieth of the candidates is reserved for predicting the front again.
    """
    watch, again = Stopwatch(), max(1, candidates // 20)
    space = problem.priced.space
    formats = np.array([axis.is_format for axis in space.axes])
    plain = np.array([largest(space, i) if f else 0 for i, f in enumerate(formats)], dtype=np.int16)

    def blind(genes: Genes) -> tuple[Floats, Floats]:
        return problem.accuracy(space.canonical(np.where(formats, plain, genes)))

    found = effort.search(replace(problem, accuracy=blind), max(10, candidates - again))
    rows = np.unique([*np.linspace(0, len(found.front) - 1, again).astype(int), found.chosen])
    scored = problem.evaluate(found.front.genes[rows])
    keep = nondominated(scored.values) | (rows == found.chosen)
    whole = result_of(
        problem, scored[keep], found.candidates + len(rows), effort.algorithm, effort.seed
    )
    row = (whole.front.genes == found.front.genes[found.chosen]).all(axis=1).argmax()
    return replace(whole, chosen=int(row), cost=watch.cost())


def original(problem: Problem) -> Result:
    """The network that a space was traced from: the largest choices and 8 bits. It may exceed the
    limits."""
    space = problem.priced.space
    every = replace(space, allowed=())
    return result_of(problem, problem.evaluate(every.snap(largest_row(every))), 1, "none", 0)


def _formats_free(space: Space) -> bool:
    """Whether any number format may still be chosen."""
    return any(
        axis.is_format and len(allowed) > 1
        for axis, allowed in zip(space.axes, space.allowed, strict=True)
    )
