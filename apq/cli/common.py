"""Shared by the commands: the live line, JSON output, parsing of common options."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from apq.images import ImageSet
    from apq.space import Space

# Paths and names may hold square brackets, so nothing that is printed is read as markup.
out = Console(highlight=False, soft_wrap=True, markup=False)
"""Results, on standard output."""
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
"""Progress and errors, on standard error, so that ``--json`` output stays clean."""

OnProgress = Callable[[int, int, Mapping[str, float]], None]
"""Called by long library functions: done, total, and figures worth watching (name -> value)."""


@contextmanager
def live_line(what: str) -> Iterator[OnProgress]:
    """One live line: what, a bar, done/total, rate, the latest figures, time left.

    Without a terminal (a log file) it is a plain line now and then instead.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    if not err.is_terminal:
        yield _log_lines(what)
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[figures]}", style="bold", markup=False),
        TimeRemainingColumn(),
        console=err,
        refresh_per_second=4,
    ) as bar:
        task = bar.add_task(what, total=None, rate="", figures="")

        def report(done: int, total: int, figures: Mapping[str, float] = {}) -> None:
            speed = bar.tasks[task].speed
            rate = f"{speed:,.1f}/s" if speed else ""
            bar.update(task, completed=done, total=total, rate=rate, figures=_figures(figures))

        yield report


LOG_SECONDS = 30.0
"""How often a line is printed where there is no terminal."""


def _log_lines(what: str) -> OnProgress:
    """A report that prints a line at the end, and before that every LOG_SECONDS.

    Counts that begin again (the next of several searches) are told every LOG_SECONDS only.
    """
    began = printed = time.monotonic()
    first: int | None = None
    last, ended = 0, False

    def report(done: int, total: int, figures: Mapping[str, float] = {}) -> None:
        nonlocal began, printed, first, last, ended
        now = time.monotonic()
        if first is None or done < last:
            first, began = done, now
        last = done
        if (done < total or ended) and now - printed < LOG_SECONDS:
            return
        printed, ended = now, done >= total
        rate = (done - first) / max(now - began, 1e-9)
        left = f", {(total - done) / rate / 60:,.1f} min left" if rate and done < total else ""
        err.print(f"{what}: {done:,}/{total:,}  {rate:,.1f}/s{left}  {_figures(figures)}".rstrip())

    return report


def _figures(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def print_json(data: Mapping[str, Any]) -> None:
    """Write one JSON document to standard output (NaN and infinity become null)."""
    sys.stdout.write(json.dumps(_clean(data), indent=2) + "\n")


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    elif hasattr(value, "tolist"):
        return _clean(value.tolist())
    if isinstance(value, float) and not (value == value and abs(value) != float("inf")):
        return None
    return value


def images_for(
    source: str | None, space: Space, made_of: Mapping[str, Any], what: str, other: bool
) -> ImageSet:
    """The images of a command that continues from an earlier artefact.

    Args:
        source: What the user gave; None means the images ``what`` was made with, where they can be
            found again (those that need no files).
        space: Says size, channels and classes.
        made_of: Metadata of what was made before.
        what: What to call it in messages.
        other: Whether another image set than its own is meant.

    Raises:
        ApqError: no images are given, or they are others than ``what`` was made with.
    """
    from apq.errors import ImagesError
    from apq.images import load_images, require_same_images
    from apq.images.sets import EMBEDDED

    told = made_of.get("images")
    name = told.get("name") if isinstance(told, Mapping) else made_of.get("image_set")
    if source is None and name not in EMBEDDED:
        raise ImagesError(f"give --images: {what} was made with the images {name or '(unnamed)'}")
    found = load_images(source or str(name), space.image_size, space.in_channels, space.classes)
    err.print(found.describe())
    if not other:
        require_same_images(made_of, found, what)
    return found


def table_row(*cells: str) -> None:
    """Print a row of a table, its cells padded by the caller.

    Where a terminal (or ``COLUMNS``) is too narrow, the last cells go on with the next line, indented;
    cells of one width break at the same place in every row. A pipe or a file gets whole lines.
    """
    asked = os.environ.get("COLUMNS", "")
    width = int(asked) if asked.isdecimal() else out.width if out.is_terminal else sys.maxsize
    line = ""
    for cell in cells:
        if line.strip() and len((line + cell).rstrip()) > width:
            out.print(line.rstrip())
            line = "    "
        line += cell
    out.print(line.rstrip())


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column holds names and the others figures."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def typed() -> str:
    """The command as it was typed, for the files it makes."""
    return shlex.join(["apq", *sys.argv[1:]])


def warn(text: str) -> None:
    """Print a warning."""
    err.print("note: ", style="yellow", end="")
    err.print(text)


def next_step(command: str) -> None:
    """The last line of a command: the suggested next command."""
    err.print("next: ", style="dim", end="")
    err.print(command)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: predictions of a hundred candidates are too small to parallelise, and on one
    thread are twice as fast, or ten times on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def refuse_unused(ctx: typer.Context, unused: Mapping[str, Sequence[str]]) -> None:
    """Refuse options that another one, if it is given, has no use for (names of parameters)."""
    for name in (name for name in unused if ctx.params[name]):
        for other in unused[name]:
            source = ctx.get_parameter_source(other)
            if source is not None and source.name == "COMMANDLINE":
                what, option = name.replace("_", "-"), other.replace("_", "-")
                raise typer.BadParameter(f"--{what} has no use for --{option}: leave it out")


def pairs(options: Sequence[str] | None, flag: str) -> dict[str, str]:
    """``NAME=VALUE`` options as a mapping."""
    found = {}
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals or not name or not value:
            raise typer.BadParameter(f"{flag} takes NAME=VALUE, got {option!r}")
        found[name] = value
    return found
