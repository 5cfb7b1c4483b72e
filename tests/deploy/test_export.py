"""Exported files: what runs is what was trained, in as many bytes as promised."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from mobilenet import with_bits

from apq.deploy.export import FORMATS, export, pack_bits
from apq.deploy.finetune import FinetuneRecipe, finetune_candidate
from apq.deploy.model import Model, build_network, load_model, save_model, size_bytes
from apq.deploy.plain import load, unpack
from apq.deploy.verify import verify
from apq.errors import ApqError, ModelError
from apq.quantize import SCHEMES, quantize_subnet
from apq.runtime.folded import fold
from apq.space import PRESETS, BitChoices, Stage
from apq.supernet import Subnet, largest
from apq.supernet.evaluate import normalise, recalibrate
from apq.training.feed import to_tensor

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

MIXED = ((2, 4, 6, 8), (8, 6, 4, 2), (4, 8, 2, 6))


@pytest.fixture(scope="module")
def model(tiny_space, tiny_supernet, digits):
    """Every weight and activation width from 2 to 8 in one small trained network."""
    return trained(tiny_space, tiny_supernet, digits, MIXED)


@pytest.fixture(scope="module")
def whole_bytes(tiny_space, tiny_supernet, digits):
    """Weights of 6 and 8 bits, which lie in bytes, and activations of every width."""
    bits = ((8, 8, 6, 4), (8, 6, 8, 2), (8, 8, 8, 8))
    return trained(tiny_space, tiny_supernet, digits, bits)


def trained(tiny_space, tiny_supernet, digits, each):
    """The largest subnet, its blocks with these bits."""
    bits = BitChoices(*[(2, 4, 6, 8)] * 4)
    space = tiny_space.with_(bits=bits, exclude=())
    top = largest(tiny_space)
    mixed = iter(each)
    candidate = with_bits(top, lambda: next(mixed))
    subnet = tiny_supernet.network.subnet(top)
    calibration = normalise(to_tensor(digits.splits["calibration"][0]), digits.mean, digits.std)
    recalibrate(subnet, calibration)
    with torch.no_grad():  # batch norm may flip a channel, or switch it off
        subnet.get_submodule("blocks.0.expand.bn").weight[0].mul_(-1)
        subnet.get_submodule("blocks.1.expand.bn").weight[1] = 0
    network = build_network(space, candidate, "uniform", subnet, calibration)
    recalibrate(network, calibration)
    return Model(
        network, space, candidate, "uniform", digits.mean, digits.std, digits.classes,
        {"costs": {"size_mb": 0.1}, "accuracy": {"predicted": 0.5}},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("form", "int2"),
    [
        ("onnx", False),
        ("onnx", True),
        ("onnx-integer", False),
        ("onnx-integer", True),
        ("torch", False),
    ],
)
def test_a_file_gives_the_models_logits(model, digits, tmp_path, form, int2):
    path = tmp_path / ("model" + FORMATS[form])
    export(model, path, form, int2)
    result = verify(model, path, digits)
    assert result.images == len(digits.splits["test"][1])
    assert result.max_difference < 1e-5  # the classifier's logits are real numbers; all else equal
    assert result.agreement == 1
    assert result.accuracy == result.model_accuracy
    assert result.predicted == {"accuracy": 0.5, "size_mb": 0.1}


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("folding", ["0", "1"])
def test_no_optimisation_of_the_runtime_changes_a_bit(model, digits, tmp_path, level, folding):
    path = tmp_path / "model.onnx"
    export(model, path, "onnx-integer", batch=5)
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.add_session_config_entry("session.disable_quant_qdq", folding)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    x = normalise(to_tensor(digits.splits["test"][0][:5]), digits.mean, digits.std).contiguous()
    assert np.array_equal(session.run(None, {"image": x.numpy()})[0], model.network(x).numpy())


def test_the_kernels_of_older_processors_agree(model, digits, tmp_path):
    path = tmp_path / "model.onnx"
    export(model, path)
    result = verify(model, path, digits)
    assert result.max_difference < 1e-5


def test_qdq_without_fusion_differs_by_isolated_roundings_only(model, digits, tmp_path):
    path = tmp_path / "model.onnx"
    export(model, path)
    result = verify(model, path, digits, options={"session.disable_quant_qdq": "1"})
    assert result.differing < 0.1
    assert result.agreement >= 0.97


@pytest.mark.parametrize("batch", [1, None])
def test_qonnx_runs(model, digits, tmp_path, batch):
    pytest.importorskip("qonnx")
    path = tmp_path / "model.qonnx.onnx"
    export(model, path, "qonnx", batch=batch)
    result = verify(model, path, digits, limit=20)
    assert result.agreement >= 0.9
    assert result.latency_ms is None
    ops = {n.op_type for n in onnx.load(path).graph.node}
    assert "Quant" in ops


def test_weights_lie_in_the_smallest_type_that_holds_them(model, tmp_path):
    kinds = onnx.TensorProto
    for int2, smallest, opset in ((False, kinds.INT4, 21), (True, kinds.INT2, 25)):
        path = tmp_path / "model.onnx"
        export(model, path, "onnx-integer", int2=int2)
        loaded = onnx.load(path)
        onnx.checker.check_model(loaded, full_check=True)
        assert (loaded.opset_import[0].version, loaded.ir_version) == (
            opset,
            {21: 10, 25: 13}[opset],
        )
        stored = {t.name: t for t in loaded.graph.initializer if t.name.endswith("_codes")}
        for layer in model.network.plan:
            expected = {2: smallest, 4: kinds.INT4, 6: kinds.INT8, 8: kinds.INT8}[layer.weight]
            tensor = stored[f"{layer.name}.weight_codes"]
            assert tensor.data_type == expected, layer
            width = {kinds.INT2: 2, kinds.INT4: 4, kinds.INT8: 8}[expected]
            assert len(tensor.raw_data) == -(-int(np.prod(tensor.dims)) * width // 8)


def logits(path, x):
    """What onnxruntime answers to images, as many as the file takes at once."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[0]
    size = size if isinstance(size, int) else len(x)
    parts = [session.run(None, {"image": x[i : i + size]})[0] for i in range(0, len(x), size)]
    return np.concatenate(parts)


def images_of(model, digits, count):
    pixels = to_tensor(digits.splits["test"][0][:count])
    return normalise(pixels, model.mean, model.std).contiguous().numpy()


@pytest.mark.parametrize("form", ["onnx", "onnx-integer", "qonnx"])
def test_files_of_bytes_are_written_for_older_runtimes(whole_bytes, digits, tmp_path, form):
    """Opset 13 and IR version 8, which change no bit of what opset 21 gives."""
    path, newer = tmp_path / "model.onnx", tmp_path / "newer.onnx"
    export(whole_bytes, path, form, int2=True)  # there are no 2 bits to store
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=form != "qonnx")  # whose nodes ONNX does not know
    assert (loaded.opset_import[0].version, loaded.ir_version) == (13, 8)
    if form == "qonnx":
        return
    loaded.opset_import[0].version, loaded.ir_version = 21, 10
    onnx.save(loaded, newer)
    x = images_of(whole_bytes, digits, 100)
    assert np.array_equal(logits(path, x), logits(newer, x))
    assert verify(whole_bytes, path, digits).max_difference < 1e-5


@pytest.mark.parametrize("form", ["onnx", "onnx-integer"])
def test_no_opset_changes_a_bit(model, whole_bytes, digits, tmp_path, form):
    """From the smallest opset a file can have to the newest onnxruntime reads."""
    path, x = tmp_path / "model.onnx", images_of(model, digits, 50)
    for made_of, low in ((model, 21), (whole_bytes, 13)):
        assert export(made_of, path, form).opset == low
        expected = logits(path, x)
        for opset in (low + 1, 17, 22, 24):
            if opset < low:
                continue
            made = export(made_of, path, form, opset=opset)
            loaded = onnx.load(path)
            onnx.checker.check_model(loaded, full_check=True)
            assert made.opset == loaded.opset_import[0].version == opset
            assert np.array_equal(logits(path, x), expected), opset


def test_an_opset_a_file_cannot_have_is_refused_with_the_range(model, whole_bytes, tmp_path):
    path, newest = tmp_path / "model.onnx", onnx.defs.onnx_opset_version()
    for made_of, int2, opset, allowed in (
        (model, False, 13, rf"21 to {newest}\. Its types of 4 bits need 21"),
        (model, True, 24, rf"25 to {newest}\. Its types of 2 bits need 25"),
        (whole_bytes, False, 12, rf"13 to {newest}\. Steps per channel need 13"),
        (whole_bytes, False, newest + 1, f"ends at {newest}"),
    ):
        with pytest.raises(ApqError, match=f"opset {opset} does not suit.*{allowed}"):
            export(made_of, path, int2=int2, opset=opset)
    with pytest.raises(ModelError, match="a torch file has no operators"):
        export(model, path, "torch", opset=13)
    assert not path.exists()
    made = export(whole_bytes, path, opset=newest)
    assert onnx.load(path).opset_import[0].version == made.opset == newest


@pytest.mark.parametrize("form", ["onnx", "onnx-integer"])
def test_a_file_of_any_batch_gives_each_image_its_logits(model, digits, tmp_path, form):
    fixed, path = tmp_path / "fixed.onnx", tmp_path / "model.onnx"
    export(model, fixed, form)
    export(model, path, form, batch=None)
    for end in (onnx.load(path).graph.input[0], onnx.load(path).graph.output[0]):
        assert end.type.tensor_type.shape.dim[0].dim_param == "batch"
    x = images_of(model, digits, 7)
    singly = np.concatenate([logits(path, row[None]) for row in x])
    assert np.array_equal(logits(path, x), singly)
    assert np.array_equal(logits(fixed, x), singly)
    result = verify(model, path, digits)
    assert result.max_difference < 1e-5
    assert result.images == len(digits.splits["test"][1])
    assert result.latency_ms is not None


def test_the_packed_file_is_as_small_as_promised(model, tmp_path):
    made = export(model, tmp_path / "model.plain.safetensors", "torch")
    assert made.promised_bytes == size_bytes(model.network)
    # each tensor ends on a whole byte
    assert made.promised_bytes <= made.weight_bytes <= made.promised_bytes + len(model.network.plan)
    assert made.file_bytes < made.weight_bytes + 16_000


def test_the_python_file_needs_nothing_of_apq(model, digits, tmp_path):
    path = tmp_path / "small.plain.safetensors"
    export(model, path, "torch")
    source = tmp_path / "small_plain.py"
    assert "apq." not in source.read_text().split('"""', 2)[2]
    spec = importlib.util.spec_from_file_location("small_plain", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network, about = module.load(path)
    x = normalise(to_tensor(digits.splits["test"][0]), tuple(about["mean"]), tuple(about["std"]))
    assert torch.equal(network(x), model.network(x))
    assert about["classes"] == list(digits.classes)


def test_nodes_carry_the_subnets_names_and_the_file_its_story(model, tmp_path):
    path = tmp_path / "model.onnx"
    export(model, path)
    loaded = onnx.load(path)
    names = {node.name for node in loaded.graph.node}
    assert {layer.name for layer in model.network.plan} <= names
    assert all(
        name in names or "." in name or name == "logits"
        for node in loaded.graph.node
        for name in node.output
    )
    told = {p.key: p.value for p in loaded.metadata_props}
    assert json.loads(told["classes"]) == list(model.classes)
    assert told["candidate"] == str(model.candidate)
    assert [d.dim_value for d in loaded.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 8, 8]


def test_sums_of_codes_are_exact(model, digits):
    """The claim behind the integer form: batch size, memory format and threads leave no trace."""
    x = normalise(to_tensor(digits.splits["test"][0][:64]), digits.mean, digits.std)
    whole = model.network(x)
    single = torch.cat([model.network(row[None].contiguous()) for row in x])
    assert torch.equal(whole, single)
    for step in fold(model.network):
        assert step.layer is None or step.layer.largest_sum < 2**24, step.name


@pytest.mark.parametrize(("bits", "alike"), [(8, 0.95), (4, 0.85)])
def test_integers_compute_what_training_saw(tiny_space, tiny_supernet, digits, bits, alike):
    """Folded integers against the float fake-quantized network: isolated roundings apart."""
    top = largest(tiny_space)
    calibration = normalise(to_tensor(digits.splits["calibration"][0]), digits.mean, digits.std)
    subnet = tiny_supernet.network.subnet(top)
    recalibrate(subnet, calibration)
    candidate = with_bits(top, lambda: (bits,) * 4)
    network = quantize_subnet(subnet, tiny_space.graph_of(candidate), calibration)
    recalibrate(network, calibration)
    x = normalise(to_tensor(digits.splits["test"][0]), digits.mean, digits.std)
    with torch.no_grad():
        integers, floats = network(x), network.simulate(x)
    assert (integers.argmax(1) == floats.argmax(1)).float().mean() > alike
    assert (integers - floats).abs().median() < 0.1 * floats.std()


def test_what_runs_is_fused(model, tmp_path):
    """onnxruntime makes every layer an integer kernel, whatever its bits."""
    path = tmp_path / "model.onnx"
    export(model, path)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ops = [n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node]
    assert ops.count("QLinearConv") == len(model.network.plan) - 1
    assert {"QLinearAdd", "QLinearGlobalAveragePool"} <= set(ops)
    assert not {"Conv", "Add", "GlobalAveragePool"} & set(ops)


def test_float_networks_are_exported_too(tiny_space, tiny_supernet, digits, tmp_path):
    candidate = largest(tiny_space)
    recipe = FinetuneRecipe("fp32", epochs=1)
    model, _ = finetune_candidate(candidate, tiny_supernet, digits, tmp_path / "m", recipe)
    for form in ("onnx", "torch"):
        path = tmp_path / ("model" + FORMATS[form])
        export(model, path, form)
        result = verify(model, path, digits, limit=50)
        assert result.max_difference < 1e-4
        assert (result.kernels is None) == (form == "torch")
        assert result.kernels is None or result.kernels.products is None  # no bytes to multiply
        assert result.file_bytes > result.promised_bytes > 4 * 1000


def test_halving_the_bits_halves_the_file():
    """W4A8 against W8A8: all weights in 4 bits, all activations in 8, in a network whose weights
    outweigh its biases (random weights)."""
    space = PRESETS["apq-imagenet"]()
    sizes = {}
    for bits in (4, 8):
        small = space.with_(
            classes=100, fixed_weight_bits=bits, resolution=32, exclude=(),
            stages=(Stage(96, 1, (1,), (3,), (6,), 0), Stage(192, 2, (2,), (3,), (6,), 0)),
            bits=BitChoices((4, 8), (8,), (4, 8), (8,)),
        )  # fmt: skip
        top = largest(small)
        candidate = with_bits(top, lambda bits=bits: (bits, 8, bits, 8))
        network = build_network(small, candidate, "uniform", Subnet(small, top))
        assert {layer.weight for layer in network.plan} == {bits}
        assert {layer.activation for layer in network.plan} == {8, None}
        sizes[bits] = export_size(
            Model(network, small, candidate, "uniform", (0,) * 3, (1,) * 3, ("a",), {})
        )
    assert sizes[4] <= 0.55 * sizes[8]


def export_size(model):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return export(model, Path(folder) / "m.onnx").file_bytes


def test_wrong_files_are_refused_in_words(model, digits, tmp_path):
    with pytest.raises(ApqError, match="Did you mean 'onnx'"):
        export(model, tmp_path / "x", "onxx")
    with pytest.raises(ModelError, match="apq export"):
        verify(model, tmp_path / "absent.onnx", digits)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="onnxruntime cannot load"):
        verify(model, broken, digits)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"broken\.safetensors is not a readable"):
        verify(model, broken, digits)


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 6, 8])
def test_packing_bits_is_reversible(bits):
    codes = np.random.default_rng(bits).integers(0, 2**bits, size=(7, 3))
    packed = pack_bits(codes, bits)
    assert len(packed) == -(-codes.size * bits // 8)
    assert np.array_equal(unpack(torch.from_numpy(packed), bits, [7, 3]).numpy(), codes)


def test_plain_files_load(model, tmp_path):
    path = tmp_path / "m.plain.safetensors"
    export(model, path, "torch")
    assert len(load(path)[0].layers) == len(model.network.plan)


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_can_be_exported(name, tiny_space, tiny_supernet, digits, tmp_path):
    scheme = SCHEMES[name]()
    w, a = scheme.weight_bits[len(scheme.weight_bits) // 2], scheme.activation_bits[0]
    space = tiny_space.with_(bits=BitChoices((w,), (a,), (w,), (a,)), exclude=())
    candidate = largest(space)
    calibration = normalise(to_tensor(digits.splits["calibration"][0]), digits.mean, digits.std)
    subnet = tiny_supernet.network.subnet(largest(tiny_space))
    recalibrate(subnet, calibration)
    network = build_network(space, candidate, name, subnet, calibration)
    recalibrate(network, calibration)
    model = Model(network, space, candidate, name, digits.mean, digits.std, digits.classes, {})
    assert size_bytes(network) > 0
    for form in ("onnx", "onnx-integer", "torch"):
        path = tmp_path / ("model" + FORMATS[form])
        export(model, path, form)
        result = verify(model, path, digits, limit=100)
        if name == "codebook":  # centres are fractions of no common unit: sums are not exact
            assert result.agreement >= 0.97
            continue
        assert result.agreement == 1
        assert result.max_difference < 1e-5
    saved = tmp_path / "saved.safetensors"
    save_model(saved, model)
    x = normalise(to_tensor(digits.splits["test"][0][:9]), digits.mean, digits.std)
    assert torch.equal(load_model(saved).network(x), network(x))


def saturating(codes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Sums of products as x86 processors without VNNI add them: neighbouring pairs in 16 bits,
    which saturate, then in 32 bits. ``codes`` (out, n) signed, ``pixels`` (n,) unsigned."""
    products = codes.astype(np.int64) * pixels
    pairs = products[:, 0::2] + np.pad(products[:, 1::2], ((0, 0), (0, products.shape[1] % 2)))
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)


def test_no_processor_saturates_the_sums_of_an_exported_file(model, tmp_path):
    """Unsigned weights, which have kernels that add in 32 bits, wherever signed ones could."""
    path = tmp_path / "model.onnx"
    export(model, path)
    graph = onnx.load(path).graph
    made_by = {output: node for node in graph.node for output in node.output}
    kinds = {t.name: t.data_type for t in graph.initializer}
    rng, unsigned, wrong = np.random.default_rng(0), 0, 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        layer = next(s.layer for s in fold(model.network) if s.name == node.name)
        weight = made_by[node.input[1]]
        zero = weight.input[2] if len(weight.input) > 2 else ""
        signed = kinds.get(zero) != onnx.TensorProto.UINT8
        unsigned += not signed
        if layer.groups > 1:
            continue
        codes = layer.weight.values().flatten(1).numpy().astype(np.int64)
        order = np.sort(codes, axis=1)  # puts the largest of one sign side by side
        for row in (order, order[:, ::-1], rng.permuted(codes, axis=1)):
            pixels = np.full(row.shape[1], layer.rounding.zero + layer.rounding.high)
            exact = np.array_equal(saturating(row, pixels), row @ pixels)
            assert exact or not signed, node.name
            wrong += not exact
    assert unsigned > 0  # the network has layers of 8 bits, ...
    assert wrong > 0  # ... which signed bytes would not compute
