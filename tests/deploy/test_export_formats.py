"""A candidate with a scheme per layer, exported: as exact as one of widths."""

from __future__ import annotations

import pytest
from mobilenet import with_bits

from apq.deploy.export import FORMATS, export
from apq.deploy.measure import what_to_measure
from apq.deploy.model import Model, build_network, load_model, save_model
from apq.deploy.verify import verify
from apq.errors import TableError
from apq.space import BitChoices
from apq.supernet import largest
from apq.supernet.evaluate import normalise, recalibrate
from apq.training.feed import to_tensor

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WEIGHTS = ("binary", "ternary", "po2-4", "flightnn-8", "codebook-3", 8)


@pytest.fixture(scope="module")
def model(tiny_space, tiny_supernet, digits):
    bits = BitChoices(WEIGHTS, (4, 8, "mantissa-6"), WEIGHTS, (4, 8))
    space = tiny_space.with_(bits=bits, exclude=())
    top = largest(tiny_space)
    chosen = iter(
        (("ternary", 8, "po2-4", 4), ("po2-4", "mantissa-6", "binary", 8),
         ("flightnn-8", 4, "codebook-3", 8))
    )  # fmt: skip
    candidate = with_bits(top, lambda: next(chosen))
    subnet = tiny_supernet.network.subnet(top)
    calibration = normalise(to_tensor(digits.splits["calibration"][0]), digits.mean, digits.std)
    recalibrate(subnet, calibration)
    network = build_network(space, candidate, "uniform", subnet, calibration)
    recalibrate(network, calibration)
    return Model(network, space, candidate, "uniform", digits.mean, digits.std, digits.classes, {})


@pytest.mark.parametrize("form", ["onnx", "onnx-integer", "torch"])
def test_a_file_gives_the_models_logits(model, digits, tmp_path, form):
    saved = tmp_path / "model.safetensors"
    save_model(saved, model)
    read = load_model(saved)
    assert read.candidate == model.candidate
    path = tmp_path / ("file" + FORMATS[form])
    made = export(read, path, form)
    result = verify(read, path, digits)
    assert result.max_difference < 1e-5
    assert result.agreement == 1
    if form == "torch":  # packed as promised; ONNX has types of 4 and 8 bits only
        most = made.promised_bytes + len(model.network.plan)
        assert made.promised_bytes <= made.weight_bytes <= most


def test_a_runtime_of_bytes_is_not_measured_for_weights_it_runs_in_float(model):
    with pytest.raises(TableError, match=r"\(po2-4\).* would not run in int8.*--precision fp32"):
        what_to_measure(model.space, "int8", "block")
    rows = what_to_measure(model.space, "fp32", "block")
    assert set(rows["weight_bits"]) == {32}
    narrow = model.space.with_(bits=BitChoices(("ternary", 8), (8,), ("binary", 4), (8,)))
    assert set(what_to_measure(narrow, "int8", "block")["weight_bits"]) == {8}
