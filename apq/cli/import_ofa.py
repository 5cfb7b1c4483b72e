"""``apq import-ofa``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apq.cli.common import next_step, out, print_json
from apq.cli.options import AsJson
from apq.files.places import SUPERNET, home


def import_ofa(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="A .safetensors file of weights, or one of torch.save (.pth, …)."),
    ],
    space: Annotated[
        str, typer.Option(help="ofa-proxyless, ofa-mobilenet-v3, apq-imagenet, or a TOML file.")
    ] = "ofa-proxyless",
    width_mult: Annotated[
        float | None,
        typer.Option(min=0.05, max=8.0, help="Factor of a preset's channels, e.g. 1.3."),
    ] = None,
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Supernet to write; default: data/SPACE/…")
    ] = None,
    json: AsJson = False,
) -> None:
    """Make a supernet of published once-for-all weights: OFA-ProxylessNAS, OFA-MobileNetV3, or APQ's
    own network.

    The file is read as weights alone and never unpickled. Batch-norm statistics are those of the
    published largest network; collecting recalibrates them. Published are OFA-ProxylessNAS at width
    1.3 and OFA-MobileNetV3 at 1.0 and 1.2.

    Examples:

      apq import-ofa ofa_proxyless_d234_e346_k357_w1.3 --space ofa-proxyless --width-mult 1.3 --out data/ofa/supernet.safetensors

      apq import-ofa ofa_mbv3_d234_e346_k357_w1.0 --space ofa-mobilenet-v3

      apq import-ofa apq.safetensors --space apq-imagenet
    """
    from apq.space import load_space
    from apq.space.presets import SCALED
    from apq.supernet.files import save_supernet
    from apq.supernet.published import IMAGENET, import_published

    if width_mult is None:
        found = load_space(space)
    elif space in SCALED:
        found = SCALED[space](width_mult)
    else:
        raise typer.BadParameter(f"--width-mult is for the presets {', '.join(SCALED)}")
    network = import_published(checkpoint, found)
    found = network.space
    path = out_path or home(found.name) / SUPERNET
    path.parent.mkdir(parents=True, exist_ok=True)
    save_supernet(path, network, {**IMAGENET, "imported": checkpoint.name, "channels_sorted": True})
    if json:
        print_json({"supernet": path.as_posix(), "fingerprint": found.fingerprint})
        return
    out.print(f"wrote {path}, a supernet of space {found.name} ({found.count():.3g} candidates)")
    next_step(f"apq collect --supernet {path} --images imagenet/ --count 500")
