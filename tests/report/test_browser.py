"""The pages in a real browser: drawn, read, pointed at, clicked, by mouse and by keyboard."""

from __future__ import annotations

import threading
from urllib.parse import urlparse

import pytest
from browser import ENTER, ESCAPE, HOME, MISSING, RIGHT, WHY, browser
from small_families import SMALL
from small_runs import NASTY, accuracy, hostile, repeated, search

from apq.hardware import price_space
from apq.report.explore import Explorer, serve_run
from apq.report.page import write_page
from apq.report.reading import read_source

pytestmark = pytest.mark.skipif(bool(MISSING), reason=WHY)
SPACE = SMALL["resolutions"]


@pytest.fixture(scope="module")
def tab():
    """One browser for all tests."""
    with browser() as tab:
        yield tab


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of a small space."""
    folder = tmp_path_factory.mktemp("looked-at")
    search(folder, SPACE)
    return read_source(folder)


def opened(tab, path, *sources):
    tab.open(write_page(path / "page.html", sources).as_uri())


def text(tab, name):
    return tab.run("return document.getElementById(arguments[0]).textContent", name)


NETWORK = """
const chart = document.getElementById("front-chart"), tip = document.getElementById("tip");
chart.scrollIntoView({ block: "center" });
const box = chart.querySelector("canvas").getBoundingClientRect();
const found = [];
for (let y = Math.ceil(box.top); y < box.bottom; y += 8)
for (let x = Math.ceil(box.left); x < box.right; x += 8) {
  chart.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y }));
  if (!tip.hidden && tip.textContent.includes("layers")) found.push([x, y]);
}
chart.dispatchEvent(new PointerEvent("pointerleave"));
return [found[0], found.at(-1)];
"""
"""Two places in the window where a network of the front is."""


def fits(tab, width):
    """Nothing is wider than the window."""
    assert tab.run("return innerWidth") == width
    assert tab.run("return document.documentElement.scrollWidth <= innerWidth")


def test_a_page_is_read_by_mouse_at_any_width_and_light(tab, source, tmp_path):
    tab.show(400)
    opened(tab, tmp_path, source)
    for width, dark in ((400, False), (1600, True)):
        drawn = tab.run("return document.body.dataset.drawn")
        if width != 400:
            tab.show(width, dark)
            tab.wait("return document.body.dataset.drawn > arguments[0]", drawn)
        fits(tab, width)
        first, last = tab.run(NETWORK)
        tab.point(*first)
        tab.wait("return !document.getElementById('tip').hidden")
        assert "accuracy" in text(tab, "tip")
        pins = []
        for place in (first, last):
            tab.point(*place, click=True)
            pins.append(tab.wait("return document.getElementById('front-chart').dataset.b"))
            assert "change" in text(tab, "compare")
            assert text(tab, "said").startswith("B: accuracy")
        assert pins[0] != pins[1]
        tab.press(ESCAPE)
        tab.wait("return !document.getElementById('front-chart').dataset.b")
    assert tab.complaints() == []


def test_a_page_is_read_by_keyboard_and_by_ear(tab, source, tmp_path):
    tab.show(1600)
    opened(tab, tmp_path, source)
    tab.run("document.getElementById('walk').focus()")
    tab.press(HOME, RIGHT)
    assert tab.run("return document.getElementById('walk').getAttribute('aria-valuetext')")
    tab.run("document.getElementById('pin-b').focus()")
    tab.press(ENTER)
    assert tab.wait("return document.getElementById('front-chart').dataset.b")
    assert text(tab, "said").startswith("B: accuracy")
    nameless = tab.run("""
        return [...document.querySelectorAll("input, select, button, [role=img], [role=region]")]
          .filter((e) => !e.hidden && !e.labels?.length && !e.textContent.trim()
                         && !e.getAttribute("aria-label")).map((e) => e.outerHTML)""")
    assert nameless == []
    drawn = tab.run("return [...document.querySelectorAll('canvas')].map((c) => "
                    "c.closest('[role=img]')?.getAttribute('aria-label') ?? '')")  # fmt: skip
    assert len(drawn) >= 5
    assert all(drawn)
    assert tab.complaints() == []


def test_runs_over_each_other_are_told_apart(tab, source, tmp_path):
    search(tmp_path / "tight", SPACE, limit=0.3)
    tab.show(400)
    opened(tab, tmp_path, source, read_source(tmp_path / "tight"))
    fits(tab, 400)
    marks = tab.run(
        "return [...document.querySelectorAll('#front-key li')].map((l) => l.innerText)"
    )
    assert [mark[2:] for mark in marks] == [source.run.name, "tight"]
    assert len({mark[0] for mark in marks}) == 2
    tab.run("document.getElementById('beside').click()")
    tab.wait("return document.getElementById('front-key').children.length > 2")
    assert tab.complaints() == []


def test_hostile_names_are_shown_as_text(tab, source, tmp_path):
    tab.show(400)
    opened(tab, tmp_path, hostile(source))
    fits(tab, 400)
    assert tab.run("return document.querySelector('h1').textContent") == NASTY
    assert NASTY[:20] in tab.run("return document.getElementById('x-axis').textContent")
    assert tab.run("return document.querySelector('#data ~ img, main script')") is None
    assert tab.complaints() == []


@pytest.mark.parametrize("rows", [1, 5_000])
def test_fronts_of_any_length_are_drawn(tab, source, rows, tmp_path):
    tab.show(1600)
    opened(tab, tmp_path, repeated(source, rows))
    label = "return document.getElementById('front-chart').getAttribute('aria-label')"
    assert tab.run(label).startswith(f"{rows} networks")
    assert tab.complaints() == []


MOVE = """
const slider = document.getElementById("budgets").querySelector("input[type=range]");
slider.value = arguments[0];
slider.dispatchEvent(new Event("input"));
"""


def test_a_budget_that_moves_is_answered(tab, source):
    explorer = Explorer(source, price_space(SPACE), accuracy)
    with serve_run(explorer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.show(400)
        tab.open(server.address)
        fits(tab, 400)
        answers = []
        for place in (200, 40):
            before = tab.run("return document.body.dataset.answered ?? 0")
            tab.run(MOVE, place)
            tab.wait("return document.body.dataset.answered > arguments[0]", before)
            answers.append(text(tab, "answered"))
            assert "predicted" in answers[-1]
            assert text(tab, "compare").count("your budgets") == 1
        assert answers[0] != answers[1]
        assert tab.complaints() == []
        tab.run("""const exact = document.querySelector("#budgets input[type=number]");
                   exact.value = "1e-9"; exact.dispatchEvent(new Event("change"));""")
        tab.wait("return document.getElementById('answered').className === 'wrong'")
        assert "reachable with these choices" in text(tab, "answered")
        assert tab.run("return document.getElementById('save').disabled")
        loaded = tab.run("return performance.getEntriesByType('resource').map((r) => r.name)")
        assert {urlparse(name).netloc for name in loaded} <= {server.host}
        assert [c for c in tab.complaints() if "422" not in c] == []
        server.shutdown()
