import re

import numpy as np

from apq.report.picture import Cloud, draw_front


def ticks(path):
    return re.findall(r"<text[^>]*>([^<]+)</text>", path.read_text())


def draw(path, dearest):
    front = Cloud("front (nsga2)", np.array([1.0, 1.2]), np.array([0.7, 0.8]), chosen=1)
    single = Cloud("8 bits everywhere", np.array([dearest]), np.array([0.82]))
    draw_front([path], "latency_ms", [front], (), [single], limits=[1.25])


def test_a_picture_names_all_it_shows(tmp_path):
    draw(tmp_path / "front.svg", 1.5)
    names = ["front (nsga2)", "8 bits everywhere", "chosen: 80.00% at 1.2", "latency_ms"]
    assert {*names, "predicted accuracy"} <= set(ticks(tmp_path / "front.svg"))
    assert any(t.strip() == "budget 1.25" for t in ticks(tmp_path / "front.svg"))


def test_distant_baselines_do_not_squeeze_the_front(tmp_path):
    """Where the axis is logarithmic its ticks are round in every decade."""
    draw(tmp_path / "near.svg", 2.0)
    draw(tmp_path / "far.svg", 90.0)
    assert not {"10", "50"} & set(ticks(tmp_path / "near.svg"))
    assert {"1", "2", "5", "10", "20", "50"} <= set(ticks(tmp_path / "far.svg"))


def test_equal_fronts_give_equal_files(tmp_path):
    for name in ("a.svg", "b.svg", "a.pdf", "b.pdf"):
        draw(tmp_path / name, 90.0)
    for ending in ("svg", "pdf"):
        first, second = (tmp_path / f"{name}.{ending}" for name in "ab")
        assert first.read_bytes() == second.read_bytes()
