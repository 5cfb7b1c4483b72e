"""Budgets that move: the answers, and who is answered."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from _thread import interrupt_main
from html import unescape

import numpy as np
import pytest
from commands import run
from small_families import SMALL
from small_runs import accuracy, search

from apq.cli import app
from apq.errors import ApqError, BudgetError
from apq.hardware import price_space
from apq.report.explore import Explorer, Known, require_same, serve_run
from apq.report.reading import read_source
from apq.report.serve import MOST_ASKED, PageServer
from apq.search.best import read_candidate
from apq.search.problem import Problem
from apq.search.refine import refine

SPACE = SMALL["resolutions"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of a small space."""
    folder = tmp_path_factory.mktemp("explored")
    search(folder, SPACE)
    return read_source(folder)


@pytest.fixture(scope="module")
def explorer(source):
    """It, with its predictor; how long an answer takes does not matter here."""
    return Explorer(source, price_space(SPACE), accuracy, seconds=60.0)


@pytest.fixture(scope="module")
def server(explorer):
    """It, served."""
    with serve_run(explorer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server, body=b'{"limits": {}}', method="POST", path="ask", token=None, **headers):
    """Status, headers and text of an answer; a header of None is not sent."""
    named = {
        "Host": server.host, "Origin": f"http://{server.host}", "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    } | {name.replace("_", "-"): value for name, value in headers.items()}  # fmt: skip
    line = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    line.putrequest(method, f"/{token or server.token}/{path}", skip_host=True)
    for name, value in named.items():
        if value is not None:
            line.putheader(name, value)
    line.endheaders(body)
    answer = line.getresponse()
    text = answer.read().decode()
    line.close()
    return answer.status, dict(answer.headers), text


# ---- answers


def test_a_short_search_finds_what_a_small_space_holds():
    """Truth by enumeration: every candidate of a space is listed and scored."""
    space = SMALL["chain"]
    priced = price_space(space)
    low, high = priced.reach("bitops_g")
    limits = {"bitops_g": low + 0.5 * (high - low)}
    problem = Problem(priced, accuracy, ("accuracy", "bitops_g"), limits)
    every = np.indices(space.cardinalities).reshape(len(space.axes), -1).T.astype(np.int16)
    every = np.unique(space.snap(every), axis=0)
    best = accuracy(every[problem.feasible(every)])[0].max()
    known = problem.scored(every[:1], *accuracy(every[:1]))
    found = refine(problem, known, 2_000, 60.0)
    assert found.accuracy == pytest.approx(best)
    assert found.costs["bitops_g"] <= limits["bitops_g"]
    again = refine(problem, known, 2_000, 60.0)
    assert np.array_equal(again.front.genes, found.front.genes)


def test_an_answer_is_at_least_what_is_stored_and_keeps_the_limits(explorer, tmp_path):
    low, high = price_space(SPACE).reach("size_mb")
    for share in (0.8, 0.3, 0.02):
        limits = {"size_mb": low + share * (high - low)}
        told = explorer.solve(limits)
        front = told["run"]["front"]
        assert max(front["costs"]["size_mb"]) <= limits["size_mb"] * (1 + 1e-5)
        best = front["accuracy"][told["run"]["chosen"]]
        assert best == pytest.approx(max(front["accuracy"]))
        if told["best_stored"] is not None:
            assert best >= told["best_stored"] - 1e-6
        (tmp_path / "candidate.json").write_text(json.dumps(told["file"]))
        file = read_candidate(tmp_path / "candidate.json")
        assert file.predicted.accuracy == pytest.approx(best, rel=1e-5)
        genes = SPACE.genes([file.candidate])
        assert accuracy(genes)[0][0] == pytest.approx(best, rel=1e-5)


def test_what_one_answer_scored_serves_the_next(source):
    fresh = Explorer(source, price_space(SPACE), accuracy, seconds=60.0)
    first, second = fresh.solve({}), fresh.solve({})
    assert first["scored"] > 0
    assert second["stored"] == first["stored"] + first["scored"]


def test_without_a_predictor_answers_are_among_what_was_scored(source):
    priced = price_space(SPACE)
    only = Explorer(source, priced, None)
    low, high = priced.reach("bitops_g")
    told = only.solve({"bitops_g": (low + high) / 2})
    assert told["scored"] == 0
    assert told["run"]["front"]["accuracy"][told["run"]["chosen"]] == pytest.approx(
        told["best_stored"], rel=1e-5
    )
    dear = only.known.costs["bitops_g"] > (low + high) / 2
    only.known = Known(
        only.known.genes[dear],
        only.known.accuracy[dear],
        only.known.spread[dear],
        {metric: cost[dear] for metric, cost in only.known.costs.items()},
    )
    with pytest.raises(ApqError, match="known candidates keeps these limits"):
        only.solve({"bitops_g": (low + high) / 2})


def test_limits_that_nothing_keeps_are_told_with_what_can_be_reached(explorer):
    with pytest.raises(BudgetError, match="reachable with these choices"):
        explorer.solve({"bitops_g": 1e-9})
    with pytest.raises(ApqError, match="Did you mean 'bitops_g'"):
        explorer.solve({"bitop_g": 1.0})


def test_other_tables_and_predictors_are_refused(tmp_path):
    made = {"lut:a.csv": "1", "predictor": "2", "space": "3"}
    require_same(made, made, tmp_path)
    require_same(made, {"lut:copy/a.csv": "1"}, tmp_path)
    with pytest.raises(ApqError, match=r"table a\.csv of hash 1.*--lut"):
        require_same(made, made | {"lut:a.csv": "9"}, tmp_path)
    with pytest.raises(ApqError, match=r"--predictor.*--stored"):
        require_same(made, made | {"predictor": "9"}, tmp_path)


# ---- who is answered


def test_the_page_and_its_questions_are_answered(server):
    status, headers, text = ask(server, b"", "GET", "", Origin=None, Sec_Fetch_Site="none")
    assert status == 200
    assert "connect-src 'self'" in unescape(text)
    assert 'id="budgets"' in text
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Python" not in headers["Server"]
    status, _, text = ask(server, b'{"limits": {"bitops_g": 1e9}}', Sec_Fetch_Site="same-origin")
    assert status == 200
    assert json.loads(text)["run"]["limits"] == {"bitops_g": 1e9}


@pytest.mark.parametrize(
    "changed",
    [
        {"token": "x" * 43},
        {"token": "%C3%BC"},
        {"Host": "evil.example"},
        {"Host": "localhost"},
        {"Host": None},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": None},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"path": "ask/../ask"},
        {"path": "ask?x"},
        {"path": "other"},
    ],
    ids=str,
)
def test_foreign_requests_are_refused(server, changed):
    status, _, text = ask(server, **changed)
    assert status == 403
    assert server.token not in text
    if {"Origin", "path"} & {*changed} and changed.get("Origin", "") is None:
        return
    assert ask(server, b"", "GET", **({"path": ""} | changed))[0] == 403


def test_methods_without_a_use_are_refused(server):
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD"):
        assert ask(server, method=method)[0] == 501


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (415, b'{"limits": {}}', {"Content_Type": "text/plain"}),
        (411, b"", {"Content_Length": None}),
        (411, b"", {"Content_Length": "-1"}),
        (413, b"", {"Content_Length": str(MOST_ASKED + 1)}),
        (413, b"", {"Content_Length": "9" * 30}),
        (422, b"", {}),
        (422, b"[" * 10_000, {}),
        (422, b'{"limits": [1]}', {}),
        (422, b'{"limits": {"bitops_g": "1"}}', {}),
        (422, b'{"limits": {"bitops_g": NaN}}', {}),
        (422, b'{"limits": {"bitops_g": -1}}', {}),
        (422, b'{"limits": {"bitops_g": 1e-9}}', {}),
        (422, b'{"limits": {"</script>": 1}}', {}),
        (422, b"\xff\xfe", {}),
    ],
)
def test_questions_that_make_no_sense_are_refused(server, status, body, headers):
    found, told, text = ask(server, body, **headers)
    assert found == status
    if status == 422:
        assert told["Content-Type"] == "application/json"
        assert json.loads(text)["error"]


def test_only_this_machine_is_listened_to(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_visitor_that_goes_away_is_no_error(server, capsys):
    with socket.create_connection(server.server_address[:2]) as line:
        line.sendall(f"GET /{server.token}/ HTTP/1.0\r\nHost: {server.host}\r\n\r\n".encode())
    assert ask(server, b"", "GET", "", Origin=None)[0] == 200
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


# ---- the command


def test_the_command_ends_in_words(source, monkeypatch):
    def serve(self, real=PageServer.serve_forever):
        threading.Timer(0.1, interrupt_main).start()
        real(self)

    monkeypatch.setattr(PageServer, "serve_forever", serve)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        told = run("explore", source.folder, "--stored", "--no-browser")
    finally:
        signal.signal(signal.SIGINT, before)
    assert told.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_told(source, server):
    from typer.testing import CliRunner

    words = ["explore", str(source.folder), "--stored", "--no-browser", "--port"]
    result = CliRunner().invoke(app, [*words, str(server.server_address[1])])
    assert result.exit_code == 1
    assert "Take another --port" in result.output
