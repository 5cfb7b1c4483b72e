"""What device tools write: samples are read or say what is missing, damaged ones are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from profile_texts import BLOCK, LITERT, OLD, OLD_VELA, TEXTS, VELA, A, B
from typer.testing import CliRunner

from apq.cli import app
from apq.deploy.probe import named_steps, write_probes
from apq.errors import ApqError, TableError
from apq.hardware import LookupTable
from apq.hardware.profiles import PROFILES, import_profiles, key_of, kind_of, layer_of
from apq.runtime.onnx_graph import onnx_model
from apq.space import Layer
from apq.space.layer import to_layer

SAMPLES = Path(__file__).parents[3] / "shared/reference/device-profiles"


def test_every_reader_has_a_text_here():
    assert set(TEXTS) == set(PROFILES)


@pytest.mark.parametrize(
    ("kind", "text"), [*TEXTS.items(), ("litert", OLD), ("vela", OLD_VELA)],
)  # fmt: skip
@pytest.mark.parametrize("how", ["utf-8", "utf-8-sig", "utf-16", "crlf"])
def test_profiles_join_by_the_names_of_probes(kind, text, how, tmp_path):
    path = tmp_path / "device.txt"
    data = text.replace("\n", "\r\n") if how == "crlf" else text
    path.write_bytes(data.encode("utf-8" if how == "crlf" else how))
    assert kind_of(path) == kind
    table = import_profiles([path], kind, 500.0)
    found = {
        key_of(to_layer(row)): float(took)
        for row, took in zip(table.layers, table.prices["latency_ms"], strict=True)
    }
    assert found == {A: pytest.approx(0.75), B: pytest.approx(0.125)}
    assert table.granularity == "block"


def test_a_field_that_never_ends_is_refused(tmp_path):
    path = tmp_path / "counters.csv"
    path.write_text(TEXTS["openvino"].replace("EXECUTED", "x" * 200_000, 1))
    with pytest.raises(TableError, match="is no CSV: field larger than"):
        import_profiles([path], "openvino")


def test_keys_say_their_layer():
    for layer in (BLOCK, Layer("linear", 16, 10, 1, 1)):
        assert layer_of(f"[x/{key_of(layer)}/expand]:3") == layer
    assert layer_of("apq_conv_1_2") is None
    assert layer_of("apq_conv" + "_0" * 12) is None


def test_runs_are_averaged_and_their_noise_is_said(tmp_path):
    paths = [tmp_path / f"{i}.csv" for i in (0, 1)]
    paths[0].write_text(LITERT)
    paths[1].write_text(LITERT.replace("0.125", "0.375"))
    table = import_profiles(paths, "litert")
    assert sorted(table.prices["latency_ms"]) == pytest.approx([0.25, 0.75])
    assert "spread of runs" in table.header["noise"]


def test_a_file_named_after_a_probe_needs_no_names_inside(tmp_path):
    path = tmp_path / f"{A}.csv"
    path.write_text(LITERT.replace(A, "x").replace(B, "y"))
    table = import_profiles([path], "litert")
    assert table.prices["latency_ms"] == pytest.approx([0.875])


def test_rows_without_a_layer_and_rows_there_twice_are_named(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(LITERT.replace(B, "something"))
    assert "something" in import_profiles([path], "litert").header["unmatched"]
    path.write_text(LITERT.replace("project]:1", "expand]:0"))
    with pytest.raises(TableError, match=r"expand\]:0' twice"):
        import_profiles([path], "litert")
    path.write_text(VELA)
    with pytest.raises(TableError, match="--frequency-mhz"):
        import_profiles([path], "vela")


def test_nodes_and_tensors_of_probes_carry_their_key(tiny_space, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("ai_edge_litert")
    model = onnx_model(named_steps(BLOCK), (1, 16, 8, 8), {}, part=True)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convs) == 3
    assert all(layer_of(node.name) == BLOCK for node in convs)
    count = write_probes(tmp_path / "probes", tiny_space, "block", "tflite")
    files = sorted((tmp_path / "probes/models").glob("*.tflite"))
    assert len(files) == count
    assert all(layer_of(path.stem) is not None for path in files)
    with pytest.raises(TableError, match="not empty"):
        write_probes(tmp_path / "probes", tiny_space, "block")


SAID = {
    "tflite_benchmark_op_profile.csv": "neither the name of a probe nor shapes",
    "vela_per-layer.csv": "neither the name of a probe nor shapes",
    "vela_summary.csv": "summary of a whole network .*lut calibrate",
    "trtexec_export_profile.json": "neither the name of a probe nor shapes",
    "openvino_average_counters.csv": "a header and no rows",
    "stm32_inspector_report.txt": "no row of a layer",
}


def sample(name):
    if not SAMPLES.exists():
        pytest.skip("needs ../shared/reference/device-profiles")
    return SAMPLES / name


@pytest.mark.parametrize("name", SAID)
def test_a_sample_says_what_is_missing(name):
    with pytest.raises(TableError, match=f"(?s){SAID[name]}"):
        import_profiles([sample(name)], kind_of(sample(name)), 500.0)


def test_a_trace_of_onnxruntime_joins_by_shapes(tmp_path):
    to = tmp_path / "ort.csv"
    words = ["lut", "import", str(sample("ort_profile.json")), "--out", str(to)]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    table = LookupTable.read(to)
    row = to_layer(table.layers[0])
    assert row == Layer("conv", 3, 16, 224, 224, 3, 2, 1, 32, 32)
    spans = [e["dur"] for e in json.loads(sample("ort_profile.json").read_text())
             if e["name"] == "p2o.pd_op.batch_norm_.0.0_nchwc_kernel_time"]  # fmt: skip
    assert table.prices["latency_ms"][0] == pytest.approx(np.mean(spans) / 1e3)
    assert len(table.layers) > 20


def damaged(text):
    """Ten ways in which files arrive broken."""
    half = text[: int(len(text) * 0.6)]
    structured = text.lstrip()[0] in "[{"
    cut = half if structured else half[: half.rindex("\n") + 9]
    figure = next(f for f in ("62500", "0.125", "125") if f in text)
    at = text.rindex(figure)
    header = next(h for h in ("avg_ms", "averageMs", "Op Cycles", "realTime (ms)", "avg (ms)",
                               "execution_time", "Clayer", "dur") if h in text)  # fmt: skip

    def instead(new):
        return text[:at] + new + text[at + len(figure) :]

    return {
        "empty": b"", "blank": b"\n \n", "cut": cut.encode(), "binary": b"\x00\xff\xfe" + bytes(40),
        "word": instead('"fast"' if structured else "fast").encode(),
        "negative": instead("-1").encode(),
        "not a number": instead("NaN").encode(),
        "huge": instead("1e400").encode(),
        "column gone": text.replace(header, "other").encode(),
        "latin": text.replace("expand", "größe").encode("latin-1"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_damaged_profiles_are_refused_and_nothing_is_written(kind, tmp_path):
    cases = damaged(TEXTS[kind])
    assert len(cases) == 10
    for what, data in cases.items():
        path, to = tmp_path / "p.txt", tmp_path / "out.csv"
        path.write_bytes(data)
        words = ["lut", "import", str(path), "--out", str(to), "--frequency-mhz", "500"]
        ended = CliRunner().invoke(app, [*words, "--format", kind])
        assert ended.exit_code == 1, (kind, what, ended.output)
        assert isinstance(ended.exception, SystemExit | ApqError), (kind, what, ended.exception)
        assert not to.exists()
        assert ended.output.strip(), what


NAMES = [*SAID, "ort_profile.json"]


@pytest.mark.parametrize("name", NAMES)
def test_damaged_samples_are_refused_and_nothing_is_written(name, tmp_path):
    raw = sample(name).read_bytes()
    rng = np.random.default_rng(0)
    for i in range(10):
        cut = int(rng.integers(1, max(2, len(raw) * 9 // 10)))
        data = (raw[:cut] + b"\x00\xff") if i % 2 else raw[:cut] + b"\xff" + raw[cut:]
        path, to = tmp_path / name, tmp_path / "out.csv"
        path.write_bytes(data)
        ended = CliRunner().invoke(app, ["lut", "import", str(path), "--out", str(to)])
        assert ended.exit_code == 1, ended.output
        assert not to.exists()
