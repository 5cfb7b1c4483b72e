"""``apq compare --devices``: every device's winner on every device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apq.cli.budgets import load
from apq.cli.common import live_line, next_step, one_thread, out, print_json, print_table

if TYPE_CHECKING:
    import pandas as pd

    from apq.hardware.chosen import Priced


def compare_devices(
    priced: Priced,
    predictor: Path | None,
    limits: Mapping[str, float],
    share: float,
    fix: Sequence[str],
    caution: float,
    calls: int,
    seeds: int,
    json: bool,
    folder: Path,
) -> None:
    """Search for every device, print the matrix of winners, and write ``devices.parquet``.

    A limit that is not given is set so that a ``share`` of random candidates is within it.
    """
    from apq.errors import choose
    from apq.files import whole
    from apq.search.devices import across, as_data, shared_limits

    every = shared_limits(priced.costs, share, fix=fix)
    for name in limits:
        choose(name, every, "limit of one of the devices")
    every |= limits
    accuracy = load(predictor, priced.space).accuracy
    with live_line("devices") as report, one_thread():
        answers = across(priced.costs, accuracy, every, calls, range(seeds), fix, caution, report)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "devices.parquet"
    with whole(path) as partial:
        answers.to_parquet(partial, index=False)
    if json:
        print_json({"limits": every, "rows": as_data(answers), "out": path.as_posix()})
    else:
        _show(every, answers)
    next_step(f"pd.read_parquet({path.as_posix()!r}) has the genes of every winner")


def _show(limits: Mapping[str, float], answers: pd.DataFrame) -> None:
    """Print the limits and the matrix."""
    from apq.search.devices import matrix

    out.print("limits: " + ", ".join(f"{name} <= {value:.4g}" for name, value in limits.items()))
    print_table(*matrix(answers))
    out.print(
        "cost over that device's limit (above 1: it is broken); in brackets the points of predicted "
        "accuracy that a search for that device finds beyond this winner at the same cost"
    )
    for error in answers["error"].dropna().drop_duplicates():
        out.print(f"none: {error}")
