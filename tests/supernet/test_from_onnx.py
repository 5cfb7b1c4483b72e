"""Networks from ONNX files: what is read is what onnxruntime runs, whole and cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from commands import figures
from masked_original import candidates, gap, masked
from onnx import TensorProto, helper
from onnx_networks import Written, lines

from apq.errors import ModelError
from apq.space import load_space
from apq.supernet import load_supernet
from apq.supernet.imported import OnnxNetwork, difference, read_onnx
from apq.supernet.supernet import largest
from apq.supernet.trace import TracedNetwork, trace


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[OnnxNetwork, TracedNetwork]:
    network = read_onnx(lines(tmp_path_factory.mktemp("onnx")), (1, 8, 8))
    return network, trace(network, torch.zeros(2, 1, 8, 8), sort=False)


def images(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("apart", [True, False])
def test_it_gives_what_onnxruntime_gives(apart, tmp_path):
    path = lines(tmp_path, apart)
    network = read_onnx(path, (1, 8, 8))
    found = difference(network, path)
    assert found is not None
    assert found < 1e-5
    assert network.notes == (("the network", "its last Softmax is left out: it gives logits"),)


def test_every_operation_gets_a_kind_of_its_own(both):
    _, traced = both
    ops = [node.op for node in traced.space.graph.nodes]
    assert "torch" not in ops
    assert (ops.count("scale"), ops.count("linear"), ops.count("act")) == (1, 3, 3)
    widths = [axis for axis in traced.space.axes if axis.attribute.endswith("width")]
    # the residual's, the squeeze's, and that of the last convolution
    assert [axis.choices[-1] for axis in widths] == [16, 8, 32]
    assert [name for name, _ in traced.kept] == [traced.space.graph.nodes[-1].name]


def test_subnets_are_the_masked_original(both):
    network, traced = both
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(traced.supernet(x, largest(traced.space)), network(x))
        for candidate in candidates(traced.space):
            oracle = masked(network, traced.space, traced.space.chosen(candidate))
            assert oracle is not None
            assert gap(oracle(x), traced.supernet.subnet(candidate).eval()(x)) < 1e-5


def _pools(net: Written) -> str:
    x = net.node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    x = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[1, 1], auto_pad="VALID")
    return net.node("GlobalMaxPool", net.node("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2],
                                              pads=[1, 1, 1, 1], ceil_mode=1))  # fmt: skip


def _windows(net: Written) -> str:
    x = net.conv("x", 4, 6, 3, strides=[2, 1], pads=[1, 0, 0, 1])
    x = net.node("Conv", x, net.weight(6, 3, 2, 2), group=2, auto_pad="SAME_UPPER")
    return net.node("ConvTranspose", x, net.weight(6, 4, 2, 2), strides=[2, 2])


def _entries(net: Written) -> str:
    x = net.node("PRelu", "x", net.weight(4, 1, 1))
    x = net.node("Max", net.node("LeakyRelu", x, alpha=0.2), net.number(-0.5))
    x = net.node("Sub", net.number(1), net.node("Pow", x, net.number(2)))
    x = net.node("Div", net.node("Tanh", x), net.node("Exp", net.node("Sigmoid", "x")))
    return net.node("HardSigmoid", net.node("HardSwish", net.node("Softplus", x)), alpha=0.3)


def _shapes(net: Written) -> str:
    x = net.node("Transpose", "x", perm=[0, 2, 3, 1])
    x = net.node("Slice", x, net.constant([0, 1]), net.constant([9, 4]), net.constant([1, 3]))
    sizes = net.node("Gather", net.node("Shape", x), net.constant(0))
    first = net.node("Unsqueeze", sizes, net.constant([0]))
    x = net.node("Reshape", x, net.node("Concat", first, net.constant([-1, 4, 6]), axis=0))
    a = net.node("Split", x, net.constant([2, 4]), count=2, axis=3)
    x = net.node("Concat", a, a.replace("_0", "_1"), x, axis=3)
    x = net.node("Squeeze", net.node("Unsqueeze", x, net.constant([1])), net.constant([1]))
    x = net.node("ReduceL2", net.node("Gather", x, net.constant([0, 2]), axis=2), axes=[3])
    return net.node("ReduceMean", x, axes=[2], keepdims=0)


def _sizes(net: Written) -> str:
    net.shape[0] = 1
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    x = net.node("Resize", "x", "", scales, mode="nearest", nearest_mode="floor",
                 coordinate_transformation_mode="asymmetric")  # fmt: skip
    x = net.node("Resize", x, "", "", net.constant([1, 4, 12, 20]), mode="linear")
    return net.node("Pad", x, net.constant([0, 0, 1, 2, 0, 0, 0, 1]), mode="reflect")


def _dense(net: Written) -> str:
    x = net.node("Flatten", net.node("GlobalAveragePool", "x"))
    x = net.node("Gemm", x, net.weight(4, 5), net.weight(5), alpha=0.5, beta=2.0)
    x = net.node("Sub", net.node("Gemm", x, net.weight(6, 5), transB=1), net.weight(6))
    x = net.node("Mul", net.node("Clip", x, net.number(-1)), net.number(0.3))
    return net.node("LogSoftmax", net.node("MatMul", x, net.weight(6, 3)))


def _fixed_batch(net: Written) -> str:
    net.shape[0] = 1
    x = net.node("Concat", net.node("Relu", "x"), net.weight(1, 4, 8, 8), axis=1)
    x = net.node("Reshape", x, net.constant([1, -1]))
    return net.node("Identity", net.node("Reshape", x, net.constant([1, 32, 16])))


CASES = (_pools, _windows, _entries, _shapes, _sizes, _dense, _fixed_batch)


@pytest.mark.parametrize("write", CASES)
def test_operators_mean_what_they_mean_in_onnxruntime(write: Callable[[Written], str], tmp_path):
    net = Written(["n", 4, 8, 8], opset=14 if write is _entries else 13)
    path = net.save(tmp_path, write(net))
    found = difference(read_onnx(path), path)
    assert found is not None
    assert found < 1e-5


def test_a_hard_swish_must_be_one(tmp_path):
    net = Written(["n", 2, 4, 4])
    x = net.node("Relu", "x")
    almost = net.node("Clip", net.node("Add", x, net.number(3)), net.number(0), net.number(5))
    path = net.save(tmp_path, net.node("Div", net.node("Mul", x, almost), net.number(6)))
    assert difference(read_onnx(path), path) == 0


def test_an_operator_nobody_knows_is_named(tmp_path):
    net = Written(["n", 2, 4, 4])
    path = net.save(tmp_path, net.node("EyeLike", "x"))
    with pytest.raises(ModelError, match=r"'EyeLike.0' is a EyeLike, which is not read.*Conv, Con"):
        read_onnx(path)
    net = Written(["n", 2, 4, 4])
    scale, zero = net.number(1), net.constant(np.array(0, np.uint8))
    path = net.save(tmp_path, net.node("QuantizeLinear", "x", scale, zero))
    with pytest.raises(ModelError, match="quantized: give the one with real weights"):
        read_onnx(path)


def _broken(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_files_that_are_not_believed(tmp_path):
    path = lines(tmp_path, apart=False)

    def outside(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "/etc/passwd"

    with pytest.raises(ModelError, match="lies in another file, which is not read"):
        read_onnx(_broken(path, outside), (1, 8, 8))

    path = lines(tmp_path, apart=False)
    with pytest.raises(ModelError, match="does not have the shape it says"):
        read_onnx(_broken(path, lambda m: m.graph.initializer[0].dims.append(9)), (1, 8, 8))

    path = lines(tmp_path, apart=False)
    with pytest.raises(ModelError, match=r"reads '.*' before it is made"):
        read_onnx(_broken(path, lambda m: m.graph.initializer.pop(0)), (1, 8, 8))

    (tmp_path / "text.onnx").write_bytes(b"\x00no model")
    with pytest.raises(ModelError, match="is no ONNX file"):
        read_onnx(tmp_path / "text.onnx")
    with pytest.raises(ModelError, match="there is no file"):
        read_onnx(tmp_path / "missing.onnx")


def test_a_changed_byte_is_read_or_refused_in_words(tmp_path):
    data = lines(tmp_path).read_bytes()
    random, refused = np.random.default_rng(7), 0
    for _ in range(60):
        changed = bytearray(data)
        for place in random.integers(0, len(data), int(random.integers(1, 4))):
            changed[place] = int(random.integers(256))
        (tmp_path / "changed.onnx").write_bytes(changed)
        try:
            read_onnx(tmp_path / "changed.onnx", (1, 8, 8))
        except ModelError:
            refused += 1
    assert refused > 10


def test_what_is_too_large_is_refused_before_it_is_made(tmp_path):
    net = Written(["n", 2, 4, 4])
    huge = net.node("ConstantOfShape", net.constant([2**20, 2**20]))
    path = net.save(tmp_path, net.node("Add", "x", huge))
    with pytest.raises(ModelError, match="has more than 268435456 numbers"):
        read_onnx(path)
    net = Written(["n", 2, 4, 4])
    path = net.save(tmp_path, net.node("Pad", "x", net.constant([0, 0, 0, 0, 0, 0, 2**30, 0])))
    with pytest.raises(ModelError, match="has more than 268435456 numbers"):
        read_onnx(path)


def test_inputs_that_are_not_images(tmp_path):
    path = lines(tmp_path)
    with pytest.raises(ModelError, match=r"leaves the size of images open \(1x\?x\?\)"):
        read_onnx(path)
    with pytest.raises(ModelError, match=r"is for images of 1x\?x\?, not 3x8x8"):
        read_onnx(path, (3, 8, 8))

    def whole(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8

    with pytest.raises(ModelError, match="takes UINT8 numbers; real numbers are read"):
        read_onnx(_broken(lines(tmp_path), whole), (1, 8, 8))
    more = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1])
    with pytest.raises(ModelError, match=r"takes 2 inputs \(x, mask\); one, of images, is read"):
        read_onnx(_broken(lines(tmp_path), lambda m: m.graph.input.append(more)), (1, 8, 8))


def test_the_command_writes_space_and_supernet(tmp_path):
    path = lines(tmp_path)
    made = figures(
        "space", "from-onnx", path, "--input", "1x8x8", "--mean", "0.5", "--std", "0.25", "--bits",
        "per-stage", "--min-width", 8, "--out", tmp_path / "a.toml",
    )  # fmt: skip
    assert made["difference"] < 1e-5
    assert made["notes"]["the network"] == "its last Softmax is left out: it gives logits"
    space = load_space(str(tmp_path / "a.toml"))
    assert [a.name for a in space.axes if a.is_format] == ["s00_w_bits", "s00_a_bits"]
    assert all(a.choices[0] >= 8 for a in space.axes if a.attribute.endswith("_width"))
    file = load_supernet(Path(made["supernet"]), space)
    x = images()
    with torch.no_grad():
        whole = file.network.subnet(largest(space)).eval()(x)
        torch.testing.assert_close(whole, read_onnx(path, (1, 8, 8))(x), rtol=1e-4, atol=1e-5)


def test_a_space_with_operations_of_torch_survives_its_file(tmp_path):
    net = Written(["n", 1, 8, 8])
    x = net.node("PRelu", net.conv("x", 1, 16, 3, dilations=[2, 1]), net.weight(16, 1, 1))
    x = net.node("Relu", net.conv(x, 16, 16, 1))
    x = net.node("MatMul", net.node("Flatten", net.node("GlobalAveragePool", x)), net.weight(16, 3))
    made = figures("space", "from-onnx", net.save(tmp_path, x), "--mean", "0.5", "--std", "0.25",
                   "--out", tmp_path / "b.toml")  # fmt: skip
    space = load_space(str(tmp_path / "b.toml"))
    assert sum(bool(node.held) for node in space.graph.nodes) == 2
    assert load_supernet(Path(made["supernet"]), space).network.space == space
