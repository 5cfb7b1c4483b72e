"""Shared by the commands that search: budgets, the priced space, what judges candidates."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from apq.cli.common import err, warn
from apq.files.places import PREDICTOR, home
from apq.files.shipped import shipped

if TYPE_CHECKING:
    from apq.hardware.chosen import Priced
    from apq.predictor import Predictor
    from apq.search.problem import Accuracy
    from apq.space import Space

BUDGETS = ("latency_ms", "energy_mj", "size_mb", "bitops_g", "macs_m", "peak_memory_kb")
_OPTIONS = {f"--{name.replace('_', '-')}" for name in BUDGETS}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(:\S+)?|[+-]?(nan|inf)", re.IGNORECASE)


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


def room(priced: Priced, budgets: Sequence[dict[str, float]], keep: bool) -> list[dict[str, float]]:
    """The limits to search with. Measured tables have a known error margin: with ``keep``,
    limits are reduced by it, so that they hold on the device; otherwise they hold by the table,
    and a note explains that.

    Raises:
        TableError: no device prices a limited cost.
    """
    priced.require(metric for budget in budgets for metric in budget)
    if keep:
        return [priced.costs.with_margin(limits) for limits in budgets]
    for metric in sorted({m for b in budgets for m in b} & set(priced.costs.margins)):
        err.print(
            f"note: {metric} holds by the table, which was off by up to "
            f"{priced.costs.margins[metric]:.1%} on measured networks; --with-margin leaves room"
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


def price_on(space: Space, luts: Sequence[str] | None, asked: str = "") -> Priced:
    """:func:`apq.hardware.chosen.price_on`, its notes printed."""
    from apq.hardware import chosen

    priced = chosen.price_on(space, luts or (), asked)
    for note in priced.notes:
        warn(note)
    return priced


@dataclass(frozen=True)
class Judge:
    """What gives a search its accuracies.

    Attributes:
        accuracy: Predicts, or measures.
        made_from: Hashes of what it came from.
        predictor: What predicts; None: accuracies are measured.
    """

    accuracy: Accuracy
    made_from: dict[str, str]
    predictor: Predictor | None = None


def load(path: Path | None, space: Space) -> Judge:
    """The predictor at a path, or the space's own."""
    from apq.files import file_digest
    from apq.predictor import load_predictor

    path = path or home(space.name) / PREDICTOR
    predictor = load_predictor(path, space)
    made_from = {"predictor": file_digest(shipped(path))}
    for name in ("supernet", "images", "image_set"):
        if told := predictor.report.get(name):
            made_from[name] = str(told)
    if predictor.report.get("corrected"):
        made_from["samples"] = "corrected"
    return Judge(predictor.predict, made_from, predictor)


def per_device(limits: Sequence[str] | None) -> dict[str, float]:
    """Limits of single devices, ``latency_ms@DEVICE=8``."""
    out: dict[str, float] = {}
    for text in limits or ():
        name, _, value = text.partition("=")
        try:
            out[name.strip()] = float("no" if "_" in value else value)
        except ValueError:
            raise typer.BadParameter(f"--limit {text!r} is not COST=NUMBER") from None
    return out
