"""Every example that a help text shows is one that its command takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from apq.cli import app
from apq.cli.budgets import BUDGETS, numbers
from apq.hardware import COST_MODELS
from apq.predictor import COLUMNS
from apq.search import ALGORITHMS
from apq.space import PRESETS

ROOT = get_command(app)


def commands(command, path=("apq",)):
    """Every command below one, with the words that call it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def examples(command):
    """The command lines in a help text; what follows three spaces is said about them."""
    text = "\n".join(filter(None, (command.help, command.epilog)))
    return [line.strip().split("   ")[0] for line in re.findall(r"^ *apq .*$", text, re.MULTILINE)]


EXAMPLES = [
    (" ".join(path), line) for path, command in commands(ROOT) for line in examples(command)
]


UsageError = typer.BadParameter.__bases__[0]
"""Of the click that typer runs on, its own or another."""


def parsed(line):
    """The values of a command line's options, read as when it is run.

    Raises:
        UsageError: an option, argument or value that does not exist.
        KeyError: a command that does not exist.
    """
    _, *words = shlex.split(line)
    command = ROOT
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return command.make_context(line, words).params


CHOICES = {
    "space": [*PRESETS, *COLUMNS], "lut": COST_MODELS, "model": COST_MODELS,
    "algorithm": ALGORITHMS, "columns": COLUMNS,
}  # fmt: skip
"""What options name, unless they name a file."""


@pytest.mark.parametrize(("path", "line"), EXAMPLES)
def test_an_example_is_taken(path, line):
    assert line.startswith(path)
    values = parsed(line)
    for name, known in CHOICES.items():
        value = values.get(name)
        for word in value if isinstance(value, list | tuple) else [value]:
            if word and not Path(str(word)).suffix:
                assert word in known, (name, word)
    for name in BUDGETS:
        assert not values.get(name) or numbers(name, str(values[name]))


def test_every_command_has_one():
    assert {path for path, _ in EXAMPLES} == {
        " ".join(path) for path, command in commands(ROOT) if not hasattr(command, "commands")
    }
    assert len(EXAMPLES) >= 30


@pytest.mark.parametrize(
    "line",
    [
        "apq search --latency-ms",
        "apq search --latency 1",
        "apq lut build --spaces digits",
        "apq collect --images digits --count 0",
        "apq lut measur",
        "apq report --compares one two",
    ],
)
def test_what_is_no_command_is_noticed(line):
    with pytest.raises((UsageError, KeyError)):
        parsed(line)
