"""Commands as a user types them, run in this process."""

from __future__ import annotations

import json
from typing import Any

from documented_json import check
from typer.testing import CliRunner

from apq.cli import app


def run(*words: object, code: int = 0) -> str:
    """What a command prints, with its errors if it is to fail with a code."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, f"{words}\n{result.output}\n{result.exception!r}"
    return result.output if code else result.stdout


def figures(*words: object) -> dict[str, Any]:
    """What a command prints as JSON, which has to be what ``docs/json.md`` promises."""
    told: dict[str, Any] = json.loads(run(*words, "--json"))
    group = words[0] in ("lut", "space")
    check(" ".join(map(str, words[: 1 + group])), told)
    return told
