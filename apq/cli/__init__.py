"""The command line: one module per command, which parses options and calls the library.

Command modules import the library inside their functions, so ``apq --help`` loads no torch.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from apq.cli.budgets import BudgetCommand
from apq.cli.collect import collect
from apq.cli.common import err, out
from apq.cli.compare import compare
from apq.cli.cost import cost
from apq.cli.explore import explore
from apq.cli.export import export
from apq.cli.finetune import finetune
from apq.cli.import_ofa import import_ofa
from apq.cli.lut_measured import app as lut
from apq.cli.predict import predict
from apq.cli.quickstart import quickstart
from apq.cli.report import report
from apq.cli.search import search
from apq.cli.space import app as space
from apq.cli.sweep import sweep
from apq.cli.train_predictor import train_predictor
from apq.cli.train_supernet import train_supernet
from apq.cli.verify import verify
from apq.errors import ApqError
from apq.version import __version__
from apq.workers import torchrun_place


class Commands(TyperGroup):
    """The commands, with common handling of errors and Ctrl-C."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take ``--quiet`` wherever it stands, before or after the command's name. Of the processes
        that ``torchrun`` starts only the first says more than errors."""
        end = args.index("--") if "--" in args else len(args)
        out.quiet = torchrun_place().number > 0
        err.quiet = out.quiet or "--quiet" in args[:end]
        kept = [arg for arg in args[:end] if arg != "--quiet"]
        return super().parse_args(ctx, [*kept, *args[end:]])

    def invoke(self, ctx: Any) -> Any:
        """Print an ApqError or operating-system error (exit code 1); Ctrl-C exits with 130."""
        try:
            return super().invoke(ctx)
        except ApqError as error:
            show_error(str(error))
            raise typer.Exit(1) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            show_error(f"{where}{error.strerror or error}")
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            err.print("interrupted; what was finished is saved, the same command continues")
            raise typer.Exit(130) from None


def show_error(text: str) -> None:
    """Print what went wrong, also with ``--quiet``."""
    err.quiet = False
    err.print("error: ", style="bold red", end="")
    err.print(text)


app = typer.Typer(
    cls=Commands,
    name="apq",
    help="Search efficient neural networks: architecture, pruning and quantization at once.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"apq {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and stop."
    ),
    quiet: bool = typer.Option(
        False, "--quiet", help="Print results and errors alone; also after a command's name."
    ),
) -> None:
    place = torchrun_place()
    if place.count > 1 and ctx.invoked_subcommand != "train-supernet":
        raise ApqError(
            f"torchrun has started {place.count} processes, and only train-supernet works together "
            f"in them. Start apq {ctx.invoked_subcommand} without torchrun."
        )


app.command("quickstart")(quickstart)
app.command("train-supernet")(train_supernet)
app.command("import-ofa")(import_ofa)
app.command("collect")(collect)
app.command("train-predictor")(train_predictor)
app.command("predict")(predict)
app.command("finetune")(finetune)
app.command("export")(export)
app.command("verify")(verify)
app.command("search", cls=BudgetCommand)(search)
app.command("sweep", cls=BudgetCommand)(sweep)
app.command("compare", cls=BudgetCommand)(compare)
app.command("report")(report)
app.command("explore")(explore)
app.command("cost")(cost)
app.add_typer(space, name="space")
app.add_typer(lut, name="lut")


def main() -> None:
    """Run the command line. What a terminal cannot show is replaced, never refused."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()
