"""Bounds are bounds: on spaces small enough to list, nothing is predicted above them."""

import numpy as np
import pytest
import small_families
import torch
from commands import figures, run
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from apq.bound import upper_bound
from apq.bound.branch import _Relaxed
from apq.bound.network import answers
from apq.hardware.pricing import price_space
from apq.predictor.columns import Columns, TableFeatures
from apq.predictor.features import SpaceFeatures
from apq.predictor.gaussian_process import fit_process
from apq.predictor.network import new_network
from apq.predictor.predictor import Predictor, Warp, process_columns, process_groups
from apq.search.problem import Problem


def predictor_of(space, kind, bits, smooth, seed):
    """A predictor with random weights and samples."""
    features, rng = SpaceFeatures(space, smooth=smooth), np.random.default_rng(seed)
    rows = np.unique(space.sample(60, rng), axis=0)[:25]
    inputs, models, answer = features.inputs(rows), [], None
    if kind != "process":
        own = bits and kind == "network"
        net = new_network(features, inputs, bits=own, hidden=6, members=2, seed=seed)
        with torch.no_grad():
            net.ensemble.head.mul_(20.0)
        net.ensemble.requires_grad_(False)
        models.append(net)
        answer = net.predict(inputs)[0]
    if kind != "network":
        columns = process_columns(inputs, features, bits, answer)
        target = rng.normal(size=len(rows)) + (0.0 if answer is None else answer)
        groups = process_groups(features, bits, answer is not None)
        blocks = np.arange(len(rows))
        models.append(fit_process(columns, groups, target, blocks, iterations=2)[0])
    bits = bits or kind == "network"
    return Predictor(features, tuple(models), Warp(1.2, 0.3, 0.5), bits)


SPACES = {
    "resnet": small_families.resnet(), "chain": small_families.chain(),
    "traced": small_families.traced(), "v3": small_families.mobilenet_v3(),
}  # fmt: skip
LISTED = {}


def listed(name, tiny_space):
    """A space, its prices and all it permits."""
    if name not in LISTED:
        space = SPACES.get(name, tiny_space)
        LISTED[name] = price_space(space), space.every_candidate()
    return LISTED[name]


def value(space, what, rows):
    """An affine function at some rows, ``(functions, n)``."""
    features = SpaceFeatures(space)
    index = space.combinations(rows) + space.table_offsets
    counted = np.where(space.counted(rows)[..., None], features.counts[index], 0.0)
    stages = [counted[:, list(stage.slots)].sum(axis=1) for stage in space.stages]
    logs = np.log(np.maximum(np.concatenate([counted.sum(axis=1), *stages], axis=1), 1.0))
    found = what.hot @ space.encode(rows).T.astype(float) + what.depth @ space.depths(rows).T
    return found + what.logs @ logs.T + what.constant[:, None]


PREDICTORS = st.tuples(
    st.sampled_from(["network", "process", "both"]), st.booleans(), st.booleans(),
    st.integers(0, 1000),
)  # fmt: skip


@settings(max_examples=8, deadline=None, phases=[Phase.generate])  # shrinking takes minutes
@given(
    name=st.sampled_from(["tiny", *SPACES]), made=PREDICTORS, share=st.floats(0.0, 1.0),
    metric=st.sampled_from(["bitops_g", "size_mb", "peak_memory_kb"]), data=st.data(),
)  # fmt: skip
def test_nothing_lies_above_a_function_or_a_bound(tiny_space, name, made, share, metric, data):
    priced, every = listed(name, tiny_space)
    space, costs = priced.space, priced.costs(every)
    predictor = predictor_of(space, *made)
    limit = float(np.quantile(costs[metric], share)) * (1 + 1e-9)
    problem = Problem(priced, predictor.predict, ("accuracy",), {metric: limit, "macs_m": 1e9})
    relaxed = _Relaxed(problem, predictor)
    choices = tuple(
        tuple(sorted(data.draw(st.sets(st.sampled_from(own), min_size=1)))) for own in space.allowed
    )
    part = relaxed.part(choices)
    inside = np.all(
        [np.isin(every[:, i], own) | ~space.decides(every)[:, i] for i, own in enumerate(choices)],
        axis=0,
    )
    rows = every[inside & (costs[metric] <= limit)]
    if not len(rows):
        return
    assert not part.empty
    truth = predictor.latent(predictor.features.inputs(rows))[0]
    ends = answers(relaxed._members, part) if relaxed._members else None
    process = relaxed._process
    above = ends[1] if process is None else process.above(part, ends)
    assert (value(space, above, rows)[0] >= truth - 1e-4).all()
    if ends is not None and process is None:
        assert (value(space, ends[0], rows)[0] <= truth + 1e-4).all()
    best = value(space, above, rows).max()
    assert part.maxima(above)[0] >= best - 1e-6
    assert part.maximum(above) >= best - 1e-6


@pytest.mark.parametrize("kind", ["network", "process", "both"])
def test_the_bound_is_never_below_the_best_and_comes_down_to_it(tiny_space, kind, monkeypatch):
    monkeypatch.setattr("apq.bound.branch.COUNTED", 30)
    priced, every = listed("tiny", tiny_space)
    predictor = predictor_of(priced.space, kind, True, True, 3)
    limit = float(np.quantile(priced.costs(every)["bitops_g"], 0.3))
    fix = ("pw_w_bits=8", "dw_w_bits=8")
    problem = Problem(priced, predictor.predict, ("accuracy",), {"bitops_g": limit}, fix)
    mine = every[problem.feasible(every) & problem.space.contains(every)]
    best = predictor.predict(mine)[0].max()
    bounds = [upper_bound(problem, predictor, most=most) for most in (1, 6, 10_000)]
    values = [bound.accuracy for bound in bounds]
    assert all(one >= best - 1e-6 for one in values)
    assert values == sorted(values, reverse=True)
    assert bounds[-1].exact
    assert values[-1] == pytest.approx(best, abs=1e-6)
    known = upper_bound(problem, predictor, float(best), most=10_000)
    assert known.parts <= bounds[-1].parts
    assert known.accuracy == pytest.approx(best, abs=1e-6)


def test_what_is_fixed_is_not_bounded_over(tiny_space):
    priced, every = listed("tiny", tiny_space)
    predictor = predictor_of(priced.space, "both", True, True, 5)
    problem = Problem(priced, predictor.predict, ("accuracy",), {}, fix=("kernel=3", "dw_w_bits=8"))
    mine = every[problem.space.contains(every)]
    bound = upper_bound(problem, predictor)
    assert bound.exact
    assert bound.accuracy == pytest.approx(predictor.predict(mine)[0].max(), abs=1e-6)


def test_predictors_of_tables_are_refused(tiny_space):
    from apq.errors import ModelError

    priced, _ = listed("tiny", tiny_space)
    features = TableFeatures(Columns("top1", ("k",)), {"k": [1.0, 2.0]})
    problem = Problem(priced, lambda g: (np.zeros(len(g)), np.zeros(len(g))), ("accuracy",))
    with pytest.raises(ModelError, match="of a space"):
        upper_bound(problem, Predictor(features, (), Warp(None, 0, 1), False))


def test_a_search_of_formats_alone_says_how_far_it_can_be_from_the_best(tmp_path):
    common = ("search", "--latency-ms", 0.6, "--candidates", 100, "--no-baselines", "--no-picture")
    first = figures(*common, "--out", tmp_path / "whole")
    assert first["bound"] is None
    fix = ("--fix", f"architecture={tmp_path / 'whole/best.json'}")
    found = figures(*common, *fix, "--bound", 0.01, "--out", tmp_path / "formats")
    assert 0 <= found["bound"]["points"] < 2
    assert found["bound"]["accuracy"] >= found["predicted"]["accuracy"]
    assert "points better is predicted" in run(*common, *fix, "--out", tmp_path / "again")
