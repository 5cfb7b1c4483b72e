"""Shared by ``apq search`` and ``apq sweep``: budgets, the priced space, the predictor."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from apq.cli.common import err, warn
from apq.files.places import PREDICTOR, home, table_of
from apq.files.shipped import shipped

if TYPE_CHECKING:
    from apq.hardware import PricedSpace
    from apq.predictor.schema import Origin
    from apq.space import Space

BUDGETS = ("latency_ms", "energy_mj", "size_mb", "bitops_g", "macs_m", "peak_memory_kb")
_OPTIONS = {f"--{name.replace('_', '-')}" for name in BUDGETS}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(:\S+)?|[+-]?(nan|inf)", re.IGNORECASE)

Budget = Annotated[str | None, typer.Option(metavar="NUMBER…", help="Upper limit(s).")]


class BudgetCommand(TyperCommand):
    """Lets a budget option take several numbers: ``--latency-ms 4 6 8``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the numbers that follow a budget option into one value."""
        joined: list[str] = []
        for arg in args:
            follows = len(joined) > 1 and joined[-2] in _OPTIONS and _NUMBER.fullmatch(arg)
            if follows and all(_NUMBER.fullmatch(n) for n in joined[-1].split(",")):
                joined[-1] += f",{arg}"
            else:
                joined.append(arg)
        return super().parse_args(ctx, joined)


OwnSpace = Annotated[
    str | None,
    typer.Option(
        "--space",
        help="Preset name, or a .toml file of your own (default: --predictor's, else cifar10).",
    ),
]
PredictorPath = Annotated[
    Path | None,
    typer.Option(help="Trained predictor (default: data/SPACE/predictor.safetensors)."),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(help="Fix genes: b03_kernel=3, bits=8, depth=max, architecture=best.json."),
]
Caution = Annotated[float, typer.Option(help="k in accuracy = mean - k x spread.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.")]
WithMargin = Annotated[
    bool,
    typer.Option(help="Divide limits on a measured table by 1 + its error margin."),
]


def given(*texts: str | None) -> dict[str, list[float]]:
    """Numbers per budget option that was given; ``texts`` in the order of ``BUDGETS``."""
    return {n: numbers(n, t) for n, t in zip(BUDGETS, texts, strict=True) if t is not None}


UNITS = {
    "ms": "milliseconds",
    "mj": "millijoules",
    "mb": "megabytes",
    "g": "10^9",
    "m": "10^6",
    "kb": "kilobytes",
}
"""Units of budgets by the end of their names."""
MOST = 100_000
"""Budgets that one option may stand for."""


def numbers(metric: str, text: str) -> list[float]:
    """Numbers of a budget option: ``4,6,8`` or a range ``4:20:0.1`` (both ends included)."""
    values: list[float] = []
    for word in text.split(","):
        try:
            parts = [float("no" if "_" in p else p) for p in word.split(":")]
        except ValueError:
            unit = metric.rpartition("_")[2]
            raise typer.BadParameter(
                f"{metric}: {word!r} is not a number; give plain numbers as in 0.5 ({UNITS[unit]})"
            ) from None
        if len(parts) > 1 and not all(map(math.isfinite, parts)):
            raise typer.BadParameter(f"{metric}: {word!r} is not finite")
        if len(parts) == 1:
            values += parts
        elif len(parts) == 3 and parts[2] > 0 and parts[1] >= parts[0]:
            steps = (parts[1] - parts[0]) / parts[2] + 1e-9
            if steps >= MOST:
                raise typer.BadParameter(
                    f"{metric}: {word!r} is {steps:,.0f} budgets, at most {MOST:,} are searched"
                )
            values += [round(parts[0] + i * parts[2], 9) for i in range(int(steps) + 1)]
        else:
            raise typer.BadParameter(f"{metric}: a range is FIRST:LAST:STEP, got {word!r}")
    if len(values) > 1 and 0 in values:
        raise typer.BadParameter(
            f"{metric}: {text!r} is read as the budgets {', '.join(f'{v:g}' for v in values)}, and "
            "0 cannot be met; decimals have a point: 0.5"
        )
    return list(dict.fromkeys(values))


def product(
    budgets: Mapping[str, Sequence[float]], metrics: Sequence[str]
) -> list[dict[str, float]]:
    """Every combination of budgets; with several devices a budget holds on each of them."""
    combined = []
    for values in itertools.product(*budgets.values()):
        one: dict[str, float] = {}
        for metric, value in zip(budgets, values, strict=True):
            devices = [m for m in metrics if m.startswith(f"{metric}@")]
            one |= dict.fromkeys(devices or [metric], value)
        combined.append(one)
    return combined


@dataclass(frozen=True)
class Priced:
    """A space on one or more devices.

    Attributes:
        space: The space.
        costs: Its prices.
        made_from: Hashes of space and tables.
        asked: What ``--space`` would name the space by.
    """

    space: Space
    costs: PricedSpace
    made_from: dict[str, str]
    asked: str

    def require(self, names: Iterable[str]) -> None:
        """Raise unless every cost of a device among ``names`` is priced; others are not looked at.

        Raises:
            TableError: no device prices one of them; says how a table is made.
        """
        from apq.errors import TableError
        from apq.hardware.pricing import PRICED

        for name in names:
            metric = name.partition("@")[0]
            if metric not in PRICED:
                continue
            if any(known.partition("@")[0] == metric for known in self.costs.metrics):
                continue
            build = f"apq lut build --model bitfusion-apq --space {self.asked}"
            if self.costs.sources:
                devices = ", ".join(source.partition(":")[0] for source in self.costs.sources)
                raise TableError(
                    f"{name} is unknown: {devices} has no {metric}. Name a table or simulated "
                    f"device that has by --lut; this builds one:\n  {build}"
                )
            raise TableError(
                f"{name} is unknown: there is no table of what layers of space "
                f"{self.space.name!r} cost on a device. Build one and run this again:\n  {build}\n"
                "Another table or a simulated device is named by --lut (apq lut --help)."
            )

    def room(self, budgets: Sequence[dict[str, float]], keep: bool) -> list[dict[str, float]]:
        """The limits to search with. Measured tables have a known error margin: with ``keep``,
        limits are reduced by it, so that they hold on the device; otherwise they hold by the table,
        and a note explains that.

        Raises:
            TableError: no device prices a limited cost.
        """
        self.require(metric for budget in budgets for metric in budget)
        if keep:
            return [self.costs.with_margin(limits) for limits in budgets]
        for metric in sorted({m for b in budgets for m in b} & set(self.costs.margins)):
            err.print(
                f"note: {metric} holds by the table, which was off by up to "
                f"{self.costs.margins[metric]:.1%} on measured networks; --with-margin leaves room"
            )
        return list(budgets)


def space_for(space: str | None, predictor: Path | None) -> tuple[Space, str]:
    """The space that was asked for, else the predictor's own, else ``cifar10``; and what
    ``--space`` would name it by, empty if that is not known.

    A predictor that is missing is not noticed here.

    Raises:
        ModelError: the predictor is damaged, or not one of a space.
    """
    from apq.space import load_space

    if space is not None or predictor is None or not shipped(predictor).is_file():
        asked = space or "cifar10"
        return load_space(asked), asked
    found = _space_of(predictor)
    err.print(f"space {found.name}, as {predictor} was trained for (--space asks for another)")
    return found, ""


def _space_of(predictor: Path) -> Space:
    """The space that a predictor's file names, without torch if the file is in order."""
    from safetensors import SafetensorError, safe_open

    from apq.errors import SpaceError
    from apq.files import bounded_json
    from apq.space import Space

    try:
        with safe_open(str(shipped(predictor)), framework="numpy") as file:
            text = (file.metadata() or {})["apq-predictor"]
        return Space.from_dict(bounded_json(text)["features"]["space"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, SpaceError):
        from apq.predictor import load_predictor

        return load_predictor(predictor).space  # says what is wrong


def price_on(found: Space, luts: Sequence[str], asked: str = "") -> Priced:
    """Price a space; ``asked`` is what ``--space`` would name it by, if that is known."""
    import hashlib

    from apq.hardware import LookupTable, load_cost_model, price_space
    from apq.space import PRESETS

    if not asked:
        preset = PRESETS.get(found.name)
        same = preset is not None and preset().fingerprint == found.fingerprint
        asked = found.name if same else f"{found.name}.toml"
    default = table_of(found.name)
    names = list(luts) or ([str(default)] if shipped(default).is_file() else [])
    if not names:
        err.print(f"no table at {default}; counted costs only (--lut adds a device)")
    hashes = {"space": found.fingerprint}
    for name in names:
        path = shipped(name)
        digest = (
            hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "built in"
        )
        hashes[f"lut:{name}"] = digest
    models = [load_cost_model(name) for name in names]
    for model in models:
        if isinstance(model, LookupTable) and (odd := model.renamed()):
            warn(f"{model.path}: {odd}")
    return Priced(found, price_space(found, models), hashes, asked)


def load(path: Path | None, space: Space) -> tuple[Any, dict[str, str]]:
    """The predictor's function and the hashes of what it came from."""
    import hashlib

    from apq.predictor import load_predictor

    path = path or home(space.name) / PREDICTOR
    predictor = load_predictor(path, space)
    made_from = {"predictor": hashlib.sha256(shipped(path).read_bytes()).hexdigest()[:16]}
    for name in ("supernet", "images", "image_set"):
        if told := predictor.report.get(name):
            made_from[name] = str(told)
    if predictor.report.get("corrected"):
        made_from["samples"] = "corrected"
    return predictor.predict, made_from


def origin(path: Path | None, space: Space) -> Origin:
    """What the predictor's samples were, and measured of the whole network."""
    from apq.predictor import load_predictor
    from apq.predictor.schema import Origin

    path = path or home(space.name) / PREDICTOR
    return Origin.of(dict(load_predictor(path, space).report), str(path))


def per_device(limits: Sequence[str]) -> dict[str, float]:
    """Limits of single devices, ``latency_ms@DEVICE=8``."""
    out: dict[str, float] = {}
    for text in limits:
        name, _, value = text.partition("=")
        try:
            out[name.strip()] = float("no" if "_" in value else value)
        except ValueError:
            raise typer.BadParameter(f"--limit {text!r} is not COST=NUMBER") from None
    return out
