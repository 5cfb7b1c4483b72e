"""``apq report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apq.cli.common import out, print_json
from apq.cli.options import AsJson
from apq.files.places import RUN

COMPARISON = "comparison.html"


def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]…",
            help=f"Folder of a search, several with --compare (default: {RUN}).",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare several runs on one page.")
    ] = False,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write figures for papers there: SVG, PNG, PDF."),
    ] = None,
    out_path: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help=f"Page to write (default: report.html in FOLDER, or {COMPARISON} beside the first).",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a run as one HTML page: front, chosen network, its blocks, measurements.

    The page is self-contained. Run it again after apq finetune to compare measured and predicted
    accuracies. Figures have colour-blind safe colours.

    Examples:

      apq report runs/search

      apq report --compare runs/list/latency_ms-0.4 runs/list/latency_ms-0.5

      apq report runs/search --figures paper/figures
    """
    from apq.report.figures import write_figures
    from apq.report.page import write_page
    from apq.report.reading import read_sources

    folders = folders or [RUN]
    if compare != (len(folders) > 1):
        raise typer.BadParameter(
            "--compare wants two runs or more, as in: apq report --compare runs/a runs/b"
            if compare
            else f"{len(folders)} runs are laid over each other with --compare"
        )
    beside = folders[0].parent / COMPARISON if compare else folders[0] / "report.html"
    sources = read_sources(folders)
    path = write_page(out_path or beside, sources)
    drawn = write_figures(figures, sources) if figures else []
    if json:
        listed = {"figures": [figure.as_posix() for figure in drawn]} if figures else {}
        print_json({"report": path.as_posix()} | listed)
        return
    out.print(f"wrote {path}: open it in a browser")
    if figures:
        out.print(f"wrote {len(drawn)} figures to {figures}")
