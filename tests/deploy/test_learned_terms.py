"""FLightNN's strength and the distribution loss, from the command line to what they change."""

import json

import numpy as np
import pytest
import torch
from commands import figures
from typer.testing import CliRunner

from apq.cli import app
from apq.deploy.model import Model, load_model, size_bytes
from apq.deploy.terms import price_tuned, terms_by_layer
from apq.errors import ApqError
from apq.hardware import load_cost_model, price_space
from apq.quantize import quantize_subnet
from apq.quantize.distribution import BinaryInputs
from apq.quantize.schemes import find_scheme
from apq.space import BitChoices
from apq.space.layer import to_array
from apq.supernet import Supernet, largest
from apq.supernet.evaluate import normalise
from apq.supernet.files import save_supernet
from apq.training.feed import to_tensor


@pytest.fixture(scope="module")
def folder(tiny_supernet, tiny_space, tmp_path_factory):
    """A supernet whose blocks may have 1 or 8 bits, and a candidate of each."""
    folder = tmp_path_factory.mktemp("terms")
    wide = Supernet(tiny_space.with_(bits=BitChoices(*[(1, 8)] * 4), exclude=()))
    wide.load_state_dict(tiny_supernet.network.state_dict())
    made = {"mean": tiny_supernet.mean, "std": tiny_supernet.std}
    save_supernet(folder / "supernet.safetensors", wide, made)
    eight = largest(wide.space)
    one = eight.with_(**{name: 1 for name, _ in eight.choices if "_bits" in name})
    for name, candidate in (("eight", eight), ("one", one)):
        (folder / f"{name}.json").write_text(json.dumps({"candidate": candidate.to_dict()}))
    return folder


def words(folder, name, *more):
    return [
        "finetune", "--candidate", folder / f"{name}.json", "--epochs", 1, "--batch", 64,
        "--supernet", folder / "supernet.safetensors", "--images", "digits", "--lr", 0.05,
        "--no-distil", "--out", folder / "model.safetensors", *more,
    ]  # fmt: skip


@pytest.fixture
def untrained(tiny_supernet, tiny_space):
    """The largest candidate in flightnn-8, not trained: two powers in every filter."""
    space = tiny_space.with_(
        bits=BitChoices(("flightnn-8",), (8,), ("flightnn-8",), (8,)), exclude=()
    )
    subnet = tiny_supernet.network.subnet(largest(tiny_space))
    network = quantize_subnet(subnet, space.graph_of(largest(space)), None, "uniform")
    return Model(network, space, largest(space), "uniform", (0.0,), (1.0,), (), {})


def test_strength_is_typed_and_saves_powers_of_two(folder, untrained):
    made = figures(*words(folder, "eight", "--scheme", "flightnn@0.05", "--lut", "horowitz"))
    model, device = load_model(folder / "model.safetensors"), load_cost_model("horowitz")
    assert made["terms"] == np.sum([*terms_by_layer(model).values()], axis=0).tolist()
    assert made["terms"][1] > 0
    assert made["size_bytes"] == size_bytes(model.network) < size_bytes(untrained.network)
    assert made["priced"] == price_tuned(model, device)
    assert made["priced"]["energy_mj"] < price_tuned(untrained, device)["energy_mj"]


@pytest.mark.parametrize("pruned", [False, True])
def test_filters_alike_cost_what_their_format_costs(untrained, pruned):
    """With two powers everywhere the price is that of flightnn-8; without any, of the rest."""
    device, space = load_cost_model("horowitz"), untrained.space
    costs = price_space(space, device).costs(space.genes([untrained.candidate]))["energy_mj"][0]
    counts = terms_by_layer(untrained)
    if pruned:
        for _, part in untrained.network.layers():
            if hasattr(part.weights, "thresholds"):
                part.weights.thresholds.data.fill_(1e9)
        graph = space.graph_of(untrained.candidate)
        layers = zip(graph.priced, space.layers(untrained.candidate), strict=True)
        flight = to_array([layer for node, layer in layers if node.name in counts])
        costs -= device.price(flight)["energy_mj"].sum()
    assert price_tuned(untrained, device)["energy_mj"] == pytest.approx(costs)


def test_strength_holds_for_formats_that_the_candidate_names():
    assert find_scheme("flightnn@0.03").strengths == (0.0, 0.03)
    for wrong in ("flightnn@-1", "flightnn@much", "flightnn@nan"):
        with pytest.raises(ApqError, match="a number, 0 or above"):
            find_scheme(wrong)
    with pytest.raises(ApqError, match="flightnn has a strength"):
        find_scheme("uniform@0.1")


def test_distribution_loss_spreads_what_becomes_one_bit(folder, digits):
    images = normalise(to_tensor(digits.splits["test"][0][:200]), digits.mean, digits.std)
    lost = []
    for weight in (0, 2):
        figures(*words(folder, "one", "--scheme", "binary", "--distribution-loss", weight))
        network = load_model(folder / "model.safetensors").network
        listener = BinaryInputs(network)
        with torch.no_grad():
            network.simulate(images)
        lost.append(float(listener.collect()))
    assert lost[1] < 0.9 * lost[0]


def test_distribution_loss_without_a_single_bit_is_refused(folder):
    asked = [str(word) for word in words(folder, "eight", "--distribution-loss", 2)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 1
    assert "activations of 1 bit" in result.output
