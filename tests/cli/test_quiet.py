"""``--quiet`` anywhere on the line: results and errors alone."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from apq.cli import app


@pytest.mark.parametrize(
    "words", ["space show digits --quiet", "--quiet space show digits"], ids=["after", "before"]
)
def test_quiet_leaves_the_result(words):
    loud = CliRunner().invoke(app, ["space", "show", "digits"])
    quiet = CliRunner().invoke(app, words.split())
    assert quiet.exit_code == 0, quiet.output
    assert quiet.stdout == loud.stdout
    assert "next: " in loud.stderr
    assert quiet.stderr == ""


def test_quiet_keeps_errors():
    wrong = CliRunner().invoke(app, ["space", "show", "no-such", "--quiet"])
    assert wrong.exit_code == 1
    assert wrong.stderr.startswith("error: ")
