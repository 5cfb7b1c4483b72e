"""Killed searches resume from their storage; two processes share one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest

from apq.errors import ApqError
from apq.search.genome import SpaceGenome
from apq.search.options import Options
from apq.search.problem import SOURCES, Problem
from apq.search.run import run_search
from apq.search.search import search
from apq.search.study import objective

WORKER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_storage import big_problem
from apq.search.options import Options
from apq.search.search import search

problem = big_problem(float(sys.argv[5]))
if len(sys.argv) > 6:  # begin together with the others
    meeting, count = Path(sys.argv[6]), int(sys.argv[7])
    (meeting / str(os.getpid())).touch()
    while len(list(meeting.iterdir())) < count:
        time.sleep(0.01)
options = Options(storage=sys.argv[2])
search(problem, "nsga2", int(sys.argv[3]), seed=int(sys.argv[4]), options=options)
"""


def big_problem(pause=0.0, stages=1):
    from formula import FormulaAccuracy

    from apq.hardware.pricing import price_space
    from apq.space import BitChoices, MobileNetV2, Space, Stage

    # few genes: databases take each one of every trial by itself
    stage = Stage(16, 2, depth=(1, 2), kernel=(3, 5), expand=(2, 20), width_step=8)
    bits = BitChoices((4, 8), (8,), (8,), (4, 8))
    space = Space(MobileNetV2("killed", 16, 10, (stage,) * stages, head_channels=32, bits=bits))
    priced = price_space(space)
    low, high = priced.reach("bitops_g")
    accuracy = FormulaAccuracy(space)
    accuracy.pause = pause
    return Problem(priced, accuracy, ("accuracy", "bitops_g"), {"bitops_g": (low + high) / 2})


def start(storage, candidates, seed, pause=0.0, *meeting):
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(here.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-c",
        WORKER,
        str(here),
        storage,
        str(candidates),
        str(seed),
        str(pause),
        *map(str, meeting),
    ]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def study_in(storage):
    """The storage's one study; None while there is none."""
    import optuna

    from apq.search.study import _open

    opened = _open(storage)
    names = [s.study_name for s in optuna.get_all_study_summaries(opened)]
    return optuna.load_study(study_name=names[0], storage=opened) if names else None


def stored(storage):
    """Trials of the storage's one study; an empty list while there is none."""
    study = study_in(storage)
    return study.get_trials() if study else []


def minimised(trials):
    """Objectives of trials of the big problem as searches have them."""
    return np.array([t.values for t in trials]) * [-1, 1]


def generations(storage):
    """The last generation each process left behind."""
    study = study_in(storage)
    attrs = study.user_attrs if study else {}
    return [v for k, v in attrs.items() if k.startswith("population of ")]


@pytest.fixture(scope="module")
def postgres():
    """A throw-away PostgreSQL server of Debian's package, on a Unix socket."""
    pytest.importorskip("psycopg2", reason="pip install psycopg2-binary to test PostgreSQL")
    found = [shutil.which("pg_ctl"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))]
    found = [p for p in found if p]
    if not found:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    # not below pytest's folder: a second pytest run closes that to other users
    folder = Path(tempfile.mkdtemp(prefix="apq-pg-"))
    control = [found[0], "-D", str(folder / "data")]
    user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        user = ["runuser", "-u", "nobody", "--"]
        shutil.chown(folder, "nobody")
    options = f"-k {folder} -h '' -c fsync=off"
    made = subprocess.run(
        [*user, *control, "initdb", "-o", "-A trust -U apq"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    if made.returncode:
        pytest.skip(f"PostgreSQL did not start: {made.stderr.strip()[-200:]}")
    log = str(folder / "log")
    begun = subprocess.run(
        [*user, *control, "-w", "-l", log, "-o", options, "start"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    if begun.returncode:
        pytest.skip(f"PostgreSQL did not start: {begun.stderr.strip()[-200:]}")
    yield folder
    subprocess.run(
        [*user, *control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/"
    )
    shutil.rmtree(folder)


def new_database(server, name):
    import psycopg2

    connection = psycopg2.connect(host=str(server), user="apq", dbname="postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    connection.close()
    return f"postgresql+psycopg2://apq@/{name}?host={server}"


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def storage(request, tmp_path):
    if request.param == "postgresql":
        return new_database(request.getfixturevalue("postgres"), f"test{tmp_path.stat().st_ino}")
    return {"journal": str(tmp_path / "study.log"), "sqlite": f"sqlite:///{tmp_path}/study.db"}[
        request.param
    ]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_killed_search_resumes(storage):
    worker = start(storage, 100_000, 0, pause=0.05)
    deadline = time.monotonic() + 60
    while len(stored(storage)) < 30:
        assert worker.poll() is None, worker.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stderr.close()
    kept = stored(storage)
    (last,) = generations(storage)
    done = last["candidates"]
    assert done >= len(kept)
    before = minimised(kept)
    problem = big_problem()
    result = search(problem, "nsga2", done + 150, seed=0, options=Options(storage=storage))
    assert result.candidates <= done + 150
    assert problem.accuracy.calls < 40  # continued, not begun again: 150 candidates and re-reading
    for value in before:  # nothing that was stored is lost
        assert np.any(np.all(result.front.values <= value + 1e-12, axis=1))
    after = stored(storage)
    assert [t.params for t in after[: len(kept)]] == [t.params for t in kept]
    assert all(t.constraints["bitops_g"] <= 0 for t in after)
    row = problem.priced.space.values(result.front.genes)
    assert "b00_kernel" in row


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_two_processes_share_a_storage(storage, tmp_path_factory):
    meeting = tmp_path_factory.mktemp("meeting")
    workers = [start(storage, 400, seed, 0.1, meeting, 2) for seed in (1, 2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()
    trials = stored(storage)
    assert [t.number for t in trials] == list(range(len(trials)))
    assert len(generations(storage)) == 2
    again = search(big_problem(), "nsga2", 400, seed=3, options=Options(storage=storage))
    for value in minimised(trials):
        assert np.any(np.all(again.front.values <= value + 1e-12, axis=1))


def test_every_generation_is_kept(tmp_path):
    """Interrupted at any call of the predictor, at most that generation is lost."""
    import apq.search.study as module

    storage, kept = str(tmp_path / "study.log"), []
    problem = big_problem()
    keep, accuracy = module.Population.keep, problem.accuracy

    def noted(self, population, candidates):
        keep(self, population, candidates)
        kept.append((candidates, population.genes.copy()))

    class Stop(Exception):
        pass

    def failing(genes):
        if accuracy.calls >= 30:
            raise Stop
        return accuracy(genes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Population, "keep", noted)
        with pytest.raises(Stop):
            search(
                replace(problem, accuracy=failing),
                "nsga2",
                100_000,
                options=Options(storage=storage),
            )
    (last,) = generations(storage)
    assert last["candidates"] == kept[-1][0]
    assert not stored(storage)  # too early for trials: the attribute alone carries the search on
    scored = kept[-1][0]
    result = search(big_problem(), "nsga2", scored + 60, options=Options(storage=storage))
    assert scored < result.candidates <= scored + 60
    for value in problem.evaluate(kept[-1][1]).values:
        assert np.any(np.all(result.front.values <= value + 1e-12, axis=1))


def test_journal_parameters_are_the_choices(tmp_path):
    problem = big_problem()
    storage = str(tmp_path / "study.log")
    result = search(problem, "nsga2", 300, options=Options(storage=storage))
    space = problem.priced.space
    known = [tuple(space.build(row).to_dict().items()) for row in result.front.genes]
    trials = stored(storage)
    assert set(trials[0].params) == {axis.name for axis in space.axes}
    columns = {
        name: np.array([t.params[name] for t in trials], dtype=float) for name in trials[0].params
    }
    genes = space.from_values(columns)
    assert problem.evaluate(genes).values == pytest.approx(minimised(trials))
    assert len(known) == len(result.front)


@pytest.mark.parametrize("storage", ["mysterious://host/base", "sqlite:////nowhere/at/all.db"])
def test_an_unusable_storage_is_explained(storage):
    with pytest.raises(ApqError, match="cannot open the storage"):
        search(big_problem(), "nsga2", 50, options=Options(storage=storage))


def test_a_finished_search_runs_again_and_keeps_its_files(storage, tmp_path):
    folder = tmp_path / "run"
    first = run_search(
        folder, big_problem(), "nsga2", 300, seed=0, options=Options(storage=storage)
    )
    evaluated = pq.read_table(folder / "evaluations.parquet")
    again = run_search(
        folder, big_problem(), "nsga2", 300, seed=0, options=Options(storage=storage)
    )
    assert np.array_equal(again.front.genes, first.front.genes)
    assert pq.read_table(folder / "evaluations.parquet").equals(evaluated)
    told = json.loads((folder / "best.json").read_text())
    assert told["search"]["hypervolume"] == pytest.approx(first.curve[-1].hypervolume)
    longer = run_search(
        folder, big_problem(), "nsga2", 500, seed=0, options=Options(storage=storage)
    )
    rows = pq.read_table(folder / "evaluations.parquet")
    assert rows.num_rows == evaluated.num_rows + longer.candidates - first.candidates
    other = run_search(tmp_path / "other", big_problem(), "random", 50)  # keeps nothing of these
    assert pq.read_table(tmp_path / "other/evaluations.parquet").num_rows == other.candidates


@pytest.mark.parametrize("algorithm", ["random", "evolution", "milp", "paper"])
def test_a_storage_that_would_be_ignored_is_refused(algorithm, tmp_path):
    with pytest.raises(ApqError, match=f"{algorithm} has no use for --storage.*nsga2"):
        search(big_problem(), algorithm, 50, options=Options(storage=str(tmp_path / "study.log")))
    assert not (tmp_path / "study.log").exists()


@pytest.mark.parametrize("rest", [b'{"op_code": 4, "worker', b"\xff\xfe", b"{"])
def test_a_journal_cut_short_is_read_to_its_last_whole_line(rest, tmp_path):
    storage = tmp_path / "study.log"
    first = search(big_problem(), "nsga2", 300, options=Options(storage=str(storage)))
    with storage.open("ab") as file:
        file.write(rest)
    again = search(big_problem(), "nsga2", 400, options=Options(storage=str(storage)))
    assert again.candidates == 400
    assert storage.read_bytes().endswith(b"\n")
    for value in first.front.values:
        assert np.any(np.all(again.front.values <= value + 1e-12, axis=1))


def test_file_systems_without_links_have_another_lock(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    monkeypatch.setattr("os.symlink", refuse)
    storage = str(tmp_path / "study.log")
    assert search(big_problem(), "nsga2", 100, options=Options(storage=storage)).candidates == 100
    assert search(big_problem(), "nsga2", 150, options=Options(storage=storage)).candidates == 150


def test_a_password_is_never_shown():
    with pytest.raises(ApqError, match=r"ann:\*\*\*@") as caught:
        search(
            big_problem(),
            "nsga2",
            50,
            options=Options(storage="postgresql+psycopg2://ann:hush@localhost:1/no"),
        )
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None  # a driver's own error may repeat the address


def test_trials_of_something_else_are_refused_in_words(tmp_path):
    storage = str(tmp_path / "study.log")
    search(big_problem(), "nsga2", 100, options=Options(storage=storage))
    study_in(storage).add_trial(optuna.create_trial(values=[0.0, 1.0]))
    with pytest.raises(ApqError, match="is not a candidate of space 'killed'"):
        search(big_problem(), "nsga2", 150, options=Options(storage=storage))


def test_a_stored_study_reads_as_people_expect(storage):
    problem = big_problem()
    search(problem, "nsga2", 300, options=Options(storage=storage))
    study = study_in(storage)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "bitops_g"]
    frame = study.trials_dataframe()
    assert set(frame["params_b00_kernel"]) <= {3, 5}
    assert frame["values_accuracy"].between(0, 1).all()
    assert (frame["duration"].dt.total_seconds() > 0).all()
    assert (frame["datetime_start"].diff().dt.total_seconds().abs() < 60).iloc[1:].all()
    assert set(frame["user_attrs_source"]) <= set(SOURCES)


@pytest.mark.parametrize("keep", ["front", "all"])
def test_optunas_own_sampler_continues_a_stored_search(tmp_path, keep):
    problem = big_problem(stages=2)
    storage = str(tmp_path / "study.log")
    options = Options(storage=storage, keep=keep, local_search=0.0)
    first = search(problem, "nsga2", 300, options=options)
    study = study_in(storage)
    size, best = len(study.trials), {tuple(t.values) for t in study.best_trials}
    assert (size == first.candidates) == (keep == "all")
    assert {tuple(v) for v in minimised(study.best_trials)} == {
        tuple(v) for v in first.front.values
    }
    sampler = optuna.samplers.NSGAIISampler(population_size=40, seed=0)
    study.sampler = sampler
    study.optimize(objective(problem), n_trials=80)
    added = study.trials[size:]
    numbers = [t.system_attrs["NSGAIISampler:generation"] for t in study.trials]
    assert numbers == sorted(numbers)
    parents = sampler.get_parent_population(study, numbers[-1])
    assert len(parents) == 40
    # children of the stored population, not random candidates: most genes are a parent's
    known = [t.params for t in study.trials[:size]]
    alike = [max(sum(t.params[k] == p[k] for k in p) for p in known) for t in added]
    fresh = problem.priced.space.sample(80, np.random.default_rng(0))
    genome = SpaceGenome(problem)
    random = [max(sum(genome.params(row)[k] == p[k] for k in p) for p in known) for row in fresh]
    assert np.mean(alike) > np.mean(random) + 1
    again = search(problem, "nsga2", 450, options=Options(storage=storage))  # and ours goes on
    assert again.candidates == 450
    for values in best:
        assert np.any(np.all(again.front.values <= np.array(values) * [-1, 1] + 1e-12, axis=1))


def test_everything_is_kept_on_request(tmp_path):
    storage = str(tmp_path / "study.log")
    seen = []
    result = search(
        big_problem(), "nsga2", 500, options=Options(storage=storage, keep="all"),
        on_batch=seen.append,
    )  # fmt: skip
    trials = stored(storage)
    assert len(trials) == result.candidates
    wanted = {tuple(v) for b in seen for v in b.values}
    assert {tuple(v) for v in minimised(trials)} == wanted
    counts = {name: c["candidates"] for name, c in result.sources.items()}
    assert counts == Counter(t.user_attrs["source"] for t in trials)


def test_keep_without_a_storage_is_refused():
    with pytest.raises(ApqError, match="--keep says what a --storage keeps"):
        Options(keep="all")
    with pytest.raises(ApqError, match="Did you mean 'front'"):
        Options(storage="x.log", keep="frnt")
