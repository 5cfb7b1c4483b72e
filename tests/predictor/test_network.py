import numpy as np
import pandas as pd
import pytest
import torch

from apq.predictor.features import SpaceFeatures
from apq.predictor.fitting import answers, folds
from apq.predictor.model import Ensemble
from apq.predictor.network import Network, continued, new_network, train_network
from apq.space import load_space


@pytest.mark.parametrize("name", ["structured", "random"])
def test_the_papers_form_gives_the_published_predictors_answers(shared, name):
    """Weights of APQ's released MLP class, its answers on a thousand candidates."""
    weights = np.load(shared / f"reference/apq/predictor_{name}.npz")
    table = pd.read_parquet(shared / "reference/apq/apq_specs_1000.parquet")
    net = Ensemble(520, 252, hidden=400)
    names = {
        "arch": "layers.0.0", "bits": "quantize_fc", "second": "layers.1.0", "third": "layers.2.0",
        "head": "regressor",
    }  # fmt: skip
    with torch.no_grad():
        for own, theirs in names.items():
            weight = torch.from_numpy(weights[f"{theirs}.weight"].astype(np.float32))
            getattr(net, own).copy_(weight.T[None])
            bias = torch.from_numpy(weights[f"{theirs}.bias"].astype(np.float32))
            getattr(net, f"{own}_bias").copy_(bias[None, None])
    x = np.zeros((len(table), 772), dtype=np.float32)
    for row, hot in zip(x, table["hot_indices"], strict=True):
        row[hot] = 1
    code = torch.from_numpy(x)[None]
    with torch.no_grad():
        found = net(code[:, :, :520], code[:, :, 520:])[0].numpy()
    np.testing.assert_allclose(found, table[f"pred_{name}"], atol=2e-6)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("bits", [True, False])
def test_gathering_equals_multiplying(smooth, bits):
    space = load_space("cifar10")
    features = SpaceFeatures(space, smooth=smooth)
    inputs = features.inputs(space.sample(64, np.random.default_rng(0)))
    network = new_network(features, inputs, bits=bits, hidden=32, members=3, seed=1)
    arch, dense_bits = network.dense(inputs)
    expected = answers(network.ensemble, arch, dense_bits).numpy()
    mean, spread = network.predict(inputs)
    np.testing.assert_allclose(mean, expected.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(spread, expected.std(axis=0, ddof=1), atol=1e-5)


def test_an_fp32_network_goes_on_with_its_weights_and_a_map_of_bits():
    space = load_space("digits")
    features = SpaceFeatures(space, smooth=False)
    inputs = features.inputs(space.sample(8, np.random.default_rng(0)))
    base = new_network(features, inputs, bits=False, hidden=16, members=2, seed=0)
    moved = continued(base, features, inputs, bits=True)
    assert moved.ensemble.bits is not None
    assert base.ensemble.bits is None
    own, old = moved.ensemble.state_dict(), base.ensemble.state_dict()
    assert all(torch.equal(own[name], old[name]) for name in old)
    with torch.no_grad():
        moved.ensemble.second.zero_()
    assert not torch.equal(base.ensemble.second, moved.ensemble.second)


def test_parts_leave_out_each_row_once_and_whole_blocks():
    blocks = np.repeat(np.arange(40), 3)
    parts = folds(blocks, 5, seed=0)
    assert np.array_equal(parts.sum(axis=0), np.ones(120))
    for part in parts:
        assert set(blocks[part]).isdisjoint(blocks[~part])


def test_training_learns_and_reports_rows_it_did_not_see():
    rng = np.random.default_rng(0)
    space = load_space("digits")
    features = SpaceFeatures(space)
    inputs = features.inputs(space.sample(200, rng))
    target = inputs.arch[:, -8:].sum(axis=1).astype(np.float64)
    target = (target - target.mean()) / target.std()
    network = new_network(features, inputs, bits=False, hidden=32, members=5, seed=0)
    trained, held, spread = train_network(
        network, inputs, target, np.arange(200), updates=200, rank_weight=0.3, seed=0
    )
    assert isinstance(trained, Network)
    assert np.isfinite(held).all()
    assert np.mean((held - target) ** 2) < 0.1
    assert trained.floor == pytest.approx(np.sqrt(np.mean((held - target) ** 2)))
    assert (spread >= trained.floor).all()
