"""The supernet that holds every candidate's weights, and the plain subnets cut out of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from apq import __version__
from apq.errors import ModelError, SpaceError
from apq.files import whole
from apq.space import Candidate, Slot, Space
from apq.supernet.elastic import ConvBN, ElasticBlock, slice_norm


def _fixed_parts(space: Space) -> tuple[ConvBN, nn.ModuleList, ConvBN, nn.Linear]:
    """Stem, first block (depthwise, pointwise), head and classifier."""
    stem = ConvBN(space.in_channels, space.stem_channels, 3, space.stem_stride)
    first = nn.ModuleList(
        [
            ConvBN(space.stem_channels, space.stem_channels, 3, 1, space.stem_channels),
            ConvBN(space.stem_channels, space.first_channels, act=False),
        ]
    )
    head = ConvBN(space.slots[-1].out_channels, space.head_channels)
    return stem, first, head, nn.Linear(space.head_channels, space.classes)


class InvertedResidual(nn.Module):
    """A plain block: expand, depthwise, project, and the input added where shapes allow."""

    def __init__(self, slot: Slot, kernel: int, width: int) -> None:
        super().__init__()
        self.expand = ConvBN(slot.in_channels, width)
        self.depthwise = ConvBN(width, width, kernel, slot.stride, width)
        self.project = ConvBN(width, slot.out_channels, act=False)
        self.shortcut = slot.shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Shapes ``(n, in_channels, h, w) -> (n, out_channels, h / stride, w / stride)``."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class _Pool(nn.Module):
    """Mean over the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class Subnet(nn.Module):
    """One candidate as an ordinary network: ``stem``, ``first``, ``blocks``, ``head``,
    ``classifier``. Takes normalised images ``(n, c, h, w)``, gives logits ``(n, classes)``."""

    def __init__(self, space: Space, candidate: Candidate) -> None:
        super().__init__()
        space.genes([candidate])  # refuses a candidate of another space
        self.stem, self.first, self.head, self.classifier = _fixed_parts(space)
        self.blocks = nn.ModuleList()
        for slot in space.slots:
            stage = candidate.stages[slot.stage]
            if slot.position < len(stage):
                block = stage[slot.position]
                self.blocks.append(InvertedResidual(slot, block.kernel, block.width))

    def parts(self) -> list[nn.Sequential]:
        """The network in as many pieces as it has blocks, and one more; run in turn they are it.

        The first holds stem and first block, the last head and classifier, one block each the rest.
        Many subnets begin with the same pieces.
        """
        first, *others = self.blocks
        start = nn.Sequential(self.stem, *self.first, first)
        end = nn.Sequential(self.head, _Pool(), self.classifier)
        return [start, *(nn.Sequential(block) for block in others), end]

    def features(self, x: Tensor) -> Tensor:
        """Pooled features before the classifier, shape ``(n, head_channels)``."""
        x = self.stem(x)
        for part in (*self.first, *self.blocks, self.head):
            x = part(x)
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape ``(n, classes)``."""
        out: Tensor = self.classifier(self.features(x))
        return out


class Supernet(nn.Module):
    """All candidates of a space in one set of weights.

    ``forward(x, candidate)`` runs a candidate in place; :meth:`subnet` cuts it out.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.stem, self.first, self.head, self.classifier = _fixed_parts(space)
        self.blocks = nn.ModuleList(
            ElasticBlock(s.in_channels, s.out_channels, s.stride, s.choices[0], max(s.choices[1]))
            for s in space.slots
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor, candidate: Candidate) -> Tensor:
        """Logits of ``candidate``, shape ``(n, classes)``; its bits are not applied."""
        for part in (self.stem, *self.first):
            x = self._fixed(part, x)
        for slot, block in zip(self.space.slots, self.blocks, strict=True):
            stage = candidate.stages[slot.stage]
            if slot.position < len(stage):
                choice = stage[slot.position]
                x = block(x, choice.kernel, choice.width)
        x = self._fixed(self.head, x)
        out: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return out

    @staticmethod
    def _fixed(part: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(part, ConvBN)
        y = part.conv(x)
        out: Tensor = part.act(slice_norm(y, part.bn, y.shape[1]))
        return out

    def slices(self, candidate: Candidate) -> dict[str, Tensor]:
        """The supernet's own weights and statistics by their names in :class:`Subnet`.

        Slices, not copies: gradients reach the supernet.
        """
        found: dict[str, Tensor] = {}
        for name in ("stem", "first", "head", "classifier"):
            found |= getattr(self, name).state_dict(prefix=f"{name}.", keep_vars=True)
        number = 0
        for slot, block in zip(self.space.slots, self.blocks, strict=True):
            stage = candidate.stages[slot.stage]
            if slot.position < len(stage):
                assert isinstance(block, ElasticBlock)
                choice = stage[slot.position]
                weights = block.slices(choice.kernel, choice.width)
                found |= {f"blocks.{number}.{k}": v for k, v in weights.items()}
                number += 1
        return found

    @torch.no_grad()
    def subnet(self, candidate: Candidate) -> Subnet:
        """A candidate's own network, with copied weights and the stored batch-norm statistics.

        Recalibrate it (:func:`apq.supernet.evaluate.recalibrate`) before measuring accuracy.
        """
        net = Subnet(self.space, candidate)
        net.load_state_dict(self.slices(candidate))
        net.train(self.training)
        return net

    def sort_channels(self) -> None:
        """Order hidden channels of every block by importance (see ElasticBlock)."""
        for block in self.blocks:
            assert isinstance(block, ElasticBlock)
            block.sort_channels()


def largest(space: Space) -> Candidate:
    """The candidate with the last choice everywhere."""
    return space.build(space.cardinalities - 1)


def smallest(space: Space) -> Candidate:
    """The candidate with the first choice everywhere (bits aside, after repair)."""
    genes = space.cardinalities[None] * 0
    return space.build(space.canonical(space.repair(genes))[0])


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


def weights_hash(state: dict[str, Tensor]) -> str:
    """Hash of named tensors, independent of where they are stored."""
    h = hashlib.sha256()
    for name in sorted(state):
        h.update(name.encode())
        h.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()[:16]


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write safetensors whole: to a temporary name, then renamed. Metadata values become JSON.

    Raises:
        ModelError: the file cannot be written (no room, no permission); an older one is kept.
    """
    text = {key: json.dumps(value) for key, value in metadata.items()}
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        with whole(path) as partial:
            save_file(plain, str(partial), metadata=text)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot write {path}: {error}") from error


def load_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read safetensors and the JSON metadata :func:`save_tensors` wrote.

    Raises:
        ModelError: missing, truncated, or not written by apq.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
    except FileNotFoundError as error:
        raise ModelError(f"no {what} at {path}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a readable {what}: {error}") from error
    return tensors, metadata


def save_supernet(path: Path, network: Supernet, metadata: dict[str, Any]) -> None:
    """Write weights and what made them; ``metadata`` must hold ``mean`` and ``std``."""
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

    Raises:
        ModelError: missing, broken, or not a supernet.
        SpaceError: it was trained for another space than ``space``.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(
            f"no supernet at {path}. Train one: "
            f"apq train-supernet --space NAME --images DIR --out {path}"
        )
    tensors, metadata = load_tensors(path, "supernet")
    if metadata.get("kind") != "supernet":
        raise ModelError(f"{path} holds {metadata.get('kind', 'something else')}, not a supernet")
    try:
        own = Space.from_dict(metadata["space"])
    except SpaceError as error:
        raise ModelError(f"{path} carries a space this version cannot read: {error}") from error
    if space is not None:
        space.require_same(own, "the command's space", str(path))
    network = Supernet(own)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"{path} does not hold the weights its space needs: {error}") from error
    network.eval()
    return SupernetFile(
        network, tuple(metadata["mean"]), tuple(metadata["std"]), metadata["hash"], metadata
    )
