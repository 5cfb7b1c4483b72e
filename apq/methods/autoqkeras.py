"""AutoQKeras: formats and filters, block by block in order of energy (arXiv 2006.10159; patent)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import optuna
from numpy.typing import NDArray

from apq.errors import choose
from apq.methods.book import Book, reference_network
from apq.search.problem import Forgiving
from apq.search.sequential import steps_of
from apq.space import Genes

FEWEST = 10
"""Trials of a group at least."""


TUNERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=8),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
"""From a seed to what proposes trials. The release's third, hyperband, ends trials early that do
badly after a few epochs; a prediction is there at once, so nothing is left to end."""


def split_trials(energies: Sequence[float], total: int) -> list[int]:
    """max(10, total · E_group / E_all) trials per group, in the order given."""
    whole = sum(energies)
    return [max(FEWEST, int(total * energy / whole)) for energy in energies]


def groups_by_energy(book: Book, row: Genes) -> list[tuple[float, list[int]]]:
    """Blocks that run, dearest first: their share of the cost, and the widths and formats that are
    theirs to choose."""
    problem, space = book.problem, book.problem.space
    metrics = problem.priced.metrics
    limited = next(iter(problem.limits), metrics[0])
    metric = next((m for m in metrics if m.startswith("energy_mj")), limited)
    index, decides = problem.priced.combinations(row)[0], space.decides(row)[0]
    _, widths, formats = steps_of(space)
    found, taken = [], set[int]()
    for f, factor in enumerate(space.factors):
        own = [i for i in factor.axes if i in (*widths, *formats) and decides[i]]
        own = [i for i in own if len(space.allowed[i]) > 1 and i not in taken]
        if own and space.counted(row)[0, f]:
            taken |= set(own)
            found.append((float(np.ravel(problem.priced.tables[metric][f])[index[f]]), own))
    return sorted(found, key=lambda group: -group[0])


def autoqkeras(book: Book, tuner: str = "tpe") -> None:
    """Formats and filters of the reference network by a tuner, one block after the other in order
    of falling energy, trials in proportion; a block's best stays while later ones are searched.

    The score is accuracy x (1 + 0.08 · log2(limit / cost)), the forgiving factor with the limit as
    the reference; half of the calls are a second pass, in which blocks already see their
    neighbours' choices (ours).
    """
    sampler, problem = TUNERS[choose(tuner, TUNERS, "tuner")], book.problem
    row = reference_network(problem)
    metric = next(iter(problem.limits), problem.priced.metrics[0])
    limit = problem.limits.get(metric, float(problem.priced.costs(row, [metric])[metric][0]))
    factor = Forgiving(metric, limit, smaller=1.0, larger=30.0)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    best = row
    for turn in range(2):
        groups = groups_by_energy(book, best)
        for (_, genes), trials in zip(
            groups, split_trials([g[0] for g in groups], book.most // 2), strict=True
        ):
            best = tuned(book, best, genes, trials, factor, sampler(book.seed + turn))


def autoqkeras_random(book: Book) -> None:
    """:func:`autoqkeras` with its random tuner."""
    autoqkeras(book, "random")


def tuned(
    book: Book, row: Genes, genes: Sequence[int], trials: int, factor: Forgiving,
    sampler: optuna.samplers.BaseSampler,
) -> Genes:  # fmt: skip
    """The row with the best of so many trials for some genes."""
    space, metric = book.problem.space, factor.metric
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial({space.axes[i].name: int(row[0, i]) for i in genes})
    best: tuple[float, Genes] = (-np.inf, row)
    for _ in range(min(trials, book.left)):
        trial, made = study.ask(), row.copy()
        for i in genes:
            kept = list(space.allowed[i])
            made[0, i] = trial.suggest_int(space.axes[i].name, kept[0], kept[-1])
        made = space.snap(made)
        accuracy: NDArray[np.float64] = book.score(made)
        score = float((accuracy * factor.factor(book.problem.priced.costs(made)[metric]))[0])
        study.tell(trial, score)
        if score > best[0]:
            best = (score, made)
    return best[1]
