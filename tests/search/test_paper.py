"""The published search: its counts, its parents, its redraws."""

from __future__ import annotations

import numpy as np
import pytest
from mobilenet import block_genes

import apq.search.paper as paper
from apq.errors import ApqError
from apq.search.problem import Problem
from apq.search.search import search


@pytest.fixture
def problem(tiny_priced, tiny_accuracy):
    low, high = tiny_priced.reach("bitops_g")
    return Problem(
        tiny_priced, tiny_accuracy, ("accuracy",), {"bitops_g": low + 0.4 * (high - low)}
    )


def test_it_scores_a_population_and_fifty_of_each_kind_per_round(problem, monkeypatch):
    kinds = []
    for name in ("_mutants", "_crossovers"):
        made = getattr(paper, name)
        monkeypatch.setattr(
            paper, name, lambda *a, made=made, name=name: kinds.append(name) or made(*a)
        )
    batches = []
    result = search(problem, "paper", seed=0, on_batch=batches.append)
    assert result.candidates == 100 + 500 * (50 + 50)
    sizes = [len(b.genes) for b in batches]
    assert sizes == [0, 100] + 1000 * [50]
    assert result.notes["rounds"] == 500
    assert result.notes["drawn"] > result.candidates  # what is over the budget is drawn again
    assert kinds.index("_mutants") < kinds.index("_crossovers")
    assert all(problem.feasible(b.genes).all() for b in batches)
    assert all(problem.space.contains(b.genes).all() for b in batches)


def test_children_come_from_the_25_best(problem):
    """With mutation off, every child's blocks are those of the best quarter."""
    space = problem.priced.space
    people = problem.evaluate(problem.sample(100, np.random.default_rng(0)))
    parents = paper.best(people, paper.PARENTS)
    assert len(parents.genes) == 25
    assert parents.values.max() <= np.partition(people.values[:, 0], 25)[25]
    rng = np.random.default_rng(1)
    children = paper._crossovers(problem, parents, rng, 400)
    blocks, known = block_genes(space, children), block_genes(space, parents.genes)
    for slot in range(len(space.slots)):
        assert set(map(tuple, blocks[:, slot])) <= set(map(tuple, known[:, slot]))
    mixed = set(map(tuple, children)) - set(map(tuple, parents.genes))
    assert len(mixed) > 100


def test_a_mutation_hits_a_tenth_of_the_blocks_and_depths(problem):
    space = problem.priced.space
    parents = problem.evaluate(problem.sample(1, np.random.default_rng(0)))
    mutants = paper._mutants(problem, parents, np.random.default_rng(1), 20_000)
    same = (block_genes(space, mutants) == block_genes(space, parents.genes)).all(axis=2)
    choices = [int(m.sum()) for m in problem.searched.permitted]
    for slot, count in enumerate(choices):  # a redraw may hit the same block again
        wanted = 0.1 * (1 - 1 / count)
        assert 1 - same[:, slot].mean() == pytest.approx(wanted, abs=0.015)
    depths = mutants[:, : len(space.stages)] != parents.genes[:, : len(space.stages)]
    for stage, axis in enumerate(space.axes[: len(space.stages)]):
        wanted = 0.1 * (1 - 1 / len(axis.choices))
        assert depths[:, stage].mean() == pytest.approx(wanted, abs=0.015)


def test_redraws_are_counted_and_end_with_words(problem, monkeypatch):
    space, rng = problem.priced.space, np.random.default_rng(0)
    redraw = paper.Redraw(problem)
    rows = redraw(30, lambda n: problem.space.draw(n, rng))
    again = np.random.default_rng(0)
    good, drawn = 0, 0
    while good < 30:  # one at a time gives the same share
        row = space.canonical(problem.space.draw(1, again))
        drawn += 1
        good += int(problem.feasible(row)[0])
    assert len(rows) == 30
    assert redraw.drawn == pytest.approx(drawn, rel=0.5)
    monkeypatch.setattr(paper, "PATIENCE", 5_000)
    low, _ = problem.priced.reach("bitops_g")
    tight = Problem(problem.priced, problem.accuracy, ("accuracy",), {"bitops_g": low})
    with pytest.raises(ApqError, match=r"none of .* draws kept it; --algorithm nsga2 repairs"):
        search(tight, "paper", 200)
