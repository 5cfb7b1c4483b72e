"""The arithmetic of every method, against formulas of its paper, enumeration and autograd."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from apq.hardware.pricing import price_space
from apq.methods.amc import kept_index, largest_kept
from apq.methods.autoqkeras import split_trials
from apq.methods.dnas import temperature
from apq.methods.haq import action_bits, budget_walk
from apq.methods.lana import solve
from apq.methods.mpnas import log_probability, score_function
from apq.methods.proxylessnas import BinaryGates
from apq.methods.relaxed import expected_cost, gumbel_softmax, one_hot, open_logits, soft_code
from apq.methods.singlepath import Step, chosen_by, nested
from apq.search.surrogate import features


@pytest.fixture(scope="module")
def priced(tiny_space):
    return price_space(tiny_space)


def test_haq_maps_actions_to_bits_in_equal_parts():
    """b = round(b_min - 0.5 + a (b_max - b_min + 1)), 2 … 8: seven equal parts of 0 … 1."""
    actions = np.linspace(0, 1, 7001)[:-1]
    bits = [action_bits(a, 2, 8) for a in actions]
    assert np.bincount(bits)[2:].tolist() == pytest.approx([1000] * 7, abs=2)
    assert (action_bits(0.0, 2, 8), action_bits(1.0, 2, 8)) == (2, 8)


def test_haq_walks_from_the_last_layer_activations_first():
    """Two layers (weight, activation each): what is lowered, and when it stops."""
    row, axes = np.full((1, 4), 2, dtype=np.int16), [0, 1, 2, 3]
    seen = []

    def keeps(at_most):
        def check(trial):
            seen.append(trial[0].tolist())
            return trial.sum() <= at_most

        return check

    assert budget_walk(row, axes, [0] * 4, keeps(5))[0].tolist() == [2, 1, 1, 1]
    assert [2, 2, 2, 1] in seen
    assert budget_walk(row, axes, [0] * 4, keeps(3))[0].tolist() == [1, 1, 1, 0]
    assert budget_walk(row, axes, [1] * 4, keeps(0))[0].tolist() == [1, 1, 1, 1]  # its lowest


def test_amc_leaves_room_for_the_later_layers():
    row, allowed = np.zeros((1, 3), dtype=np.int16), [(0, 1, 2, 3)] * 3
    for most, wanted in ((9, 3), (2, 2), (0, 0)):
        assert largest_kept(row, 0, [1, 2], allowed, lambda r, m=most: r.sum() <= m) == wanted
    row[0, 0] = 2
    assert largest_kept(row, 1, [2], allowed, lambda r: r.sum() <= 3) == 1
    assert kept_index(0.5, (8, 16, 24, 32), (0, 1, 2, 3)) == 1
    assert kept_index(0.51, (8, 16, 24, 32), (0, 1, 2, 3)) == 2


def test_proxylessnas_gate_gradient_is_the_papers():
    """dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i)."""
    torch.manual_seed(0)
    alpha = torch.randn(3, 4, requires_grad=True)
    gates = BinaryGates.apply(alpha, torch.rand(3, 1))
    assert (gates.sum(dim=1) == 1).all()
    assert set(gates.flatten().tolist()) <= {0.0, 1.0}
    into = torch.randn(3, 4)
    gates.backward(into)
    p = torch.softmax(alpha.detach(), dim=1)
    for r, i in itertools.product(range(3), range(4)):
        want = sum(into[r, j] * p[r, j] * (float(i == j) - p[r, i]) for j in range(4))
        assert alpha.grad[r, i] == pytest.approx(float(want), abs=1e-6)


def test_proxylessnas_gates_open_as_often_as_their_probability():
    alpha = torch.tensor([[0.0, 1.0, -1.0]]).repeat(20_000, 1)
    torch.manual_seed(0)
    share = BinaryGates.apply(alpha, torch.rand(20_000, 1)).mean(dim=0)
    assert torch.allclose(share, torch.softmax(alpha[0], dim=0), atol=0.015)


def test_single_path_runtime_is_exact_where_gates_are_0_or_1(tiny_space, priced):
    """The expected cost of nested gates is the table's sum for every network of the space."""
    cost = expected_cost(priced, "bitops_g")
    rows = tiny_space.sample(60, np.random.default_rng(0))
    for row in rows:
        gates = [
            torch.tensor([float(g < row[i]) for g in range(len(a) - 1)])
            for i, a in enumerate(tiny_space.allowed)
        ]
        chosen = chosen_by(tiny_space, gates)
        assert (chosen.argmax(dim=1).numpy() == row).all()
        exact = priced.costs(row[None], ["bitops_g"])["bitops_g"][0]
        assert float(cost(chosen)) == pytest.approx(exact, rel=1e-5)


def test_single_path_steps_and_nested_gates():
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    step = Step.apply(x)
    assert step.tolist() == [0.0, 1.0, 1.0]
    step.sum().backward()
    s = torch.sigmoid(x.detach())
    assert torch.allclose(x.grad, s * (1 - s))
    assert nested(torch.tensor([1.0, 0.0, 1.0]), (0, 1, 2, 3), 5).tolist() == [0, 1, 0, 0, 0]


def test_mpnas_gradient_is_that_of_the_enumerated_expectation(tiny_space, priced):
    """Every network counted out with its probability, cost gradient by autograd; the estimate from
    draws agrees within its own error, and with a baseline that error is smaller."""
    space = tiny_space.restrict("depth=1", "dw_w_bits=8", "dw_a_bits=8", "width=min")
    free = [i for i, a in enumerate(space.allowed) if len(a) > 1 and space.axes[i].slot != 1]
    rows = np.array([[a[0] for a in space.allowed]], dtype=np.int16)
    for i in free:
        rows = np.concatenate([_with(rows, i, g) for g in space.allowed[i]])
    torch.manual_seed(1)
    closed = open_logits(space)
    logits = (closed + torch.randn(closed.shape)).requires_grad_()
    shut = [i for i in range(len(space.axes)) if i not in free]
    cost = torch.from_numpy(priced.costs(space.canonical(rows), ["bitops_g"])["bitops_g"]).float()
    cost = cost / cost.mean()
    log = torch.log_softmax(logits, dim=-1)
    picks = torch.from_numpy(rows.astype(np.int64))
    probability = sum(log[i, picks[:, i]] for i in free).exp()
    assert float(probability.detach().sum()) == pytest.approx(1.0, abs=1e-5)
    (exact,) = torch.autograd.grad((probability * cost).sum(), logits)
    weights = probability.detach()
    # the score function, weighted by probability instead of drawn: an identity, baseline or not
    for baseline in (0.0, float(cost.mean())):
        score = sum(torch.log_softmax(logits, -1)[i, picks[:, i]] for i in free)
        (by_score,) = torch.autograd.grad((weights * (cost - baseline) * score).sum(), logits)
        assert torch.allclose(by_score[free], exact[free], atol=1e-5)
    errors = []
    for baseline in (0.0, float((weights * cost).sum())):
        found = []
        for seed in range(60):
            pick = torch.multinomial(
                weights, 64, True, generator=torch.Generator().manual_seed(seed)
            )
            surrogate = score_function(logits, rows[pick.numpy()], cost[pick], baseline)
            (grad,) = torch.autograd.grad(surrogate, logits)
            found.append(torch.nan_to_num(grad[free]))
        stack = torch.stack(found)
        spread = stack.std(dim=0)
        gap = (stack.mean(dim=0) - torch.nan_to_num(exact[free])).abs()
        assert (gap <= 4.5 * spread / 60**0.5 + 1e-6).all()
        errors.append(float(spread.mean()))
    assert errors[1] < errors[0] / 2
    assert log_probability(logits, rows).shape == (len(rows),)
    assert len(shut) + len(free) == len(space.axes)


def _with(rows, place, gene):
    out = rows.copy()
    out[:, place] = gene
    return out


def test_soft_choices_meet_hard_ones(tiny_space, priced):
    """At one-hot choices the soft code is the encoding and the expected cost the table's sum; an
    expectation over two networks lies between them."""
    rows = tiny_space.sample(40, np.random.default_rng(1))
    chosen = one_hot(rows, int(tiny_space.cardinalities.max()))
    codes = torch.stack([soft_code(tiny_space, c) for c in chosen]).numpy()
    assert np.array_equal(codes, features(tiny_space, rows))
    cost = expected_cost(priced, "size_mb")
    exact = priced.costs(rows, ["size_mb"])["size_mb"]
    assert [float(cost(c)) for c in chosen] == pytest.approx(exact.tolist(), rel=1e-5)
    logits = torch.zeros(2, 3)
    noise = torch.tensor([[5.0, 0.0, 1.0], [0.0, 0.0, 9.0]])
    soft = gumbel_softmax(logits, 0.1, noise)
    assert soft.argmax(dim=1).tolist() == [0, 2]
    assert torch.allclose(soft.sum(dim=1), torch.ones(2))


def test_dnas_cools_as_published():
    assert temperature(0) == 5.0
    assert temperature(90) == pytest.approx(5 * np.exp(-2.25))


def test_lana_solves_exactly_and_its_solutions_differ():
    """Five layers of four choices: the program equals brute force, also with diversity cuts."""
    rng = np.random.default_rng(0)
    losses = [rng.random(4) for _ in range(5)]
    costs = [rng.random((1, 4)) for _ in range(5)]
    room = np.array([2.0])
    every = list(itertools.product(range(4), repeat=5))
    price = [sum(costs[i][0, j] for i, j in enumerate(z)) for z in every]
    loss = [sum(losses[i][j] for i, j in enumerate(z)) for z in every]
    known = []
    for _ in range(6):
        allowed = [
            (value, z)
            for value, z, cost in zip(loss, every, price, strict=True)
            if cost <= room[0]
            and all(sum(a == b for a, b in zip(z, k, strict=True)) <= 0.7 * 5 for k in known)
        ]
        found = solve(losses, costs, room, known)
        assert sum(losses[i][j] for i, j in enumerate(found)) == pytest.approx(
            min(allowed)[0], abs=2e-3
        )
        known.append(found)
    for one, other in itertools.combinations(known, 2):
        assert sum(a == b for a, b in zip(one, other, strict=True)) <= 3


def test_lana_leaves_out_the_last_blocks_only():
    losses = [np.array([0.0, 1.0])] * 3
    picks = solve(losses, [np.zeros((1, 2))] * 3, np.array([1.0]), chains=[(0, 1, 2)])
    assert picks == [0, 0, 0]
    losses = [np.array([9.0, 1.0]), np.array([0.0, 1.0]), np.array([9.0, 1.0])]
    assert solve(losses, [np.zeros((1, 2))] * 3, np.array([1.0]), chains=[(0, 1, 2)]) == [1, 1, 1]


def test_autoqkeras_splits_trials_by_energy():
    assert split_trials([6.0, 3.0, 1.0], 200) == [120, 60, 20]
    assert split_trials([6.0, 3.0, 0.1], 50) == [32, 16, 10]  # ten at least
