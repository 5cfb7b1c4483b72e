"""The report page: complete, self-contained, and safe to open whatever the files say."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pytest
from small_families import SMALL
from small_runs import NASTY, hostile, repeated, search

from apq.errors import ApqError
from apq.report.figures import write_figures
from apq.report.page import render, write_page, write_report
from apq.report.picture import NAME
from apq.report.reading import read_source, read_sources, unique
from apq.report.view import Measured, as_data


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """What a search leaves behind."""
    folder = tmp_path_factory.mktemp("run")
    search(folder, SMALL["resolutions"])
    return folder


@pytest.fixture
def nasty_source(run_folder):
    """A run with hostile names wherever a name may stand."""
    return hostile(read_source(run_folder))


class Page(HTMLParser):
    """Tags, every address an attribute names, and what scripts and policy say."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: set[str] = set()
        self.scripts: list[str] = []
        self.data, self.policy = "", ""
        self._into = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = dict(attrs)
        names = {"src", "href", "xlink:href", "action", "data", "srcset"}
        self.addresses |= {str(value) for name, value in attrs if name in names}
        assert not [name for name in named if name.startswith("on")]
        if tag == "script":
            self._into = "data" if named.get("type") == "application/json" else "script"
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]

    def handle_endtag(self, tag):
        self._into = ""

    def handle_data(self, text):
        if self._into == "data":
            self.data += text
        elif self._into:
            self.scripts.append(text)


def test_the_page_loads_nothing_and_runs_what_its_policy_lists(run_folder):
    text = write_report(run_folder).read_text()
    page = Page(text)
    assert {"table", "h1", "noscript"} <= {*page.tags}
    assert not {"iframe", "object", "embed", "img", "base"} & {*page.tags}
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    hashes = [b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts]
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert all(f"'sha256-{found}'" in page.policy for found in hashes)
    assert page.policy.count("sha256-") == len(hashes)
    assert "connect-src 'none'" in page.policy
    assert "unsafe-eval" not in page.policy
    assert "sourceMappingURL" not in text
    assert len(text.encode()) < 3_000_000


def test_hostile_names_are_text(nasty_source, run_folder):
    page = Page(render([nasty_source]))
    plain = Page(write_report(run_folder).read_text())
    assert page.tags.count("script") == plain.tags.count("script")
    assert {*page.tags} <= {*plain.tags}
    assert page.scripts == plain.scripts
    run = json.loads(page.data)["runs"][0]
    assert run["name"] == NASTY
    assert NASTY in run["front"]["costs"]
    assert [base["name"] for base in run["baselines"]] == [NASTY]


@pytest.mark.parametrize("family", SMALL)
def test_blocks_of_every_family_add_up_to_the_whole(family, tmp_path):
    result = search(tmp_path, SMALL[family])
    run = as_data(read_source(tmp_path).run)
    assert run["front"]["accuracy"] == pytest.approx(result.front.accuracy, rel=1e-5)
    assert run["chosen"] == result.chosen
    space = result.front.space
    for metric in run["fixed"]:
        total = np.full(len(result.front), run["fixed"][metric])
        for block in run["blocks"]:
            which = unpacked(block["which"])
            there = which < len(block["options"])
            total[there] += np.array(block["costs"][metric])[which[there]]
        assert total == pytest.approx(result.front.costs[metric], rel=1e-4)
    for row in (0, result.chosen):
        chosen = space.values(result.front.genes[row : row + 1])
        for block in run["blocks"]:
            at = unpacked(block["which"])[row]
            for name, formats, place in zip(
                block["choices"], block["formats"], range(99), strict=False
            ):
                column = chosen.get(f"{block['name']}_{name}", chosen.get(name))
                if at < len(block["options"]) and column is not None and not formats:
                    assert block["options"][at][place] == column[0]


def unpacked(packed):
    return np.frombuffer(b64decode(packed["base64"]), dtype=f"<u{packed['bytes']}")


def test_what_was_tried_as_hard_is_drawn_with_its_front(run_folder):
    run = as_data(read_source(run_folder).run)
    assert run["baselines"]
    for base in run["baselines"]:
        assert {"accuracy", "bitops_g"} <= {*base["front"]}
        assert max(base["front"]["accuracy"]) == pytest.approx(base["accuracy"])


@pytest.mark.parametrize("rows", [1, 5_000])
def test_fronts_of_any_length_fit(run_folder, rows):
    long = repeated(read_source(run_folder), rows)
    text = render([long])
    assert len(text.encode()) < 3_000_000
    found = json.loads(Page(text).data)["runs"][0]
    assert len(found["front"]["accuracy"]) == rows
    assert found["chosen"] == rows - 1


def test_a_page_that_would_be_too_large_draws_fewer_points(run_folder, monkeypatch):
    monkeypatch.setattr("apq.report.page.MOST_BYTES", 1)
    source = read_source(run_folder)
    found = json.loads(Page(render([source])).data)["runs"][0]
    assert found["all"] == len(source.run.genes)
    assert 2 <= len(found["front"]["accuracy"]) <= 20
    kept = found["front"]["accuracy"][found["chosen"]]
    assert kept == pytest.approx(source.run.accuracy[source.run.chosen], rel=1e-5)


@pytest.fixture(scope="module")
def two_runs(run_folder, tmp_path_factory):
    """Runs of two spaces, in folders of one name."""
    other = tmp_path_factory.mktemp("others") / run_folder.name
    search(other, SMALL["basic"])
    return read_sources([run_folder, other])


def test_runs_are_laid_over_each_other(two_runs, tmp_path):
    text = write_page(tmp_path / "both.html", two_runs).read_text()
    first, second = json.loads(Page(text).data)["runs"]
    assert second["name"] == f"{first['name']} (2)"
    table = text[text.index('<table class="runs">') : text.index("</table>")]
    for source in two_runs:
        assert f">{source.run.name}<" in table
        assert f"{source.best.predicted.accuracy:.2%}" in table
        assert f"bitops_g</bdi> ≤ {source.best.limits['bitops_g']:g}" in table
    assert "<strong>" not in table  # spaces differ, so none is the best of all


def test_of_runs_of_one_space_the_most_accurate_stands_out(run_folder, tmp_path):
    search(tmp_path / "tight", SMALL["resolutions"], limit=0.2)
    sources = read_sources([tmp_path / "tight", run_folder])
    best = max(source.best.predicted.accuracy for source in sources)
    assert f"<strong>{best:.2%}</strong>" in render(sources)


def test_equal_names_are_told_apart():
    assert unique(["a", "b", "a", "a (2)", "a"]) == ["a", "b", "a (2)", "a (2) (2)", "a (3)"]


def test_figures_of_several_runs_come_in_every_format(two_runs, tmp_path):
    files = write_figures(tmp_path, two_runs)
    assert {f.name for f in files} == {
        f"{figure}.{ending}"
        for figure in ("front-bitops_g", "progress")
        for ending in ("svg", "png", "pdf")
    }
    assert {f.read_bytes()[:4] for f in files} == {b"<?xm", b"\x89PNG", b"%PDF"}
    front = (tmp_path / "front-bitops_g.svg").read_text()
    assert all(source.run.name in front for source in two_runs)


def test_figures_show_hostile_names_as_text(nasty_source, tmp_path, monkeypatch):
    monkeypatch.setattr("apq.report.figures.FORMATS", ("svg",))
    run = replace(nasty_source.run, name="$\\frac{_<b>\x00\u202e" + "x" * 10_000, measured=[
        Measured("m", "apq", nasty_source.run.genes[0], 0.8, 0.01, 0.7, 0.8, 0.81)
    ])  # fmt: skip
    other = replace(run, name="_hidden")
    files = write_figures(tmp_path, [replace(nasty_source, run=r) for r in (run, other)])
    assert {"measured.svg", "progress.svg"} <= {f.name for f in files}
    for path in tmp_path.glob("*.svg"):
        texts = [t for t in ElementTree.parse(path).getroot().itertext() if t.strip()]
        assert "_hidden" in texts
        assert any(t.startswith("$\\frac{_<b>") and len(t) <= NAME for t in texts)


def test_equal_runs_give_equal_pages(run_folder):
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


def test_a_folder_without_a_run_says_what_makes_one(tmp_path):
    with pytest.raises(ApqError, match="apq search"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["front.parquet", "evaluations.parquet", "best.json"])
def test_a_truncated_file_is_named(name, tmp_path):
    search(tmp_path, SMALL["chain"])
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ApqError, match=name):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_what_draws_is_what_was_published():
    vendor = files("apq.report") / "vendor"
    told = (vendor / "README.md").read_text()
    scripts = [f for f in vendor.iterdir() if f.name.endswith(".js")]
    assert len(scripts) == 3
    for script in scripts:
        assert hashlib.sha256(script.read_bytes()).hexdigest() in told
