"""The file of a supernet."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from apq.errors import ModelError, SpaceError
from apq.files import Document, shipped
from apq.files.headers import Header
from apq.files.reading import CostTable, Items, Text
from apq.files.tensors import load_tensors, require_tensors, save_tensors, weights_hash
from apq.space import Space
from apq.space.schema import SpaceField
from apq.supernet.supernet import Supernet
from apq.version import __version__


@dataclass(frozen=True)
class SupernetFile:
    """A trained supernet as loaded from disk.

    Attributes:
        network: The supernet, in eval mode.
        mean, std: Normalisation of images on the 0..1 scale, per channel.
        hash: Hash of the weights, 16 hex digits.
        metadata: Everything the file says about its making.
    """

    network: Supernet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str
    metadata: dict[str, Any] = field(repr=False)


class RecipeTable(Document):
    """How a supernet was trained: what is read of it.

    Attributes:
        phases: Its phases in order.
    """

    what = "a recipe of apq train-supernet"

    phases: Items[Text] = ()


class SupernetHeader(Header):
    """Header of a supernet's file.

    Attributes:
        space: Space of its candidates.
        mean, std: Normalisation of images on the 0..1 scale, per channel.
        image_set, images: Name and digest of the images it was trained on.
        recipe: How it was trained.
        channels_sorted: Whether its hidden channels have been sorted.
        cost: What its training cost; that of what it started from is in those files.
    """

    what = "a supernet as apq train-supernet writes it"

    kind: Literal["supernet"]
    hash: Text
    space: SpaceField
    mean: Items[float]
    std: Items[Annotated[float, Field(gt=0)]]
    image_set: Text | None = None
    images: Text | None = None
    recipe: RecipeTable | None = None
    channels_sorted: bool | None = None
    cost: CostTable | None = None


def save_supernet(path: Path, network: Supernet, metadata: dict[str, Any]) -> None:
    """Write weights and what made them; ``metadata`` must hold ``mean`` and ``std``.

    Example:
        >>> import apq
        >>> from pathlib import Path
        >>> supernet = apq.load_supernet("digits/supernet.safetensors")
        >>> about = {"mean": supernet.mean, "std": supernet.std}
        >>> apq.save_supernet(Path("digits/copy.safetensors"), supernet.network, about)
    """
    state = dict(network.state_dict())
    made = {
        "kind": "supernet",
        "apq_version": __version__,
        "space": network.space.to_dict(),
        "fingerprint": network.space.fingerprint,
        "hash": weights_hash(state),
    }
    save_tensors(path, state, made | metadata)


def load_supernet(path: Path | str, space: Space | None = None) -> SupernetFile:
    """Load a supernet, checking it is one, whole, and of the expected space.

    Args:
        path: File written by ``apq train-supernet``.
        space: What it shall be a supernet of: the space it was trained for, or that with other
            number formats. Default: as the file says.

    Raises:
        ModelError: missing, broken, or not a supernet.
        SpaceError: its architectures are not those of ``space``.

    Example:
        >>> import apq
        >>> supernet = apq.load_supernet("digits/supernet.safetensors")
        >>> len(supernet.mean) == supernet.network.space.in_channels
        True
    """
    path = shipped(path)
    if not path.exists():
        raise ModelError(
            f"no supernet at {path}. Train one: "
            f"apq train-supernet --space NAME --images DIR --out {path}"
        )
    tensors, header = load_tensors(path, SupernetHeader)
    own = header.space
    if space is not None:
        space.require_same(own, "the command's space", str(path), formats=False)
        own = space
    require_channels(str(path), own, header.mean, header.std)
    with torch.device("meta"):  # check shapes first: a broken space could exhaust the memory
        expected = Supernet(own).state_dict()
    require_tensors(str(path), tensors, expected)
    network = Supernet(own)
    network.load_state_dict(tensors)
    network.eval()
    return SupernetFile(network, header.mean, header.std, header.hash, header.said)


def require_random_start(space: Space) -> None:
    """Raise unless a network of a space can be trained from random weights.

    Raises:
        SpaceError: some of its operations are torch's own, and nothing says how their tensors
            begin.
    """
    held = [node.name for node in space.graph.nodes if node.op == "torch" and node.held]
    if held:
        raise SpaceError(
            f"space {space.name!r} has operations of a traced network with tensors of their own "
            f"({', '.join(held[:5])}), which cannot start from random numbers: start from the "
            "traced network (train-supernet --start FILE, finetune without --from-scratch)"
        )


def require_channels(
    where: str, space: Space, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """Raise unless there is a mean and a deviation for every channel of a space's images.

    Raises:
        ModelError: there are not.
    """
    if not len(mean) == len(std) == space.in_channels:
        raise ModelError(
            f"{where} has {len(mean)} means and {len(std)} deviations of pixels; images of space "
            f"{space.name!r} have {space.in_channels} channels"
        )
