"""``apq compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apq.cli.asking import supernet_accuracy
from apq.cli.budgets import given, load, per_device, price_on, product, space_for
from apq.cli.common import err, live_line, next_step, one_thread, out, print_json, print_table
from apq.cli.devices import compare_devices
from apq.cli.options import AsJson, Budget, Caution, Fix, Limit, OwnSpace, PredictorPath, Tables

if TYPE_CHECKING:
    import pandas as pd


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
    lut: Tables = None,
    devices: Annotated[
        str | None,
        typer.Option(help="Compare devices instead: comma-separated tables or cost models."),
    ] = None,
    limit: Limit = None,
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
    json: AsJson = False,
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
    from apq.methods.compare import compare_in
    from apq.search.many import Scenarios

    asked = given(latency_ms, energy_mj, size_mb, bitops_g, macs_m, peak_memory_kb)
    chosen, named = space_for(space, predictor)
    if devices is not None:
        if methods or lut or supernet or images or {*asked} - {"latency_ms"}:
            raise typer.BadParameter(
                "--devices takes the limits --latency-ms and --limit, no other, and measures nothing"
            )
        priced = price_on(chosen, [name.strip() for name in devices.split(",")], named)
        budget = product(asked, priced.costs.metrics)[0] | per_device(limit)
        compare_devices(
            priced, predictor, budget, share, fix or [], caution, calls, seeds, json, out_path
        )
        return
    names = _methods(methods)
    if not asked:
        raise typer.BadParameter("give a budget, e.g. --latency-ms 0.5")
    priced = price_on(chosen, lut, named)
    budgets = product(asked, priced.costs.metrics)
    priced.require(metric for budget in budgets for metric in budget)
    wanted = Scenarios(
        priced.costs, budgets, ("accuracy",), tuple(fix or ()), caution, None, priced.made_from
    )
    judge = load(predictor, chosen)
    measure = None
    if supernet is not None or images is not None:
        measure = supernet_accuracy(chosen, supernet, images, judge)
    with live_line("compare") as report, one_thread():
        answers = compare_in(
            out_path, wanted.problems(judge.accuracy, judge.made_from), names, calls, range(seeds),
            measure, measure.made_from if measure else None, report, err.print,
        )  # fmt: skip
    _show(answers, out_path, json)


def _methods(text: str | None) -> list[str]:
    """The names that ``--methods`` lists; without it all that are compared."""
    from apq.errors import choose
    from apq.methods import METHODS
    from apq.methods.compare import OWN, known

    names = [name.strip() for name in text.split(",")] if text else [*METHODS, *OWN]
    return [choose(name, known(), "method") for name in names]


def _show(answers: pd.DataFrame, folder: Path, json: bool) -> None:
    """Print the table of answers."""
    from apq.methods.compare import summary

    head, rows = summary(answers)
    if json:
        print_json({"columns": head, "rows": rows, "out": folder.as_posix()})
    else:
        print_table(head, rows)
        for error in answers["error"].dropna().drop_duplicates():
            out.print(f"none: {error}")
    next_step(f"open {folder / 'compare.html'}")
