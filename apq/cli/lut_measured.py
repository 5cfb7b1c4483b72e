"""``apq lut measure``, ``verify`` and ``calibrate``: tables beside what a device really took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apq.cli.common import err, live_line, next_step, out, print_json, typed
from apq.cli.lut import app
from apq.cli.options import AsJson, CostModel, Seed, SpaceName
from apq.files.places import table_of

__all__ = ["app"]

if TYPE_CHECKING:
    from apq.deploy.measure import Measured
    from apq.hardware.calibration import Calibration

_Networks = Annotated[Path, typer.Option(help="Measured networks (networks.csv of `measure`).")]


@app.command(
    epilog="Examples:\n\n"
    "  apq lut verify --lut lut/phone-cifar10.csv --networks phone/networks.csv",
)
def verify(
    lut: CostModel,
    networks: _Networks,
    space: SpaceName = "cifar10",
    json: AsJson = False,
) -> None:
    """Compare the sums of a table's rows with whole networks that were measured.

    Networks are a CSV with a column per choice of the space and latency_ms, one row each.
    """
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
    space: SpaceName = "cifar10",
    fit_on: Annotated[int, typer.Option(min=2, help="Networks used for the fit.")] = 10,
    limit: Annotated[float, typer.Option(min=0, help="Largest held-out error allowed.")] = 0.10,
    force: Annotated[
        bool, typer.Option("--force", help="Write it whatever the error, over any table.")
    ] = False,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Correct a table with measured whole networks: constant + slope x sum of rows."""
    from apq.hardware import read_lut
    from apq.hardware.calibration import calibrate as fit
    from apq.hardware.calibration import read_networks
    from apq.hardware.overwriting import require_same_table
    from apq.space import load_space

    chosen = load_space(space)
    genes, measured = read_networks(networks, chosen)
    result = fit(read_lut(lut), chosen, genes, measured, fit_on, seed, limit, force)
    if not force:
        require_same_table(to, result.table)
    result.table.write(to)
    _say_calibrated(result, to, json)
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
    space: SpaceName = "cifar10",
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
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Time whole blocks on a real runtime and correct their sums with whole networks.

    Interrupt it whenever you like: the same command continues; with more --rounds it adds them.
    The table's header says which kernels ran: the runtime's version and threads, whether it added
    products of unsigned and signed bytes exactly or in 16 bits, which saturate, and what the
    processor has (AVX2, AVX512, VNNI).
    """
    from apq.cost import Stopwatch
    from apq.deploy import measure as measuring
    from apq.deploy.graphs import BITS
    from apq.errors import choose
    from apq.hardware.calibration import calibrate as fit
    from apq.hardware.overwriting import require_own_table
    from apq.space import PRESETS, load_space

    if only_prepare and only_import:
        raise typer.BadParameter("--prepare and --import are two ends of one way; give one")
    kind: Any = choose(precision, BITS, "precision")
    choose(granularity, ("block", "layer"), "granularity")
    watch, chosen = Stopwatch(), load_space(space)
    name = device or (accelerator if runtime == "vela" else f"host-{runtime}-{precision}")
    folder = folder or Path("runs") / f"{name}-{chosen.name}"
    if not force:
        require_own_table(to or table_of(chosen.name, name), name, chosen)
    if not only_import:
        measuring.require_runtime(runtime, only_prepare)
        total = measuring.prepare(folder, chosen, kind, networks, granularity, seed, runtime)
        if only_prepare:
            _say_prepared(folder, total, runtime, precision, device or "NAME")
            return
        err.print(f"{folder}: {total:,} models, {rounds} rounds each on {runtime}, {precision}")
        with live_line("timing") as report:
            measuring.time_models(folder, accelerator, rounds, report)
        source = source or measuring.describe_source(runtime, precision, accelerator)
    found = measuring.finish(folder, name, source, {"command": typed(), "cost": watch.cost()})
    measured = (found.table, found.space, found.genes, found.latency_ms)
    result = fit(*measured, fit_on, seed, limit, force)
    path = to or table_of(found.space.name, name)
    if not force:
        require_own_table(path, name, found.space)
    result.table.write(path)
    _say_measured(folder, found, result, path, json)
    if found.space != chosen:
        space = found.space.name if found.space.name in PRESETS else "SPACE"
    next_step(f"apq search --space {space} --lut {path} --latency-ms ...")


def _say_prepared(folder: Path, total: int, runtime: str, precision: str, device: str) -> None:
    out.print(f"wrote {folder}: {total:,} models for {runtime}, {precision}")
    out.print(
        f"copy it to the device, run `python {folder.name}/measure.py` there (it needs "
        f"numpy and {runtime}), copy it back"
    )
    next_step(f"apq lut measure --import --folder {folder} --device {device}")


def _say_measured(
    folder: Path, found: Measured, result: Calibration, path: Path, json: bool
) -> None:
    """Print what was measured and how well the corrected table predicts whole networks."""
    from apq.deploy.kernels import read_kernels

    header = found.table.header
    err.print(f"noise   {header['noise']}")
    if "kernels" in header:
        err.print(f"kernels {header['kernels']}")
    noise = {"layer_noise": found.layer_noise, "network_noise": found.network_noise}
    kernels = [entry.model_dump() for entry in read_kernels(folder)]
    _say_calibrated(result, path, json, {**noise, "kernels": kernels})


def _say_calibrated(
    result: Calibration, path: Path, json: bool, more: Mapping[str, Any] = {}
) -> None:
    if json:
        figures = {"constant_ms": result.constant_ms, "slope": result.slope}
        agreed = {"before": asdict(result.before), "after": asdict(result.after)}
        print_json({**figures, **agreed, **more, "out": path.as_posix()})
        return
    out.print(f"latency = {result.table.header['calibration_fit']}")
    out.print(f"before  {result.before}")
    out.print(f"after   {result.after}")
    if not result.after.spearman >= 0.9:  # small errors do not mean a good order
        out.print(
            "caution: the order of these networks is barely predicted (Spearman "
            f"{result.after.spearman:.2f}); they differ by little more than the noise"
        )
    out.print(f"wrote {path}")
