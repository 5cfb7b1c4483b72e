"""Samples of subnets that are refitted instead of trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import resnet
from small_families import resolutions

from apq.accuracy import Quantization
from apq.collect import collect
from apq.errors import ModelError, SamplesError
from apq.images import load_images
from apq.plan import one_at_a_time, plan
from apq.predictor import train_predictor
from apq.samples import read_samples
from apq.supernet import Supernet, SupernetFile
from apq.supernet.correct import Corrector, corrected, measure_original
from apq.supernet.evaluate import EvalImages, normalise
from apq.supernet.statistics import absorb_statistics
from apq.supernet.supernet import largest
from apq.supernet.trace import trace
from apq.training.feed import to_tensor


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", 8, 1, 10)


@pytest.fixture(scope="module")
def supernet(digits) -> SupernetFile:
    """A network that was trained for a moment, traced."""
    torch.manual_seed(0)
    network = resnet()
    pixels, labels = digits.splits["train"]
    x, y = normalise(to_tensor(pixels), digits.mean, digits.std), torch.from_numpy(labels)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for pick in torch.randperm(len(y)).split(64) * 2:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(x[pick]), y[pick]).backward()
        optimiser.step()
    made = trace(network.eval(), x[:2], "own").supernet
    return SupernetFile(made, digits.mean, digits.std, "own", {"traced": "own"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, supernet, digits):
    """A dozen fp32 and four quantized samples."""
    path = tmp_path_factory.mktemp("corrected")
    few = {"validation_images": 100, "calibration_images": 100, "corrected": True}
    collect(supernet, digits, path / "fp32", 12, **few)
    collect(supernet, digits, path / "quantized", 4, Quantization(finetune_steps=0), **few)
    return path


def test_the_plan_begins_with_the_whole_network_and_one_gene_at_a_time(supernet):
    space = supernet.network.space
    bits = np.array([axis.is_format for axis in space.axes])
    for quantized in (False, True):
        rows = plan(space, 200, 0, quantized, corrected=True)
        assert len(np.unique(rows, axis=0)) == 200
        assert space.is_valid(rows).all()
        assert (plan(space, 60, 0, quantized, corrected=True) == rows[:60]).all()
        top = largest(space)
        assert space.build(rows[0]) == top
        first = {row.tobytes() for row in one_at_a_time(space, quantized)}
        assert {row.tobytes() for row in rows[: len(first)]} == first
        if quantized:
            assert {int((row != rows[0]).sum()) for row in rows[1 : len(first)]} == {1}
    architectures = plan(space, 300, 0, False, corrected=True)[:, ~bits]
    kept = (architectures == (space.cardinalities - 1)[~bits]).mean(axis=1)
    assert (kept < 0.5).any()
    assert (kept > 0.8).sum() > 30


def test_samples_say_that_they_are_corrected_and_kinds_do_not_mix(folder, supernet, digits):
    samples = read_samples(folder / "fp32")
    assert samples.corrected
    assert read_samples(folder / "quantized").corrected
    with pytest.raises(SamplesError, match=r"made differently(.|\n)*corrected"):
        collect(
            supernet, digits, folder / "fp32", 30, validation_images=100, calibration_images=100
        )
    plain = folder / "plain"
    how = Quantization(finetune_steps=0)
    few = {"validation_images": 100, "calibration_images": 100}
    collect(supernet, digits, plain, 2, how, **few)
    with pytest.raises(SamplesError, match=r"different things(.|\n)*corrected"):
        train_predictor(samples, read_samples(plain), compare=False)


def test_the_whole_network_is_measured_as_it_is(folder, supernet, digits):
    samples = read_samples(folder / "fp32")
    pixels, labels = digits.splits["validation"]
    whole = supernet.network.subnet(largest(supernet.network.space)).eval()
    x = normalise(to_tensor(pixels[:]), digits.mean, digits.std)
    with torch.no_grad():
        right = (whole(x).argmax(1).numpy() == labels).mean()
    assert samples.accuracy[0] == pytest.approx(right, abs=0.03)  # a hundred drawn images
    predictor = train_predictor(samples, compare=False)
    assert predictor.report["corrected"]
    assert predictor.report["original_accuracy"] == samples.accuracy[0]


def test_one_architecture_is_corrected_once_and_as_alone(supernet, digits):
    network, space = supernet.network, supernet.network.space
    data = EvalImages.of(digits, digits.mean, digits.std)
    images = data.calibration[:128]
    corrector = Corrector(network, images)
    row = space.sample(1, np.random.default_rng(3))[0]
    other = row.copy()
    bits = [i for i, axis in enumerate(space.axes) if axis.is_format]
    other[bits] = 0
    first, second = (
        corrector.subnet(space.build(r)) for r in (row, space.canonical(other[None])[0])
    )
    with torch.no_grad():
        assert torch.equal(first(images), second(images))
        before = network.state_dict()["0.0.bn.running_mean"].clone()
        absorbed = trace_copy(network)
        absorb_statistics(absorbed, images)
        alone = corrected(absorbed, space.build(row), measure_original(absorbed, images))
        torch.testing.assert_close(alone(images), first(images))
    assert torch.equal(before, network.state_dict()["0.0.bn.running_mean"])


def trace_copy(network: Supernet) -> Supernet:
    copy = Supernet(network.space).eval()
    copy.load_state_dict(network.state_dict())
    return copy


def test_spaces_of_several_image_sizes_are_refused():
    space = resolutions()
    with pytest.raises(ModelError, match="chooses the size of images"):
        Corrector(Supernet(space), torch.zeros(4, space.in_channels, 8, 8))
