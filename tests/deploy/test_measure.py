"""Measuring blocks on onnxruntime: that what is timed is what is meant, and that it survives."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from documented_json import check

from apq.cli import main
from apq.errors import ModelError, TableError
from apq.hardware import LookupTable, price_space
from apq.runtime.session import open_session
from apq.space import Layer
from apq.space.layer import to_array, to_layer, weight_count

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from apq.deploy import timing  # noqa: E402
from apq.deploy.graphs import empty_model, layer_model, network_model  # noqa: E402
from apq.deploy.kernels import (  # noqa: E402
    Kernels,
    kernels_here,
    probe_model,
    read_kernels,
)
from apq.deploy.measure import (  # noqa: E402
    finish,
    prepare,
    random_networks,
    require_runtime,
    what_to_measure,
)


def session(data, folder=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if folder:
        options.optimized_model_filepath = str(folder / "optimized.onnx")
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(data):
    model = session(data)
    entry = model.get_inputs()[0]
    kind = np.float32 if "float" in entry.type else np.uint8
    return model.run(None, {entry.name: np.zeros(entry.shape, kind)})[0]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Layer("conv", 3, 8, 9, 9, 3, 2), (1, 8, 5, 5)),
        (Layer("conv", 8, 8, 8, 8, 5, 1, 8), (1, 8, 8, 8)),
        (Layer("linear", 16, 10, 1, 1), (1, 10)),
        (Layer("mbconv", 8, 8, 8, 8, 3, 1, mid_channels=24), (1, 8, 8, 8)),
        (Layer("mbconv", 8, 16, 8, 8, 7, 2, mid_channels=24), (1, 16, 4, 4)),
    ],
)
def test_models_run_and_have_the_layers_shape_and_weights(layer, shape, precision):
    data = layer_model(layer, precision)
    assert run(data).shape == shape
    held = onnx.load_from_string(data).graph.initializer
    weights = sum(int(np.prod(t.dims)) for t in held if len(t.dims) in (2, 4))
    assert weights == weight_count(to_array([layer]))[0]


def test_int8_blocks_are_fused_into_integer_kernels(tmp_path):
    layer = Layer("mbconv", 16, 16, 8, 8, 5, 1, mid_channels=64)
    session(layer_model(layer, "int8"), tmp_path)
    ops = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert ops.count("QLinearConv") == 3
    assert ops.count("QLinearAdd") == 1
    assert "Conv" not in ops
    assert "FusedConv" not in ops


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_network_is_the_candidates_layers(tiny_space, precision):
    candidate = tiny_space.build(tiny_space.sample(1, np.random.default_rng(0))[0])
    data = network_model(tiny_space, candidate, precision)
    assert run(data).shape == (1, tiny_space.classes)
    graph = onnx.load_from_string(data).graph
    assert sum(n.op_type in ("Conv", "Gemm") for n in graph.node) == len(
        tiny_space.layers(candidate)
    )
    held = [t for t in graph.initializer if len(t.dims) in (2, 4)]
    expected = weight_count(to_array(tiny_space.layers(candidate))).sum()
    assert sum(int(np.prod(t.dims)) for t in held) == expected


def test_every_block_of_the_space_is_measured_once_at_the_width_it_runs(tiny_space):
    rows = what_to_measure(tiny_space, "int8", "block")
    assert len(np.unique(rows)) == len(rows)
    assert {int(b) for b in rows["weight_bits"]} == {8}
    blocks = [to_layer(row) for row in rows if to_layer(row).op == "mbconv"]
    widths = {(b.mid_channels, b.kernel, b.stride) for b in blocks}
    slots = tiny_space.slots
    strides = (1, 1, 2)
    expected = {(w, k, strides[s.index]) for s in slots for k in s.choices[0] for w in s.choices[1]}
    assert widths == expected


def test_networks_are_distinct(tiny_space):
    genes = random_networks(tiny_space, 6, seed=0)
    assert len(np.unique(genes, axis=0)) == len(genes) == 6


def saturating(x, answer):
    """What kernels that add pairs of products in 16 bits make of the question in kernels.onnx."""
    products = 127 * np.rint(x * 255).astype(np.int64)
    pairs = np.minimum(products[:, 0::2] + products[:, 1::2], 2**15 - 1)
    sums = pairs.sum(axis=1, keepdims=True) / (127 * x.shape[1])
    return np.broadcast_to(np.rint(sums), answer.shape)


def test_sums_tell_exact_kernels_from_saturating_ones(tmp_path):
    """Float kernels, which this runtime has for the same model, are the reference."""
    path = tmp_path / "kernels.onnx"
    path.write_bytes(probe_model())
    x = timing.random_input(timing.PROBE, real=True)
    float_kernels, _ = open_session(path, {"session.disable_quant_qdq": "1"})
    exact = float_kernels(x)
    assert exact.shape == (1, 16, 4, 4)
    assert timing.adds_exactly(x, exact)
    assert not timing.adds_exactly(x, saturating(x, exact))
    session(path.read_bytes(), tmp_path)  # and what is asked is an integer kernel
    ops = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert ops.count("QLinearConv") == 1
    assert "Conv" not in ops
    careful = kernels_here({"session.x64quantprecision": "1"})  # other kernels where it matters
    assert careful.products == "exact"
    assert careful.runtime == f"onnxruntime {ort.__version__}"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("model name\t: EPYC\nflags\t\t: sse4_2 avx2 avx512f avx512_vnni\n",
         {"AVX2": True, "AVX512": True, "VNNI": True}),
        ("flags : avx2 avx_vnni", {"AVX2": True, "AVX512": False, "VNNI": True}),
        ("flags : fpu avx2\n\nflags : fpu", {"AVX2": True, "AVX512": False, "VNNI": False}),
        ("Features\t: fp asimd asimddp\n", {"DOTPROD": True, "I8MM": False}),
        ("BogoMIPS : 1", {}),
    ],
)  # fmt: skip
def test_features_are_read_from_what_linux_tells(told, expected):
    assert timing.processor_features(told) == expected


def test_kernels_are_told_in_one_line():
    told = {"runtime": "onnxruntime 1.31.1", "threads": 2, "products": "saturating"}
    features = {"AVX2": True, "AVX512": False, "VNNI": False}
    assert str(Kernels.model_validate(told | {"features": features})) == (
        "onnxruntime 1.31.1, 2 threads, saturating u8*s8 products; "
        "processor: AVX2, no AVX512, no VNNI"
    )
    assert str(Kernels(runtime="x", threads=1, products=None, features={})) == (
        "x, 1 thread; processor: features unknown"
    )


def test_what_a_folder_was_timed_with_is_noted_once_each(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/empty.onnx").write_bytes(empty_model())
    (tmp_path / "kernels.onnx").write_bytes(probe_model())
    assert read_kernels(tmp_path) == ()
    for rounds, threads in ((1, 1), (2, 1), (3, 2), (3, 4)):  # the last finds nothing to time
        timing.time_folder(tmp_path, rounds, runs=2, threads=threads)
    one, two = read_kernels(tmp_path)
    assert one == kernels_here({})
    assert two == one.model_copy(update={"threads": 2})
    (tmp_path / "kernels.json").write_text('{"kernels": [{"runtime": 3}]}')
    with pytest.raises(TableError, match=r"kernels\.json is not what measure\.py writes"):
        read_kernels(tmp_path)


def test_a_tables_header_says_which_kernels_ran(timed, tmp_path):
    """A folder that nobody noted it in gives a table as before."""
    silent = finish(timed, "phone").table
    assert "kernels" not in silent.header
    told = kernels_here({})
    (timed / "kernels.json").write_text(json.dumps({"kernels": [told.model_dump()]}))
    finish(timed, "phone").table.write(tmp_path / "phone.csv")
    assert f"# kernels: {told}\n" in (tmp_path / "phone.csv").read_text()
    assert LookupTable.read(tmp_path / "phone.csv").header["kernels"] == str(told)


@pytest.fixture
def timed(tmp_path, tiny_space):
    """A folder with made-up timings: blocks cost their width, networks twice the sum plus 1."""
    folder = tmp_path / "device"
    total = prepare(folder, tiny_space, "int8", networks=6)
    assert len(list((folder / "models").glob("*.onnx"))) == total
    layers = what_to_measure(tiny_space, "int8", "block")
    cost = {f"layer{i:05d}": 0.01 * int(row["mid_channels"] + row["kernel"])
            for i, row in enumerate(layers)}  # fmt: skip
    lines = ["round,name,latency_ms"]
    for number, factor in ((0, 1.1), (1, 1.0)):
        lines.append(f"{number},empty,{0.5 * factor}")
        lines += [f"{number},{name},{(c + 0.5) * factor}" for name, c in cost.items()]
    priced = LookupTable(
        "toy", "", layers, {"latency_ms": np.array(list(cost.values()))}, granularity="block",
        runs_at_bits=8,
    )  # fmt: skip
    genes = random_networks(tiny_space, 6, 0)
    sums = price_space(tiny_space, priced).costs(genes)["latency_ms"]
    lines += [f"1,network{i:04d},{1 + 2 * s}" for i, s in enumerate(sums)]
    (folder / "timings.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_folder_from_another_device_becomes_a_calibrated_table(timed, tmp_path, tiny_space,
                                                                 monkeypatch, capsys):  # fmt: skip
    found = finish(timed, "phone")
    assert found.layer_noise == pytest.approx(0.05)
    to = tmp_path / "phone.csv"
    arguments = f"lut measure --import --folder {timed} --device phone --out {to} --json"
    monkeypatch.setattr(sys, "argv", ["apq", *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    told = json.loads(capsys.readouterr().out)
    check("lut measure", told)
    assert told["after"]["worst"] < 1e-6
    assert told["kernels"] == []
    costs = price_space(tiny_space, LookupTable.read(to)).costs(found.genes)
    np.testing.assert_allclose(costs["latency_ms"], found.latency_ms, rtol=1e-6)


def test_four_bits_cost_what_the_runtime_takes(timed, tiny_space):
    table = finish(timed, "phone").table
    low = tiny_space.sample(30, np.random.default_rng(0))
    high = low.copy()
    for j, axis in enumerate(tiny_space.axes):
        if axis.attribute.endswith("bits"):
            high[:, j] = len(axis.choices) - 1
    priced = price_space(tiny_space, table)
    high = tiny_space.canonical(high)
    np.testing.assert_array_equal(priced.costs(low)["latency_ms"], priced.costs(high)["latency_ms"])
    wide = replace(to_layer(table.layers[-1]), weight_bits=16)
    assert np.isnan(table.price(to_array([wide]))["latency_ms"]).all()


def test_an_unfinished_folder_says_what_to_do(timed):
    path = timed / "timings.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:5]) + "\n1,netw")
    with pytest.raises(TableError, match=r"lacks \d+ of \d+ models .*measure\.py"):
        finish(timed, "phone")


def test_a_folder_made_for_something_else_is_kept(timed, tiny_space):
    with pytest.raises(TableError, match="precision"):
        prepare(timed, tiny_space, "fp32", networks=6)
    assert prepare(timed, tiny_space, "int8", networks=6) > 0
    assert (timed / "timings.csv").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_runtimes_compute_the_same(precision, tmp_path):
    pytest.importorskip("openvino")
    path = tmp_path / "block.onnx"
    layer = Layer("mbconv", 16, 16, 8, 8, 5, 1, mid_channels=64)
    path.write_bytes(layer_model(layer, precision))
    (expected,) = timing.RUNTIMES["onnxruntime"](path, 1)()
    (found,) = timing.RUNTIMES["openvino"](path, 1)().values()
    assert expected.std() > 0
    assert found.dtype == expected.dtype
    tolerance = 1e-4 if precision == "fp32" else 1
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=tolerance)


def test_a_folder_is_timed_on_its_own_runtime(tmp_path, tiny_space, monkeypatch):
    used = []

    def infer():
        used.append(1)
        return {"answer": np.zeros((1, 16, 4, 4))}

    monkeypatch.setattr(timing, "RUNTIMES", {"openvino": lambda *_: infer})
    prepare(tmp_path, tiny_space, "int8", networks=4, runtime="openvino")
    timing.time_folder(tmp_path, rounds=1, runs=2)
    assert used
    found = finish(tmp_path, "phone").table
    assert "openvino" in found.source
    assert found.header["kernels"].startswith("openvino")
    assert "1 thread, saturating u8*s8 products" in found.header["kernels"]  # zeros: too little
    with pytest.raises(TableError, match="runtime"):
        prepare(tmp_path, tiny_space, "int8", networks=4)


def test_a_runtime_that_is_not_installed_says_how(monkeypatch, tiny_space, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for runtime, extra in (("openvino", "openvino"), ("onnxruntime", "onnx")):
        with pytest.raises(ModelError, match=rf"pip install 'apq-nas\[{extra}\]'"):
            require_runtime(runtime)
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="cannot write"):
        prepare(tmp_path / "file", tiny_space, "int8", networks=4)


def test_the_folders_script_needs_nothing_of_apq_and_resumes(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/empty.onnx").write_bytes(empty_model())
    (tmp_path / "models/layer0.onnx").write_bytes(layer_model(Layer("linear", 8, 4, 1, 1), "int8"))
    source = Path(timing.__file__).read_text()
    assert "apq." not in source
    (tmp_path / "measure.py").write_text(source)
    command = [sys.executable, "-I", str(tmp_path / "measure.py"), "--rounds", "2", "--runs", "5"]
    subprocess.run(command, check=True, capture_output=True)
    first = (tmp_path / "timings.csv").read_text()
    assert len(timing.read_timings(tmp_path)) == 4
    (tmp_path / "timings.csv").write_text(first[: first.index("\n1,") + 5])  # cut mid-line
    timing.time_folder(tmp_path, rounds=2, runs=5)
    assert len(timing.read_timings(tmp_path)) == 4
    kept = (tmp_path / "timings.csv").read_text()
    assert kept.startswith(first[: first.index("\n1,")])
