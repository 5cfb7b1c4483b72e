"""One training in several processes."""

from __future__ import annotations

import json
import os
import signal
import socket

import numpy as np
import pytest
import torch
from commands import run
from torch import nn

from apq.errors import ApqError
from apq.images import load_images
from apq.space import load_space
from apq.supernet import evaluate, largest, training
from apq.supernet.evaluate import EvalImages, normalise
from apq.supernet.training import Recipe, train
from apq.training.ranks import Ranks, joined
from apq.workers import default_workers

RECIPE = Recipe(
    epochs=0.8, batch=65, lr=0.01, cutmix=0.5, average=0.2, phases=("largest", "kernel", "width")
)
"""Batches that do not divide by two, in a few steps of every kind."""


def start(number, port, checkpoint):
    """A forked process that trains with another; importing again would take longest of all.

    Returns:
        Its id and what it prints: a loss per step, or a sentence.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child:
        os.close(theirs)
        return child, open(ours)
    try:
        os.environ |= {
            "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        with open(theirs, "w") as out:
            try:
                with joined("cpu") as device:
                    curve(checkpoint, lambda said: print(json.dumps(said), file=out, flush=True),
                          device)  # fmt: skip
            except ApqError as error:
                print(json.dumps(str(error)), file=out, flush=True)
    finally:
        os._exit(0)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def curve(checkpoint=None, tell=None, device="cpu"):
    """Losses of a training, and what the largest network then answers."""
    space, digits = load_space("digits"), load_images("digits", 8, 1, 10)
    losses = []

    def report(step, total, figures):
        losses.append(figures["loss"])
        if tell is not None:
            tell(figures["loss"])

    network, _ = train(space, digits, RECIPE, checkpoint, 0.0, (), report, device)
    data = EvalImages.of(digits, digits.mean, digits.std)
    with torch.no_grad():
        return losses, network(data.images, largest(space))


@pytest.fixture
def in_float64(monkeypatch):
    """Nothing but rounding tells several processes from one, and float32's grows: a rounding that
    moves one activation over an edge changes losses by a hundredth some steps later."""
    for module in (training, evaluate):
        monkeypatch.setattr(module, "normalise", lambda *x: normalise(*x).double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch does not fork beside a GPU")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_have_the_losses_of_one_and_one_goes_on_when_the_other_is_killed(
    tmp_path, in_float64
):
    checkpoint = tmp_path / "checkpoint.safetensors"
    alone, answers = curve()
    port = free_port()
    (first, said), (second, other) = (start(number, port, checkpoint) for number in (0, 1))
    shared = []
    with said, other:
        for line in said:
            shared.append(json.loads(line))
            if len(shared) == 6:
                os.kill(second, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(second, 0)[1])
    os.waitpid(first, 0)
    *shared, end = shared
    assert "another process of this training has ended" in end
    assert "continues from the checkpoint" in end
    assert 6 <= len(shared) < len(alone)
    np.testing.assert_allclose(shared, alone[: len(shared)], rtol=1e-9)
    rest, continued = curve(checkpoint)  # the running mean of losses begins anew
    assert len(rest) == len(alone) - len(shared)
    torch.testing.assert_close(continued, answers, rtol=0, atol=1e-6)


def test_parts_of_a_batch_are_all_of_it():
    for count in (1, 2, 3, 8):
        rows = [i for number in range(count) for i in range(20)[Ranks(number, count).part(20)]]
        assert rows == [*range(20)]


def test_alone_nothing_is_exchanged():
    alone = Ranks.here()
    assert (alone.first, alone.count) == (True, 1)
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    alone.sum_gradients(model)
    assert model.weight.grad.tolist() == [[1, 1]]
    with joined("cpu") as device:
        assert device == "cpu"


def test_processes_of_torchrun_share_cores_and_are_told_what_works_in_them(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"),
                        ("LOCAL_WORLD_SIZE", "1000"), ("MASTER_ADDR", "localhost")):  # fmt: skip
        monkeypatch.setenv(name, value)
    assert default_workers() == 1
    with pytest.raises(AssertionError, match="only train-supernet works together"):
        run("space", "show", "--space", "digits")
    with pytest.raises(ApqError, match="each takes a GPU of its own"), joined("cpu:1"):
        pass
