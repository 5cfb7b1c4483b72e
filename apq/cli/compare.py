"""``apq compare``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apq.cli.asking import supernet_accuracy
from apq.cli.budgets import (
    Budget,
    Caution,
    Fix,
    OwnSpace,
    PredictorPath,
    given,
    load,
    per_device,
    price_on,
    product,
    space_for,
)
from apq.cli.common import err, live_line, next_step, one_thread, out, print_json, print_table
from apq.cli.devices import compare_devices
from apq.files.places import PREDICTOR, home

if TYPE_CHECKING:
    import pandas as pd

    from apq.collect import SupernetAccuracy
    from apq.search.problem import Problem


def compare(
    latency_ms: Budget = None,
    energy_mj: Budget = None,
    size_mb: Budget = None,
    bitops_g: Budget = None,
    macs_m: Budget = None,
    peak_memory_kb: Budget = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated names (default: all, and nsga2, paper, random)."),
    ] = None,
    space: OwnSpace = None,
    predictor: PredictorPath = None,
    lut: Annotated[
        list[str] | None,
        typer.Option(help="Table or cost model (default: lut/bitfusion-apq-SPACE.csv)."),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(help="Compare devices instead: comma-separated tables or cost models."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="With --devices, limit of one of them: latency_ms@DEVICE=8; repeatable."),
    ] = None,
    share: Annotated[
        float,
        typer.Option(
            help="With --devices: share of random candidates within a limit that is not given."
        ),
    ] = 0.1,
    fix: Fix = None,
    caution: Caution = 0.0,
    calls: Annotated[
        int, typer.Option(min=50, help="Candidates that the predictor may score per answer.")
    ] = 2_000,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 3,
    supernet: Annotated[
        Path | None, typer.Option(help="Measure the winners too, on this supernet.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Measure the winners too, on these images.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    out_path: Annotated[Path, typer.Option("--out", help="Folder.")] = Path("runs/compare"),
) -> None:
    """Compare published methods on one space, one predictor and one table, or devices.

    Writes compare.parquet (every answer), compare.md and compare.html (one page). Methods: haq,
    amc, proxylessnas, pipeline (these three in turn), dnas, singlepath, mpnas, spos, hurricane,
    chamnet, autoqkeras, autoqkeras-random, lana, and every algorithm of apq search.

    --supernet or --images measures every winner as the predictor's samples were measured, short
    fine-tune and all. A comparison that was stopped goes on where it was when typed again.

    With --devices the space is searched for each device alone and for all of them together, and
    every winner is priced on every device (devices.parquet): do networks transfer?

    Examples:

      apq compare --latency-ms 0.5 0.6 --methods spos,mpnas,nsga2 --calls 500

      apq compare --latency-ms 0.5 --methods spos,nsga2 --supernet mine.safetensors --images photos/

      apq compare --latency-ms 0.45 0.5 0.6 --seeds 3 --out runs/methods

      apq compare --devices lut/bitfusion-apq-cifar10.csv,lut/x86-onnxruntime-int8-cifar10.csv --limit latency_ms@bitfusion-apq=0.5
    """
    from apq.methods.compare import write_comparison
    from apq.search.many import scenarios

    asked = given(latency_ms, energy_mj, size_mb, bitops_g, macs_m, peak_memory_kb)
    chosen, named = space_for(space, predictor)
    if devices is not None:
        if methods or lut or supernet or images or {*asked} - {"latency_ms"}:
            raise typer.BadParameter(
                "--devices takes the limits --latency-ms and --limit, no other, and measures nothing"
            )
        priced = price_on(chosen, [name.strip() for name in devices.split(",")], named)
        budget = product(asked, priced.costs.metrics)[0] | per_device(limit or [])
        compare_devices(
            priced, predictor, budget, share, fix or [], caution, calls, seeds, json, out_path
        )
        return
    names = _names(methods)
    if not asked:
        raise typer.BadParameter("give a budget, e.g. --latency-ms 0.5")
    priced = price_on(chosen, lut or [], named)
    budgets = product(asked, priced.costs.metrics)
    priced.require(metric for budget in budgets for metric in budget)
    problems = scenarios(
        priced.costs, lambda: load(predictor, priced.space), budgets, ("accuracy",),
        tuple(fix or ()), caution, made_from=priced.made_from,
    )  # fmt: skip
    measure = None
    if supernet is not None or images is not None:
        path = predictor or home(priced.space.name) / PREDICTOR
        measure = supernet_accuracy(priced.space, supernet, images, path)
    all_of_it = {
        **problems[0].made_from, "calls": calls, "fix": list(fix or ()), "caution": caution,
        "space": priced.space.fingerprint,
    }  # fmt: skip
    answers = _answers(out_path, problems, names, calls, seeds, measure, all_of_it)
    write_comparison(out_path, answers, problems[0].made_from)
    _show(answers, out_path, json)
    next_step(f"open {out_path / 'compare.html'}")


def _names(methods: str | None) -> list[str]:
    """The methods asked for, checked to be known; all of them by default."""
    from apq.errors import choose
    from apq.methods import METHODS
    from apq.methods.compare import OWN, known

    names = [n.strip() for n in methods.split(",")] if methods else [*METHODS, *OWN]
    for name in names:
        choose(name, known(), "method")
    return names


def _answers(
    folder: Path, problems: list[Problem], names: list[str], calls: int, seeds: int,
    measure: SupernetAccuracy | None, about: dict[str, Any],
) -> pd.DataFrame:  # fmt: skip
    """Every method's answers; those of the same comparison that the folder holds are kept."""
    from apq.methods.compare import ANSWERS, compare, read_answers, write_answers

    by = None if measure is None else measure.made_from
    before = read_answers(folder / ANSWERS, about, by)
    if before is not None:
        err.print(f"{len(before)} answers of the same comparison are in {folder}")
    with live_line("compare") as report, one_thread():
        return compare(
            problems, names, calls, range(seeds), report, measure, before,
            partial(write_answers, folder / ANSWERS, about, by),
        )  # fmt: skip


def _show(answers: pd.DataFrame, folder: Path, json: bool) -> None:
    """Print the table, and why a method has no answer."""
    from apq.methods.compare import summary

    head, rows = summary(answers)
    if json:
        print_json({"columns": head, "rows": rows, "out": folder.as_posix()})
        return
    print_table(head, rows)
    for error in answers["error"].dropna().drop_duplicates():
        out.print(f"none: {error}")
