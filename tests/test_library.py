"""``import apq``: its names, what loading it costs, types, and the example that uses them."""

from __future__ import annotations

import doctest
import importlib.util
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import apq

ROOT = Path(__file__).parents[1]


def test_every_name_is_there_and_documented():
    for name in apq.__all__:
        found = getattr(apq, name)
        assert (found.__doc__ or "").strip(), name
        assert name in dir(apq)
    with pytest.raises(AttributeError, match="has no attribute 'serach'; it has ApqError"):
        _ = apq.serach


def test_importing_loads_nothing_large():
    code = "import sys, apq; print([m for m in ('torch', 'optuna', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_type_checkers_see_the_names(tmp_path):
    assert (ROOT / "apq/py.typed").exists()
    script = tmp_path / "mine.py"
    script.write_text(
        "import apq\n"
        "space: apq.Space = apq.load_space('digits').restrict('bits=8')\n"
        "count: int = space.count()\n"
        "wrong: int = apq.load_space('digits')\n"
    )
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent",
               "--cache-dir", str(ROOT / ".mypy_cache"), str(script)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stdout
    assert "mine.py:4: error: Incompatible types in assignment" in errors[0]


@pytest.mark.parametrize(
    "module",
    ["apq.space.base", "apq.space.candidate", "apq.space.families.builder", "apq.supernet.trace"],
)
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
    assert "100% of the test images alike" in said
