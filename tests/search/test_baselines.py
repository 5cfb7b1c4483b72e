"""What a result is set beside: as much effort, each its own optimum, one predictor's figures."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from formula import FormulaAccuracy
from small_families import SMALL

from apq.hardware.pricing import price_space
from apq.search.baselines import BLIND, ORIGINAL, RANDOM, SEQUENTIAL, fair_baselines
from apq.search.problem import Problem
from apq.search.search import search
from apq.search.sequential import largest, steps_of
from apq.space.families.traced import Traced

ASKED = 1500


@pytest.fixture(scope="module", params=[0.35, 0.7])
def problem(request, tiny_priced):
    low, high = tiny_priced.reach("bitops_g")
    limits = {"bitops_g": low + request.param * (high - low)}
    accuracy = FormulaAccuracy(tiny_priced.space)
    return Problem(tiny_priced, accuracy, ("accuracy", "bitops_g"), limits)


@pytest.fixture(scope="module")
def found(problem):
    return search(problem, candidates=ASKED, seed=0)


@pytest.fixture(scope="module")
def beside(found):
    return fair_baselines(found, ASKED)


def best_of(problem, genes):
    genes = genes[problem.feasible(genes)]
    return problem.accuracy(genes)[0].max(initial=-np.inf)


def test_none_is_given_more_and_all_keep_the_limits(found, beside):
    assert [*beside] == ["8 bits everywhere", RANDOM, SEQUENTIAL, BLIND]
    for name, result in beside.items():
        assert result is not None, name
        assert result.candidates <= ASKED
        assert result.within_limits
        assert result.problem.feasible(result.front.genes).all()
        scored = found.problem.accuracy(result.front.genes)[0]
        assert np.array_equal(result.front.accuracy, scored), name  # the true predictor's
    assert beside[RANDOM].candidates == ASKED == len(beside[RANDOM].scored.genes)
    assert max(r.accuracy for r in beside.values()) <= found.accuracy + 1e-12


def test_each_is_the_optimum_of_its_own_kind(found, beside):
    """Counted out: one format everywhere; and the choice of a predictor that sees no formats."""
    problem = found.problem
    every = problem.space.every_candidate()
    formats = np.array([axis.is_format for axis in problem.space.axes])
    top = np.array([len(axis.choices) - 1 for axis in problem.space.axes])
    plain = problem.space.canonical(np.where(formats, top, every).astype(np.int16))
    alike = every[(every == plain).all(axis=1)]
    assert beside["8 bits everywhere"].accuracy == pytest.approx(best_of(problem, alike))
    kept = problem.feasible(every)
    blind = problem.accuracy(plain[kept])[0]
    wanted = {tuple(row) for row in plain[kept][blind >= blind.max() - 1e-12]}
    chosen = beside[BLIND].front.genes[[beside[BLIND].chosen]]
    assert tuple(problem.space.canonical(np.where(formats, top, chosen))[0]) in wanted


def test_sequential_search_finds_the_best_end_of_its_steps(found, beside):
    """Counted out: every architecture that the first step's front may hold, then its widths, then
    its formats; the best of all is an upper bound that is met."""
    problem = found.problem
    space = problem.space
    every = space.every_candidate()
    architecture, widths, formats = map(list, steps_of(space))
    top = np.array([largest(space, i) for i in range(len(space.axes))], dtype=np.int16)

    def front(rows):
        values = problem.evaluate(rows).values
        beaten = [((values <= v).all(axis=1) & (values < v).any(axis=1)).any() for v in values]
        return rows[~np.array(beaten)]

    def at_top(rows, places):
        full = rows.copy()
        full[:, places] = top[places]
        return np.unique(space.canonical(full), axis=0)

    def like(rows, row, places):
        decides = space.decides(row[None])[0]
        places = [i for i in places if decides[i]]
        return rows[(rows[:, places] == row[places]).all(axis=1)]

    best = -np.inf
    whole = at_top(every, widths + formats)
    for first in front(whole[space.contains(whole)]):
        second = at_top(like(every, first, architecture), formats)
        for row in front(second[space.contains(second)]):
            best = max(best, best_of(problem, like(every, row, architecture + widths)))
    result = beside[SEQUENTIAL]
    assert best - 0.02 < result.accuracy <= best + 1e-12


def test_steps_cover_every_gene_once():
    for space in SMALL.values():
        steps = steps_of(space)
        assert sorted(itertools.chain(*steps)) == list(range(len(space.axes)))
        assert all(space.axes[i].is_format for i in steps[2])
        told = {space.axes[i].attribute for i in steps[0]}
        assert told <= {"depth", "kernel", "resolution"}


def test_a_traced_network_is_shown_whole_even_over_the_limit():
    space = SMALL["traced"]
    assert isinstance(space.family, Traced)
    priced = price_space(space)
    low, high = priced.reach("bitops_g")

    def accuracy(genes):
        return genes.sum(axis=1) / 100.0, np.zeros(len(genes))

    problem = Problem(priced, accuracy, ("accuracy", "bitops_g"), {"bitops_g": (low + high) / 2})
    beside = fair_baselines(search(problem, candidates=40, seed=0))
    own = beside[ORIGINAL]
    assert own.costs["bitops_g"] == pytest.approx(high)
    assert not own.within_limits
    assert own.candidates == 1


def test_the_strongest_is_named_and_what_is_impossible_is_left_out(problem, found, beside):
    found = replace(found, baselines=beside)
    accuracies = {name: result.accuracy for name, result in found.baselines.items()}
    assert found.strongest == max(accuracies, key=lambda name: accuracies[name])
    fixed = search(replace(problem, fix=("bits=8",)), candidates=100, seed=0)
    assert [*fair_baselines(fixed)] == [RANDOM, SEQUENTIAL]
    costs = search(replace(problem, objectives=("bitops_g", "size_mb")), candidates=100, seed=0)
    assert [*fair_baselines(costs)] == ["8 bits everywhere", RANDOM]
