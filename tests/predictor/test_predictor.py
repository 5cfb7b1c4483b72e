import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest_formula import true_accuracy
from mobilenet import block_genes
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from apq.errors import ApqError, ModelError, SamplesError, SpaceError
from apq.predictor import PRESETS, load_predictor, train_predictor, training
from apq.predictor.features import SpaceFeatures
from apq.predictor.metrics import pairwise_accuracy
from apq.predictor.predictor import FORMAT, Warp
from apq.samples import Samples
from apq.space import load_space


@pytest.fixture(scope="module", autouse=True)
def fewer_steps():
    """The form of every preset, but small: what is tested here does not depend on size."""
    kept = dict(PRESETS)
    for name, recipe in kept.items():
        PRESETS[name] = replace(recipe, updates=120, hidden=64, members=min(recipe.members, 2))
    PRESETS["networks"] = replace(PRESETS["default"], process_rows=0)
    yield
    PRESETS.clear()
    PRESETS.update(kept)


@pytest.fixture(scope="module", params=["default", "paper", "networks"])
def trained(request, fp32, quantized, fewer_steps):
    return train_predictor(fp32, quantized, preset=request.param, compare=False, seed=3)


def altered(samples, accuracy):
    frame = samples.frame.iloc[: len(accuracy)].assign(accuracy=accuracy)
    return Samples(samples.space, frame, samples.metadata)


def test_it_orders_candidates_it_has_not_seen(trained, unseen, digits_space):
    mean, spread = trained.predict(unseen)
    assert mean.shape == spread.shape == (len(unseen),)
    assert mean.dtype == spread.dtype == np.float64
    assert (spread > 0).all()
    assert pairwise_accuracy(mean, true_accuracy(digits_space, unseen)) > 0.65


def test_covariance_is_the_spread_without_noise(trained, unseen):
    covariance = trained.covariance(unseen[:40])
    _, spread = trained.predict(unseen[:40])
    noise = spread**2 - covariance.diagonal()
    assert (noise >= 0).all()
    assert np.linalg.eigvalsh(covariance).min() > -1e-9
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-9)


def test_it_answers_one_candidate_as_it_answers_many(trained, unseen):
    mean, spread = trained.predict(unseen, batch=64)
    one, doubt = trained.predict(unseen[7:8])
    assert one == pytest.approx(mean[7:8], rel=1e-4)
    assert doubt == pytest.approx(spread[7:8], rel=0.02)  # a difference of single-precision sums
    assert [len(a) for a in trained.predict(unseen[:0])] == [0, 0]


def test_it_moves_when_only_bits_move(trained, unseen, digits_space):
    low = unseen.copy()
    block_genes(digits_space, low)[:, :, 2:] = 0
    high = low.copy()
    block_genes(digits_space, high)[digits_space.active(high), 2:] = 2
    assert (trained.predict(high)[0] > trained.predict(low)[0]).mean() > 0.9


def test_saving_and_loading_changes_nothing(trained, unseen, tmp_path):
    trained.save(tmp_path / "p.safetensors")
    again = load_predictor(tmp_path / "p.safetensors", trained.space)
    for a, b in zip(trained.predict(unseen), again.predict(unseen), strict=True):
        assert np.array_equal(a, b)
    assert again.report == json.loads(json.dumps(trained.report))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.safetensors"]


def test_the_same_seed_gives_the_same_file(fp32, quantized, tmp_path):
    for name in "ab":
        made = train_predictor(fp32, quantized, compare=False, seed=5)
        made.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_says_what_made_it(trained, fp32, quantized, tmp_path):
    trained.save(tmp_path / "p.safetensors")
    with safe_open(tmp_path / "p.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["apq-predictor"])
    assert about["fingerprint"] == fp32.space.fingerprint
    assert about["report"]["supernet"] == "abc"
    assert about["report"]["seed"] == 3
    assert about["report"]["counts"] == {"fp32": len(fp32), "quantized": len(quantized)}
    assert about["report"]["held_out"]["quantized"]["out of fold"]["rmse"] > 0


def test_another_space_is_refused_side_by_side(trained, tmp_path):
    trained.save(tmp_path / "p.safetensors")
    with pytest.raises(SpaceError, match=r"p\.safetensors") as error:
        load_predictor(tmp_path / "p.safetensors", load_space("cifar10"))
    assert "resolution" in str(error.value)
    assert "8 " in str(error.value)
    assert "32" in str(error.value)


def test_files_that_are_no_predictor_are_refused(trained, tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(ModelError, match="apq train-predictor --out"):
        load_predictor(path)
    trained.save(path)
    whole = path.read_bytes()
    for broken in (b"", whole[:100], whole[: len(whole) // 2], b"\x80\x04" + whole):
        path.write_bytes(broken)
        with pytest.raises(ModelError, match="not a readable safetensors file"):
            load_predictor(path)
    path.write_bytes(whole)
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(ModelError, match="no predictor of apq"):
        load_predictor(path)


def test_a_damaged_or_newer_description_is_refused(trained, tmp_path):
    path = tmp_path / "p.safetensors"
    trained.save(path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["apq-predictor"])
    for change, message in (
        ({"format": FORMAT + 1}, "Upgrade apq"),
        ({"format": FORMAT - 1}, "Train it again"),
        ({"models": [{"kind": "oracle"}]}, "'oracle'"),
        ({"warp": [None]}, r"warp"),
    ):
        save_file(tensors, path, metadata={"apq-predictor": json.dumps(about | change)})
        with pytest.raises(ModelError, match=message):
            load_predictor(path)
    tensors.popitem()
    save_file(tensors, path, metadata={"apq-predictor": json.dumps(about)})
    with pytest.raises(ModelError, match="is damaged"):
        load_predictor(path)


def test_an_fp32_predictor_ignores_bits(fp32, unseen, digits_space):
    predictor = train_predictor(fp32, compare=False)
    moved = unseen.copy()
    block_genes(digits_space, moved)[:, :, 2:] = 0
    assert not predictor.bits
    assert np.array_equal(predictor.predict(unseen)[0], predictor.predict(moved)[0])
    truth = true_accuracy(digits_space, unseen, "fp32")
    assert pairwise_accuracy(predictor.predict(unseen)[0], truth) > 0.9


def test_the_interval_covers_what_it_says(fp32, quantized, unseen, digits_space):
    predictor = train_predictor(fp32, quantized, compare=False)
    mean, spread = predictor.predict(unseen)
    noise = np.random.default_rng(0).normal(scale=0.002, size=len(unseen))
    measured = true_accuracy(digits_space, unseen) + noise
    assert 0.8 < np.mean(np.abs(measured - mean) <= 1.6449 * spread) < 0.99


def test_the_report_sets_the_alternatives_beside_it(fp32, quantized):
    report = train_predictor(fp32, quantized, seed=0).report["held_out"]["quantized"]
    assert set(report) == {
        "out of fold", "transfer", "rescaled fp32", "from scratch", "bits-blind",
        "ridge", "svr", "gp", "boosting",
    }  # fmt: skip
    assert report["transfer"]["pairwise"] > report["bits-blind"]["pairwise"]
    assert report["transfer"]["pairwise"] > report["rescaled fp32"]["pairwise"]
    assert 0 <= report["transfer"]["coverage_90"] <= 1


def test_corrections_that_held_out_rows_do_not_confirm_are_left_out(fp32, digits_space):
    """Where bits do nothing and architectures keep their order, the answer is the rescaled one."""
    rng = np.random.default_rng(0)
    features = SpaceFeatures(digits_space)
    base = training.learn(
        training.data_of(features.inputs(fp32.genes), fp32.accuracy, "fp32"),
        features, PRESETS["default"], bits=False,
    )  # fmt: skip
    genes, new = digits_space.sample(30, rng), digits_space.sample(400, rng)
    known = base.predict(genes)[0]
    few = training.data_of(
        features.inputs(genes), 0.1 + 0.6 * known + 0.01 * rng.normal(size=30), "quantized"
    )
    moved = training.learn(few, features, PRESETS["default"], bits=True, base=base)
    plain = training.rescaled(base, few, features.inputs(new), PRESETS["default"])
    truth = base.predict(new)[0]
    loss = pairwise_accuracy(plain, truth) - pairwise_accuracy(moved.predict(new)[0], truth)
    assert loss < 0.01


def test_without_transfer_it_learns_from_what_it_is_given(quantized):
    predictor = train_predictor(None, quantized, transfer=False, compare=False)
    assert predictor.bits
    assert predictor.report["transfer"] is False
    assert len(predictor.models) == 1


@pytest.mark.parametrize(
    ("accuracy", "message"),
    [
        (np.linspace(0.5, 0.9, 9), r"the fp32 samples: 9 row\(s\); at least 10"),
        (np.full(30, 0.5), "all 30 accuracies equal 0.5"),
        (np.where(np.arange(30) == 4, np.nan, np.linspace(0, 1, 30)), r"1 of 30 .*row 4"),
        (np.where(np.arange(30) == 4, np.inf, np.linspace(0, 1, 30)), r"1 of 30 .*row 4"),
    ],
)
def test_samples_nothing_can_be_learnt_from_are_refused(fp32, accuracy, message):
    with pytest.raises(SamplesError, match=message):
        train_predictor(altered(fp32, accuracy), compare=False)


def test_arguments_that_do_not_fit_are_refused(fp32, quantized, tiny_space):
    with pytest.raises(SamplesError, match="--no-transfer"):
        train_predictor(None, quantized)
    with pytest.raises(SamplesError):
        train_predictor(None)
    with pytest.raises(ApqError, match="Did you mean 'paper'"):
        train_predictor(fp32, preset="papper")
    other = Samples(tiny_space, fp32.frame, {})
    with pytest.raises(SpaceError, match="the quantized samples"):
        train_predictor(fp32, other)


def test_calibration_is_the_order_statistic_of_the_residuals():
    residuals = np.arange(1.0, 20.0)
    factor = training.conformal(np.zeros(19), np.ones(19), residuals)
    assert factor * 1.6449 == pytest.approx(18.0)  # the 18th of 19: ceil(20 * 0.9)


@pytest.mark.parametrize("log", [True, False])
def test_the_warp_goes_there_and_back(log):
    accuracy = np.random.default_rng(0).uniform(0.3, 0.9, 50)
    warp = Warp.of(accuracy, log=log)
    target = warp.to_target(accuracy)
    assert (target.mean(), target.std()) == pytest.approx((0, 1))
    assert (np.diff(target[np.argsort(accuracy)]) > 0).all()
    back, slope = warp.to_accuracy(target, np.full(50, 1e-3))
    np.testing.assert_allclose(back, accuracy)
    step = warp.to_accuracy(target + 1e-3, np.zeros(50))[0] - back
    np.testing.assert_allclose(slope, step, rtol=1e-2)


def test_a_flipped_bit_of_the_shipped_predictor_is_noticed(tmp_path):
    data = (Path(__file__).parents[2] / "data/cifar10/predictor.safetensors").read_bytes()
    path = tmp_path / "predictor.safetensors"
    path.write_bytes(data)
    assert load_predictor(path).report
    for place in np.random.default_rng(0).integers(8, len(data), 12):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(ApqError):
            load_predictor(path)
