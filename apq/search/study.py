"""Searches in an Optuna storage: a journal file or a database that others can read.

A stored search is a plain Optuna study: maximised and minimised objectives by name, one readable
parameter per gene, budgets as constraints, generations numbered as ``NSGAIISampler`` numbers them,
and the time each candidate was scored at. Every generation's population is saved at once as a
small attribute of the study, from which a killed search continues; trials are saved about once a
second, less often to a slow database.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
import warnings
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from apq.errors import ApqError
from apq.search.genome import SpaceGenome
from apq.search.problem import GAINS, SOURCES, Floats, Problem, Scored, join
from apq.search.region import within
from apq.search.rows import first_of_each, row_keys
from apq.space import Genes

SAVE_EVERY, SAVE_SHARE = 1.0, 0.2
"""Shortest time between two saves to a storage (s), and the largest share of a search's time that
saves may take. A database needs about 10 ms per candidate, more with many genes (Optuna looks up
every parameter separately): a thousand times as long as scoring one."""

LAYOUT = 2
"""Version of stored studies, part of their names, so that older ones are not continued."""

GENERATION = NSGAIISampler._get_generation_key()


def natural(problem: Problem, values: Floats) -> Floats:
    """Objectives in their natural sign: maximised ones are not negated."""
    signs = [-1.0 if name in GAINS else 1.0 for name in problem.objectives]
    out: Floats = values * np.array(signs)
    return out


def violations(problem: Problem, scored: Scored) -> dict[str, Floats]:
    """For each limited cost, the excess of each row over the limit, ``(n,)``; feasible: <= 0."""
    return {
        metric: np.where(
            within({metric: scored.costs[metric]}, {metric: limit}),
            np.minimum(scored.costs[metric] - limit, 0.0),
            scored.costs[metric] - limit,
        )
        for metric, limit in problem.limits.items()
    }


def objective(
    problem: Problem, score: Callable[[Genes, optuna.Trial], Scored] | None = None
) -> Callable[[optuna.Trial], tuple[float, ...]]:
    """An objective function for any Optuna sampler: suggests every gene, predicts, prices, and
    sets the limits as constraints.

    Args:
        problem: The problem. The study needs :func:`directions`.
        score: Scores one row, ``(1, axes)``; default: ``problem.evaluate``.
    """
    genome = SpaceGenome(problem)

    def run(trial: optuna.Trial) -> tuple[float, ...]:
        row = genome.suggest(trial)
        scored = problem.evaluate(row) if score is None else score(row, trial)
        for metric, over in violations(problem, scored).items():
            trial.set_constraint(metric, float(over[0]))
        return tuple(natural(problem, scored.values)[0].tolist())

    return run


def directions(problem: Problem) -> list[StudyDirection]:
    """Optimisation directions of a problem's study."""
    return [
        StudyDirection.MAXIMIZE if name in GAINS else StudyDirection.MINIMIZE
        for name in problem.objectives
    ]


def open_study(problem: Problem, sampler: BaseSampler, storage: str | None) -> optuna.Study:
    """Open or create the study of this problem. Its name is derived from everything that decides
    a score, so another budget or predictor in the same storage is another study.

    Raises:
        ApqError: the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    about = {
        "layout": LAYOUT,
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
        directions=directions(problem),
        load_if_exists=True,
    )
    if not study.user_attrs:
        for name, value in about.items():
            study.set_user_attr(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(problem.objectives))
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """A study's finished trials."""
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])


def trial_rows(genome: SpaceGenome, trials: list[FrozenTrial]) -> Genes:
    """Rows of the genome's problem, ``(n, axes)``, from trials of any sampler.

    Raises:
        ApqError: a trial lacks a gene, or has a value that the space does not offer.
    """
    rows = [genome.rows([])]
    for trial in trials:
        try:
            rows.append(genome.rows([trial.params]))
        except (KeyError, TypeError) as error:
            raise ApqError(
                f"trial {trial.number} of the stored study is not a candidate of space "
                f"{genome.problem.priced.space.name!r} ({error}); give another --storage"
            ) from None
    snapped: Genes = genome.problem.space.snap(np.concatenate(rows))
    return snapped


def scored_trials(genome: SpaceGenome, trials: list[FrozenTrial]) -> Scored:
    """Trials of any sampler as scored candidates; raises as :func:`trial_rows`."""
    scored = genome.problem.evaluate(trial_rows(genome, trials))
    known = [str(trial.user_attrs.get("source", "given")) for trial in trials]
    scored.source[:] = [SOURCES.index(name) if name in SOURCES else 0 for name in known]
    return scored


class Store:
    """A stored study that a search by generations continues and adds to.

    Args:
        problem: The problem.
        sampler: Numbers generations and selects survivors as Optuna's readers expect.
        storage: Journal file or database.
        keep: ``"front"`` or ``"all"``, see :class:`apq.search.options.Options`.

    Attributes:
        found: Rows of the study, without duplicates.
        before: Number of candidates it had scored.
    """

    def __init__(self, problem: Problem, sampler: NSGAIISampler, storage: str, keep: str) -> None:
        self.problem, self._sampler, self._all = problem, sampler, keep == "all"
        self.study = open_study(problem, sampler, storage)
        self._genome = SpaceGenome(problem)
        self._kept = Population(self.study, len(problem.priced.space.axes))
        trials = finished(self.study)
        scored = scored_trials(self._genome, trials)
        self._known = row_keys(scored.genes)
        others = sum("source" not in trial.user_attrs for trial in trials)
        self.before = sum(self._kept.candidates.values()) + others
        last = problem.evaluate(self._kept.genes)
        last.source[:] = self._kept.source
        self.found = join(scored, last)
        self.found = self.found[first_of_each(row_keys(self.found.genes))]
        self._number = 1 + max((t.system_attrs.get(GENERATION, 0) for t in trials), default=-1)
        self._held: list[Scored] = []
        self._next = time.monotonic() + SAVE_EVERY

    def add(self, born: Scored, population: Scored, candidates: int) -> None:
        """Save a generation: what it scored, its survivors, and this search's count so far."""
        self._kept.keep(population, candidates)
        if self._all:
            self._held.append(born)
        if time.monotonic() >= self._next:
            self._save(self._held if self._all else [self._fresh(population)])

    def finish(self, best: Scored) -> None:
        """Save the rest and the front."""
        self._save(self._held)
        self._save([self._fresh(best)])

    def others(self) -> Scored:
        """Rows that other processes have saved since this one began."""
        trials = finished(self.study)
        keys = row_keys(trial_rows(self._genome, trials))
        fresh = np.flatnonzero(~np.isin(keys, self._known))
        return scored_trials(self._genome, [trials[i] for i in fresh])

    def _fresh(self, rows: Scored) -> Scored:
        """The rows that are not saved yet, without duplicates."""
        keys = row_keys(rows.genes)
        first = first_of_each(keys)
        return rows[first[~np.isin(keys[first], self._known)]]

    def _save(self, generations: list[Scored]) -> None:
        begun = time.monotonic()
        for rows in generations:
            if not len(rows.genes):
                continue
            self.study.add_trials(self._trials(rows))
            if self._number:  # the parents of this generation, which Optuna notes in the study
                self._sampler.get_parent_population(self.study, self._number)
            self._number += 1
            self._known = np.concatenate([self._known, row_keys(rows.genes)])
        self._held = []
        now = time.monotonic()
        self._next = now + max(SAVE_EVERY, (now - begun) / SAVE_SHARE)

    def _trials(self, rows: Scored) -> list[FrozenTrial]:
        values, over = natural(self.problem, rows.values), violations(self.problem, rows)
        trials = []
        for i, genes in enumerate(rows.genes):
            begun, ended = (datetime.fromtimestamp(t) for t in rows.times[i].tolist())
            about = {
                "source": SOURCES[rows.source[i]],
                "accuracy": float(rows.accuracy[i]),
                "accuracy_spread": float(rows.spread[i]),
            }
            trial = FrozenTrial(
                0,
                TrialState.COMPLETE,
                None,
                begun,
                ended,
                self._genome.params(genes),
                dict(self._genome.distributions),
                about,
                {GENERATION: self._number},
                {},
                0,
                values=values[i].tolist(),
            )
            for metric, amount in over.items():
                trial.set_constraint(metric, float(amount[i]))
            trials.append(trial)
        return trials


class Population:
    """The last generation of every process that works on a study, one attribute each.

    Attributes:
        genes: Rows of all of them, ``(n, axes)``.
        source: Where each came from, ``(n,)``.
        candidates: Number of candidates that each process had scored, by its name.
    """

    _prefix = "population of "

    def __init__(self, study: optuna.Study, axes: int) -> None:
        self._study, self._name = study, self._prefix + uuid.uuid4().hex[:8]
        found = {
            name.removeprefix(self._prefix): value
            for name, value in study.user_attrs.items()
            if name.startswith(self._prefix)
        }
        self.candidates: dict[str, int] = {k: v["candidates"] for k, v in found.items()}
        packed = b"".join(zlib.decompress(b64decode(v["genes"])) for v in found.values())
        rows = np.frombuffer(packed, dtype="<i2").astype(np.int16).reshape(-1, axes + 1)
        self.genes: Genes = rows[:, :axes]
        self.source = rows[:, axes].astype(np.int8)

    def keep(self, population: Scored, candidates: int) -> None:
        """Replace this process's attribute."""
        rows = np.column_stack([population.genes, population.source]).astype("<i2")
        packed = b64encode(zlib.compress(rows.tobytes())).decode()
        self._study.set_user_attr(self._name, {"candidates": candidates, "genes": packed})


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
    """A journal file. A partial last line, left by a killed process or a full disk, is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # a killed process leaves its lock behind; a live one holds it for milliseconds only
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
    """A lock by a symbolic link, or, on file systems without them, by a separate file."""
    probe = path.with_name(f".{path.name}.{os.getpid()}.link")
    try:
        probe.symlink_to(path.name)
    except OSError:
        return JournalFileOpenLock(str(path), grace_period=5)
    probe.unlink()
    return JournalFileSymlinkLock(str(path), grace_period=5)


def _database(url: str, tries: int = 6) -> RDBStorage:
    """A database with Optuna's tables. If two processes open an empty one at once, both create the
    tables; the later one fails and finds them when it tries again."""
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
