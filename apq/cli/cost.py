"""``apq cost``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apq.cli.common import out, print_json, table_row
from apq.cli.options import AsJson
from apq.files.places import RUN

if TYPE_CHECKING:
    from apq.cost import Footprint, Rates
    from apq.report.costs import Pipeline


def cost(
    path: Annotated[
        Path, typer.Argument(help="A run's folder, data/SPACE, or a single file that apq made.")
    ] = RUN,
    supernet: Annotated[
        Path | None, typer.Option(help="The run's supernet, if not in data/SPACE.")
    ] = None,
    predictor: Annotated[Path | None, typer.Option(help="Its predictor, likewise.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Its fp32 samples, likewise.")] = None,
    quantized_samples: Annotated[
        Path | None, typer.Option(help="Its quantized samples, likewise.")
    ] = None,
    deployments: Annotated[
        int, typer.Option(min=1, help="N: devices and budgets to find a network for.")
    ] = 40,
    epochs: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Passes to train one network from scratch; default: the supernet's."
        ),
    ] = None,
    watts: Annotated[
        list[str] | None, typer.Option(help="Power of a device, KIND=WATTS; repeatable.")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(help="US dollars an hour, KIND=PRICE or KIND=LOW:HIGH; repeatable."),
    ] = None,
    pue: Annotated[
        float, typer.Option(min=1, help="Energy of the data centre over that of its devices.")
    ] = 1.58,
    carbon: Annotated[
        float | None, typer.Option(min=0, help="kg CO2e per kWh; default: 0.4327 (0.954 lb).")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Also print the rows of APQ's table.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Total what a pipeline cost: device hours, energy, CO2e, price; and one more deployment.

    Files carry measured times. Everything else follows from rates that are printed and can be
    overridden.

    Examples:

      apq cost runs/search

      apq cost data/cifar10 --carbon 0.05 --price "CPU core=0.02"

      apq cost runs/quickstart --deployments 100 --published
    """
    from apq.report.costs import pipeline

    found = pipeline(path, supernet, predictor, samples, quantized_samples)
    rates = _rates(watts or (), price or (), pue, carbon)
    if json:
        print_json(_as_data(found, rates, deployments, epochs) | _published(published, deployments))
        return
    _show(found, rates, deployments, epochs)
    if published:
        _show_published(deployments)


def _rates(watts: Sequence[str], price: Sequence[str], pue: float, carbon: float | None) -> Rates:
    from apq.cost import USD_PER_HOUR, WATTS, Rates

    power = {kind: values[0] for kind, values in _pairs("--watts", watts, 1)}
    prices = {kind: (values[0], values[-1]) for kind, values in _pairs("--price", price, 2)}
    default = Rates()
    return Rates(
        {**WATTS, **power},
        {**USD_PER_HOUR, **prices},
        pue,
        default.kg_per_kwh if carbon is None else carbon,
    )


def _pairs(option: str, texts: Sequence[str], most: int) -> list[tuple[str, list[float]]]:
    """``KIND=NUMBER`` or ``KIND=LOW:HIGH``."""
    found = []
    for text in texts:
        kind, equals, numbers = text.rpartition("=")
        try:
            values = [float("no" if "_" in part else part) for part in numbers.split(":")]
        except ValueError:
            values = []
        if not equals or not values or len(values) > most or not 0 <= min(values) <= max(values):
            form = "KIND=NUMBER" if most == 1 else "KIND=NUMBER or KIND=LOW:HIGH"
            raise typer.BadParameter(f"{option} {text!r} is not {form}, as in 'CPU core=0.02'")
        found.append((kind.strip(), values))
    return found


def _columns(of: Footprint) -> tuple[str, ...]:
    """Hours of all kinds, energy, CO2e and price, as cells of a row."""
    hours = sum(of.hours.values())
    numbers = (f"{hours:>10.3g}", f"{of.kwh:>9.3g}", f"{of.kg_co2e:>9.3g}", f"{of.lb_co2e:>9.3g}")
    return *(f" {number}" for number in numbers), f"   {_usd(of)}"


def _usd(of: Footprint) -> str:
    return " to ".join(f"{usd:,.0f}" if usd >= 10 else f"{usd:.2g}" for usd in of.usd)


def _show(found: Pipeline, rates: Rates, deployments: int, epochs: float | None) -> None:
    from apq.cost import device_hours

    width = max(28, *(len(stage.name) for stage in found.stages))
    heads = (f" {'hours':>10}", f" {'kWh':>9}", f" {'kg CO2e':>9}", f" {'lb CO2e':>9}", "   $")
    table_row(" " * width, *heads)
    for stage in found.stages:
        told: tuple[str, ...] = (" not known",)
        if stage.cost is not None:
            told = _columns(rates.of(device_hours(stage.cost)))
        note = f"   ({stage.path.as_posix()}{': ' if stage.note else ''}{stage.note})"
        table_row(f"{stage.name:<{width}}", *told, note)
    total, more = found.total(rates), found.marginal(rates)
    silent = sum(stage.cost is None for stage in found.stages)
    table_row(f"{'all that is known':<{width}}", *_columns(total))
    if silent:
        out.print(f"{silent} of {len(found.stages)} are not known: the total is too low")
    for kind, hours in total.hours.items():
        out.print(f"  {kind}: {hours:.3g} hours")
    if any(stage.each for stage in found.stages):
        out.print()
        table_row(f"{'one more deployment':<{width}}", *_columns(more))
        _show_training(found, rates, deployments, epochs, width)
    out.print("\nassumed, and overridden by --watts, --price, --pue, --carbon:")
    for line in rates.stated(total.hours):
        out.print(f"  {line}")
    out.print("  hours: of processor cores while busy, and of accelerators while held")
    out.print("  left out: what no file records (getting the data, failed tries, idle machines)")


def _show_training(
    found: Pipeline, rates: Rates, deployments: int, epochs: float | None, width: int
) -> None:
    """Training networks instead: one per deployment, and all that the search scored."""
    each = found.training(rates, epochs)
    if each is None:
        out.print("training a network instead: not known; it needs a fine-tuned model and --epochs")
        return
    passes = found.epochs if epochs is None else epochs
    table_row(f"{'training one from scratch':<{width}}", *_columns(each))
    scored = max(1, found.candidates)
    table_row(f"{f'training all {scored:,} scored':<{width}}", *_columns(each.times(scored)))
    more, once = found.marginal(rates), _once(found, rates)
    own, other = (sum(f.hours.values()) for f in (more, each))
    out.print(
        f"from scratch: {passes:g} passes over the training images at the fine-tune's pace, which "
        "includes\nits teacher and fake quantization, and no search at all"
    )
    fixed = sum(once.hours.values())
    out.print(
        f"hours for N deployments: {fixed:.3g} + {own:.3g} N, "
        f"against {other:.3g} N for one training each"
        f"\n  N = {deployments}: {fixed + own * deployments:.3g} against {other * deployments:.3g}"
        + (f"; equal at N = {fixed / (other - own):.3g}" if other > own else "")
    )


def _once(found: Pipeline, rates: Rates) -> Footprint:
    from dataclasses import replace

    return replace(found, stages=tuple(s for s in found.stages if not s.each)).total(rates)


def _show_published(deployments: int) -> None:
    from apq.cost import PUBLISHED, published

    out.print(
        f"\nAPQ's table (ImageNet; GPU hours for N = {deployments}, then one more deployment)"
    )
    for name in PUBLISHED:
        hours, more = published(name, deployments)
        once, each = PUBLISHED[name]
        form = f"{once:g} + {each:g} N" if once else f"{each:g} N"
        table_row(
            f"  {name:<26}", f"{form:>14} = {hours:>7,.0f}   ", f"{more.lb_co2e:>6.2f} lb CO2e",
            f"   $ {_usd(more)}",
        )  # fmt: skip


def _plain(of: Footprint | None) -> Mapping[str, Any] | None:
    if of is None:
        return None
    return {
        "device_hours": dict(of.hours), "kwh": of.kwh, "kg_co2e": of.kg_co2e,
        "lb_co2e": of.lb_co2e, "usd": list(of.usd),
    }  # fmt: skip


def _as_data(
    found: Pipeline, rates: Rates, deployments: int, epochs: float | None
) -> dict[str, Any]:
    from apq.cost import device_hours

    total, each = found.total(rates), found.training(rates, epochs)
    stages = [
        {
            "stage": s.name, "path": s.path.as_posix(), "each_deployment": s.each, "note": s.note,
            "cost": s.cost, **(_plain(rates.of(device_hours(s.cost))) or {} if s.cost else {}),
        }
        for s in found.stages
    ]  # fmt: skip
    more, once = _plain(found.marginal(rates)), _once(found, rates)
    return {
        "stages": stages,
        "total": _plain(total),
        "not_known": sum(s.cost is None for s in found.stages),
        "once": _plain(once),
        "one_more_deployment": more,
        "training_one_from_scratch": _plain(each),
        "training_all_scored": _plain(each.times(found.candidates)) if each else None,
        "candidates": found.candidates,
        "deployments": deployments,
        "for_all_deployments": _plain(once + found.marginal(rates).times(deployments)),
        "assumed": rates.stated(total.hours),
    }


def _published(wanted: bool, deployments: int) -> dict[str, Any]:
    from apq.cost import PUBLISHED, published

    if not wanted:
        return {}
    rows = {name: published(name, deployments) for name in PUBLISHED}
    return {"published": {n: {"gpu_hours": h, "marginal": _plain(f)} for n, (h, f) in rows.items()}}
