"""What every method keeps to, whatever it does inside; truth by enumeration of a small space."""

from __future__ import annotations

import numpy as np
import pytest

from apq.errors import ApqError
from apq.hardware.pricing import price_space
from apq.methods import METHODS, run_method
from apq.methods.compare import (
    ANSWERS,
    compare,
    read_answers,
    summary,
    write_answers,
    write_comparison,
)
from apq.search.problem import Problem
from apq.space import Space

CALLS = 70


class Smooth:
    """An accuracy that rises with every choice, and with products of two."""

    def __init__(self, space: Space) -> None:
        rng = np.random.default_rng(3)
        self.space, self.calls = space, 0
        self.effect = np.sort(rng.random((len(space.axes), int(space.cardinalities.max()))), axis=1)

    def __call__(self, genes):
        self.calls += len(genes)
        gain = self.effect[np.arange(genes.shape[1]), genes] * self.space.decides(genes)
        total = gain.sum(axis=1) + gain[:, ::2].sum(axis=1) * gain[:, 1::2].sum(axis=1) / 40
        return 1 - np.exp(-total / 8), np.full(len(genes), 0.01)


@pytest.fixture(scope="module")
def tiny_problem(tiny_space):
    priced = price_space(tiny_space)
    low, high = priced.reach("bitops_g")
    limits = {"bitops_g": low + 0.5 * (high - low)}
    return Problem(priced, Smooth(tiny_space), ("accuracy",), limits)


@pytest.fixture(scope="module")
def best(tiny_problem):
    every = tiny_problem.space.every_candidate()
    return tiny_problem.accuracy(every[tiny_problem.feasible(every)])[0].max()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_its_promises(name, tiny_problem, best):
    accuracy = tiny_problem.accuracy
    before = accuracy.calls
    found = run_method(name, tiny_problem, CALLS, seed=1)
    spent = accuracy.calls - before
    assert tiny_problem.feasible(found.genes)[0]
    assert tiny_problem.space.contains(found.genes)[0]
    assert found.accuracy == accuracy(found.genes)[0][0] <= best + 1e-12
    assert found.costs["bitops_g"] <= tiny_problem.limits["bitops_g"]
    assert found.predictor_calls <= CALLS
    assert found.predictor_calls <= spent <= found.predictor_calls + 3  # what the answer is read by


@pytest.mark.parametrize("name", ["haq", "mpnas", "spos"])
def test_equal_seeds_give_equal_answers(name, tiny_problem):
    first, again = (run_method(name, tiny_problem, CALLS, seed=2) for _ in range(2))
    assert (first.genes == again.genes).all()


@pytest.mark.parametrize("name", ["spos", "mpnas"])
def test_methods_that_choose_everything_come_near_the_optimum(name, tiny_problem, best):
    assert run_method(name, tiny_problem, 300).accuracy > best - 0.02


def test_a_limit_that_a_method_cannot_keep_is_said(tiny_problem):
    from dataclasses import replace

    low, _ = tiny_problem.priced.reach("bitops_g")
    tight = replace(tiny_problem, limits={"bitops_g": 1.05 * low})
    with pytest.raises(ApqError):  # at 8 bits nothing is that cheap
        run_method("amc", tight, CALLS)
    with pytest.raises(ApqError, match=r"unknown method 'hag'. Did you mean 'haq'"):
        run_method("hag", tight)
    answers = compare([tight, tiny_problem], ["amc", "spos", "random"], 60, range(2))
    assert set(answers["method"][answers["error"].notna()]) == {"amc"}
    assert len(answers) == 12


def test_the_page_has_every_method_and_budget(tiny_problem, tmp_path):
    answers = compare([tiny_problem], ["spos", "random"], 60, range(2))
    head, rows = summary(answers)
    assert head[0] == "method"
    assert "bitops_g ≤" in head[1]
    assert [row[0] for row in rows] == ["spos", "random"]
    mine = answers[answers["method"] == "spos"]["accuracy"]
    assert rows[0][1] == f"{mine.mean():.2%} ({mine.min():.2%} … {mine.max():.2%})"
    write_comparison(tmp_path, answers, {"space": "<b>"})
    page = (tmp_path / "compare.html").read_text()
    assert "&lt;b&gt;" in page
    assert "<script" not in page
    assert {p.suffix for p in tmp_path.iterdir()} == {".md", ".html", ".parquet"}


def test_a_comparison_goes_on_where_it_was_and_measures_what_was_found(tiny_problem, tmp_path):
    asked, kept = {"calls": 60}, []

    def stop_after_two(answers):
        write_answers(tmp_path / ANSWERS, asked, {"by": "formula"}, answers)
        kept.append(len(answers))
        if len(kept) == 2:
            raise KeyboardInterrupt

    def measure(genes):
        return tiny_problem.accuracy(genes)[0] - 0.1, np.zeros(len(genes))

    call = [tiny_problem], ["spos", "random"], 60, range(2)
    with pytest.raises(KeyboardInterrupt):
        compare(*call, measure=measure, on_answer=stop_after_two)
    known = read_answers(tmp_path / ANSWERS, asked, {"by": "formula"})
    assert len(known) == 2
    before = tiny_problem.accuracy.calls
    answers = compare(*call, measure=measure, earlier=known)
    assert tiny_problem.accuracy.calls - before < 2 * 60 + 10  # of four answers two were known
    whole = compare(*call, measure=measure)
    for column in ("method", "seed", "accuracy", "measured", "b00_kernel"):
        assert answers[column].tolist() == whole[column].tolist(), column
    assert np.allclose(answers["measured"], answers["accuracy"] - 0.1)
    head, rows = summary(answers)
    assert head[2].startswith("measured, bitops_g ≤")
    assert len(rows[0]) == len(head)
    write_answers(tmp_path / ANSWERS, asked, {"by": "formula"}, answers)
    assert "measured" not in read_answers(tmp_path / ANSWERS, asked, {"by": "another"})
    assert read_answers(tmp_path / ANSWERS, {"calls": 61}) is None
