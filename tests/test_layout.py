"""The code keeps its shape: commands parse and call the library."""

from __future__ import annotations

import ast
from pathlib import Path

import apq.cli

COMMANDS = Path(apq.cli.__file__).parent
MOST = 40


def code_lines(function: ast.FunctionDef, lines: list[str]) -> int:
    """Lines of a function's body, its docstring, empty lines and comments aside."""
    body = function.body[ast.get_docstring(function) is not None :]
    if not body:
        return 0
    written = (line.strip() for line in lines[body[0].lineno - 1 : function.end_lineno])
    return sum(bool(line) and not line.startswith("#") for line in written)


def test_no_command_is_long():
    counted = {}
    for path in COMMANDS.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                counted[f"{path.name}: {node.name}"] = code_lines(node, text.splitlines())
    assert counted["search.py: search"] > 20
    assert {name: count for name, count in counted.items() if count > MOST} == {}
