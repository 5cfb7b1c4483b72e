"""``apq import-ofa``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apq.cli.common import next_step, out, print_json


def import_ofa(
    checkpoint: Annotated[
        Path, typer.Argument(help="A .safetensors, .pth or .pt file of weights.")
    ],
    space: Annotated[
        str, typer.Option(help="ofa-proxyless, ofa-mobilenet-v3, apq-imagenet, or a TOML file.")
    ] = "ofa-proxyless",
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Supernet to write; default: data/SPACE/…")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a supernet of published once-for-all weights: OFA-ProxylessNAS, OFA-MobileNetV3, or APQ's
    own network.

    The file is read as weights alone and never unpickled. Batch-norm statistics are those of the
    published largest network; collecting recalibrates them.

    Examples:

      apq import-ofa ofa_proxyless_d234_e346_k357_w1.3.pth --space ofa.toml --out data/ofa/supernet.safetensors

      apq import-ofa apq.safetensors --space apq-imagenet
    """
    from apq.space import load_space
    from apq.supernet.network import save_supernet
    from apq.supernet.published import IMAGENET, import_published

    found = load_space(space)
    network = import_published(checkpoint, found)
    path = out_path or Path("data") / found.name / "supernet.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_supernet(path, network, {**IMAGENET, "imported": checkpoint.name, "channels_sorted": True})
    if json:
        print_json({"supernet": path.as_posix(), "fingerprint": found.fingerprint})
        return
    out.print(f"wrote {path}, a supernet of space {found.name} ({found.count():.3g} candidates)")
    next_step(f"apq collect --supernet {path} --images imagenet/ --count 500")
