from dataclasses import replace

import numpy as np
import pytest
import torch

from apq.predictor import gaussian_process as module
from apq.predictor.fitting import folds
from apq.predictor.gaussian_process import Family, Prior, fit_process

GROUPS = (("trend", 1), ("shape", 3), ("constant", 2))


def problem(n, seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    x[:, 4:] = 1.0
    y = x[:, 0] + np.sin(2 * x[:, 1]) + noise * rng.normal(size=n)
    return x, (y - y.mean()) / y.std()


def covariance(process, x):
    """The process's covariance, written out with numpy loops."""
    z = (x - process.mean.numpy()) / process.scale.numpy()
    w, v = process.weights.numpy() ** 2, process.linear.numpy()
    out = np.zeros((len(z), len(z)))
    for i, a in enumerate(z):
        for j, b in enumerate(z):
            r = np.sqrt(5 * np.sum(w * (a - b) ** 2))
            trend = np.sum(v * a * b)
            out[i, j] = process.amplitude * (1 + r + r * r / 3) * np.exp(-r)
            out[i, j] += trend + process.square * trend**2
    return out


def test_answers_are_those_of_the_textbook():
    x, y = problem(60)
    process, _, _ = fit_process(x[:40], GROUPS, y[:40], np.arange(40), seed=0)
    k = covariance(process, x)
    inverse = np.linalg.inv(k[:40, :40] + process.noise * np.eye(40))
    mean = k[40:, :40] @ inverse @ y[:40]
    variance = np.diag(k)[40:] + process.noise - np.diag(k[40:, :40] @ inverse @ k[:40, 40:])
    found, deviation = process.predict(x[40:])
    np.testing.assert_allclose(found, mean, atol=1e-5)
    np.testing.assert_allclose(deviation, np.sqrt(variance), rtol=1e-2)


def test_covariance_is_what_the_rows_leave_unknown():
    x, y = problem(60)
    process, _, _ = fit_process(x[:40], GROUPS, y[:40], np.arange(40), seed=0)
    k = covariance(process, x)
    inverse = np.linalg.inv(k[:40, :40] + process.noise * np.eye(40))
    unknown = k[40:, 40:] - k[40:, :40] @ inverse @ k[:40, 40:]
    found = process.covariance(x[40:])
    np.testing.assert_allclose(found, unknown, atol=1e-5)
    _, deviation = process.predict(x[40:])
    np.testing.assert_allclose(deviation**2, found.diagonal() + process.noise, rtol=1e-2)


def test_with_fewer_directions_there_is_more_doubt_and_the_same_answer(monkeypatch):
    x, y = problem(200)
    process, _, _ = fit_process(x[:100], GROUPS, y[:100], np.arange(100), seed=0)
    mean, deviation = process.predict(x[100:])
    exact = np.sqrt(process.covariance(x[100:]).diagonal() + process.noise)
    np.testing.assert_allclose(deviation, exact, rtol=1e-2)
    last = deviation
    for rank in (40, 20, 10):
        monkeypatch.setattr(module, "RANK", rank)
        found, doubt = replace(process).predict(x[100:])
        np.testing.assert_allclose(found, mean, atol=1e-6)
        assert np.all(doubt > 0.999 * last)
        assert doubt.mean() > last.mean()
        last = doubt


def test_with_few_rows_held_out_answers_come_from_processes_fitted_to_the_others():
    x, y = problem(40)
    blocks = np.repeat(np.arange(20), 2)
    _, mean, deviation = fit_process(x, GROUPS, y, blocks, seed=0)
    held = folds(blocks, 5, 0)
    assert (held.sum(axis=0) == 1).all()
    for out in held:
        other, _, _ = fit_process(x[~out], GROUPS, y[~out], blocks[~out], seed=0)
        found = other.predict(x[out])
        np.testing.assert_allclose((mean[out], deviation[out]), found)


def test_a_family_moves_together_and_its_members_a_little():
    middle, loadings = Prior((Family(2, 0.5), Family(1, 0.01)), amplitude=0.3).normals()
    np.testing.assert_allclose(
        middle.exp(), [0.2 / 3, 0.2 / 3, 0.2 / 3, 0.5, 0.5, 0.01, 0.3, 0.015, 0.03], rtol=1e-6
    )
    covariance = (loadings @ loadings.T).numpy()
    np.testing.assert_allclose(np.diagonal(covariance), [5, 5, 5, 5, 5, 5, 4, 4, 4])
    assert covariance[3, 4] == 4  # one family
    assert covariance[3, 5] == covariance[0, 3] == covariance[0, 6] == 0


def test_a_shrunk_process_answers_between_itself_and_its_first_column_rescaled():
    x, y = problem(40)
    process, _, _ = fit_process(x, GROUPS, y, np.arange(40), seed=0)
    mean, deviation = process.predict(x)
    line = 0.7 * (x[:, 0] - x[:, 0].mean())
    found, doubt = process.shrunk(0.25, 0.7).predict(x)
    np.testing.assert_allclose(found, 0.25 * mean + 0.75 * line, atol=1e-6)
    np.testing.assert_array_equal(doubt, deviation)


def test_left_out_answers_are_those_of_a_process_without_the_block(monkeypatch):
    monkeypatch.setattr(module, "REFITS", 0)
    x, y = problem(30)
    blocks = np.repeat(np.arange(10), 3)
    process, mean, deviation = fit_process(x, GROUPS, y, blocks, seed=0)
    k = covariance(process, x)
    for block in range(10):
        rows, rest = np.flatnonzero(blocks == block), np.flatnonzero(blocks != block)
        inverse = np.linalg.inv(k[np.ix_(rest, rest)] + process.noise * np.eye(len(rest)))
        cross = k[np.ix_(rows, rest)]
        np.testing.assert_allclose(mean[rows], cross @ inverse @ y[rest], atol=1e-3)
        variance = np.diag(k)[rows] + process.noise - np.diag(cross @ inverse @ cross.T)
        np.testing.assert_allclose(deviation[rows], np.sqrt(variance), rtol=1e-2)


def test_a_good_answer_is_trusted_and_a_useless_one_is_not():
    rng = np.random.default_rng(0)
    x, y = problem(25, noise=0.0)
    test, truth = problem(200, seed=1, noise=0.0)
    for good in (True, False):
        first = (3 * y + 2, 3 * truth + 2) if good else rng.normal(size=(2, 200))
        columns = np.concatenate([first[0][:25, None], x], axis=1).astype(np.float32)
        other = np.concatenate([first[1][:, None], test], axis=1).astype(np.float32)
        groups, prior = (("answer", 1), *GROUPS), Prior((Family(1, 1.0), Family(3, 0.003)), 0.05)
        process, _, _ = fit_process(columns, groups, y, np.arange(25), prior=prior, seed=0)
        error = np.sqrt(np.mean((process.predict(other)[0] - truth) ** 2))
        share = abs(float(process.slope[0])) / float(process.slope.abs().sum())
        assert (error < 0.1, share > 0.8) == (good, good)


def test_a_few_anchors_overstate_doubt_but_do_not_move_the_answer(monkeypatch):
    x, y = problem(240)
    exact, _, _ = fit_process(x[:200], GROUPS, y[:200], np.arange(200), seed=0)
    monkeypatch.setattr(module, "ANCHORS", 60)
    sparse, _, _ = fit_process(x[:200], GROUPS, y[:200], np.arange(200), seed=0)
    (a, wide), (b, tight) = sparse.predict(x[200:]), exact.predict(x[200:])
    assert sparse.explained.shape == (60, 60)
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert np.all(wide > 0.999 * tight)
    # and they know more than the anchors' own measurements say
    k, some = covariance(exact, x), np.random.default_rng(0).permutation(200)[:60]
    inverse = np.linalg.inv(k[np.ix_(some, some)] + exact.noise * np.eye(60))
    alone = np.diag(k) + exact.noise - np.einsum("na,ab,nb->n", k[:, some], inverse, k[:, some])
    assert np.all(wide < 1.001 * np.sqrt(alone[200:]))


def test_it_survives_rows_that_repeat():
    x, y = problem(20)
    x, y = np.repeat(x, 3, axis=0), np.repeat(y, 3)
    process, mean, _ = fit_process(x, GROUPS, y, np.repeat(np.arange(20), 3), seed=0)
    assert np.isfinite(mean).all()
    assert torch.isfinite(process.explained).all()
    assert process.predict(x)[0] == pytest.approx(y, abs=0.5)
