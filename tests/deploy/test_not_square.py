"""Images that are not square, and strides that differ by direction: from a network to its files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from apq.deploy.export import FORMATS, export
from apq.deploy.finetune import FinetuneRecipe, finetune_candidate
from apq.deploy.graphs import network_model
from apq.deploy.model import Model
from apq.deploy.verify import verify
from apq.errors import SpaceError
from apq.images import ImageSet, load_images
from apq.space import load_space
from apq.space.describe import to_toml
from apq.space.layer import macs, to_array
from apq.supernet import load_supernet, save_supernet
from apq.supernet.correct import corrected, measure_original
from apq.supernet.evaluate import normalise
from apq.supernet.supernet import largest, smallest
from apq.supernet.trace import TracedNetwork, trace
from apq.training.feed import to_tensor

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIZE = 13, 24


def layer(before: int, after: int, kernel: int, stride: int | tuple[int, int], groups: int = 1,
          padding: int | None = None) -> list[nn.Module]:  # fmt: skip
    edge = kernel // 2 if padding is None else padding
    conv = nn.Conv2d(before, after, kernel, stride, edge, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.ReLU()]


def lines() -> nn.Module:
    """Strides 2x1 of a full and of a depthwise convolution and of single pixels, and one without
    padding."""
    torch.manual_seed(0)
    return nn.Sequential(
        *layer(1, 16, 3, 2), *layer(16, 16, 5, (2, 1), groups=16), *layer(16, 24, 1, (1, 2)),
        *layer(24, 16, 3, (1, 2), padding=0), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return lines()


@pytest.fixture(scope="module")
def traced(network) -> TracedNetwork:
    return trace(network, torch.zeros(2, 1, *SIZE), "lines")


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load_images("digits", SIZE, 1, 10)


@pytest.fixture(scope="module")
def model(traced, images, tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp("lines")
    about = {"mean": images.mean, "std": images.std, "channels_sorted": True}
    save_supernet(folder / "supernet.safetensors", traced.supernet, about)
    supernet = load_supernet(folder / "supernet.safetensors")
    recipe = FinetuneRecipe(epochs=0)
    made, _ = finetune_candidate(
        largest(traced.space), supernet, images, folder / "m.safetensors", recipe
    )
    return made


def test_images_have_the_size_of_the_space(traced, images):
    assert traced.space.image_size == SIZE
    assert images.splits["test"][0].shape[1:] == (*SIZE, 1)
    assert images.digest() != load_images("digits", 13, 1).digest()


def test_shapes_and_multiplications_are_those_of_torch(network, traced):
    space = traced.space
    assert [node.op for node in space.graph.nodes].count("conv") == 4
    seen: list[tuple[tuple[int, ...], int]] = []
    hooks = [
        m.register_forward_hook(
            lambda m, _, y: seen.append((tuple(y.shape[2:]), y[0].numel() * m.weight[0].numel()))
        )
        for m in network if isinstance(m, nn.Conv2d)
    ]  # fmt: skip
    network(torch.zeros(1, 1, *SIZE))
    for hook in hooks:
        hook.remove()
    graph = space.graph_of(largest(space))
    convolutions = [node for node in graph.nodes if node.op == "conv"]
    assert [graph.sides()[node.name] for node in convolutions] == [shape for shape, _ in seen]
    priced = macs(to_array(list(space.layers(largest(space)))))
    assert priced[:4].tolist() == [work for _, work in seen]


def test_subnets_run_alike_in_place_and_cut_out(traced):
    x = torch.randn(3, 1, *SIZE)
    for choose in (largest, smallest):
        candidate = choose(traced.space)
        with torch.no_grad():
            own = traced.supernet.subnet(candidate).eval()(x)
            torch.testing.assert_close(own, traced.supernet.eval()(x, candidate))


def test_a_cut_network_is_refitted(traced, images):
    pixels = to_tensor(images.splits["calibration"][0][:64])
    seen = normalise(pixels, images.mean, images.std)
    original = measure_original(traced.supernet, seen)
    candidate = smallest(traced.space)
    with torch.no_grad():
        wanted = traced.supernet.subnet(largest(traced.space)).eval()(seen)
        cut = traced.supernet.subnet(candidate).eval()(seen)
        fitted = corrected(traced.supernet, candidate, original)(seen)
    assert (fitted - wanted).abs().mean() < (cut - wanted).abs().mean()


def test_the_space_survives_its_file(traced, tmp_path):
    text = to_toml(traced.space.to_dict())
    (tmp_path / "lines.toml").write_text(text)
    again = load_space(str(tmp_path / "lines.toml"))
    assert again.fingerprint == traced.space.fingerprint
    (tmp_path / "three.toml").write_text(text.replace("stride = [2, 1]", "stride = [2, 1, 1]"))
    with pytest.raises(SpaceError, match=r"stride.*or two"):
        load_space(str(tmp_path / "three.toml"))


@pytest.mark.parametrize("form", ["onnx", "onnx-integer", "torch", "tflite"])
def test_files_give_the_models_logits(model, images, tmp_path, form):
    path = tmp_path / ("file" + FORMATS[form])
    if form == "tflite":
        pytest.importorskip("ai_edge_litert")
    export(model, path, form)
    checked = verify(model, path, images, limit=40)
    assert checked.max_difference <= checked.tolerance
    assert checked.agreement == 1


def test_training_sees_what_evaluation_does(model, images):
    x = normalise(to_tensor(images.splits["test"][0][:16]), images.mean, images.std)
    with torch.no_grad():
        assert (model.network.simulate(x) - model.network(x)).abs().max() < 0.1


def test_what_is_timed_has_the_networks_shapes(traced):
    import onnxruntime

    made = network_model(traced.space, largest(traced.space), "int8")
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    out = session.run(None, {"image": np.zeros((1, 1, *SIZE), np.float32)})[0]
    assert out.shape == (1, 10)
