"""Searching bit axes that offer schemes: the true front, fixed genes, what is told and stored."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from formula import FormulaAccuracy
from mobilenet import blocks_of

from apq.errors import ApqError
from apq.hardware import load_cost_model, price_space
from apq.search.baselines import uniform_bits
from apq.search.explain import explain
from apq.search.genome import SpaceGenome
from apq.search.problem import Problem
from apq.search.rows import nondominated
from apq.search.search import search
from apq.space import BitChoices

WEIGHTS = (4, "ternary", "po2-4")


@pytest.fixture(scope="module")
def priced(tiny_space):
    """Energy of a small space with schemes; some combinations are excluded."""
    bits = BitChoices(WEIGHTS, (8,), (4, "binary"), (8,))
    rules = ({"kernel": 5, "pw_w_bits": "ternary"},)
    return price_space(tiny_space.with_(bits=bits, exclude=rules), load_cost_model("horowitz"))


@pytest.mark.parametrize("algorithm", ["nsga2", "evolution"])
def test_engines_find_the_true_front(priced, algorithm):
    limits = {"energy_mj": float(np.mean(priced.reach("energy_mj")))}
    fix = ("b00_dw_w_bits=binary", "b02_pw_w_bits=ternary,po2-4")
    accuracy = FormulaAccuracy(priced.space)
    problem = Problem(priced, accuracy, ("accuracy", "energy_mj"), limits, fix)
    every = priced.space.every_candidate()
    every = every[problem.space.contains(every) & problem.feasible(every)]
    values = problem.evaluate(every).values
    wanted = values[nondominated(values)]
    result = search(problem, algorithm, candidates=3 * len(every), seed=0)
    found = {tuple(v) for v in np.round(result.front.values, 12)}
    assert len(wanted) > 10
    assert found == {tuple(v) for v in np.round(wanted, 12)}
    blocks = explain(problem, result.front, result.chosen)[:-1]
    chosen = blocks_of(result.front.candidate(result.chosen))
    assert [b["pw_w_bits"] for b in blocks] == [b["pw_w_bits"] for b in chosen]
    assert blocks[0]["dw_w_bits"] == "binary"


def test_genes_are_fixed_by_name(priced):
    space = priced.space.restrict("pw_w_bits=min", "b00_dw_w_bits=max")
    axes = {axis.name: axis.labels[indices[0]] for axis, indices in
            zip(space.axes, space.allowed, strict=True) if len(indices) == 1}  # fmt: skip
    assert axes["b01_pw_w_bits"] == "ternary"
    assert axes["b00_dw_w_bits"] == 4
    with pytest.raises(ApqError, match="cannot be binary; allowed: ternary, po2-4, 4, min, max"):
        priced.space.restrict("pw_w_bits=binary")


def test_uniform_networks_are_of_formats_that_all_axes_offer(priced):
    space = priced.space.with_(bits=BitChoices(*[(4, "mantissa-4", 8)] * 4), exclude=())
    problem = Problem(price_space(space), FormulaAccuracy(space), ("accuracy", "bitops_g"))
    found = uniform_bits(problem, "nsga2", 60, seed=0)
    assert list(found) == ["mantissa-4", 4, 8]
    for bits, result in found.items():
        row = result.front.candidate(result.chosen)
        used = {c for b in blocks_of(row) for name, c in b.items() if name.endswith("_bits")}
        assert used == {bits}
    mixed = Problem(priced, FormulaAccuracy(priced.space), ("accuracy", "energy_mj"))
    assert uniform_bits(mixed, "nsga2", 60, seed=0) == {}


def test_a_storage_gives_genes_back(priced):
    genome = SpaceGenome(Problem(priced, FormulaAccuracy(priced.space), ("accuracy",)))
    for row in priced.space.sample(50, np.random.default_rng(0)):
        told = genome.params(row)
        assert (genome.rows([told]) == row).all()
        optuna.create_study().add_trial(
            optuna.trial.create_trial(
                params=dict(told), distributions=dict(genome.distributions), value=0.0
            )
        )
    assert {told["b00_pw_w_bits"]} < {"4", "ternary", "po2-4"}
