"""apq finetune, export and verify as a user types them, one after the other."""

import json

import pytest
from commands import figures
from typer.testing import CliRunner

from apq.cli import app
from apq.deploy.model import load_model
from apq.supernet import largest, load_supernet
from apq.supernet.files import save_supernet


@pytest.fixture(scope="module")
def folder(tiny_supernet, tiny_space, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    made = {"mean": tiny_supernet.mean, "std": tiny_supernet.std}
    save_supernet(folder / "supernet.safetensors", tiny_supernet.network, made)
    best = {
        "candidate": largest(tiny_space).to_dict(),
        "predicted": {"accuracy": 0.75, "accuracy_spread": 0.02},
        "costs": {"latency_ms": 0.25, "size_mb": 0.004},
    }
    (folder / "best.json").write_text(json.dumps(best))
    return folder


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def test_finetune_export_verify(folder):
    tuned = figures(
        "finetune", "--candidate", folder / "best.json", "--epochs", 1, "--batch", 64,
        "--supernet", folder / "supernet.safetensors", "--images", "digits",
    )  # fmt: skip
    assert tuned["predicted"] == 0.75
    assert 0 < tuned["test"] <= 1
    model = folder / "model.safetensors"
    assert tuned["out"] == model.as_posix()

    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    exported = figures("export", "--model", model)
    assert (folder / "model.onnx").stat().st_size == exported["file_bytes"]
    found = figures("verify", "--model", model, "--images", "digits")
    assert found["max_difference"] < 1e-5
    assert found["accuracy"] == tuned["test"]
    assert found["predicted"]["latency_ms"] == 0.25
    assert found["kernels"]["products"] in ("exact", "saturating")
    assert found["kernels"]["threads"] == 1

    shown = run("verify", "--model", model, "--images", "digits", "--limit", 50).stdout
    kernels = "kernels: onnxruntime"
    for part in ("75.00% ± 2.00%", "4,000", "0.25", "same class on 100.00%", kernels):
        assert part in shown

    by_table = ("--lut", "roofline", "--limit", 50)
    beside = json.loads(
        run("verify", "--model", model, "--images", "digits", "--json", *by_table).stdout
    )
    assert beside["priced"]["latency_ms"] > 0
    assert "by the table" in run("verify", "--model", model, "--images", "digits", *by_table).stdout

    other = folder / "other.onnx"
    to = ("--dynamic-batch", "--opset", 22, "--out", other)
    assert "opset 22" in run("export", "--model", model, *to).stdout
    dimensions = onnx.load(other).graph.input[0].type.tensor_type.shape.dim
    assert dimensions[0].dim_param == "batch"
    run("verify", "--model", model, "--images", "digits", "--file", other)
    wrong = CliRunner().invoke(app, ["export", "--model", str(model), "--opset", "12"])
    assert wrong.exit_code == 1
    assert "opset 12 does not suit this file; allowed: 13 to" in " ".join(wrong.output.split())
    both = CliRunner().invoke(app, ["export", "--dynamic-batch", "--batch", "3"])
    assert both.exit_code == 2
    assert "give one" in both.output

    run("export", "--model", model, "--format", "torch")
    assert (folder / "model_plain.py").exists()


def test_a_candidate_of_another_supernet_is_refused_unless_it_is_meant(folder):
    best = json.loads((folder / "best.json").read_text())
    path = folder / "of_another.json"
    path.write_text(json.dumps(best | {"made_from": {"supernet": "0123456789abcdef"}}))
    words = ["finetune", "--candidate", path, "--supernet", folder / "supernet.safetensors"]
    words += ["--images", "digits", "--epochs", 0, "--out", folder / "of_another.safetensors"]
    refused = CliRunner().invoke(app, [str(word) for word in words])
    assert refused.exit_code == 1
    told = " ".join(refused.output.split())
    own = load_supernet(folder / "supernet.safetensors").hash
    assert f"searched on the supernet 0123456789abcdef, this one is {own}" in told
    assert "--other-supernet" in told
    assert not (folder / "of_another.safetensors").exists()
    meant = json.loads(run(*words, "--other-supernet", "--json").stdout)
    assert meant["searched_on"] == "0123456789abcdef"
    assert load_model(folder / "of_another.safetensors").metadata["searched_on"]
    path.write_text(json.dumps(best | {"made_from": {"supernet": own}}))
    words[-1] = folder / "own.safetensors"
    assert json.loads(run(*words, "--json").stdout)["searched_on"] is None


@pytest.mark.parametrize(
    "words",
    [
        ("export", "--model", "absent.safetensors"),
        ("verify", "--model", "absent.safetensors", "--option", "no-equals-sign"),
        ("finetune", "--candidate", "absent.json"),
        ("export", "--format", "tflite"),
    ],
)
def test_mistakes_are_answered_in_words(words):
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == (2 if "--option" in words else 1)
    assert "Traceback" not in result.output
    assert "error" in result.output.lower()
