"""``apq lut``: what layers cost on a device."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

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
    space: str = typer.Option("cifar10", help="Preset name or a space file (.toml)."),
    model: str = typer.Option("bitfusion-apq", help="Simulated device."),
    to: Path | None = typer.Option(
        None, "--out", help="Where to write; default lut/<model>-<space>.csv."
    ),
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
