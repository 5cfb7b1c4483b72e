"""NSGA-II on Optuna: its sampler selects, whole generations of genes vary as arrays.

The only file that imports optuna. Stock samplers list every stored trial for every new one, which
is quadratic; here a subclass hands the sampler's own selection one generation at a time through
the public hooks ``get_population`` and ``get_parent_population``, children are made and scored in
one batch. With a storage, every generation leaves its population as an attribute of the study, from
which a killed search continues; as trials the population is added every second or so (more rarely
to a slow database) and the front at the end: a plain Optuna study with readable parameters, values,
and the budgets as constraints.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import time
import uuid
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import NSGAIISampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from apq.errors import ApqError
from apq.search.climb import Climber
from apq.search.problem import Problem, Scored, join
from apq.search.record import Record
from apq.search.rows import first_of_each, row_keys
from apq.search.sketch import sketch
from apq.search.variation import children, rank, tournament
from apq.space import ATTRIBUTES, Genes, Space

POPULATION = 100
SAVE_EVERY, SAVE_SHARE = 1.0, 0.2
"""Least seconds between two savings to a storage, and the most of a search's time they may take
together. A database takes some 10 ms per candidate (Optuna looks every parameter up on its own), a
thousand times what scoring one takes, so what is displaced meanwhile is never written."""

CLIMBS = 0.75
"""Part of the candidates spent on climbs; with one objective crosses of climbs find more."""


class _Shared(dict[str, Any]):
    """A mapping that copies as itself: storages deep-copy every trial, and parameters of 130
    genes would make that the larger part of a search. Never changed after creation."""

    def __deepcopy__(self, memo: object) -> _Shared:
        return self


class GenerationSampler(NSGAIISampler):
    """Optuna's NSGA-II, fed by generation instead of by listing the study."""

    def __init__(self, population_size: int, seed: int) -> None:
        super().__init__(population_size=population_size, seed=seed)
        self.children: list[FrozenTrial] = []
        self.parents: list[FrozenTrial] = []

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """The children of the current generation, stored or not."""
        return self.children

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Their parents."""
        return self.parents


def nsga2(record: Record, seed: int, seeds: Genes, storage: str | None = None) -> None:
    """Run NSGA-II until the record's candidates are used up.

    Args:
        record: Scores candidates.
        seed: Decides every draw.
        seeds: Feasible rows for the first generation.
        storage: An Optuna storage: a journal file, ``sqlite:///…`` or ``postgresql://…``. A study
            of the same problem found there is continued; what it has scored counts as done.

    Raises:
        ApqError: the storage cannot be opened.
    """
    problem = record.problem
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    size = min(POPULATION, max(4, record.candidates // 10))
    sampler = GenerationSampler(size, seed)
    study = _study(problem, sampler, storage)
    parameters = Parameters(problem.priced.space, packed="://" in (storage or ""))
    worker = uuid.uuid4().hex[:8]
    stored = _stored(study)
    generation = 1 + max((t.user_attrs["generation"] for t in stored), default=-1)
    kept = Kept(study, worker, len(problem.priced.space.axes))
    generation = max(generation, 1 + kept.generation)
    before = _scored_before(stored, kept.candidates)
    record.done += before
    pool: Scored | None = None
    population: list[FrozenTrial] = []
    number = 0
    savings = Savings(problem, study, parameters)
    if stored:
        pool = _scored(problem, parameters, stored)
        savings.known = row_keys(pool.genes)
    if len(kept.genes):
        last = problem.evaluate(kept.genes)
        pool = last if pool is None else join(pool, last)
    if pool is not None:
        pool = pool[first_of_each(row_keys(pool.genes))]
        record.take(pool)
        number = len(pool.genes)
        population = [_bare(i, values) for i, values in enumerate(pool.values.tolist())]
        pool, population = _select(study, sampler, generation, pool, population, [])
    climber = Climber(record, seeds, CLIMBS)
    while record.left > 0:
        rng = np.random.default_rng([seed, generation, number])
        count = min(size, record.left)
        if pool is None:
            rows = seeds[:count]
        else:
            first, second = tournament(*rank(pool.values), 2 * count, rng).reshape(2, count)
            rows = children(problem, pool.genes[first], pool.genes[second], rng)
        born = record.score(record.unseen(rows))
        if pool is None:
            born = join(born, sketch(record, rng))
        climbed = climber.run(rng)
        if climbed is not None:
            born = join(born, climbed)
        new = [_bare(number + i, values) for i, values in enumerate(born.values.tolist())]
        both = born if pool is None else join(pool, born)
        pool, population = _select(study, sampler, generation, both, population, new)
        if storage is not None:
            about = {"generation": generation, "worker": worker, "candidates": record.done - before}
            kept.keep(pool.genes, generation, record.done - before)
            if record.left <= 0:
                best = record.archive.best
                savings.save(pool if best is None else join(pool, best), about)
            elif savings.due:
                savings.save(pool, about)
        number += len(new)
        generation += 1
    if storage is not None:  # what other processes found meanwhile
        stored = _stored(study)
        record.take(_scored(problem, parameters, stored))


class Kept:
    """The last generation of every process that works on a study, one attribute each.

    Attributes:
        genes: Rows of all of them, ``(n, axes)``.
        generation: The highest, -1 for none.
        candidates: How many each process had scored, by its name.
    """

    _prefix = "population of "

    def __init__(self, study: optuna.Study, worker: str, axes: int) -> None:
        self._study, self._name = study, self._prefix + worker
        found = {
            name.removeprefix(self._prefix): value
            for name, value in study.user_attrs.items()
            if name.startswith(self._prefix)
        }
        self.candidates: dict[str, int] = {k: v["candidates"] for k, v in found.items()}
        self.generation: int = max((v["generation"] for v in found.values()), default=-1)
        packed = b"".join(zlib.decompress(b64decode(v["genes"])) for v in found.values())
        self.genes: Genes = np.frombuffer(packed, dtype="<i2").astype(np.int16).reshape(-1, axes)

    def keep(self, genes: Genes, generation: int, candidates: int) -> None:
        """Replace this process's attribute."""
        packed = b64encode(zlib.compress(genes.astype("<i2").tobytes())).decode()
        about = {"generation": generation, "candidates": candidates, "genes": packed}
        self._study.set_user_attr(self._name, about)


class Savings:
    """Adds rows to a stored study, each once, and not too often.

    Attributes:
        known: Keys of the rows that are stored.
    """

    def __init__(self, problem: Problem, study: optuna.Study, parameters: Parameters) -> None:
        self.problem, self.study, self.parameters = problem, study, parameters
        self.known = row_keys(problem.anchors[:0])
        self._next = time.monotonic() + SAVE_EVERY

    @property
    def due(self) -> bool:
        """Whether it is time for the next saving."""
        return time.monotonic() >= self._next

    def save(self, rows: Scored, about: Mapping[str, Any]) -> None:
        """Store the rows that are not stored yet, with user attributes ``about``."""
        begun = time.monotonic()
        rows = rows[first_of_each(row_keys(rows.genes))]
        rows = rows[~np.isin(row_keys(rows.genes), self.known)]
        self.study.add_trials(_full(self.problem, rows, about, self.parameters))
        self.known = np.concatenate([self.known, row_keys(rows.genes)])
        now = time.monotonic()
        self._next = now + max(SAVE_EVERY, (now - begun) / SAVE_SHARE)


def _select(
    study: optuna.Study,
    sampler: GenerationSampler,
    generation: int,
    both: Scored,
    population: list[FrozenTrial],
    new: list[FrozenTrial],
) -> tuple[Scored, list[FrozenTrial]]:
    """Optuna's choice among old and new: their rows of ``both`` and their trials, alike ordered."""
    at = {trial.number: i for i, trial in enumerate([*population, *new])}
    sampler.parents, sampler.children = population, new
    chosen = sampler.select_parent(study, generation + 1)
    return both[np.array([at[trial.number] for trial in chosen], dtype=np.intp)], chosen


def _bare(number: int, values: list[float]) -> FrozenTrial:
    """A finished trial for selection only. It carries no constraints: nothing infeasible is ever
    scored, and mixing trials with and without them would rank the latter last."""
    return FrozenTrial(
        number, TrialState.COMPLETE, None, None, None, {}, {}, {}, {}, {}, number, values=values
    )


def _full(
    problem: Problem,
    rows: Scored,
    about: Mapping[str, Any],
    parameters: Parameters,
) -> list[FrozenTrial]:
    """Survivors as a reader of the study wants to see them."""
    now, trials = datetime.now(), []
    for i, genes in enumerate(rows.genes.tolist()):
        trial = FrozenTrial(
            0,
            TrialState.COMPLETE,
            None,
            now,
            now,
            parameters.of(genes),
            parameters.distributions,
            {
                **about,
                "accuracy": float(rows.accuracy[i]),
                "accuracy_spread": float(rows.spread[i]),
            },
            {},
            {},
            0,
            values=rows.values[i].tolist(),
        )
        for metric, limit in problem.limits.items():
            trial.set_constraint(metric, float(rows.costs[metric][i]) - limit)
        trials.append(trial)
    return trials


class Parameters:
    """Genes as Optuna parameters that people can read.

    One per gene, holding the choice itself (``b03_kernel = 5``); or ``packed``, one per slot with
    its choices as digits (``b03 = 51448468``: kernel 5, width 144, bits 8 4 6 8; formats with names
    have two digits, their codes), because a database inserts every parameter as a row of its own.
    """

    def __init__(self, space: Space, packed: bool) -> None:
        self.space = space
        stages, many = len(space.stages), len(ATTRIBUTES)
        axes = list(range(len(space.axes)))
        groups = [[i] for i in axes[:stages]]
        groups += (
            [axes[i : i + many] for i in range(stages, len(axes), many)]
            if packed
            else [[i] for i in axes[stages:]]
        )
        self.groups = {
            space.axes[g[0]].name if len(g) == 1 else space.axes[g[0]].name.split("_")[0]: g
            for g in groups
        }
        self.digits = [10 ** len(str(max(axis.choices))) for axis in space.axes]
        self.index = [{c: i for i, c in enumerate(axis.choices)} for axis in space.axes]
        self.words = {
            name: [str(label) for label in space.axes[g[0]].labels]
            for name, g in self.groups.items()
            if len(g) == 1 and space.axes[g[0]].named
        }
        self.distributions: dict[str, BaseDistribution] = _Shared(
            (name, self._distribution(name, group)) for name, group in self.groups.items()
        )

    def _distribution(self, name: str, group: list[int]) -> BaseDistribution:
        if name in self.words:
            return CategoricalDistribution(self.words[name])
        if len(group) > 1:
            options = [self.space.axes[i].choices for i in group]
            low, high = (self._code(group, [end(o) for o in options]) for end in (min, max))
            return IntDistribution(low, high)
        choices = self.space.axes[group[0]].choices
        steps = {b - a for a, b in itertools.pairwise(choices)}
        if len(steps) == 1 and min(steps) > 0:
            return IntDistribution(choices[0], choices[-1], step=min(steps))
        return CategoricalDistribution(choices)

    def _code(self, group: list[int], choices: list[int]) -> int:
        code = 0
        for i, choice in zip(group, choices, strict=True):
            code = code * self.digits[i] + choice
        return code

    def of(self, genes: list[int]) -> dict[str, Any]:
        """Parameters of one row."""
        axes = self.space.axes
        return _Shared(
            (
                name,
                self.words[name][genes[group[0]]]
                if name in self.words
                else self._code(group, [axes[i].choices[genes[i]] for i in group]),
            )
            for name, group in self.groups.items()
        )

    def genes(self, params: Mapping[str, Any]) -> list[int]:
        """Inverse of :meth:`of`."""
        row = [0] * len(self.space.axes)
        for name, group in self.groups.items():
            code = params[name]
            if name in self.words:
                row[group[0]] = self.words[name].index(code)
                continue
            for i in reversed(group):
                code, choice = divmod(code, self.digits[i])
                row[i] = self.index[i][choice]
        return row


def _study(problem: Problem, sampler: GenerationSampler, storage: str | None) -> optuna.Study:
    """The study of this problem, new or found. Its name follows from everything that decides a
    score, so another budget or predictor in the same storage is another study."""
    about = {
        "space": problem.priced.space.fingerprint,
        "objectives": list(problem.objectives),
        "limits": dict(sorted(problem.limits.items())),
        "fix": list(problem.fix),
        "caution": problem.caution,
        "forgiving": repr(problem.forgiving),
        "made_from": dict(sorted(problem.made_from.items())),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:10]
    study = optuna.create_study(
        study_name=f"apq-{problem.priced.space.name}-{digest}",
        storage=_open(storage),
        sampler=sampler,
        directions=["minimize"] * len(problem.objectives),
        load_if_exists=True,
    )
    if not study.user_attrs:
        for name, value in about.items():
            study.set_user_attr(name, value)
    return study


def _stored(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials that searches of apq added.

    Raises:
        ApqError: the study holds others.
    """
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    for trial in trials:
        if not {"generation", "worker", "candidates"} <= trial.user_attrs.keys():
            raise ApqError(
                f"trial {trial.number} of study {study.study_name!r} was not added by apq search; "
                "give another --storage"
            )
    return trials


def _open(storage: str | None) -> BaseStorage | None:
    if storage is None:
        return None
    try:
        if "://" not in storage:
            return _journal(Path(storage))
        return _database(storage)
    except Exception as error:  # drivers raise their own kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        secret = re.search(r"://[^:/@]*:([^@]*)@", storage)
        for told in filter(None, secret.groups() if secret else ()):
            storage, reason = storage.replace(f":{told}@", ":***@"), reason.replace(told, "***")
        raise ApqError(
            f"cannot open the storage {storage!r}: {reason}. Use a journal file (runs/study.log), "
            "sqlite:///runs/study.db, or postgresql+psycopg2://user@host/base with its driver"
        ) from (None if secret else error)


def _journal(path: Path) -> JournalStorage:
    """A journal file. What a killed process or a full disk left of its last line is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # a killed process leaves its lock behind; others hold it for milliseconds only
    lock = _lock(path)
    lock.acquire()
    try:
        if path.exists():
            with path.open("rb+") as file:
                data = file.read()
                file.truncate(data.rfind(b"\n") + 1)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _lock(path: Path) -> JournalFileSymlinkLock | JournalFileOpenLock:
    """A lock by a symbolic link, or, on file systems that have none, by a file of its own."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.link")
    try:
        probe.symlink_to(path.name)
    except OSError:
        return JournalFileOpenLock(str(path), grace_period=5)
    probe.unlink()
    return JournalFileSymlinkLock(str(path), grace_period=5)


def _database(url: str, tries: int = 6) -> RDBStorage:
    """A database, with Optuna's tables. Two processes that open an empty one at once both create
    them; the later one is refused and finds them when it tries again."""
    patient = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    for wait in range(tries):
        try:
            return RDBStorage(url, engine_kwargs=patient)
        except Exception as error:  # each driver has its own kinds
            raced = ("already exists", "duplicate key", "UNIQUE constraint")
            if wait == tries - 1 or not any(words in str(error) for words in raced):
                raise
            time.sleep(0.1 * 2**wait)
    raise AssertionError("the last try returns or raises")  # pragma: no cover


def _scored(problem: Problem, parameters: Parameters, trials: list[FrozenTrial]) -> Scored:
    """Stored trials as candidates."""
    rows = [parameters.genes(trial.params) for trial in trials]
    return problem.evaluate(np.array(rows, dtype=np.int16))


def _scored_before(trials: list[FrozenTrial], kept: Mapping[str, int]) -> int:
    """Candidates scored for a study so far, over all processes that added to it."""
    most = dict(kept)
    for trial in trials:
        worker = trial.user_attrs["worker"]
        most[worker] = max(most.get(worker, 0), trial.user_attrs["candidates"])
    return sum(most.values())
