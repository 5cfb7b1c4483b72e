"""Builds the documentation site: ``python docs/build.py``, then open ``site/index.html``.

Pages are the Markdown files here and some of the repository's, as they are; two more are written
from the program itself: references of the commands (``--help``) and the library (docstrings).
A link that leads nowhere stops the build. It needs ``pip install -e '.[docs]'``.
"""

from __future__ import annotations

import argparse
import inspect
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apq

ROOT = Path(__file__).parents[1]
TAKEN = {
    "README.md": "index.md",
    "AGENTS.md": "agents.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "data/cifar10/README.md": "shipped-data.md",
    "data/cifar10-low-bits/README.md": "low-bits.md",
    "lut/README.md": "tables.md",
    "data/cifar10/front.svg": "front.svg",
}
"""Files outside docs/ that are pages or pictures too, and their names on the site."""


def pages(folder: Path) -> None:
    """Write every page of the site, and the pictures they show, into ``folder``."""
    for source in sorted((ROOT / "docs").glob("*.md")):
        (folder / source.name).write_text(on_the_site(source.relative_to(ROOT).as_posix()))
    for name, to in TAKEN.items():
        if name.endswith(".md"):
            (folder / to).write_text(on_the_site(name))
        else:
            shutil.copy(ROOT / name, folder / to)
    (folder / "commands.md").write_text("\n".join(command_reference()))
    (folder / "api.md").write_text("\n".join(api_reference()))


def on_the_site(name: str) -> str:
    """The text of a file of the repository, its links leading to pages of the site."""
    here = (ROOT / name).parent

    def moved(link: re.Match[str]) -> str:
        target, anchor = link[1], link[2] or ""
        path = (here / target).resolve()
        if ":" in target or not path.is_relative_to(ROOT):
            return link[0]
        inside = path.relative_to(ROOT).as_posix()
        return f"]({TAKEN.get(inside, inside.removeprefix('docs/'))}{anchor})"

    return re.sub(r"\]\(([^)#\s]+)(#[^)\s]*)?\)", moved, (ROOT / name).read_text())


def command_reference() -> Iterator[str]:
    """Every command with its arguments and options, in the order of ``apq --help``."""
    from typer.main import get_command

    from apq.cli import app

    yield "# Commands\n"
    yield "What `--help` says, of every command. `--quiet` goes with each of them.\n"
    for name, command in commands(get_command(app)):
        text = inspect.cleandoc(command.help or "")
        if command.epilog and command.epilog not in text:
            text += "\n\n" + inspect.cleandoc(command.epilog)
        yield f"## apq {name}\n"
        yield re.sub(r"^ +(apq .*)$", r"`\1`", text, flags=re.MULTILINE) + "\n"
        yield "| | | default |\n|---|---|---|"
        for option in command.params:
            if option.name != "help":
                yield f"| {_spelled(option)} | {_cell(option.help or '')} | {_default(option)} |"
        yield ""


def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """(name, command) of all commands below a group, ``lut show`` style."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def _spelled(option: Any) -> str:
    names = [*option.opts, *option.secondary_opts]
    if not names[0].startswith("-"):
        names = [names[0].upper()]
    return " ".join(f"`{name}`" for name in names)


def _default(option: Any) -> str:
    if option.required:
        return "needed"
    value = option.default
    if value is None or value is False or callable(value) or value == []:
        return ""
    return _cell("yes" if value is True else f"`{value}`")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def api_reference() -> Iterator[str]:
    """Every public name of ``import apq``, with signature and docstring."""
    yield "# The library\n"
    yield markdown(apq.__doc__ or "") + "\n"
    for name in apq._HOME:
        thing = getattr(apq, name)
        yield f"## {name}\n"
        if not (isinstance(thing, type) and issubclass(thing, Exception)):
            yield f"```python\n{_signature(name, thing)}\n```\n"
        yield markdown(thing.__doc__ or "") + "\n"
        if isinstance(thing, type):
            yield from _members(thing)


def _signature(name: str, thing: Any) -> str:
    signature = inspect.signature(thing)
    whole = _plain(f"{name}{signature}")
    if len(whole) <= 90:
        return whole
    each = "".join(f"    {p},\n" for p in map(str, signature.parameters.values()))
    back = signature.return_annotation
    told = "" if back in (None, inspect.Signature.empty) else f" -> {back}"
    return _plain(f"{name}(\n{each}){told}")


def _plain(signature: str) -> str:
    """A signature whose types, which are kept as text, stand without quotes."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature).removesuffix(" -> None")


def _members(thing: type) -> Iterator[str]:
    """The public methods and properties of a class, with the first sentence of each."""
    for name, member in vars(thing).items():
        text = inspect.getdoc(member) if callable(member) or isinstance(member, property) else None
        if not name.startswith("_") and text and inspect.getmodule(type(member)) is not None:
            yield f"- `{name}`: {markdown(text.partition(chr(10) * 2)[0])}"
    yield ""


def markdown(docstring: str) -> str:
    """A docstring (sections as Args:, examples as at Python's prompt) as Markdown."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.cleandoc(docstring))
    parts = re.split(r"^(Args|Returns|Raises|Yields|Attributes|Example):\n", text, flags=re.M)
    made = [parts[0].replace("``", "`")]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        body = textwrap.dedent(body).strip("\n")
        if title == "Example":
            made.append(f"**{title}**\n\n```pycon\n{body}\n```\n")
            continue
        body = re.sub(r"^(\w[\w., ]*): ", r"- `\1`: ", body, flags=re.M).replace("``", "`")
        made.append(f"**{title}**\n\n{body}\n")
    return "\n".join(made)


def build(to: Path, extra: Path | None = None) -> None:
    """Build the site into ``to``, which is replaced.

    Args:
        to: Folder of the site.
        extra: A folder of Markdown files that are added (or replace pages), to try things out.

    Raises:
        SystemExit: a page or link is broken; Zensical has said which.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "docs")
        source.mkdir()
        pages(source)
        if extra is not None:
            shutil.copytree(extra, source, dirs_exist_ok=True)
        shutil.copy(ROOT / "mkdocs.yml", folder)
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=folder)
        if done.returncode:
            raise SystemExit(done.returncode)
        shutil.rmtree(to, ignore_errors=True)
        shutil.move(Path(folder, "site"), to)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=ROOT / "site")
    build(options.parse_args().out)
