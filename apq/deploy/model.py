"""A model file: one fine-tuned candidate, its weights and ranges, and what made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apq.errors import ApqError, ModelError, SpaceError
from apq.files.tensors import load_tensors, require_tensors, save_tensors, weights_hash
from apq.quantize import QuantizedSubnet, quantize_subnet
from apq.search import best
from apq.search.tuned import ModelHeader
from apq.space import Candidate, Space
from apq.supernet import Subnet
from apq.supernet.files import require_channels
from apq.supernet.network import Network
from apq.version import __version__

FP32 = "fp32"
"""Where a scheme is asked for: leave the network in float."""


@dataclass(frozen=True)
class Model:
    """One candidate ready to run, export or verify.

    Attributes:
        network: Quantized (or, scheme ``"fp32"``, plain) network in eval mode.
        space, candidate: What it is.
        scheme: Key of ``SCHEMES``, or ``"fp32"``.
        mean, std: Normalisation of images on the 0..1 scale, per channel.
        classes: Class names by label.
        metadata: Everything else the file says: accuracies, predictions, seeds, hashes.
    """

    network: nn.Module
    space: Space
    candidate: Candidate
    scheme: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    metadata: dict[str, Any] = field(repr=False)


def build_network(
    space: Space,
    candidate: Candidate,
    scheme: str,
    subnet: Network | None = None,
    calibration: torch.Tensor | None = None,
) -> nn.Module:
    """A candidate's network under a scheme, ranges fitted if calibration images are given."""
    subnet = subnet if subnet is not None else Subnet(space, candidate)
    if scheme == FP32:
        return subnet
    return quantize_subnet(subnet, space.graph_of(candidate), calibration, scheme)


def save_model(path: Path, model: Model) -> None:
    """Write a model whole (temporary name, then rename); metadata goes into the header.

    Raises:
        ModelError: the file cannot be written.
    """
    state = dict(model.network.state_dict())
    made = {
        "kind": "model",
        "apq_version": __version__,
        "space": model.space.to_dict(),
        "fingerprint": model.space.fingerprint,
        "candidate": model.candidate.to_dict(),
        "scheme": model.scheme,
        "mean": model.mean,
        "std": model.std,
        "classes": model.classes,
        "hash": weights_hash(state),
    }
    save_tensors(path, state, made | model.metadata)


def load_model(path: Path | str) -> Model:
    """Read what ``apq finetune`` wrote.

    Raises:
        ModelError: missing, broken, or not a model file.

    Example:
        >>> import apq
        >>> model = apq.load_model("digits/model.safetensors")
        >>> model.scheme, model.space.name
        ('uniform', 'digits')
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(
            f"no model at {path}. "
            f"Make one: apq finetune --candidate runs/search/best.json --out {path}"
        )
    tensors, told = load_tensors(path, ModelHeader)
    require_channels(str(path), told.space, told.mean, told.std)
    try:
        with torch.device("meta"):  # counted first: a broken space may ask for more than there is
            weights = [p for p in Subnet(told.space, told.candidate).parameters() if p.dim() > 1]
        needed, held = (sum(t.numel() for t in found) for found in (weights, tensors.values()))
        if needed > held:
            raise ModelError(f"it has {needed:,} weights, and {held:,} numbers are there")
        network = build_network(told.space, told.candidate, told.scheme)
    except ApqError as error:
        raise ModelError(f"{path} does not hold the network it describes: {error}") from error
    require_tensors(str(path), tensors, network.state_dict())
    network.load_state_dict(tensors)
    return Model(
        network.eval(), told.space, told.candidate, told.scheme, told.mean, told.std, told.classes,
        told.said,
    )  # fmt: skip


def size_bytes(network: nn.Module) -> int:
    """Bytes of the deployed weights: packed codes with their scales or tables, 32-bit biases.

    A float network counts 4 bytes per folded weight and bias.
    """
    if not isinstance(network, QuantizedSubnet):
        weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        return sum(4 * (w.numel() + len(w)) for w in weights)
    return sum(network.storage_bits().values()) // 8


@dataclass(frozen=True)
class Chosen:
    """A candidate read from a file, and what the search said of it (None, empty: nothing).

    Attributes:
        accuracy, spread: Predicted accuracy and its spread, as fractions.
        costs: By metric, e.g. ``latency_ms``, as the search's tables price it.
        devices: Where those figures come from.
        supernet: Hash of the supernet whose samples the predictor learnt from.
        images: Digest and name (``images``, ``image_set``) of what those were measured on.
        space: Name of the space.
        corrected: Whether those samples were of subnets refitted after cutting.
    """

    candidate: Candidate
    accuracy: float | None = None
    spread: float | None = None
    costs: dict[str, float] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    supernet: str | None = None
    images: dict[str, str] = field(default_factory=dict)
    space: str | None = None
    corrected: bool = False


def read_candidate(path: Path) -> Chosen:
    """Read ``best.json`` of a search, or a JSON file that is a candidate or has one.

    Raises:
        ModelError: missing, not JSON, or no candidate in it.
    """
    try:
        found = best.read_candidate(path)
    except SpaceError as error:
        raise ModelError(str(error)) from error
    predicted, made_from = found.predicted, found.made_from
    return Chosen(
        found.candidate, predicted.accuracy, predicted.accuracy_spread, found.costs, found.devices,
        made_from.get("supernet"),
        {name: made_from[name] for name in ("images", "image_set") if name in made_from},
        found.space.name if found.space else None, made_from.get("samples") == "corrected",
    )  # fmt: skip
