"""TFLite files: LiteRT computes what evaluation did, to the bit where its kernels are exact."""

import numpy as np
import pytest
import torch
from mobilenet import with_bits
from small_families import SMALL

from apq.deploy.export import export
from apq.deploy.micro import bytes_of
from apq.deploy.model import Model, build_network
from apq.deploy.verify import verify
from apq.errors import ModelError
from apq.quantize import quantize_subnet
from apq.quantize.integer import run
from apq.runtime.flatbuffer import ALIGNED
from apq.runtime.folded import fold
from apq.runtime.tflite_graph import pack_halves, tflite_model
from apq.space import BitChoices
from apq.supernet import Subnet, largest
from apq.supernet.evaluate import normalise, recalibrate
from apq.training.feed import to_tensor

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
from apq.runtime.litert import open_litert  # noqa: E402

EACH = {
    "w8a8": ((8, 8, 8, 8),) * 3,
    "w4a8": ((4, 8, 4, 8),) * 3,
    "mixed": ((2, 4, 6, 8), (8, 6, 4, 2), (4, 8, 2, 6)),
}


def quantized(tiny_space, tiny_supernet, digits, each, scheme="uniform", bits=None):
    """The largest subnet, its blocks with these bits."""
    bits = bits or BitChoices(*[(2, 4, 6, 8)] * 4)
    space, top = tiny_space.with_(bits=bits, exclude=()), largest(tiny_space)
    chosen = iter(each)
    subnet = tiny_supernet.network.subnet(top)
    candidate = with_bits(top, lambda: next(chosen))
    calibration = normalise(to_tensor(digits.splits["calibration"][0]), digits.mean, digits.std)
    recalibrate(subnet, calibration)
    network = build_network(space, candidate, scheme, subnet, calibration)
    recalibrate(network, calibration)
    network.eval()
    return Model(network, space, candidate, scheme, digits.mean, digits.std, digits.classes, {})


@pytest.mark.parametrize("name", EACH)
def test_xnnpack_gives_the_bits_of_evaluation_from_whole_bytes(
    tiny_space, tiny_supernet, digits, tmp_path, name
):
    model = quantized(tiny_space, tiny_supernet, digits, EACH[name])
    path = tmp_path / "model.tflite"
    made = export(model, path, "tflite", whole_bytes=True)
    result = verify(model, path, digits)
    assert result.agreement == 1
    # the step of the file's logits: a processor's own last digits may put one on the other side
    assert result.differing < 0.01
    assert result.accuracy == result.model_accuracy
    assert made.micro.coarse_bias < 0.02
    assert result.tolerance < 0.01


@pytest.mark.parametrize("name", ["w4a8", "mixed"])
def test_weights_of_four_bits_lie_in_halves_of_bytes(
    tiny_space, tiny_supernet, digits, tmp_path, name
):
    model = quantized(tiny_space, tiny_supernet, digits, EACH[name])
    sizes = {}
    for whole in (False, True):
        path = tmp_path / f"{whole}.tflite"
        made = export(model, path, "tflite", whole_bytes=whole)
        sizes[whole] = made.weight_bytes
        assert verify(model, path, digits, limit=100).agreement >= 0.9
    narrow = sum(part.weight.numel() for layer, part in model.network.layers() if layer.weight <= 4)
    assert sizes[True] - sizes[False] == narrow // 2
    if name == "w4a8":  # the classifier's biases take 8 bytes; nothing else is more than promised
        assert sizes[False] - made.promised_bytes <= 4 * 10 + 8


def test_the_built_in_kernels_round_isolated_values_otherwise(
    tiny_space, tiny_supernet, digits, tmp_path
):
    model = quantized(tiny_space, tiny_supernet, digits, EACH["w8a8"])
    path = tmp_path / "model.tflite"
    export(model, path, "tflite")
    for kernels in ("builtin", "reference"):
        assert verify(model, path, digits, 100, {"kernels": kernels}).agreement >= 0.97
    with pytest.raises(ModelError, match="only kernels"):
        verify(model, path, digits, options={"session.x": "1"})


@pytest.mark.parametrize("family", SMALL)
def test_every_family_runs(family):
    space = SMALL[family]
    candidate = space.build(space.sample(3, np.random.default_rng(1))[2])
    graph = space.graph_of(candidate)
    generator = torch.Generator().manual_seed(0)
    side = int(graph.side)
    x = torch.randn(60, space.in_channels, side, side, generator=generator)
    torch.manual_seed(0)
    subnet = Subnet(space, candidate).eval()
    network = quantize_subnet(subnet, graph, x, "uniform").eval()
    made = tflite_model(fold(network), (1, space.in_channels, side, side), {}, whole_bytes=True)
    with torch.no_grad():
        want = network(x).numpy()
    runner, _ = open_litert(made.data)
    off = np.abs(runner(x.numpy()) - want).max(axis=1)
    assert np.median(off) <= runner.step  # ties between levels apart, to the bit
    assert (off > runner.step).mean() <= 0.1


def test_halves_of_bytes_begin_with_the_low_one():
    assert pack_halves(np.array([1, -1, 7], dtype=np.int8)) == bytes([0xF1, 0x07])


def test_buffers_begin_where_devices_may_read_them(tiny_space, tiny_supernet, digits, tmp_path):
    model = quantized(tiny_space, tiny_supernet, digits, EACH["mixed"])
    made = tflite_model(fold(model.network), (1, 1, 8, 8), {})
    from ai_edge_litert.schema_py_generated import Model as Read

    read = Read.GetRootAs(made.data)
    for i in range(read.BuffersLength()):
        data = read.Buffers(i).DataAsNumpy()
        if isinstance(data, np.ndarray):
            whole = np.frombuffer(made.data, dtype=np.uint8)
            start = data.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
            assert start % ALIGNED == 0


def test_c_source_holds_the_same_file_and_names_what_to_register(
    tiny_space, tiny_supernet, digits, tmp_path
):
    model = quantized(tiny_space, tiny_supernet, digits, EACH["w4a8"])
    export(model, tmp_path / "model.tflite", "tflite")
    made = export(model, tmp_path / "model.c", "c")
    text = (tmp_path / "model.c").read_text()
    assert bytes_of(text, "") == (tmp_path / "model.tflite").read_bytes()
    assert "resolver.AddDepthwiseConv2D();" in text
    assert f"Resolver<{len(made.micro.operators)}>" in text
    assert verify(model, tmp_path / "model.c", digits, limit=50).agreement >= 0.9
    (tmp_path / "model.c").write_text(text.replace("0x", "", 1))
    with pytest.raises(ModelError, match="is not what apq export --format c writes"):
        verify(model, tmp_path / "model.c", digits, limit=50)


def test_what_tflite_cannot_hold_is_refused_in_words(tiny_space, tiny_supernet, digits, tmp_path):
    bits = BitChoices(("codebook-3", "po2-4"), (8,), ("codebook-3", "po2-4"), (8,))

    def write(words, scheme="uniform", bits=bits, **options):
        model = quantized(tiny_space, tiny_supernet, digits, (words,) * 3, scheme, bits)
        return export(model, tmp_path / "model.tflite", "tflite", **options)

    with pytest.raises(ModelError, match="no whole multiples"):
        write(("codebook-3", 8, "codebook-3", 8))
    assert write(("po2-4", 8, "po2-4", 8)).file_bytes > 0
    with pytest.raises(ModelError, match="fixed batch"):
        write(("po2-4", 8, "po2-4", 8), batch=None)
    eight = BitChoices((8,), (8,), (8,), (8,))
    with pytest.raises(ModelError, match="this network is float"):
        write((8, 8, 8, 8), "fp32", eight)
    with pytest.raises(ModelError, match="signs of activations"):
        write((1, 1, 1, 1), "binary", BitChoices((1,), (1,), (1,), (1,)))
    made = tflite_model(
        fold(quantized(tiny_space, tiny_supernet, digits, EACH["w8a8"]).network), (1, 1, 8, 8), {}
    )
    (tmp_path / "cut.tflite").write_bytes(made.data[:3000])
    with pytest.raises(ModelError, match="LiteRT cannot load"):
        open_litert(tmp_path / "cut.tflite")


def test_pools_and_joins_of_random_networks_agree():
    from apq.deploy.graphs import graph_steps
    from apq.space.graph import Graph, Node

    graph = Graph((
        Node("image", "image", channels=3, side=9),
        Node("a", "conv", ("image",), 8, 3, 2, act="relu"),
        Node("p", "maxpool", ("a",), 8, 3, 2),
        Node("b", "conv", ("p",), 8, 3), Node("c", "conv", ("p",), 4, 1),
        Node("j", "concat", ("b", "c"), 12), Node("d", "conv", ("j",), 8, 1, act="relu6"),
        Node("m", "pool", ("d",), 8), Node("fc", "linear", ("m",), 5),
    ))  # fmt: skip
    steps = graph_steps(graph, "int8", 0)
    x = torch.randn(20, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    runner, _ = open_litert(tflite_model(steps, (1, 3, 9, 9), {}).data)
    assert np.abs(runner(x.numpy()) - run(steps, x).numpy()).max() <= runner.step
