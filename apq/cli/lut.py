"""``apq lut``: what layers cost on a device."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from apq.cli.common import next_step, out

app = typer.Typer(
    help="Build, import, inspect and check tables of what layers cost on a device.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def _command() -> str:
    return shlex.join(["apq", *sys.argv[1:]])


@app.command(
    epilog="Examples:\n\n"
    "  apq lut build --model bitfusion-apq --space cifar10 --out lut/bitfusion-apq-cifar10.csv\n\n"
    "  apq lut build --model bit-serial --space my_space.toml --out lut/bit-serial-mine.parquet"
)
def build(
    space: Annotated[str, typer.Option(help="Preset name or a space file (.toml).")] = "cifar10",
    model: Annotated[str, typer.Option(help="Simulated device.")] = "bitfusion-apq",
    to: Annotated[
        Path | None, typer.Option("--out", help="Where to write; default lut/<model>-<space>.csv.")
    ] = None,
) -> None:
    """Simulate a device for every layer a space can need, and write the table."""
    from apq.errors import choose
    from apq.hardware import COST_MODELS, build_table
    from apq.space import load_space

    chosen = load_space(space)
    device = COST_MODELS[choose(model, COST_MODELS, "cost model")]()
    path = to or Path("lut") / f"{model}-{chosen.name}.csv"
    table = build_table(chosen, device, _command())
    table.write(path)
    out.print(f"priced {len(table.layers):,} layers of space {chosen.name} on {model}")
    if "widened" in table.header:
        out.print(table.header["widened"])
    out.print(f"wrote {path}")
    next_step(f"apq search --space {space} --lut {path} --latency-ms ...")


def _pairs(options: list[str] | None, flag: str) -> dict[str, str]:
    """``NAME=VALUE`` options as a mapping."""
    pairs = {}
    for option in options or []:
        name, equals, value = option.partition("=")
        if not equals or not name or not value:
            raise typer.BadParameter(f"{flag} takes NAME=VALUE, got {option!r}")
        pairs[name] = value
    return pairs


@app.command(
    "import",
    epilog="Examples:\n\n"
    "  apq lut import BitFusion_new.b1.dict --format apq-json --out lut/apq.csv\n\n"
    "  apq lut import mine.csv --column in_channels=cin --unit latency=us --set groups=1 "
    "--space cifar10 --out lut/mine-cifar10.csv",
)
def import_table(
    file: Annotated[Path, typer.Argument(help="The table to import.")],
    to: Annotated[Path, typer.Option("--out", help="Where to write (.csv or .parquet).")],
    kind: Annotated[
        str, typer.Option("--format", help="columns (CSV or Parquet), apq-json or haq-npy.")
    ] = "columns",
    column: Annotated[
        list[str] | None, typer.Option(help="OURS=THEIRS: what a column is called in the file.")
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option(help="latency=us or energy=nJ, if not in the column's name.")
    ] = None,
    constant: Annotated[
        list[str] | None, typer.Option("--set", help="COLUMN=VALUE for columns the file lacks.")
    ] = None,
    device: Annotated[str, typer.Option(help="Name of the device.")] = "",
    source: Annotated[str, typer.Option(help="Where the figures come from, in one line.")] = "",
    space: Annotated[str, typer.Option(help="Refuse unless this space is covered.")] = "",
    frequency_mhz: Annotated[float, typer.Option(help="Clock, for figures in cycles.")] = 0.0,
    encoding: Annotated[str, typer.Option(help="Of a CSV.")] = "utf-8",
) -> None:
    """Turn somebody else's table into one apq can search with; refuse what is not clear."""
    from dataclasses import replace

    from apq.errors import choose
    from apq.hardware import importing
    from apq.space import load_space

    columns, units = _pairs(column, "--column"), _pairs(unit, "--unit")
    constants = _pairs(constant, "--set")
    choose(kind, ("columns", "apq-json", "haq-npy"), "format")
    if kind == "apq-json":
        table = importing.import_apq_json(file)
    elif kind == "haq-npy":
        table = importing.import_haq_npy(file, frequency_mhz)
    else:
        table = importing.import_columns(file, columns, units, constants, frequency_mhz, encoding)
    importing.check_import(table, load_space(space) if space else None)
    table = replace(
        table,
        name=device or table.name,
        source=source or table.source,
        header={**table.header, "command": _command()},
    )
    table.write(to)
    out.print(f"imported {len(table.layers):,} rows of {table.name} ({', '.join(table.prices)})")
    out.print(f"wrote {to}")
    next_step(f"apq lut show {to}" + (f" --space {space}" if space else ""))
