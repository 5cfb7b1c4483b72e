"""``apq report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apq.cli.common import out, print_json
from apq.files.places import RUN


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a search.")] = RUN,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a run as one HTML page to look at: front, chosen network, its blocks, measurements.

    The page stands alone and loads nothing. Run it again after apq finetune to see what was
    measured beside what was predicted.

    Examples:

      apq report runs/search
    """
    from apq.report.page import write_report

    path = write_report(folder)
    if json:
        print_json({"report": path.as_posix()})
    else:
        out.print(f"wrote {path}: open it in a browser")
