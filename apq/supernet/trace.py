"""A trained torch network as a space and the supernet whose full-size subnet it is.

``torch.export`` is the one way in (:mod:`apq.supernet.exported`). What the graph has a kind of node
for becomes that; everything else stays an operation of torch. What cannot be cut safely keeps its
full width and is named with the line of its source.
"""

from __future__ import annotations

import copy
import fnmatch
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apq.errors import ModelError, choose
from apq.space import Space
from apq.space.families import Traced, WeightBits
from apq.space.families.base import divisible
from apq.space.families.traced import TracedNode, TracedPart, TracedStage, TracedWidth
from apq.supernet.calls import TorchCall
from apq.supernet.elastic import ConvBN
from apq.supernet.exported import Reader, parts_of
from apq.supernet.files import SupernetFile, load_supernet, save_supernet
from apq.supernet.supernet import Supernet, largest

SHARES = {
    "per-layer": "every layer has its own",
    "per-block": "the layers of a residual branch share theirs",
    "per-stage": "all layers in a row that give images of one size share theirs",
}
"""How number formats are chosen."""


@dataclass(frozen=True)
class TracedNetwork:
    """A traced network.

    Attributes:
        space: What can be cut, skipped and rounded.
        supernet: Weights of all candidates; the largest one is the traced network.
        kept: What could not be made elastic: name of the layer, and the reason with the line of the
            source.
        notes: What else became of the network, in the same form.
        unpriced: Multiplications of one image, in millions, that no cost model prices (products of
            two activations, as in attention), by place in the source.
    """

    space: Space
    supernet: Supernet
    kept: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...] = ()
    unpriced: tuple[tuple[str, float], ...] = ()

    def save(
        self,
        path: Path | str,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        source: str = "torch",
    ) -> SupernetFile:
        """Write the supernet to a file, from which training and samples start.

        Args:
            path: File to write (safetensors).
            mean, std: Of pixels on the 0..1 scale, per channel, that the network was trained with;
                none for networks that get their inputs as they are.
            source: Where the network comes from, for metadata.

        Returns:
            The supernet as :func:`~apq.supernet.files.load_supernet` reads it.
        """
        channels = self.space.in_channels
        about: dict[str, Any] = {
            "mean": [*mean] or [0.0] * channels, "std": [*std] or [1.0] * channels,
            "traced": source, "channels_sorted": False,
        }  # fmt: skip
        save_supernet(Path(path), self.supernet, about)
        return load_supernet(path, self.space)


def trace(
    module: nn.Module,
    example: Tensor,
    name: str = "traced",
    bits: WeightBits | None = None,
    smallest: float = 0.25,
    leave: Sequence[str] = (),
    *,
    least: int = 1,
    multiple: int = 0,
    sort: bool = True,
    share: str = "per-block",
) -> TracedNetwork:
    """Read a trained network.

    Args:
        module: Takes one tensor ``(n, channels, …)``, other arguments having defaults, and gives
            one, perhaps alone in a tuple or a dict. It is left as it is: what is read is a copy in
            eval mode and single precision.
        example: One such tensor, with any number of images.
        name: Of the space.
        bits: Formats that blocks may use; None: 4, 6 and 8 bits.
        smallest: Share of a group's channels that is always kept.
        leave: Names of layers, or patterns such as ``layer4.*``, whose output channels stay.
        least: Fewest channels of any group.
        multiple: Channels are kept in multiples of it; 0: of 8 where there are enough.
        sort: Whether channels are put in order of what matters; without, the largest subnet adds
            in the order the network does.
        share: Which layers have one gene for their formats, a key of :data:`SHARES`.

    Raises:
        ApqError: ``share`` is none of them.
        ModelError: ``torch.export`` cannot read the network, or it takes or gives something else
            than one tensor; says where.

    Example:
        >>> import apq, torch
        >>> from torch import nn
        >>> net = nn.Sequential(
        ...     nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        ...     nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
        >>> traced = apq.trace(net, torch.zeros(2, 1, 8, 8))
        >>> [axis.name for axis in traced.space.axes if axis.attribute.endswith("width")]
        ['0_width', '2_width']
    """
    choose(share, SHARES, "way to share formats")
    _require_kinds(module, example)
    shape = tuple(example.shape)
    if example.dim() not in (3, 4) or not example.is_floating_point():
        raise ModelError(
            f"the example input has shape {shape} and type {example.dtype}; it must be real "
            "numbers (n, channels, height, width) or (n, channels, length)"
        )
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in module.parameters())
    network = copy.deepcopy(module).float().cpu().eval()
    example = example.float().cpu()
    read = Reader(network, example)
    widths, genes, kept = _widths(read, smallest, leave, least, multiple)
    nodes = _finished(read, genes)
    stages, nodes = _blocks(nodes, {w.name for w in widths})
    size = shape[2:] if len(shape) == 3 or shape[2] != shape[3] else ()
    family = Traced(
        name, max(shape[2:]), read.classes, nodes, stages, widths, shape[1], bits or WeightBits(),
        size=size, layer_formats=share == "per-layer",
        shared_formats=_stages(nodes, read.pixels) if share == "per-stage" else (),
    )  # fmt: skip
    space = Space(family)
    if not space.axes:
        reasons = "; ".join(f"{n}: {why}" for n, why in kept[:8])
        raise ModelError(f"nothing in this network can be cut, skipped or rounded ({reasons})")
    supernet = Supernet(space).eval()
    _copy_weights(read, nodes, supernet)
    _check(network, supernet, example)
    if sort:
        supernet.sort_channels()
    notes = [*read.notes, *([("the network", "half precision: read as float32")] if half else [])]
    return TracedNetwork(space, supernet, kept, tuple(notes), tuple(read.unpriced.items()))


def _require_kinds(module: object, example: object) -> None:
    """Refuse what is no network, or an input that is no tensor."""
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"what is to be traced is a {type(module).__name__}; it must be a torch.nn.Module"
        )
    if not isinstance(example, Tensor):
        raise ModelError(
            f"the example input is a {type(example).__name__}; a network that is traced takes one "
            "tensor. Wrap it in a module that makes its other inputs, or gives them values"
        )


@torch.no_grad()
def _check(module: nn.Module, supernet: Supernet, example: Tensor) -> None:
    """Refuse a supernet whose largest subnet is not the traced network."""
    example = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    wanted, found = module(example), supernet(example, largest(supernet.space))
    while not isinstance(wanted, Tensor):  # alone in a tuple or a dict
        wanted = next(iter(wanted.values() if isinstance(wanted, Mapping) else wanted))
    wanted = wanted.reshape(found.shape)
    gap = float((wanted - found).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if not gap < 1e-3:
        raise ModelError(
            f"what was traced answers otherwise than the network (relative difference {gap:.2g}): "
            "something in it is not what it seems. Please report it."
        )


def _widths(
    read: Reader, smallest: float, leave: Sequence[str], least: int, multiple: int
) -> tuple[tuple[TracedWidth, ...], dict[int, str], tuple[tuple[str, str], ...]]:
    """The groups that can be cut, names of their genes by number, and what stays with the
    reason."""
    members: dict[int, list[str]] = {}
    for name, group in read.weighted.items():
        if group >= 0:
            members.setdefault(read.find(group), []).append(name)
    known = [*read.weighted]
    for pattern in leave:
        if not fnmatch.filter(known, pattern):
            raise ModelError(
                f"no layer is called {pattern!r}; there are {', '.join(sorted(known)[:40])}"
            )
    widths: list[TracedWidth] = []
    genes: dict[int, str] = {}
    kept: list[tuple[str, str]] = []
    for group, names in members.items():
        full, first = _full(read, names[0]), names[0]
        left = [n for n in names for pattern in leave if fnmatch.fnmatch(n, pattern)]
        why, step = read.frozen(group), read.together(group)
        choices = _choices(full, smallest, least, multiple, step)
        if why is not None:
            kept.extend((n, f"{why.reason}{f', {why.where}' if why.where else ''}") for n in names)
        elif left:
            kept.append((first, f"{left[0]} is to be left alone"))
        elif len(choices) < 2:
            kept.append((first, f"{full} channels are too few to cut"))
        else:
            gene = f"{first.replace('.', '_')}_width"
            widths.append(TracedWidth(gene, choices))
            genes[group] = gene
    kept.extend(
        (name, "its channels are not known by the tracer")
        for name, group in read.weighted.items() if group < 0
    )  # fmt: skip
    return tuple(widths), genes, tuple(kept)


def _full(read: Reader, name: str) -> int:
    return read.drafts[name].runs[0].channels


def _finished(read: Reader, genes: dict[int, str]) -> tuple[TracedNode, ...]:
    """The nodes, with names of genes in place of groups."""

    def gene(group: int) -> str:
        return genes.get(read.find(group), "")

    nodes = []
    for draft in read.drafts.values():
        node, parts = draft.node, parts_of(draft.runs, gene)
        alone = len(parts) == 1 and parts[0].each == 1
        fields: dict[str, Any] = {"group": parts[0].group} if alone else {"parts": parts}
        if node.op not in ("conv", "linear", "torch"):
            fields = {}
        fields["held"] = tuple(
            replace(held, first=parts_of(first, gene), second=parts_of(second, gene))
            for held, first, second in draft.held
        )
        if node.places:
            fixed = sum(run.channels * run.each for run in draft.reads)
            reads = parts_of(draft.reads, gene) or (TracedPart(fixed or 1),)
            fields["reads"] = reads
        nodes.append(replace(node, **fields))
    return tuple(nodes)


@torch.no_grad()
def _copy_weights(read: Reader, nodes: Sequence[TracedNode], supernet: Supernet) -> None:
    """Make the largest candidate the traced network."""
    for node in nodes:
        tensors = read.tensors.get(node.name)
        if not tensors:
            continue
        module = supernet.get_submodule(node.name)
        if isinstance(module, TorchCall):
            for own, tensor in zip(module.tensors(), tensors.values(), strict=True):
                own.copy_(tensor)
        elif isinstance(module, nn.Linear):
            module.weight.copy_(tensors["weight"])
            bias = tensors["bias"]
            module.bias.zero_() if bias is None else module.bias.copy_(bias)
        else:
            assert isinstance(module, ConvBN)
            _copy_norm(module, tensors)


def _copy_norm(module: ConvBN, tensors: dict[str, Any]) -> None:
    """Weights of a convolution and its batch norm; without one, a bias goes into the mean."""
    module.conv.weight.copy_(tensors["weight"])
    bn, bias = module.bn, tensors["bias"]
    assert bn.running_mean is not None
    assert bn.running_var is not None
    var, gain, shift = (tensors.get(name) for name in ("var", "gain", "shift"))
    bn.running_var.fill_(1.0 - bn.eps) if var is None else bn.running_var.copy_(var)
    mean = tensors.get("mean", torch.zeros(len(bn.weight)))
    bn.running_mean.copy_(mean if bias is None else mean - bias)
    bn.weight.fill_(1.0) if gain is None else bn.weight.copy_(gain)
    bn.bias.zero_() if shift is None else bn.bias.copy_(shift)


def _choices(
    full: int, smallest: float, least: int = 1, multiple: int = 0, together: int = 1
) -> tuple[int, ...]:
    """At most eight widths from a share of the channels to all of them, multiples of 8 where there
    are enough, and of those that can only be cut together."""
    step = multiple or (8 if full >= 32 else 4 if full >= 16 else 2)
    step = math.lcm(step, together) if math.lcm(step, together) < full else together
    found = {min(full, divisible(full * k / 8, step)) for k in range(1, 9)}
    low = max(least, smallest * full)
    return tuple(sorted({full} | {c for c in found if c >= low and c % together == 0}))


def _blocks(
    all_nodes: tuple[TracedNode, ...], widths: set[str]
) -> tuple[tuple[TracedStage, ...], tuple[TracedNode, ...]]:
    """Which block every layer belongs to, and the stages of blocks.

    A residual branch whose addition also reads the branch's input can be skipped, and such branches
    in a row are a stage with a depth. Every other layer is a block by itself, but for the first and
    the last one, whose formats are fixed.
    """
    nodes = {node.name: node for node in all_nodes}
    readers: dict[str, list[str]] = {}
    for node in all_nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node.name)
    order = {node.name: i for i, node in enumerate(all_nodes)}
    branches: dict[str, tuple[str, set[str]]] = {}
    taken: set[str] = set()
    for node in all_nodes:
        if node.op != "add" or len(node.inputs) != 2:
            continue
        for skip, end in (node.inputs, node.inputs[::-1]):
            inside = _between(nodes, readers, skip, end)
            if inside and not inside & taken and _contiguous(order, inside, node.name):
                branches[node.name] = (skip, inside)
                taken |= inside
                break
    every = [node.name for node in all_nodes if node.op in ("conv", "linear")]
    layers = every[1:-1] or every[:-1]
    block_of: dict[str, int] = {}
    stages: list[TracedStage] = []
    blocks, before = 0, ""
    for node in all_nodes:
        name = node.name
        owner = next((add for add, (_, inside) in branches.items() if name in inside), None)
        if owner is not None and owner not in block_of:
            skip = branches[owner][0]
            if skip == before and stages:
                last = stages[-1].blocks
                stages[-1] = TracedStage(tuple(range(last + 2)), last + 1)
            else:
                stages.append(TracedStage((0, 1), 1))
            block_of |= dict.fromkeys((*branches[owner][1], owner), blocks)
            blocks, before = blocks + 1, owner
        elif name in layers and name not in block_of:
            stages.append(TracedStage((1,), 1))
            block_of[name] = blocks
            blocks, before = blocks + 1, ""
        elif name not in block_of and node.op != "pool":
            before = ""
    return tuple(stages), tuple(replace(n, block=block_of.get(n.name, -1)) for n in all_nodes)


def _stages(nodes: Sequence[TracedNode], pixels: Mapping[str, int]) -> tuple[int, ...]:
    """Per block a number that changes where convolutions begin to give images of another size."""
    sizes: dict[int, int] = {}
    for node in nodes:
        if node.block >= 0:
            size = pixels[node.name] if node.op == "conv" else 0
            sizes[node.block] = size or sizes.get(node.block, 0)
    found, stage, last = [], -1, None
    for _, size in sorted(sizes.items()):
        if stage < 0 or (size and last and size != last):
            stage += 1
        last = size or last
        found.append(stage)
    return tuple(found)


def _between(
    nodes: dict[str, TracedNode], readers: dict[str, list[str]], skip: str, end: str
) -> set[str]:
    """The nodes of a branch from ``skip`` to ``end`` that nothing else reads; perhaps none."""
    inside: set[str] = set()
    todo = [end]
    while todo:
        name = todo.pop()
        if name == skip or name in inside:
            continue
        if name == "image" or name not in nodes:
            return set()
        inside.add(name)
        todo.extend(nodes[name].inputs)
    outside = [r for name in inside - {end} for r in readers.get(name, []) if r not in inside]
    return set() if outside or len(readers.get(end, [])) > 1 else inside


def _contiguous(order: dict[str, int], inside: set[str], add: str) -> bool:
    """Whether a branch and its addition follow each other, so that they are one block."""
    places = sorted(order[name] for name in (*inside, add))
    return places == list(range(places[0], places[-1] + 1))


def read_size(text: str) -> tuple[int, ...]:
    """Channels, height and width of images, from ``3x32x32``; or channels and length of signals.

    Raises:
        ModelError: it is something else.
    """
    found = re.fullmatch(r"(\d{1,3})x(\d{1,5})(?:x(\d{1,5}))?", text)
    sizes = tuple(int(size) for size in found.groups() if size) if found else ()
    if not sizes or min(sizes) < 1:
        raise ModelError(f"--input {text!r} must be CHANNELSxHEIGHTxWIDTH, as in 3x32x32")
    return sizes


def normalisation(mean: str, std: str, channels: int) -> dict[str, list[float]]:
    """Mean and deviation of pixels, from ``0.49,0.48,0.45``; ImageNet's for three channels if none
    are given.

    Raises:
        ModelError: they are no numbers, or not one per channel.
    """
    if not mean and not std and channels == 3:
        return {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    out = {}
    for name, text in (("mean", mean), ("std", std)):
        try:
            out[name] = [float(part) for part in text.split(",")]
        except ValueError:
            out[name] = []
        ok = len(out[name]) == channels and all(0 <= v <= 1 for v in out[name])
        if not ok or (name == "std" and min(out[name]) <= 0):
            raise ModelError(
                f"--{name} {text!r} must be {channels} numbers from 0 to 1, comma between, as the "
                "network was trained with"
            )
    return out


def load_function(text: str) -> Callable[[], Any]:
    """The function that ``package.module:function`` names; the working directory counts.

    Raises:
        ModelError: there is no such module or function.
    """
    import importlib
    import sys

    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise ModelError(f"{text!r} is not MODULE:FUNCTION, as in models.mine:build")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ModelError(f"cannot import {module!r}: {error}") from error
    made = getattr(found, name, None)
    if not callable(made):
        names = [n for n, v in vars(found).items() if callable(v) and not n.startswith("_")]
        raise ModelError(f"{module} has no function {name!r}; it has {', '.join(names[:12])}")
    function: Callable[[], Any] = made
    return function
