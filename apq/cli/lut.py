"""``apq lut``: what layers cost on a device."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apq.cli.common import err, live_line, next_step, out, print_json
from apq.files.places import table_of
from apq.files.shipped import shipped

if TYPE_CHECKING:
    from apq.hardware import LookupTable

app = typer.Typer(
    help="Build, import, inspect and check tables of what layers cost on a device.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def _command() -> str:
    return shlex.join(["apq", *sys.argv[1:]])


def _pairs(options: list[str] | None, flag: str) -> dict[str, str]:
    """``NAME=VALUE`` options as a mapping."""
    pairs = {}
    for option in options or []:
        name, equals, value = option.partition("=")
        if not equals or not name or not value:
            raise typer.BadParameter(f"{flag} takes NAME=VALUE, got {option!r}")
        pairs[name] = value
    return pairs


def _caution(spearman: float) -> None:
    """Small errors do not mean a good order where all networks cost about the same."""
    if not spearman >= 0.9:
        out.print(
            f"caution: the order of these networks is barely predicted (Spearman {spearman:.2f}); "
            "they differ by little more than the noise"
        )


def _require_same_table(path: Path, table: LookupTable) -> None:
    """Refuse to overwrite anything but an older copy of a table.

    Raises:
        TableError: there is a file at ``path`` that is no table, or one of another space or device
            (shows both).
    """
    from apq.errors import TableError, side_by_side
    from apq.hardware import LookupTable

    if not path.exists():
        return
    mend = "Give another --out, or --force to overwrite it."
    try:
        older = LookupTable.read(path)
    except TableError as error:
        raise TableError(
            f"{path} exists and is no table as apq writes it: {error}\n{mend}"
        ) from None
    told, new = (
        {
            key: found.describe().get(key, "(not stated)")
            for key in ("space", "device", "source", "calibration")
        }
        for found in (older, table)
    )
    if told != new:
        both = side_by_side(told, new, ("there", "to be built"))
        raise TableError(f"{path} is the table of another space or device:\n{both}\n{mend}")


def _require_own_table(path: Path, device: str, space: str) -> None:
    """Refuse to measure into a file that is no table of this device and space.

    Raises:
        TableError: it is not; says whose it is.
    """
    from apq.errors import TableError
    from apq.hardware import LookupTable

    if not path.exists():
        return
    try:
        older = LookupTable.read(path)
    except TableError as error:
        raise TableError(
            f"{path} exists and is no table as apq writes it: {error}\n"
            "Give another --out, or --force to overwrite it."
        ) from None
    there = older.header.get("space", "(not stated)")
    if (older.name, " ".join(there.split())) != (device, space):
        raise TableError(
            f"{path} is the table of device {older.name!r}, space {there!r}, not of {device!r}, "
            f"{space!r}. Give another --out, or --force to overwrite it."
        )


@app.command(
    epilog="Examples:\n\n"
    "  apq lut build --model bitfusion-apq --space cifar10 --out lut/bitfusion-apq-cifar10.csv\n\n"
    "  apq lut build --model roofline --set peak_gmacs=50 --set bandwidth_gb=6 --space mine.toml"
)
def build(
    space: Annotated[str, typer.Option(help="Preset name or a space file (.toml).")] = "cifar10",
    model: Annotated[str, typer.Option(help="Simulated device.")] = "bitfusion-apq",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="PARAMETER=VALUE of the device.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Where to write; default lut/<model>-<space>.csv.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a table of another space or device.")
    ] = False,
) -> None:
    """Simulate a device for every layer a space can need, and write the table.

    A table of the same space and device is written anew; any other file needs --force.
    """
    from apq.errors import choose
    from apq.hardware import COST_MODELS, build_table, configure
    from apq.space import load_space

    chosen = load_space(space)
    device = COST_MODELS[choose(model, COST_MODELS, "cost model")]()
    device = configure(device, _pairs(setting, "--set"))
    path = to or table_of(chosen.name, model)
    table = build_table(chosen, device, _command())
    if not force:
        _require_same_table(path, table)
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
    encoding: Annotated[str, typer.Option(help="Of a CSV.")] = "utf-8",
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a table of another device or source.")
    ] = False,
) -> None:
    """Turn somebody else's table into one apq can search with; refuse what is not clear.

    A table has one row per layer. Columns, in any order: op (conv, linear or, for whole blocks,
    mbconv), in_channels, out_channels, height and width of the input (width defaults to height),
    kernel, stride, groups, weight_bits, activation_bits; mbconv also mid_channels,
    dw_weight_bits, dw_activation_bits. Then latency or energy or both, with the unit in the
    column's name (latency_us) or declared with --unit: s, ms, us, ns, cycles; J, mJ, uJ, nJ, pJ.
    """
    from dataclasses import replace

    from apq.errors import TableError, choose
    from apq.hardware import importing
    from apq.hardware.profiles import PROFILES, import_profiles, kind_of
    from apq.space import load_space

    columns, units = _pairs(column, "--column"), _pairs(unit, "--unit")
    constants = _pairs(constant, "--set")
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
        header={**table.header, "command": _command()},
    )
    if not force:
        _require_same_table(to, table)
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
    space: Annotated[str, typer.Option(help="Preset name or a space file (.toml).")] = "cifar10",
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
    choose(form, ("tflite", "onnx", "both"), "format")
    count = write_probes(to, load_space(space), granularity, form)
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
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Decides the random candidates.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Show what a table covers, its ranges, what dominates, and where more costs less."""
    from apq.hardware import COST_MODELS, LookupTable
    from apq.hardware.base import list_layers
    from apq.hardware.inspect import missing, oddities, ranges, shares
    from apq.hardware.lut import read_columns
    from apq.space import load_space
    from apq.space.formats import choice_of, ordered

    def formats(column: str) -> list[int | str]:
        return list(ordered(choice_of(code) for code in set(table.layers[column].tolist())))

    path = shipped(file)
    table = LookupTable.read(path, changed=True)
    changed = table.out_of_step(read_columns(path)[0])
    report: dict[str, Any] = {
        "header": table.describe(),
        "rows": len(table.layers),
        "weight_bits": formats("weight_bits"),
        "activation_bits": formats("activation_bits"),
        "ranges": ranges(table),
        "oddities": oddities(table),
        "out_of_step": changed,
    }
    lacking = None
    if space:
        chosen = load_space(space)
        lacking = missing(table, chosen)
        report["missing"] = len(lacking)
        if not len(lacking):
            report["shares"] = shares(chosen, table, seed=seed)
    if json:
        print_json(report)
        return
    pad = max(12, *(len(key) for key, value in report["header"].items() if value))

    def say(what: str, told: str) -> None:
        out.print(f"{what:>{pad}}  {told}", markup=False)

    for key, value in report["header"].items():
        if value:
            say(key, value)
    bits = "weights {weight_bits}, activations {activation_bits}".format(**report)
    say("rows", f"{report['rows']:,}; bits: {bits}; below: lowest .. median .. highest price")
    for kind, figures in report["ranges"].items():
        for metric in table.prices:
            low, middle, high = figures[metric]
            prices = f"{low:.3g} .. {middle:.3g} .. {high:.3g}"
            say(kind, f"{figures['rows']:>6,} x  {metric} {prices}")
    if lacking is not None and len(lacking):
        say("missing", f"{len(lacking):,} rows for {space}: {list_layers(lacking)}")
    elif lacking is not None:
        say("coverage", f"every layer of {space}")
    for metric, parts in report.get("shares", {}).items():
        told = ", ".join(f"{k} {v:.0%}" for k, v in sorted(parts.items(), key=lambda p: -p[1]))
        say("dominates", f"{metric}: {told} (mean of random candidates)")
    for odd in report["oddities"]:
        say(
            "odd",
            f"{odd['metric']} falls in {odd['cheaper']:,} of {odd['pairs']:,} steps to "
            f"{odd['what']}, most ({odd['worst']:.1%}) at {odd['example']}",
        )
    for odd in filter(None, (changed, table.renamed())):
        say("odd", odd)
    if lacking is not None and len(lacking):
        if table.name in COST_MODELS:
            next_step(f"apq lut build --model {table.name} --space {space}")
        else:
            next_step(f"apq lut measure --space {space}   or add the rows: apq lut import --help")
    elif lacking is not None:
        budget = "--latency-ms" if "latency_ms" in table.prices else "--energy-mj"
        next_step(f"apq search --space {space} --lut {file} {budget} ...")


@app.command(
    epilog="Examples:\n\n"
    "  apq lut price runs/search/best.json --lut lut/bitfusion-apq-cifar10.csv\n\n"
    "  apq lut price candidate.json --lut bit-serial --space cifar10 --layers",
)
def price(
    file: Annotated[Path, typer.Argument(help="A candidate: best.json, or its JSON alone.")],
    lut: Annotated[str, typer.Option(help="A table (.csv, .parquet) or a simulated device.")],
    space: Annotated[
        str, typer.Option(help="Preset name or a space file; default the file's own, or cifar10.")
    ] = "",
    layers: Annotated[bool, typer.Option("--layers", help="List every layer.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
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
            {"layer": str(to_layer(row))} | {m: float(v[i]) for m, v in prices.items()}
            for i, row in enumerate(rows)
        ]
        print_json({"space": chosen.name, "device": device.name, "totals": totals, "layers": each})
        return
    at = getattr(device, "runs_at_bits", 0)
    runs = f", which runs every layer of at most {at} bits at {at}" if at else ""
    out.print(f"{file} in space {chosen.name} on {device.name}{runs}", markup=False)
    if layers:
        names = [str(to_layer(row)) for row in rows]
        pad = max(len(name) for name in names)
        for i, name in enumerate(names):
            told = "  ".join(f"{m} {v[i]:<10.4g}" for m, v in prices.items())
            out.print(f"{name:<{pad}}  {told}".rstrip(), markup=False)
        for metric, value in device.overhead.items():
            out.print(f"{'overhead of every network':<{pad}}  {metric} {value:.4g}")
    for metric, value in totals.items():
        out.print(f"{metric:>16}  {value:.6g}")


_Networks = Annotated[Path, typer.Option(help="Measured networks (networks.csv of `measure`).")]


@app.command(
    epilog="Examples:\n\n"
    "  apq lut verify --lut lut/phone-cifar10.csv --networks phone/networks.csv",
)
def verify(
    lut: Annotated[str, typer.Option(help="A table (.csv, .parquet) or a simulated device.")],
    networks: _Networks,
    space: Annotated[str, typer.Option(help="Preset name or a space file (.toml).")] = "cifar10",
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare the sums of a table's rows with whole networks that were measured.

    Networks are a CSV with a column per choice of the space and latency_ms, one row each.
    """
    from dataclasses import asdict

    from apq.errors import TableError
    from apq.hardware import LookupTable, load_cost_model, price_space
    from apq.hardware.calibration import agreement, read_networks
    from apq.space import load_space

    chosen, device = load_space(space), load_cost_model(lut)
    genes, measured = read_networks(networks, chosen)
    costs = price_space(chosen, device).costs(genes)
    if "latency_ms" not in costs:
        raise TableError(f"{lut} has no latency_ms to verify")
    found = {"table": agreement(costs["latency_ms"], measured)}
    scaled = costs["macs_m"] * (measured / costs["macs_m"]).mean()
    found["MACs, scaled to fit"] = agreement(scaled, measured)
    if json:
        print_json({name: asdict(a) for name, a in found.items()})
        return
    for name, a in found.items():
        out.print(f"{name:>20}  {a}")
    if not isinstance(device, LookupTable):
        next_step(f"apq lut build --model {lut} --space {space}   then `apq lut calibrate`")
    elif how := device.header.get("calibration"):
        out.print(f"{'note':>20}  the table was {how}; those it was fitted on flatter it")
        next_step(f"apq search --space {space} --lut {lut} --latency-ms ...")
    else:
        next_step(f"apq lut calibrate --lut {lut} --networks {networks} --space {space} --out ...")


@app.command(
    epilog="Examples:\n\n"
    "  apq lut calibrate --lut phone/raw.csv --networks phone/networks.csv "
    "--out lut/phone-cifar10.csv",
)
def calibrate(
    lut: Annotated[Path, typer.Option(help="A table (.csv or .parquet).")],
    networks: _Networks,
    to: Annotated[Path, typer.Option("--out", help="Where to write the corrected table.")],
    space: Annotated[str, typer.Option(help="Preset name or a space file (.toml).")] = "cifar10",
    fit_on: Annotated[int, typer.Option(min=2, help="Networks used for the fit.")] = 10,
    limit: Annotated[float, typer.Option(min=0, help="Largest held-out error allowed.")] = 0.10,
    force: Annotated[
        bool, typer.Option("--force", help="Write it whatever the error, over any table.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Decides which networks are used for the fit.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Correct a table with measured whole networks: constant + slope x sum of rows."""
    from dataclasses import asdict

    from apq.hardware import read_lut
    from apq.hardware.calibration import calibrate as fit
    from apq.hardware.calibration import read_networks
    from apq.space import load_space

    chosen = load_space(space)
    genes, measured = read_networks(networks, chosen)
    result = fit(read_lut(lut), chosen, genes, measured, fit_on, seed, limit, force)
    if not force:
        _require_same_table(to, result.table)
    result.table.write(to)
    if json:
        print_json(
            {
                "constant_ms": result.constant_ms,
                "slope": result.slope,
                "before": asdict(result.before),
                "after": asdict(result.after),
                "out": to.as_posix(),
            }
        )
    else:
        out.print(f"latency = {result.table.header['calibration_fit']}")
        out.print(f"before  {result.before}")
        out.print(f"after   {result.after}")
        _caution(result.after.spearman)
        out.print(f"wrote {to}")
    next_step(f"apq search --space {space} --lut {to} --latency-ms ...")


@app.command(
    epilog="Examples:\n\n"
    "  apq lut measure --precision int8 --space cifar10\n\n"
    "  apq lut measure --runtime openvino --precision fp32 --rounds 10\n\n"
    "  apq lut measure --runtime vela --accelerator ethos-u55-128\n\n"
    "  apq lut measure --prepare --precision fp32 --folder phone   then, on the device: "
    "python phone/measure.py\n\n"
    "  apq lut measure --import --folder phone --device phone --out lut/phone-cifar10.csv",
)
def measure(
    folder: Annotated[
        Path | None,
        typer.Option(help="Models and timings, continued; default runs/<device>-<space>."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Where to write; default lut/<device>-<space>.csv.")
    ] = None,
    space: Annotated[str, typer.Option(help="Preset name or a space file (.toml).")] = "cifar10",
    precision: Annotated[str, typer.Option(help="fp32 or int8, as the runtime runs it.")] = "int8",
    runtime: Annotated[str, typer.Option(help="onnxruntime, openvino, litert or vela.")] = (
        "onnxruntime"
    ),
    accelerator: Annotated[
        str, typer.Option(help="vela: ethos-u55-32 to -256, ethos-u65-256 or -512.")
    ] = "ethos-u55-128",
    granularity: Annotated[
        str, typer.Option(help="block, or layer (wrong where fused).")
    ] = "block",
    networks: Annotated[int, typer.Option(min=4, help="Whole networks to check sums on.")] = 40,
    fit_on: Annotated[int, typer.Option(min=2, help="Networks used for the correction.")] = 10,
    rounds: Annotated[int, typer.Option(min=2, help="How often every model is timed.")] = 6,
    limit: Annotated[float, typer.Option(min=0, help="Largest held-out error allowed.")] = 0.10,
    force: Annotated[
        bool, typer.Option("--force", help="Write it whatever the error, over any table.")
    ] = False,
    only_prepare: Annotated[
        bool, typer.Option("--prepare", help="Only write the folder, for another device.")
    ] = False,
    only_import: Annotated[
        bool, typer.Option("--import", help="Only read timings that another device wrote.")
    ] = False,
    device: Annotated[str, typer.Option(help="Name of the device.")] = "",
    source: Annotated[str, typer.Option(help="Where it ran, in one line.")] = "",
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Decides networks and weights.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Time whole blocks on a real runtime and correct their sums with whole networks.

    Interrupt it whenever you like: the same command continues; with more --rounds it adds them.
    The table's header says which kernels ran: the runtime's version and threads, whether it added
    products of unsigned and signed bytes exactly or in 16 bits, which saturate, and what the
    processor has (AVX2, AVX512, VNNI).
    """
    from dataclasses import asdict, replace

    from apq.cost import Stopwatch
    from apq.deploy import measure as measuring
    from apq.deploy.graphs import BITS
    from apq.deploy.kernels import read_kernels
    from apq.deploy.timing import RUNTIMES, time_folder
    from apq.deploy.vela import compile_folder
    from apq.errors import choose
    from apq.files import to_json
    from apq.hardware.calibration import calibrate as fit
    from apq.runtime.onnx_graph import require_onnx
    from apq.space import PRESETS, load_space

    if only_prepare and only_import:
        raise typer.BadParameter("--prepare and --import are two ends of one way; give one")
    watch = Stopwatch()
    choose(runtime, (*RUNTIMES, "vela"), "runtime")
    choose(precision, BITS, "precision")
    choose(granularity, ("block", "layer"), "granularity")
    made_for = accelerator if runtime == "vela" else f"host-{runtime}-{precision}"
    name = device or made_for
    chosen = load_space(space)
    folder = folder or Path("runs") / f"{name}-{chosen.name}"
    path = to or Path("lut") / f"{name}-{chosen.name}.csv"
    if not force:
        _require_own_table(path, name, f"{chosen.name} {chosen.fingerprint}")
    if not only_import:
        if runtime not in measuring.OF_TFLITE:
            require_onnx()
        kind: Any = precision
        if not only_prepare:
            measuring.require_runtime(runtime)
        total = measuring.prepare(folder, chosen, kind, networks, granularity, seed, runtime)
        if only_prepare:
            out.print(f"wrote {folder}: {total:,} models for {runtime}, {precision}")
            out.print(
                f"copy it to the device, run `python {folder.name}/measure.py` there (it needs "
                f"numpy and {runtime}), copy it back"
            )
            next_step(f"apq lut measure --import --folder {folder} --device {device or 'NAME'}")
            return
        err.print(f"{folder}: {total:,} models, {rounds} rounds each on {runtime}, {precision}")
        with live_line("timing") as report:
            if runtime == "vela":
                compile_folder(folder, accelerator, report)
            else:
                time_folder(folder, rounds, on_progress=report)
        source = source or f"{measuring.describe_host(runtime)}, {precision}"
        if runtime == "vela":
            source = f"{source.partition(' on ')[0]}: estimated by Arm's compiler for {accelerator}"
    found = measuring.finish(folder, name, source)
    about = {"command": _command(), "cost": to_json(watch.cost())}
    found = replace(found, table=replace(found.table, header={**found.table.header, **about}))
    measuring.write_networks(folder / "networks.csv", found.space, found.genes, found.latency_ms)
    found.table.write(folder / "raw.csv")
    err.print(f"noise   {found.table.header['noise']}")
    if kernels := found.table.header.get("kernels"):
        err.print(f"kernels {kernels}")
    result = fit(
        found.table, found.space, found.genes, found.latency_ms, fit_on, seed, limit, force
    )
    if to is None and found.space != chosen:
        path = Path("lut") / f"{name}-{found.space.name}.csv"
    if not force:
        _require_own_table(path, name, found.table.header["space"])
    result.table.write(path)
    if json:
        print_json(
            {
                "before": asdict(result.before),
                "after": asdict(result.after),
                "layer_noise": found.layer_noise,
                "network_noise": found.network_noise,
                "kernels": [entry.model_dump() for entry in read_kernels(folder)],
                "out": path.as_posix(),
            }
        )
    else:
        out.print(f"before  {result.before}")
        out.print(f"after   {result.after}   ({result.table.header['calibration_fit']})")
        _caution(result.after.spearman)
        out.print(f"wrote {path}")
    if only_import and found.space != chosen:
        space = found.space.name if found.space.name in PRESETS else "SPACE"
    next_step(f"apq search --space {space} --lut {path} --latency-ms ...")
