"""The report page: complete, self-contained, and safe to open whatever the files say."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apq.errors import ApqError
from apq.report.page import write_report
from apq.space import PRESETS

NASTY = "</title><script>alert('x')</script>&"


@pytest.fixture
def run_folder(tmp_path):
    """What a search leaves behind, with hostile names wherever a name may stand."""
    rng = np.random.default_rng(0)
    space = PRESETS["digits"]().with_(name=NASTY)
    genes = space.sample(30, rng)
    latency = np.sort(rng.uniform(0.2, 0.5, 30))
    front = {
        "accuracy": pa.array(0.5 + latency / 2),
        "accuracy_spread": pa.array(np.full(30, 0.01)),
        "latency_ms": pa.array(latency),
    }
    for name, values in space.values(genes).items():
        front[name] = pa.array(values, pa.int32(), mask=np.isnan(values), safe=False)
    table = pa.table(front).replace_schema_metadata({"fingerprint": space.fingerprint})
    pq.write_table(table, tmp_path / "front.parquet")
    pq.write_table(table, tmp_path / "evaluations.parquet")
    bits = {f"{layer}_{what}_bits": 4 for layer in ("pw", "dw") for what in "wa"}
    cost = {"latency_ms": float(latency[-1])}
    share = {"latency_ms_share": 1.0}
    best = {
        "apq": "0.1.0",
        "candidate": space.build(genes[-1]).to_dict(),
        "predicted": {"accuracy": 0.5 + float(latency[-1]) / 2, "accuracy_spread": 0.01},
        "costs": cost,
        "limits": {"latency_ms": 0.5},
        "blocks": [{"slot": "b00", "kernel": 3, "width": 8, **bits, **cost, **share}],
        "search": {
            "algorithm": NASTY, "seed": 0, "candidates": 30, "curve": [],
            "objectives": ["accuracy", "latency_ms"],
        },
        "space": space.to_dict(),
        "devices": [NASTY],
        "made_from": {NASTY: NASTY},
    }  # fmt: skip
    (tmp_path / "best.json").write_text(json.dumps(best))
    return tmp_path


class Page(HTMLParser):
    """Tags, and every address an attribute names."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        names = {"src", "href", "xlink:href", "action", "data", "srcset"}
        self.addresses |= {str(value) for name, value in attrs if name in names}


def test_the_page_runs_nothing_and_loads_nothing(run_folder):
    (run_folder / "front.svg").write_text("<svg><script>alert('x')</script></svg>")
    text = write_report(run_folder).read_text()
    page = Page()
    page.feed(text)
    assert {"svg", "table", "h1"} <= page.tags
    assert not {"script", "link", "iframe", "object", "embed", "form"} & page.tags
    assert all(address.startswith(("#", "data:image/")) for address in page.addresses)
    assert "default-src 'none'" in text.replace("&#x27;", "'")
    assert "@import" not in text
    assert "&lt;script&gt;" in text


def test_equal_runs_give_equal_pages(run_folder):
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


def test_a_folder_without_a_run_says_what_makes_one(tmp_path):
    with pytest.raises(ApqError, match="apq search"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["front.parquet", "evaluations.parquet", "best.json"])
def test_a_truncated_file_is_named(run_folder, name):
    path = run_folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ApqError, match=name):
        write_report(run_folder)
    assert not (run_folder / "report.html").exists()
