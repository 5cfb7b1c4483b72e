"""``apq train-supernet``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apq.cli.common import err, live_line, next_step, out, print_json, warn
from apq.cli.options import AsJson, Augment, Balance, Device, Seed, SpaceName
from apq.files.places import SUPERNET, home

if TYPE_CHECKING:
    from apq.space import Space

TOLD = (
    "start_from", "recipe", "fingerprint", "images", "mean", "std", "image_set", "channels_sorted",
    "steps", "cost", "validation_accuracy",
)  # fmt: skip
"""What ``--json`` prints of a supernet's making."""


def train_supernet(
    images: Annotated[
        str,
        typer.Option(
            help="'digits', 'digits-clutter', a Parquet file or folder, or a class-per-folder "
            "directory."
        ),
    ],
    space: SpaceName = "cifar10",
    out_path: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where to write it (default: data/SPACE/supernet.safetensors, if free)."
        ),
    ] = None,
    epochs: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Passes over the training images; 0 takes --start as it is (a traced network: with "
            "its channels sorted).",
        ),
    ] = 10.0,
    batch: Annotated[
        int, typer.Option(min=2, help="Images per step, of all processes together.")
    ] = 128,
    lr: Annotated[float, typer.Option(min=1e-6, help="Peak learning rate.")] = 0.1,
    weight_decay: Annotated[
        float, typer.Option(min=0.0, help="On convolution and classifier weights.")
    ] = 2e-4,
    cutmix: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of batches with mixed images.")
    ] = 0.0,
    augment: Augment = "shift",
    balance: Balance = False,
    average: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Average the weights over this last share of the steps."
        ),
    ] = 0.0,
    phases: Annotated[
        str, typer.Option(help="Phases to go through, comma separated.")
    ] = "largest,kernel,depth,width",
    order: Annotated[
        str,
        typer.Option(
            help="Which channels narrow networks keep, measured on calibration images before widths "
            "open: l1, activation, taylor or legr."
        ),
    ] = "l1",
    start: Annotated[
        list[Path] | None,
        typer.Option(help="Supernet to start from; several: the mean of their weights."),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    precision: Annotated[
        str,
        typer.Option(help="fp32, or bf16 or fp16: mixed precision, for GPUs."),
    ] = "fp32",
    json: AsJson = False,
) -> None:
    """Train one weight-shared supernet that holds every candidate of a space.

    Interrupt it at any time: the same command continues from the checkpoint beside --out. Under
    torchrun, several processes share every batch, and the result is that of one up to rounding.

    Examples:

      apq train-supernet --space digits --images digits --epochs 30 --out data/digits/supernet.safetensors

      apq train-supernet --space cifar10 --images photos/ --epochs 40 --out data/mine/supernet.safetensors

      apq train-supernet --space mine.toml --images photos/::fit=crop --epochs 60 --augment photo --balance --out data/mine/supernet.safetensors

      apq train-supernet --space cifar10 --images photos/ --epochs 150 --batch 256 --lr 0.2 --device cuda --precision bf16 --out data/mine/supernet.safetensors

      torchrun --nproc-per-node 8 --max-restarts 3 -m apq train-supernet --space mine.toml --images photos/ --batch 1024 --device cuda --out data/mine/supernet.safetensors

      apq train-supernet --space mine.toml --start mine.safetensors --images photos/ --epochs 0 --order taylor --out data/mine/supernet.safetensors

      apq train-supernet --start data/mine/supernet.safetensors --phases width --epochs 10 --lr 0.05 --average 0.75 --space cifar10 --images photos/ --out data/mine/longer.safetensors
    """
    from apq.images import load_images
    from apq.space import load_space
    from apq.supernet import load_supernet
    from apq.supernet.training import Recipe
    from apq.supernet.training import train_supernet as train
    from apq.training.ranks import joined

    chosen = load_space(space)
    path = out_path or _free(home(chosen.name) / SUPERNET)
    found = load_images(images, chosen.image_size, chosen.in_channels)
    err.print(found.describe())
    chosen = _with_classes(chosen, len(found.classes))
    if not epochs and not start:
        raise typer.BadParameter("--epochs 0 trains nothing: it needs --start")
    recipe = Recipe(
        epochs, batch, lr, weight_decay, cutmix=cutmix, augment=augment, balance=balance,
        average=average, seed=seed, order=order, precision=precision,
        phases=tuple(name.strip() for name in phases.split(",")),
    )  # fmt: skip
    first = [load_supernet(path) for path in start or ()]
    with joined(device) as own, live_line(f"supernet {chosen.name}") as report:
        made = train(chosen, found, path, recipe, start_from=first, on_progress=report, device=own)
    _tell(path, made.metadata, json)
    which = f"--supernet {path}" if out_path else f"--space {space}"
    next_step(f"apq collect {which} --images {images} --count 2000")


def _free(path: Path) -> Path:
    """The default path, unless a supernet is there.

    Raises:
        ModelError: one is.
    """
    from apq.errors import ModelError

    if path.exists():
        raise ModelError(
            f"{path} is there already, and samples and predictors were made with it. Give another "
            "place by --out, or the same one to replace it."
        )
    return path


def _with_classes(space: Space, classes: int) -> Space:
    """The space with as many classes as the images have."""
    if classes == space.classes:
        return space
    warn(f"the network gets {classes} classes, as the images have ({space.classes} in the space "
         f"{space.name})")  # fmt: skip
    return space.with_(classes=classes)


def _tell(path: Path, made: Mapping[str, Any], json: bool) -> None:
    """Print what came out."""
    from apq.cost import told

    if json:
        print_json({"out": path.as_posix()} | {name: made[name] for name in TOLD})
        return
    for name, score in made["validation_accuracy"].items():
        out.print(f"{name:>9} subnet   validation accuracy {score:.2%}")
    out.print(f"wrote {path} in {told(made['cost'])}")
