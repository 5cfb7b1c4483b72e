"""What the commands share: the live line, JSON output, parsing of common options."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
"""Results, on standard output."""
err = Console(stderr=True, highlight=False, soft_wrap=True)
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
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("[bold]{task.fields[figures]}"),
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
    """A report that prints a line at the end, and before that every LOG_SECONDS."""
    began = printed = time.monotonic()
    first: int | None = None

    def report(done: int, total: int, figures: Mapping[str, float] = {}) -> None:
        nonlocal printed, first
        now = time.monotonic()
        first = done if first is None else first
        if done < total and now - printed < LOG_SECONDS:
            return
        printed = now
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


def note_other_images(trained_on: Mapping[str, Any], images: Any) -> None:
    """Say so if a supernet was trained on another image set (or another copy) than this one."""
    if trained_on.get("images") not in (None, images.digest()):
        err.print(
            f"[yellow]note:[/yellow] the supernet was trained on another copy of "
            f"{trained_on.get('image_set', 'its images')}; if the splits differ, images it learned "
            "from may be counted as unseen"
        )


def next_step(command: str) -> None:
    """The last line of a command: what a user would do now."""
    err.print(f"[dim]next:[/dim] {command}")
