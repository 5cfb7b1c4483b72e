"""The shape of the package: commands stay thin."""

from __future__ import annotations

import ast
from pathlib import Path

CLI = Path(__file__).parents[1] / "apq/cli"
MOST = 51
"""Lines of code of a command, docstring aside. ``search``, which has the most options, is at it."""


def lines_of(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    assert function.end_lineno is not None
    return function.end_lineno - body[0].lineno + 1 if body else 0


def test_commands_leave_the_work_to_the_library():
    functions = [
        (path.name, node)
        for path in CLI.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    long = [f"{name}: {f.name}" for name, f in functions if lines_of(f) > MOST]
    assert len(functions) > 100
    assert not long
