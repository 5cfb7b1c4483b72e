"""``apq lut``: tables of layer costs on a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apq.cli.common import next_step, out, pairs, print_json, table_row, typed
from apq.cli.options import AsJson, CostModel, Force, Seed, SpaceName
from apq.files.places import table_of

if TYPE_CHECKING:
    from apq.space.layer import LayerArray

app = typer.Typer(
    help="Build, import, inspect and check tables of layer costs on a device.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command(
    epilog="Examples:\n\n"
    "  apq lut build --model bitfusion-apq --space cifar10 --out lut/bitfusion-apq-cifar10.csv\n\n"
    "  apq lut build --model roofline --set peak_gmacs=50 --set bandwidth_gb=6 --space mine.toml"
)
def build(
    space: SpaceName = "cifar10",
    model: Annotated[str, typer.Option(help="Simulated device.")] = "bitfusion-apq",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="PARAMETER=VALUE of the device.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Where to write; default lut/<model>-<space>.csv.")
    ] = None,
    force: Force = False,
) -> None:
    """Simulate a device for every layer a space can need, and write the table.

    A table of the same space and device is written anew; any other file needs --force.
    """
    from apq.errors import choose
    from apq.hardware import COST_MODELS, build_table, configure
    from apq.hardware.overwriting import require_same_table
    from apq.space import load_space

    chosen = load_space(space)
    device = COST_MODELS[choose(model, COST_MODELS, "cost model")]()
    device = configure(device, pairs(setting, "--set"))
    path = to or table_of(chosen.name, model)
    table = build_table(chosen, device, typed())
    if not force:
        require_same_table(path, table)
    table.write(path)
    out.print(f"priced {len(table.layers):,} layers of space {chosen.name} on {model}")
    if "widened" in table.header:
        out.print(table.header["widened"])
    out.print(f"wrote {path}")
    budget = "--latency-ms" if "latency_ms" in table.prices else "--energy-mj"
    next_step(f"apq search --space {space} --lut {path} {budget} ...")


@app.command(
    "import",
    epilog="Examples:\n\n"
    "  apq lut import BitFusion_new.b1.dict --format apq-json --out lut/apq.csv\n\n"
    "  apq lut import haq_mobilenetv2_imagenet100_b16_latency_cycles.npy --format haq-npy --frequency-mhz 150 "
    "--out lut/haq.csv\n\n"
    "  apq lut import mine.csv --column in_channels=cin --unit latency=us --set op=conv "
    "--space cifar10 --out lut/mine-cifar10.csv",
)
def import_table(
    files: Annotated[
        list[Path],
        typer.Argument(help="The table to import; of profiles, one file or several runs."),
    ],
    to: Annotated[Path, typer.Option("--out", help="Where to write (.csv or .parquet).")],
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="columns (CSV or Parquet), apq-json, haq-npy, or a device tool's profile: litert, "
            "onnxruntime, vela, trtexec, openvino, executorch, st, aihub. Default: by content.",
            show_default=False,
        ),
    ] = "",
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
    frequency_mhz: Annotated[
        float, typer.Option(help="Clock, for latency in cycles.", show_default=False)
    ] = 0.0,
    encoding: Annotated[str, typer.Option(help="Encoding of a CSV file.")] = "utf-8",
    force: Force = False,
) -> None:
    """Import a table measured elsewhere; refuse ambiguous columns and units.

    A table has one row per layer. Columns, in any order: op (conv, linear or, for whole blocks,
    mbconv), in_channels, out_channels, height and width of the input (width defaults to height),
    kernel, stride, groups, weight_bits, activation_bits; mbconv also mid_channels,
    dw_weight_bits, dw_activation_bits. Then latency or energy or both, with the unit in the
    column's name (latency_us) or declared with --unit: s, ms, us, ns, cycles; J, mJ, uJ, nJ, pJ.
    """
    from dataclasses import replace

    from apq.errors import TableError, choose
    from apq.hardware import importing
    from apq.hardware.overwriting import require_same_table
    from apq.hardware.profiles import PROFILES, import_profiles, kind_of
    from apq.space import load_space

    columns, units = pairs(column, "--column"), pairs(unit, "--unit")
    constants = pairs(constant, "--set")
    file = files[0]
    kind = kind or kind_of(file) or "columns"
    choose(kind, ("columns", "apq-json", "haq-npy", *PROFILES), "format")
    if len(files) > 1 and kind not in PROFILES:
        raise TableError(f"several files are runs of a profile; {kind} takes one")
    if kind in PROFILES:
        table = import_profiles(files, kind, frequency_mhz)
    elif kind == "apq-json":
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
        header={**table.header, "command": typed()},
    )
    if not force:
        require_same_table(to, table)
    table.write(to)
    for told in ("profile", "noise", "unmatched"):
        if kind in PROFILES and told in table.header:
            out.print(f"{told}  {table.header[told]}", markup=False)
    out.print(f"imported {len(table.layers):,} rows of {table.name} ({', '.join(table.prices)})")
    out.print(f"wrote {to}")
    next_step(f"apq lut show {to}" + (f" --space {space}" if space else ""))


@app.command(
    epilog="Examples:\n\n"
    "  apq lut probe --space cifar10 --out phone   # then apq lut import what the device tool wrote",
)
def probe(
    to: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    space: SpaceName = "cifar10",
    granularity: Annotated[str, typer.Option(help="block, or layer.")] = "block",
    form: Annotated[
        str, typer.Option("--format", help="tflite, onnx or both; all of 8 bits.")
    ] = "both",
) -> None:
    """Write one small model per distinct block or layer of a space, for a device's own profiler.

    Models, their nodes and tensors are named by their table key, so that what any tool writes can
    be joined: apq lut import. A page in the folder says what to run.
    """
    from apq.deploy.probe import write_probes
    from apq.errors import choose
    from apq.space import load_space

    choose(granularity, ("block", "layer"), "granularity")
    kind: Any = choose(form, ("tflite", "onnx", "both"), "format")
    count = write_probes(to, load_space(space), granularity, kind)
    out.print(f"wrote {to}: {count:,} {granularity}s of space {space}, manifest.csv, README.md")
    next_step(f"apq lut import PROFILES --space {space} --out lut/DEVICE-{space}.csv")


@app.command(
    epilog="Examples:\n\n"
    "  apq lut show lut/bitfusion-apq-cifar10.csv --space cifar10\n\n"
    "  apq lut show lut/mine.csv --json",
)
def show(
    file: Annotated[Path, typer.Argument(help="A table (.csv or .parquet).")],
    space: Annotated[str, typer.Option(help="Check coverage of this space.")] = "",
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Show what a table covers, its ranges, what dominates, and where more costs less."""
    from apq.hardware.inspect import describe_table
    from apq.space import load_space

    report, lacking = describe_table(file, load_space(space) if space else None, seed)
    if json:
        print_json(report)
        return
    _print_table(report, lacking, space)
    if space:
        _next_of_table(file, report, space)


def _print_table(report: Mapping[str, Any], lacking: LayerArray | None, space: str) -> None:
    """Print what :func:`apq.hardware.inspect.describe_table` found."""
    from apq.hardware.base import list_layers

    pad = max(12, *(len(key) for key, value in report["header"].items() if value))

    def say(what: str, told: str) -> None:
        out.print(f"{what:>{pad}}  {told}", markup=False)

    for key, value in report["header"].items():
        if value:
            say(key, value)
    bits = "weights {weight_bits}, activations {activation_bits}".format(**report)
    say("rows", f"{report['rows']:,}; bits: {bits}; below: lowest .. median .. highest price")
    for kind, figures in report["ranges"].items():
        for metric in report["metrics"]:
            prices = " .. ".join(f"{value:.3g}" for value in figures[metric])
            say(kind, f"{figures['rows']:>6,} x  {metric} {prices}")
    if lacking is not None and len(lacking):
        say("missing", f"{len(lacking):,} rows for {space}: {list_layers(lacking)}")
    elif lacking is not None:
        say("coverage", f"every layer of {space}")
    for metric, parts in report.get("shares", {}).items():
        told = ", ".join(f"{k} {v:.0%}" for k, v in sorted(parts.items(), key=lambda p: -p[1]))
        say("dominates", f"{metric}: {told} (mean of random candidates)")
    for odd in report["oddities"]:
        fell = "{metric} falls in {cheaper:,} of {pairs:,} steps to {what}".format(**odd)
        say("odd", f"{fell}, most ({odd['worst']:.1%}) at {odd['example']}")
    for said in filter(None, (report["out_of_step"], report["renamed"])):
        say("odd", said)


def _next_of_table(file: Path, report: Mapping[str, Any], space: str) -> None:
    from apq.hardware import COST_MODELS

    device = report["header"]["device"]
    if not report["missing"]:
        budget = "--latency-ms" if "latency_ms" in report["metrics"] else "--energy-mj"
        next_step(f"apq search --space {space} --lut {file} {budget} ...")
    elif device in COST_MODELS:
        next_step(f"apq lut build --model {device} --space {space}")
    else:
        next_step(f"apq lut measure --space {space}   or add the rows: apq lut import --help")


@app.command(
    epilog="Examples:\n\n"
    "  apq lut price runs/search/best.json --lut lut/bitfusion-apq-cifar10.csv\n\n"
    "  apq lut price candidate.json --lut bit-serial --space cifar10 --layers",
)
def price(
    file: Annotated[Path, typer.Argument(help="A candidate: best.json, or its JSON alone.")],
    lut: CostModel,
    space: Annotated[
        str, typer.Option(help="Preset name or a space file; default the file's own, or cifar10.")
    ] = "",
    layers: Annotated[bool, typer.Option("--layers", help="List every layer.")] = False,
    json: AsJson = False,
) -> None:
    """Price one candidate on any device, layer by layer."""
    from apq.errors import SpaceError
    from apq.hardware import load_cost_model, price_space
    from apq.hardware.inspect import priced_layers
    from apq.search.best import read_candidate
    from apq.space import load_space
    from apq.space.layer import to_layer

    found = read_candidate(file)
    candidate, chosen = found.candidate, found.space
    if space or chosen is None:
        chosen = load_space(space or "cifar10")
    device = load_cost_model(lut)
    try:
        genes = chosen.genes([candidate])
    except SpaceError as error:
        raise SpaceError(f"{file}: {error}. Name the candidate's own: --space SPACE") from error
    totals = {m: float(v[0]) for m, v in price_space(chosen, device).costs(genes).items()}
    rows = priced_layers(chosen, candidate, device)
    prices = device.price(rows)
    if json:
        each = [
            {"layer": str(to_layer(layer))} | {m: float(v[i]) for m, v in prices.items()}
            for i, layer in enumerate(rows)
        ]
        print_json({"space": chosen.name, "device": device.name, "totals": totals, "layers": each})
        return
    at = getattr(device, "runs_at_bits", 0)
    runs = f", which runs every layer of at most {at} bits at {at}" if at else ""
    out.print(f"{file} in space {chosen.name} on {device.name}{runs}", markup=False)
    if layers:
        names = [str(to_layer(layer)) for layer in rows]
        pad = max(len(name) for name in names)
        for i, name in enumerate(names):
            table_row(f"{name:<{pad}}  ", *(f"{m} {v[i]:<10.4g}  " for m, v in prices.items()))
        for metric, value in device.overhead.items():
            out.print(f"{'overhead of every network':<{pad}}  {metric} {value:.4g}")
    for metric, value in totals.items():
        out.print(f"{metric:>16}  {value:.6g}")
