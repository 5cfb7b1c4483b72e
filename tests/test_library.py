"""``import apq``: its names, what loading it costs, types, and the examples that use them."""

from __future__ import annotations

import doctest
import importlib.util
import io
import os
import re
import subprocess
import sys
import tomllib
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


def test_type_checkers_see_every_name_and_the_documented_example():
    """mypy reads tests/typed_user.py with the package: an error it must find is marked there."""
    assert (ROOT / "apq/py.typed").exists()
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert checked["strict"]
    assert {"apq", "examples", "tests/typed_user.py"} <= set(checked["files"])
    user = (ROOT / "tests/typed_user.py").read_text()
    for name in apq.__all__:
        assert f"    {name},\n" in user, name
    example = (ROOT / "docs/library.md").read_text().partition("```python\n")[2]
    assert example.partition("```")[0].partition("import apq\n")[2].strip() in user


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
