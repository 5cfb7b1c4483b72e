"""``import apq``: its names, what loading it costs, types, and the examples that use them."""

from __future__ import annotations

import doctest
import importlib.util
import io
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import apq

ROOT = Path(__file__).parents[1]


def test_every_name_is_there_and_documented():
    assert apq.__all__ == sorted(apq._HOME)
    for name in apq.__all__:
        found = getattr(apq, name)
        assert (found.__doc__ or "").strip(), name
        assert name in dir(apq)
        assert f"`{name}`" in apq.__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'serach'; it has ApqError"):
        _ = apq.serach


def test_importing_loads_nothing_large():
    heavy = ("torch", "optuna", "pandas", "pydantic", "numpy")
    code = f"import sys, apq; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


USER = """
import apq
from apq import (
    {names},
)

space: apq.Space = apq.load_space("digits").restrict("bits=8")
images = apq.load_images("digits", space.resolution, space.in_channels)
supernet = apq.train_supernet(space, images, "supernet.safetensors", apq.SupernetRecipe(epochs=9))
apq.collect_samples(supernet, images, "fp32", 100)
predictor = apq.train_predictor(apq.read_samples("fp32"))
priced = apq.price_space(space, apq.read_lut("lut.csv"))
found = apq.search_front(priced, predictor.predict, {{"latency_ms": 0.02}})
candidate: apq.Candidate = found.candidate
model, report = apq.finetune(found, supernet, images, "model.safetensors")
size: int = apq.export(model, "model.onnx").file_bytes
accuracy: float = apq.verify(model, "model.onnx", images).accuracy
wrong: int = apq.load_space("digits")
"""


def test_type_checkers_see_the_names(tmp_path):
    assert (ROOT / "apq/py.typed").exists()
    mine, readme = tmp_path / "mine.py", tmp_path / "readme.py"
    text = USER.format(names=", ".join(apq.__all__))
    mine.write_text(text)
    section = (ROOT / "docs/library.md").read_text().partition("# As a library")[2]
    readme.write_text(section.partition("```python\n")[2].partition("```")[0])
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent",
               "--cache-dir", str(ROOT / ".mypy_cache"),
               str(mine), str(readme), str(ROOT / "examples/search_digits.py")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    last = len(text.splitlines())
    assert len(errors) == 1, done.stdout
    assert f"mine.py:{last}: error: Incompatible types in assignment" in errors[0]


WRITERS = (
    "train_supernet", "collect_samples", "train_predictor", "build_table", "finetune", "export",
)  # fmt: skip
"""Whose examples write the files below ``digits/`` that other examples read, in this order."""


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The examples of every name, run in one folder: failures, and how many lines ran."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    threads, here = torch.get_num_threads(), Path.cwd()
    torch.set_num_threads(1)
    os.chdir(tmp_path_factory.mktemp("examples"))
    found = {}
    try:
        for name in (*WRITERS, *sorted({*apq.__all__, "apq"} - {*WRITERS})):
            found[name] = _run_examples(apq if name == "apq" else getattr(apq, name), name)
    finally:
        os.chdir(here)
        torch.set_num_threads(threads)
    return found


def _run_examples(thing, name):
    told = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    test = doctest.DocTestParser().get_doctest(
        thing.__doc__, {name: thing}, name, getattr(thing, "__module__", "apq"), 0
    )
    runner.run(test, out=told.write)
    return told.getvalue(), len(test.examples)


@pytest.mark.parametrize("name", [*apq.__all__, "apq"])
def test_its_example_runs_as_it_stands(examples, name):
    failures, lines = examples[name]
    assert not failures, failures
    assert lines or f"apq.{name}(" in apq.__doc__, f"{name} has no example"


@pytest.mark.parametrize("module", ["apq.space.families.builder"])
def test_examples_in_docstrings_run(module):
    done = doctest.testmod(import_module(module))
    assert done.attempted > 0
    assert done.failed == 0


def test_the_example_runs(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples/search_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path, quick=True)
    said = capsys.readouterr().out
    assert "networks on the front within" in said
    assert re.search(r"accuracy +\d.*± .*on validation images", said)
    assert "100% of 359 test images in the class torch says" in said
