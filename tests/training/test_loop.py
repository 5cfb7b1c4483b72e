"""The loop every training goes through, and the devices it runs on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from apq.errors import ApqError, ModelError
from apq.images import load_images
from apq.space import load_space
from apq.supernet.training import Recipe, train
from apq.training import Training, autocast, find_device, sgd


def _line(path=None, identity=None):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    return Training(model, sgd(model, 0.1, 0.01), path, identity or {"line": 1}, {"best": {}})


def _fit(training, total, after=None, tell=None):
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])

    def step(number):
        part = slice(number % 4 * 16, number % 4 * 16 + 16)
        loss = (training.model(x[part]) - y[part]).square().mean()
        training.backward(loss)
        return float(loss.detach())

    training.run(total, lambda number: 0.1 / (1 + number), step, after, tell, 0.0)
    return training.model.weight.detach().clone()


def test_stopped_after_any_step_it_ends_with_the_same_weights(tmp_path):
    whole = _fit(_line(), 8)
    for stop in range(1, 8):
        path = tmp_path / f"{stop}.safetensors"
        _fit(_line(path), stop)
        assert torch.equal(_fit(_line(path), 8), whole)


def test_what_is_measured_and_what_it_cost_survive(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    first = _line(path)
    sum(range(2_000_000))  # work that the clock can see
    _fit(first, 2, after=lambda done: first.scores.append(done / 10) or True)
    again = _line(path)
    assert (again.step, again.scores) == (2, [0.1, 0.2])
    assert again.cost()["cpu_s"] > 0
    with pytest.raises(ModelError, match=r"another training: its line is 1, this one's is 2"):
        _line(path, {"line": 2})


def test_a_loss_that_is_no_number_changes_no_weights():
    training = _line()
    before = training.model.weight.detach().clone()

    def step(_):
        training.backward(training.model(torch.ones(1, 3)).sum())
        return float("nan")

    with pytest.raises(ModelError, match="diverged at step 0"):
        training.run(3, lambda _: 0.1, step)
    assert torch.equal(training.model.weight, before)


def test_ranges_and_biases_are_not_decayed():
    model = nn.Module()
    model.weight, model.bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    model.weights = nn.Module()
    model.weights.scale = nn.Parameter(torch.ones(2, 1))
    decayed, rest = sgd(model, 0.1, 0.5).param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 2)]
    assert decayed["weight_decay"] == 0.5
    assert len(rest["params"]) == 2
    assert rest["weight_decay"] == 0


def test_a_device_that_is_not_there_is_refused_in_words():
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ApqError, match="Did you mean 'cuda'"):
        find_device("cudo")
    with pytest.raises(ApqError, match=r"has no device 'cuda:99'.*it\s+has: cpu"):
        find_device("cuda:99")
    with pytest.raises(ApqError, match="write cuda:0"):
        find_device("cuda:first")


def test_mixed_precision_learns_as_float32_does():
    space = load_space("digits")
    digits = load_images("digits", space.resolution, space.in_channels)
    found = {}
    for precision in ("fp32", "bf16"):
        recipe = Recipe(epochs=4, batch=64, phases=("largest",), precision=precision)
        network, made = train(space, digits, recipe)
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        found[precision] = made["validation_accuracy"]["largest"]
    assert found["fp32"] > 0.6
    assert found["bf16"] == pytest.approx(found["fp32"], abs=0.15)
    with pytest.raises(ApqError, match="Known: bf16, fp16, fp32"):
        autocast(torch.device("cpu"), "int8")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")
def test_a_gpu_answers_as_the_processor(tmp_path):
    from apq.accuracy import Quantization
    from apq.collect import collect
    from apq.samples import read_samples
    from apq.supernet.training import train_supernet

    space = load_space("digits")
    digits = load_images("digits", space.resolution, space.in_channels)
    file = train_supernet(space, digits, tmp_path / "net.safetensors", Recipe(epochs=4, batch=64))
    for how in (None, Quantization(finetune_steps=0)):
        found = {}
        for device in ("cpu", "cuda"):
            folder = tmp_path / f"{device}-{how is None}"
            collect(file, digits, folder, 10, how, device=device)
            found[device] = read_samples(folder).accuracy
        assert found["cuda"] == pytest.approx(found["cpu"], abs=0.006)  # two images of 359
