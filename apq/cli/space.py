"""``apq space``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apq.cli.common import next_step, out, print_json

app = typer.Typer(no_args_is_help=True, help="Show what can be searched.")


@app.command("show")
def show(
    space: Annotated[str, typer.Argument(help="A preset's name or a TOML file.")] = "cifar10",
    nodes: Annotated[bool, typer.Option("--nodes", help="List the network's nodes too.")] = False,
    copy: Annotated[
        Path | None, typer.Option("--out", help="Write it as the TOML file that --space reads.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say what a space offers: genes, choices, how many candidates, the smallest and the largest.

    Examples:

      apq space show cifar10-resnet --nodes

      apq space show cifar10 --out mine.toml   # a space of one's own begins as a copy
    """
    from apq.files import whole
    from apq.space import load_space
    from apq.space.describe import ends, genes_in_words, nodes_in_words, to_toml

    found = load_space(space)
    about = found.to_dict()
    if copy is not None:
        with whole(copy) as path:
            path.write_text(to_toml(about), encoding="utf-8")
    sizes = ends(found)
    if json:
        genes = {axis.name: list(axis.labels) for axis in found.axes}
        told = {"candidates": found.count(), "genes": genes, **sizes}
        print_json({"space": about, "fingerprint": found.fingerprint, **told})
        return
    kind = about.get("family", "mobilenet_v2")
    side = f"{found.resolution}x{found.resolution}x{found.in_channels}"
    out.print(f"{found.name}: family {kind}, images {side}, {found.classes} classes")
    for name, words in genes_in_words(found):
        out.print(f"  {name}: {words}", soft_wrap=True)
    for rule in found.exclude:
        out.print(f"  never together: {', '.join(f'{k} {v}' for k, v in rule.items())}")
    out.print(f"{found.count():.4g} candidates of {len(found.axes)} genes")
    for name, size in sizes.items():
        out.print(f"  {name}: {size['macs_m']:.4g} M MACs, {size['weights_k']:.4g} k weights")
    if nodes:
        for node, words, inputs, when in nodes_in_words(found):
            ran = f"  if {when}" if when else ""
            out.print(f"  {node}: {words} <- {inputs or 'images'}{ran}", soft_wrap=True)
    if copy is not None:
        out.print(f"wrote {copy}")
    next_step(f"apq train-supernet --space {copy or space} --images photos/")
