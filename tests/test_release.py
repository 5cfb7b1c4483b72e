"""What is released: a wheel that carries its data, runs anywhere, and says one version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from apq.files.shipped import own_copy, shipped
from apq.version import __version__

ROOT = Path(__file__).parents[1]
CARRIED = (
    "data/cifar10/predictor.safetensors",
    "data/cifar10/supernet.safetensors",
    "data/cifar10/fp32/part-000000-000250.parquet",
    "data/cifar10/quantized/part-000000-000020.parquet",
    "data/cifar10/test/part-000000-000020.parquet",
    "data/cifar10-low-bits/predictor.safetensors",
    "lut/bitfusion-apq-cifar10.csv",
    "lut/bitfusion-apq-cifar10-low-bits.csv",
    "lut/x86-onnxruntime-int8-cifar10.csv",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the unpacked wheel, built from a copy of what a release is built from."""
    pytest.importorskip("setuptools", minversion="77")
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("made")
    for name in ("apq", "data", "lut"):
        ignored = shutil.ignore_patterns("__pycache__", "_shipped")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    offline = ("--no-build-isolation", "--no-deps", "--no-index", "-q")
    command = [sys.executable, "-m", "pip", "wheel", *offline, "-w", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = made.glob("*.whl")
    assert wheel.name == f"apq_nas-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(made / "site")
    return made / "site"


def python(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """This interpreter with the unpacked wheel first on its path, in an empty folder."""
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True, text=True, cwd=folder, env=os.environ | {"PYTHONPATH": str(site)},
    )  # fmt: skip


def test_a_wheel_holds_the_package_its_data_and_nothing_else(installed):
    assert {p.name for p in installed.iterdir()} == {"apq", f"apq_nas-{__version__}.dist-info"}
    modules = {p.relative_to(ROOT) for p in (ROOT / "apq").rglob("*.py")}
    assert {p.relative_to(installed) for p in installed.rglob("*.py")} == modules
    for name in CARRIED:
        carried = installed / "apq/_shipped" / name
        assert carried.read_bytes() == (ROOT / name).read_bytes()
    assert (installed / "apq/py.typed").exists()
    assert sum(p.stat().st_size for p in installed.rglob("*") if p.is_file()) < 17e6


def test_a_wheel_runs_outside_the_checkout(installed, tmp_path):
    done = python(installed, tmp_path, "-m", "apq", "--help")
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout
    words = "search --latency-ms 0.5 --candidates 200 --no-baselines --no-picture"
    code = f"import apq.cli, sys; print(apq.__file__); sys.argv += {words.split()}; apq.cli.main()"
    done = python(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout
    assert "chosen:" in done.stdout
    assert {p.name for p in (tmp_path / "runs/search").iterdir()} >= {"best.json", "front.parquet"}


def test_own_files_come_before_what_apq_carries(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = Path("lut/bitfusion-apq-cifar10.csv")
    assert shipped(table) == ROOT / table
    table.parent.mkdir()
    table.write_text("mine")
    assert shipped(table) == table
    for other in ("lut/no-such.csv", "data/../pyproject.toml", "README.md"):
        assert shipped(other) == Path(other)
    assert own_copy(Path("data/cifar10/test"))
    assert len(list(Path("data/cifar10/test").glob("*.parquet"))) == 10
    assert not own_copy(Path("data/cifar10/test"))


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "apq-nas"
    assert project["dynamic"] == ["version"]
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__
