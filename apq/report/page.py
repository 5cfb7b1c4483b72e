"""Runs as one self-contained HTML page that loads nothing else.

The runs' data are embedded as JSON and drawn by Vega-Lite (``vendor/``) in ``page.js``;
``explore.js`` requests other budgets from an explorer's server (:mod:`apq.report.serve`). All text
from files is escaped, and the content security policy allows these scripts only, by hash.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from apq.cost import told
from apq.files import whole
from apq.report.reading import Source, read_source
from apq.report.view import as_data

MOST_BYTES = 2_900_000
"""Largest size of the page; larger fronts are thinned."""

OWN_SCRIPTS = ("base.js", "page.js", "explore.js")
SCRIPTS = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.min.js")


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run's folder from the files a search left there.

    Fine-tuned models (``*.safetensors`` of ``apq finetune``) in the same folder are shown with
    their measured and predicted accuracies.

    Returns:
        Path of the page.

    Raises:
        ApqError: a file of the run is missing or damaged.
    """
    return write_page(folder / "report.html", [read_source(folder)])


def write_page(path: Path, sources: Sequence[Source]) -> Path:
    """Write runs as a page, several over each other."""
    page = render(sources)
    with whole(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def render(sources: Sequence[Source], offer: Mapping[str, Any] | None = None) -> str:
    """The page of one or more runs; without ``offer`` it makes no requests.

    Args:
        sources: The runs.
        offer: Settings of an explorer (:attr:`apq.report.explore.Explorer.offer`): the page then
            has sliders and sends requests to its own server only.
    """
    rows = max(len(source.run.genes) for source in sources)
    while True:
        page = _page(sources, rows, offer)
        if len(page.encode()) <= MOST_BYTES or rows < 10:
            return page
        rows //= 2


@dataclass(frozen=True)
class Script:
    """A script of the page, and the hash by which the page's policy knows it."""

    text: str

    @property
    def hash(self) -> str:
        """As a content security policy has it."""
        digest = hashlib.sha256(self.text.encode()).digest()
        return f"'sha256-{b64encode(digest).decode()}'"


@cache
def _scripts() -> tuple[Script, ...]:
    here = files("apq.report")
    licence = here.joinpath("vendor", "LICENSE").read_text("utf-8")
    texts = [f"/* Vega, Vega-Lite, vega-interpreter\n{licence}*/"]
    texts += [here.joinpath("vendor", name).read_text("utf-8") for name in SCRIPTS]
    texts += [here.joinpath(name).read_text("utf-8") for name in OWN_SCRIPTS]
    return tuple(Script(_without_source_map(text)) for text in texts)


def _without_source_map(script: str) -> str:
    """A script without the last line that names a file for debuggers to load."""
    return "\n".join(line for line in script.splitlines() if "sourceMappingURL=" not in line)


def _policy(asks: str) -> str:
    """The page's content security policy; ``asks`` is the source it may connect to."""
    scripts = " ".join(script.hash for script in _scripts())
    return (
        f"default-src 'none'; script-src {scripts}; connect-src {asks}; "
        "style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def embedded(data: Any) -> str:
    """JSON that an HTML script element can hold: nothing in it ends the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _page(sources: Sequence[Source], rows: int, offer: Mapping[str, Any] | None) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    shown = Environment(
        loader=PackageLoader("apq.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = {"runs": [as_data(source.run, rows) for source in sources], "offer": offer}
    page: str = shown.get_template("page.html.j2").render(
        title=" and ".join(source.run.name for source in sources),
        metrics=[*dict.fromkeys(m for source in sources for m in source.best.costs)],
        leader=_leader(sources),
        policy=_policy("'self'" if offer else "'none'"),
        offer=offer,
        style=files("apq.report").joinpath("page.css").read_text("utf-8"),
        scripts=[script.text for script in _scripts()],
        data=embedded(data),
        sources=sources,
        told=told,
        measured=[(s.run.name, m) for s in sources for m in s.run.measured],
        inside=_calibration(sources),
    )
    return page


def _leader(sources: Sequence[Source]) -> int | None:
    """Place of the run whose chosen network is predicted to be the most accurate; None where runs
    are of several spaces, or no prediction is known."""
    known = {
        i: source.best.predicted.accuracy
        for i, source in enumerate(sources)
        if source.best.predicted.accuracy is not None
    }
    alike = len({source.best.space.fingerprint for source in sources}) == 1
    return max(known, key=lambda i: known[i]) if known and alike else None


def _calibration(sources: Iterable[Source]) -> tuple[int, int] | None:
    """How many measured candidates lie within two spreads of the prediction, and how many have a
    spread; None: none has."""
    known = [
        abs(m.test - m.predicted) <= 2 * m.spread
        for source in sources
        for m in source.run.measured
        if m.predicted is not None and m.spread is not None
    ]
    return (sum(known), len(known)) if known else None
