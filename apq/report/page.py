"""One run as one self-contained HTML page: pictures, tables, and what made them.

The page runs no script and loads nothing; whatever came from files is escaped.
"""

from __future__ import annotations

import io
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq.errors import ApqError
from apq.files import whole
from apq.files.headers import read_header
from apq.search.best import Best, Block, Point, read_best
from apq.search.run import read_table
from apq.search.tuned import ModelHeader
from apq.space import is_format
from apq.space.formats import stored_bits

CLOUD = 20_000
"""At most so many evaluations are drawn."""
ROWS = 40
"""At most so many rows of the front are listed."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem;margin-bottom:.2rem} h2{font-size:1.1rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.15rem .8rem .15rem 0;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left} tr.chosen{background:#e8f4e8;font-weight:600}
svg,img{max-width:100%;height:auto} p.note{color:#666;margin:.2rem 0} code{font-size:.9em}
.scroll{overflow-x:auto}
"""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run's folder from the files a search left there.

    Fine-tuned models (``*.safetensors`` of ``apq finetune``) in the same folder are listed with
    their measured accuracy beside the predicted one.

    Returns:
        Path of the page.

    Raises:
        ApqError: a file of the run is missing or damaged.
    """
    best = read_best(folder / "best.json")
    front = read_table(folder / "front.parquet", best.space, [*best.costs]).to_pandas()
    drawn = _drawn(best)
    log = read_table(folder / "evaluations.parquet", best.space, drawn[1:])
    scored = log.select(drawn).to_pandas()
    page = "".join(_sections(folder, best, front, scored))
    path = folder / "report.html"
    with whole(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _drawn(best: Best) -> list[str]:
    """Accuracy and the costs that were objectives or limited."""
    names = {*best.search.objectives, *best.limits}
    return ["accuracy", *(cost for cost in best.costs if cost in names)]


def _sections(folder: Path, best: Best, front: pd.DataFrame, scored: pd.DataFrame) -> Iterable[str]:
    name = folder.resolve().name
    search, limits = best.search, best.limits
    budget = ", ".join(f"{k} ≤ {v:g}" for k, v in limits.items()) or "no budget"
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(name)} · apq</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(name)}</h1><p class=note>space {escape(best.space.name)} · "
        f"{escape(budget)} · {escape(search.algorithm)}, {search.candidates:,} candidates, "
        f"seed {search.seed}</p>"
    )
    costs = [c for c in _drawn(best) if c != "accuracy"]
    yield "<h2>Front</h2>" + "".join(_picture_front(front, scored, best, c) for c in costs)
    if (folder / "front.svg").is_file():  # as an image: whatever it holds cannot run
        picture = b64encode((folder / "front.svg").read_bytes()).decode()
        yield f'<img alt="front beside baselines" src="data:image/svg+xml;base64,{picture}">'
    yield "<h2>Chosen</h2>" + _table(
        ("", "value", "limit"),
        [
            ("predicted accuracy",
             _promised(best),
             f"≥ {limits['accuracy']:.2%}" if "accuracy" in limits else ""),
            *(
                (cost, f"{value:.4g}", f"≤ {limits[cost]:g}" if cost in limits else "")
                for cost, value in best.costs.items()
            ),
        ],
    )  # fmt: skip
    yield from _measured(folder, best)
    yield _picture_blocks(best.blocks)
    yield _blocks_table(best.blocks)
    yield "<h2>Along the front</h2>" + _picture_choices(front, _drawn(best)[-1])
    yield f"<p class=note>{len(front):,} candidates, cheapest first.</p>" + _front_table(
        front, best
    )
    if search.curve:
        yield "<h2>Search</h2>" + _picture_curve(search.curve)
    yield "<h2>Made from</h2>" + _table(
        ("", ""), [(k, v) for k, v in {"apq": best.apq, **best.made_from}.items()]
    )
    yield "".join(f"<p class=note>{escape(d)}</p>" for d in best.devices)
    yield "</body></html>\n"


def _measured(folder: Path, best: Best) -> Iterable[str]:
    """Accuracy of the chosen candidate's fine-tuned models beside what the search promised."""
    rows = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            header = read_header(path, ModelHeader)
        except ApqError:  # a checkpoint, an exported file, or somebody else's
            continue
        if header.candidate == best.candidate and header.accuracy is not None:
            found = header.accuracy
            figures = (f"{value:.2%}" for value in (found.before, found.after, found.test))
            rows.append((path.name, header.scheme, _promised(best), *figures))
    if rows:
        head = ("model", "scheme", "predicted", "before tuning", "validation", "test")
        yield "<h2>Predicted and measured</h2>" + _table(head, rows)


def _promised(best: Best) -> str:
    """Accuracy and spread as the predictor says them."""
    mean, spread = best.predicted.accuracy, best.predicted.accuracy_spread
    return "" if mean is None else f"{mean:.2%}" + ("" if spread is None else f" ± {spread:.2%}")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], chosen: int | None = None) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join(
        f"<tr{' class=chosen' if i == chosen else ''}>"
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return f"<div class=scroll><table><tr>{top}</tr>{body}</table></div>"


def _block_costs(blocks: Sequence[Block]) -> list[str]:
    """Costs that every block has, and its share of."""
    shares = set.intersection(*({*block.costs} for block in blocks))
    return [k for k in blocks[0].costs if k in shares and f"{k}_share" in shares]


def _blocks_table(blocks: Sequence[Block]) -> str:
    costs = _block_costs(blocks)
    names = list(dict.fromkeys(name for b in blocks for name in b.architecture))
    bits = list(dict.fromkeys(name for b in blocks for name in b.formats))
    told = "/".join(name.removesuffix("_bits") for name in bits)
    head = ("block", *names, f"bits of {told}" if bits else "", *costs)
    rows = (
        (b.slot, *(b.choices.get(name, "") for name in names),
         "/".join(str(b.choices.get(name, "")) for name in bits) if b.formats else "",
         *(f"{b.costs[c]:.4g} ({b.costs[c + '_share']:.0%})" for c in costs))
        for b in blocks
    )  # fmt: skip
    return _table(head, rows)


def _front_table(front: pd.DataFrame, best: Best) -> str:
    costs = [*best.costs]
    key = [*_drawn(best)[1:], "accuracy"][0]
    rows = front.sort_values(key).reset_index(drop=True)
    chosen = int((rows["accuracy"] - (best.predicted.accuracy or 0)).abs().idxmin())
    picks = {round(i) for i in np.linspace(0, len(rows) - 1, min(ROWS, len(rows)))} | {chosen}
    listed = rows.iloc[sorted(picks)]
    cells = (
        (f"{r['accuracy']:.2%}", f"{r['accuracy_spread']:.2%}", *(f"{r[c]:.4g}" for c in costs))
        for _, r in listed.iterrows()
    )
    return _table(("accuracy", "± spread", *costs), cells, chosen=sorted(picks).index(chosen))


def _svg(figure: Any) -> str:
    """A figure as inline SVG, without its XML prologue; equal figures give equal text."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "apq", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _picture_front(front: pd.DataFrame, scored: pd.DataFrame, best: Best, cost: str) -> str:
    figure = _figure(9, 4.6)
    axes = figure.add_subplot()
    cloud = scored.iloc[:: max(1, len(scored) // CLOUD)]
    (dots,) = axes.plot(cloud[cost], cloud["accuracy"], ".", label="scored")
    dots.set(markersize=2, color="0.75", rasterized=True)
    rows = front.sort_values(cost)
    accuracy, spread = rows["accuracy"], rows["accuracy_spread"].fillna(0)
    axes.fill_between(rows[cost], accuracy - spread, accuracy + spread, alpha=0.2, lw=0)
    axes.plot(rows[cost], accuracy, "o", ms=3, color="C0", label="front, ± spread")
    x, y = best.costs[cost], best.predicted.accuracy or 0.0
    axes.plot(x, y, "*", ms=15, color="C2", mec="k", mew=0.5, label=f"chosen: {y:.2%} at {x:.4g}")
    if cost in best.limits:
        axes.axvline(best.limits[cost], color="0.2", lw=1, ls="--", label="budget")
    axes.set(xlabel=cost, ylabel="predicted accuracy")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, loc="lower right")
    return _svg(figure)


def _picture_blocks(blocks: Sequence[Block]) -> str:
    """What every block of the chosen candidate costs, above its bits."""
    costs = _block_costs(blocks)
    names = list(dict.fromkeys(name for b in blocks for name in b.formats)) or [""]
    figure = _figure(9, 4.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    where, wide = np.arange(len(blocks)), 0.8 / max(1, len(costs))
    for i, cost in enumerate(costs):
        shares = [100 * b.costs[cost + "_share"] for b in blocks]
        above.bar(where + (i - (len(costs) - 1) / 2) * wide, shares, wide, label=cost)
    above.set_ylabel("% of the cost")
    if costs:
        above.legend(fontsize=9)
    bits = np.array([[stored_bits(b.choices.get(name)) for b in blocks] for name in names])
    below.imshow(bits, aspect="auto", cmap="YlGnBu", vmin=0, vmax=10)
    for (row, column), value in np.ndenumerate(bits):
        if np.isfinite(value):
            color, word = "white" if value > 6 else "black", str(blocks[column].choices[names[row]])
            below.text(column, row, word, ha="center", va="center", fontsize=8, color=color)
    below.set_yticks(range(len(names)), [n.removesuffix("_bits") for n in names])
    short = {"kernel": "k", "width": "w"}
    labels = [
        "\n".join((b.slot, *(f"{short.get(k, '')}{v}" for k, v in b.architecture.items())))
        for b in blocks
    ]
    below.set_xticks(where, labels, fontsize=8)
    return _svg(figure)


def _picture_choices(front: pd.DataFrame, by: str) -> str:
    """What every slot chooses and its mean bits over the front; white where skipped."""
    matches = (re.fullmatch(r"(b\d+)_(.+)", str(c)) for c in front)
    found = [(m[1], m[2]) for m in matches if m]
    slots = list(dict.fromkeys(slot for slot, _ in found))
    order = front.sort_values(by)
    kinds: dict[str, dict[str, list[str]]] = {}
    for slot, name in found:
        kind = "mean bits" if is_format(name) else name
        kinds.setdefault(kind, {}).setdefault(slot, []).append(f"{slot}_{name}")
    if not kinds:
        return ""
    figure = _figure(3 * len(kinds), 1.2 + 0.16 * len(slots))
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, (title, groups) in zip(panels, kinds.items(), strict=True):
        nothing = np.full(len(order), np.nan)
        values = np.array(
            [_numbers(order[groups[s]]).mean(axis=1) if s in groups else nothing for s in slots]
        )
        image = axes.imshow(values, aspect="auto", interpolation="nearest", cmap="viridis")
        axes.set_title(title, fontsize=10)
        axes.set_yticks(range(len(slots)), slots, fontsize=7)
        axes.set_xticks([])
        axes.set_xlabel("cheap → accurate", fontsize=8)
        figure.colorbar(image, ax=axes)
    return _svg(figure)


def _numbers(columns: pd.DataFrame) -> NDArray[np.float64]:
    """Columns as numbers; formats with names as the bits they store."""
    texts = {c: columns[c].map(stored_bits) for c in columns if columns[c].dtype.kind not in "fiu"}
    numbers: NDArray[np.float64] = columns.assign(**texts).to_numpy(float)
    return numbers


def _picture_curve(curve: Sequence[Point]) -> str:
    figure = _figure(9, 2.6)
    for axes, what in zip(figure.subplots(1, 2), ("hypervolume", "accuracy"), strict=True):
        axes.plot([p.candidates for p in curve], [getattr(p, what) for p in curve], "-", lw=1.5)
        axes.set(xlabel="candidates", ylabel=("best " if what == "accuracy" else "") + what)
        axes.grid(alpha=0.25)
    return _svg(figure)
