"""``apq search --codesign``: the network and its accelerator together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from apq.cli.budgets import load
from apq.cli.common import live_line, next_step, one_thread, out, print_json, typed

if TYPE_CHECKING:
    from apq.search.pairs import Pair
    from apq.space import Space


def search_both(
    model: str,
    space: Space,
    predictor: Path | None,
    limits: Mapping[str, float],
    fix: Sequence[str],
    caution: float,
    candidates: int | None,
    seed: int,
    others: bool,
    json: bool,
    folder: Path,
) -> None:
    """Search, print and write ``best.json`` and ``front.parquet`` as any search, ``device.csv``
    (the table of the accelerator) and ``device.json`` (its knobs, area and power)."""
    from apq.errors import choose
    from apq.hardware.designs import DESIGNS
    from apq.search.codesign import METRICS, of_network, price_designs
    from apq.search.pairs import ORDERS, try_orders, write_pair
    from apq.search.problem import Problem, require_reachable

    designs = DESIGNS[choose(model, DESIGNS, "accelerator with knobs")]()
    if not limits:
        raise typer.BadParameter(f"--codesign needs limits of {', '.join(METRICS)}")
    priced = price_designs(space, designs)
    require_reachable(priced, [limits], fix)
    judge = load(predictor, space)
    problem = Problem(
        priced, of_network(priced.space, judge.accuracy), ("accuracy",), limits, tuple(fix), caution,
        None, {**judge.made_from, "space": space.fingerprint},
    )  # fmt: skip
    names = list(ORDERS) if others else ["together"]
    with live_line("codesign") as report, one_thread():
        found = try_orders(problem, names, candidates or 5_000, seed, report)
    told = write_pair(folder, problem, judge.accuracy, found, seed, typed())
    if json:
        print_json(told)
    else:
        _show(told, found)
    next_step(f"apq finetune --candidate {folder / 'best.json'}")


def _show(told: Mapping[str, Any], found: Mapping[str, Pair | str]) -> None:
    """Print the accelerator, and what every order of choosing found."""
    out.print(f"accelerator: {', '.join(f'{k} {v}' for k, v in told['knobs'].items())}")
    out.print(", ".join(f"{m} {v:.4g}" for m, v in told["costs"].items()))
    for name, pair in found.items():
        if isinstance(pair, str):
            out.print(f"  {name:<18}none: {pair}")
            continue
        out.print(f"  {name:<18}{pair.accuracy:.2%} ± {pair.spread:.2%} predicted")
    out.print("costs, area and power are a simulator's; wrote " + told["out"])
