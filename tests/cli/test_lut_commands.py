"""apq lut from the command line: what is printed adds up, and what is wrong is said in words."""

import json
import subprocess
import sys

import numpy as np
import pytest
from commands import figures
from typer.testing import CliRunner

from apq.cli import app
from apq.errors import TableError
from apq.hardware import COST_MODELS, LookupTable, build_table, load_cost_model, price_space
from apq.space import load_space


def run(*words, code=0):
    result = CliRunner().invoke(app, ["lut", *map(str, words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def best(tmp_path, tiny_space):
    """A candidate as a search writes it, and its genes."""
    genes = tiny_space.sample(1, np.random.default_rng(0))
    path = tmp_path / "best.json"
    told = {"candidate": tiny_space.build(genes[0]).to_dict(), "space": tiny_space.to_dict()}
    path.write_text(json.dumps(told))
    return path, genes


@pytest.mark.parametrize("model", COST_MODELS)
def test_prices_of_a_candidate_add_up_in_the_space_its_file_names(best, tiny_space, model):
    path, genes = best
    told = figures("lut", "price", path, "--lut", model)
    assert told["space"] == "tiny"
    costs = price_space(tiny_space, load_cost_model(model)).costs(genes)
    assert told["totals"] == pytest.approx({name: float(v[0]) for name, v in costs.items()})
    for metric in {"latency_ms", "energy_mj"} & set(costs):
        assert sum(row[metric] for row in told["layers"]) == pytest.approx(costs[metric][0])


def test_listed_layers_and_the_overhead_make_the_total(best, tmp_path, tiny_space):
    path, _ = best
    made = build_table(tiny_space, load_cost_model("bit-serial"))
    LookupTable(made.name, "", made.layers, made.prices, overhead={"latency_ms": 0.5}).write(
        tmp_path / "t.csv"
    )
    lines = run("price", path, "--lut", tmp_path / "t.csv", "--layers").stdout.splitlines()
    prices = [float(line.split("latency_ms")[1]) for line in lines if "latency_ms" in line]
    assert "overhead of every network" in lines[-6]
    assert sum(prices[:-1]) == pytest.approx(prices[-1], rel=1e-3)


def test_show_says_what_is_missing_and_what_adds_it(tmp_path, tiny_space):
    build_table(tiny_space, load_cost_model("bit-serial")).write(tmp_path / "t.csv")
    result = run("show", tmp_path / "t.csv", "--space", "digits")
    assert "conv3x3/s1 1->8 @8px w8a8" not in result.stdout  # both spaces have this stem
    assert "rows for digits" in result.stdout
    assert "next: apq lut build --model bit-serial --space digits" in result.stderr


def test_show_says_what_a_table_that_was_changed_lacks(tmp_path):
    path = tmp_path / "t.csv"
    build_table(load_space("digits"), load_cost_model("bit-serial")).write(path)
    assert "its header says" not in run("show", path, "--space", "digits").stdout
    path.write_text(path.read_text().rsplit("\n", 2)[0] + "\n")
    told = run("show", path, "--space", "digits").stdout
    assert "1 rows for digits" in told
    assert "its header says that it has" in told
    assert figures("lut", "show", path)["out_of_step"].startswith("its header")
    with pytest.raises(TableError, match="its header says that it has"):
        LookupTable.read(path)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("build", "--space", "digits", "--out", "table.txt"), ".csv or .parquet"),
        (("build", "--space", "digits", "--model", "rooflin"), "Did you mean 'roofline'"),
        (("build", "--model", "roofline", "--set", "peak_gmacs=-5"), "not negative"),
        (("show", "absent.csv"), "apq lut build"),
        (("price", "absent.json", "--lut", "bops"), "apq search"),
        (("verify", "--lut", "bops", "--networks", "absent.csv"), "apq lut measure"),
        (
            ("calibrate", "--lut", "bops", "--networks", "n.csv", "--out", "c.csv"),
            "no file at n.csv",
        ),
        (("measure", "--runtime", "openvin"), "Did you mean 'openvino'"),
        (("measure", "--import", "--folder", "absent"), "--prepare"),
    ],
)
def test_what_is_wrong_is_said_in_words(words, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert part in run(*words, code=1).output
    assert not list(tmp_path.iterdir())


def test_a_candidate_of_another_space_asks_for_its_own(tmp_path):
    digits = load_space("digits")
    path = tmp_path / "c.json"
    genes = digits.sample(1, np.random.default_rng(0))
    path.write_text(json.dumps(digits.build(genes[0]).to_dict()))
    assert "--space SPACE" in run("price", path, "--lut", "bops", code=1).output
    run("price", path, "--lut", "bops", "--space", "digits")


def test_pricing_loads_no_torch(best):
    path, _ = best
    code = (
        "import sys; from typer.testing import CliRunner; from apq.cli import app;"
        f"r = CliRunner().invoke(app, ['lut', 'price', {str(path)!r}, '--lut', 'bit-serial']);"
        "sys.exit(r.exit_code or ('torch' in sys.modules and 'torch was loaded') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", ["build", "import", "show", "price", "verify", "calibrate", "measure"]
)
def test_help_ends_in_examples(command):
    assert f"apq lut {command}" in run(command, "--help").stdout


def test_building_overwrites_nothing_but_an_older_copy(tmp_path):
    path = tmp_path / "t.csv"
    ask = ("build", "--space", "digits", "--model", "roofline", "--out", path)
    run(*ask)
    first = path.read_bytes()
    refused = run("build", "--space", "cifar10", "--model", "roofline", "--out", path, code=1)
    assert "is the table of another space or device" in refused.output
    assert "--force" in refused.output
    assert "digits" in refused.output
    assert "cifar10" in refused.output
    run("build", "--space", "digits", "--model", "bitfusion-apq", "--out", path, code=1)
    faster = run(*ask, "--set", "peak_gmacs=50", code=1)
    assert "set peak_gmacs=50" in faster.output
    assert path.read_bytes() == first
    path.write_bytes(first.replace(b"# apq: ", b"# apq: an older one than "))
    run(*ask)
    assert b"an older one" not in path.read_bytes()
    lines = first.splitlines()
    path.write_bytes(b"\n".join([b"# calibration: fitted to a phone", *lines]))
    assert "fitted to a phone" in run(*ask, code=1).output
    path.write_text("my notes\n")
    assert "is no table as apq writes it" in run(*ask, code=1).output
    assert path.read_text() == "my notes\n"
    run(*ask, "--force")
    assert LookupTable.read(path).header["space"].startswith("digits ")
