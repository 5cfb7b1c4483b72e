"""``apq explore``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apq.cli.budgets import load, price_on
from apq.cli.common import err, one_thread, out
from apq.cli.options import PredictorPath
from apq.files.places import RUN

if TYPE_CHECKING:
    from apq.report.explore import Explorer


def explore(
    folder: Annotated[Path, typer.Argument(help="Folder of a search.")] = RUN,
    predictor: PredictorPath = None,
    lut: Annotated[
        list[str] | None,
        typer.Option(help="Table or cost model, repeatable (default: those of the search)."),
    ] = None,
    stored: Annotated[
        bool,
        typer.Option("--stored", help="Choose among scored candidates; needs no predictor."),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0: a free one.")
    ] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Look at a run with budgets to move: every move chooses anew in under a second.

    Serves the page of apq report on this machine alone, at an address with a secret in it, until
    Ctrl-C. An answer is the best of what the run scored, and of what a short search with its
    predictor and tables adds; apq search with the same limits searches longer.

    Examples:

      apq explore runs/search

      apq explore runs/search --no-browser --port 8123

      apq explore runs/search --stored
    """
    import webbrowser
    from contextlib import nullcontext

    from apq.report.explore import serve_run

    with nullcontext() if stored else one_thread():
        server = serve_run(_explorer(folder, predictor, lut, stored), port)
        out.print(server.address)
        err.print("open this address in a browser; Ctrl-C ends it")
        if browser:
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            err.print("ended; nothing was written")
        finally:
            server.server_close()


def _explorer(
    folder: Path, predictor: Path | None, lut: list[str] | None, stored: bool
) -> Explorer:
    """The run with its tables and predictor, which have to be those of the search."""
    from apq.errors import ModelError
    from apq.report.explore import Explorer, require_same
    from apq.report.reading import read_source

    source = read_source(folder)
    best = source.best
    tables = [n.removeprefix("lut:") for n in best.made_from if n.startswith("lut:")]
    priced = price_on(best.space, lut or tables)
    try:
        judge = None if stored else load(predictor, best.space)
    except ModelError as error:
        raise ModelError(
            f"{error}\nOr choose among what was scored alone: apq explore {folder} --stored"
        ) from error
    hashes = judge.made_from if judge else {}
    require_same(best.made_from, priced.made_from | hashes, folder)
    return Explorer(source, priced.costs, judge.accuracy if judge else None)
