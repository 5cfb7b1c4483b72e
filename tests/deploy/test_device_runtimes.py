"""LiteRT and Arm's compiler as devices that are measured."""

import pytest
from commands import run
from typer.testing import CliRunner

from apq.cli import app
from apq.deploy.measure import finish, prepare
from apq.deploy.timing import time_folder
from apq.errors import ModelError, TableError
from apq.hardware import LookupTable

pytest.importorskip("ai_edge_litert")


def test_litert_times_blocks_and_networks_of_a_folder(tiny_space, tmp_path):
    small = tiny_space
    total = prepare(tmp_path, small, "int8", 4, runtime="litert")
    assert len(list((tmp_path / "models").glob("*.tflite"))) == total
    time_folder(tmp_path, rounds=2, runs=2)
    found = finish(tmp_path, "here")
    assert found.table.granularity == "block"
    assert (found.latency_ms > 0).all()
    assert found.table.header["kernels"].startswith("litert 2")


def test_litert_has_no_float_tables(tiny_space, tmp_path):
    with pytest.raises(TableError, match="--precision int8"):
        prepare(tmp_path, tiny_space, "fp32", 4, runtime="litert")


def test_a_folder_is_compiled_for_an_ethos_u(tiny_space, tmp_path):
    pytest.importorskip("ethosu")
    from apq.deploy.graphs import layer_model
    from apq.deploy.vela import compile_model
    from apq.space import Layer

    found = {}
    for channels in (16, 64):
        path = tmp_path / f"{channels}.tflite"
        path.write_bytes(layer_model(Layer("conv", channels, channels, 16, 16, 3), form="tflite"))
        found[channels] = compile_model(path)
    assert found[64].cycles > 4 * found[16].cycles > 0
    assert found[64].weight_bytes > found[16].weight_bytes
    assert found[16].milliseconds == pytest.approx(found[16].cycles / 500e3)  # a clock of 500 MHz
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match="Vela cannot compile"):
        compile_model(path)


def test_no_table_is_overwritten_silently(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "there.csv"
    run("lut", "build", "--space", "digits", "--model", "roofline", "--out", there)
    before = there.read_bytes()
    other = tmp_path / "mine.csv"
    other.write_text(
        "op,in_channels,out_channels,height,width,kernel,stride,groups,weight_bits,"
        "activation_bits,latency_ms\nconv,8,8,8,8,1,1,1,8,8,0.5\n"
    )
    for words in (
        ("lut", "import", other, "--out", there),
        ("lut", "measure", "--space", "digits", "--runtime", "litert", "--out", there),
    ):
        ended = CliRunner().invoke(app, [str(word) for word in words])
        assert ended.exit_code == 1
        assert "--force to overwrite it" in " ".join(ended.output.split())
    assert there.read_bytes() == before
    run("lut", "import", other, "--out", there, "--force")
    assert LookupTable.read(there).name == "mine"
