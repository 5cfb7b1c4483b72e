"""A network as data: its nodes in the order they run, and the genes they read.

A family (:mod:`apq.space.families`) writes the graph of a space once. Everything else interprets
it: pricing reads layers off it, torch runs it elastic, cut out, fake-quantized or in integers, and
the writers of files walk over it.

A number of a node is either fixed or the name of the gene that chooses it. :meth:`Graph.at`
substitutes a candidate's choices; plain numbers and the nodes that run remain.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from apq.space.formats import AS_PRICED, BITS
from apq.space.layer import LayerArray, Size, both, layer_array, out_side, size_of


@dataclass(frozen=True)
class Follows:
    """A number that is a function of a gene.

    Attributes:
        gene: Its name.
        values: The gene's choices, ascending, and the number for each.
    """

    gene: str
    values: tuple[tuple[int, int], ...]


Part = int | str | Follows
Value = Part | tuple[Part, ...]
"""A number, the name of the gene that chooses it, a function of a gene, or the sum of several of
these."""

LAYERS = ("conv", "linear")
"""Kinds of nodes with weights; these are priced and quantized."""

JOINS = ("add", "select", "concat")
"""Kinds of nodes that take several inputs, and run whenever one of those runs."""

CHOSEN = ("channels", "kernel", "groups", "weight", "activation", "side")
"""Fields of a node that may name a gene."""

LATER = ("padding", "size", "call", "args", "held", "fan_in", "places")
"""Fields that only traced networks use; they are hashed only where used, so older hashes hold."""


@dataclass(frozen=True)
class Held:
    """A tensor that a node of kind ``torch`` owns.

    Attributes:
        shape: A number, a gene or a function of genes, per dimension.
        kind: ``"float"`` (trained), ``"fixed"`` (real numbers that are not trained), ``"int"`` or
            ``"bool"``.
    """

    shape: tuple[Value, ...]
    kind: str = "float"


@dataclass(frozen=True)
class Node:
    """One operation of a network.

    Attributes:
        name: Path of its weights in the torch module, e.g. ``stem``.
        op: ``"image"`` (the input), ``"conv"`` (with batch norm and activation), ``"linear"``,
            ``"add"`` (of its inputs; one that does not run is left out), ``"concat"`` (of their
            channels), ``"select"`` (the last of its inputs that runs; it computes nothing),
            ``"pool"`` (mean over all pixels), ``"maxpool"`` (largest of ``kernel`` x ``kernel``
            pixels, odd ones padded by half), ``"scale"`` (its first input, every channel times the
            second's value), ``"act"`` (an activation that has a grid of its own) or ``"torch"``
            (an operation of a traced network that has no kind of its own: ``call`` with ``args``,
            in real numbers).
        inputs: Names of the nodes whose outputs it reads.
        channels: Channels of its output.
        kernel, stride, groups: Parameters of a convolution, padded by ``kernel // 2``. One of
            every channel alone has as many groups as channels. A stride may be a pair: by rows, by
            columns.
        act: Activation at its output: ``"relu"``, ``"relu6"`` or none; of a node of kind ``act``:
            ``"hswish"`` or ``"hsigmoid"``.
        bias: Whether a linear layer has one.
        epsilon: Epsilon of the convolution's batch norm.
        weight, activation: Number formats of weights and input, as codes.
        side: Height and width of an image in pixels.
        when: Genes and the choices with which the node runs; all must hold.
        block: The searched block it belongs to, e.g. ``b00``; empty for a fixed layer.
        padding: Padding of a convolution in pixels on every side; -1: half the kernel.
        size: Height and width of the output, if stride and input do not determine them.
        call, args: For ``torch``: name of the operation, and its arguments as JSON
            (:mod:`apq.supernet.calls`).
        held: For ``torch``: the tensors it owns.
        fan_in, places: For ``torch`` with weights: products summed per output value, and number of
            pixels or tokens. It is priced as a 1x1 convolution with that many channels and pixels,
            which has the same weights and multiplications.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    channels: Value = 0
    kernel: Value = 1
    stride: Size = 1
    groups: Value = 1
    act: str = ""
    bias: bool = True
    epsilon: float = 1e-5
    weight: Value = 8
    activation: Value = 8
    side: Value = 0
    when: tuple[tuple[str, tuple[int, ...]], ...] = ()
    block: str = ""
    padding: int = -1
    size: tuple[int, ...] = ()
    call: str = ""
    args: str = ""
    held: tuple[Held, ...] = ()
    fan_in: Value = 0
    places: int = 0


@dataclass(frozen=True)
class Graph:
    """Nodes in the order they run; the first is the image, the last gives the logits."""

    nodes: tuple[Node, ...]

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @property
    def side(self) -> Value:
        """Height and width of the image in pixels; the larger one if it is not square."""
        return self.nodes[0].side

    @property
    def size(self) -> Size:
        """Height and width of one candidate's image in pixels."""
        return size_of(self.nodes[0].size or number(self.side))

    @property
    def layers(self) -> tuple[Node, ...]:
        """The nodes that have weights."""
        return tuple(node for node in self.nodes if node.op in LAYERS)

    @property
    def priced(self) -> tuple[Node, ...]:
        """The nodes that hardware prices."""
        return tuple(node for node in self.nodes if is_priced(node))

    @cached_property
    def readers(self) -> dict[str, tuple[Node, ...]]:
        """For each node, by name, the nodes that read its output."""
        return {
            node.name: tuple(n for n in self.nodes if node.name in n.inputs) for node in self.nodes
        }

    def in_channels(self, node: Node) -> Value:
        """Channels of a node's first input."""
        return self.by_name[node.inputs[0]].channels

    def positive(self, name: str) -> bool:
        """Whether a node's output can have no negative values."""
        node = self.by_name[name]
        if node.op in (*JOINS, "pool", "maxpool", "scale") and not node.act:
            return all(self.positive(other) for other in node.inputs)
        return bool(node.act) and node.act != "hswish"

    @cached_property
    def streams(self) -> dict[str, int]:
        """Streams: tensors without an activation's bounds that share one integer grid.

        The inputs and output of a node that joins tensors share a grid, so that a device adds or
        copies integers; so do input and output of a scaling by factors up to 1.

        Returns:
            Number of the stream by name of the node that produces the tensor, in execution order.
        """
        leader: dict[str, str] = {}
        for node in self.nodes:
            if node.op in LAYERS and not node.act and self.readers[node.name]:
                leader[node.name] = node.name
            elif node.op in (*JOINS, "scale"):
                shared = node.inputs[:1] if node.op == "scale" else node.inputs
                joined = {leader.setdefault(name, name) for name in shared}
                first = next(name for name in leader.values() if name in joined)
                leader[node.name] = node.name
                leader |= {n: first for n, old in leader.items() if old in joined | {node.name}}
            elif node.op == "torch":  # computed in float; its inputs and output have 8 bits
                for name in (*node.inputs, *((node.name,) if self.readers[node.name] else ())):
                    leader.setdefault(name, name)
        numbers = {name: i for i, name in enumerate(dict.fromkeys(leader.values()))}
        return {name: numbers[first] for name, first in leader.items()}

    def at(self, values: Mapping[str, int]) -> Graph:
        """The graph of one candidate, with numbers in place of genes.

        Args:
            values: Chosen value by name of the gene; genes of skipped blocks may be missing.
        """
        stands_for: dict[str, str] = {}
        nodes: list[Node] = []
        for node in self.nodes:
            inputs = [stands_for.get(name, name) for name in node.inputs]
            inputs = [name for name in inputs if name]
            if not runs(node, values) or (node.inputs and not inputs):
                stands_for[node.name] = ""
            elif node.op == "select" or (node.op in JOINS and len(inputs) == 1):
                stands_for[node.name] = inputs[-1]
            else:
                nodes.append(_resolved(replace(node, inputs=tuple(inputs), when=()), values))
        return Graph(tuple(nodes))

    def filled(self, values: Mapping[str, int]) -> Graph:
        """The graph with numbers in place of genes, including nodes that do not run."""
        return Graph(tuple(_resolved(node, values) for node in self.nodes))

    def genes(self, node: Node) -> set[str]:
        """Genes that a node's cost depends on: its own, and those of its input's shape."""
        read = [getattr(node, field) for field in CHOSEN] + [gene for gene, _ in node.when]
        read += [self.by_name[name].channels for name in node.inputs]
        read += [node.fan_in, *(size for held in node.held for size in held.shape)]
        read += [self.nodes[0].side] if node.op != "linear" else []
        named = (p.gene if isinstance(p, Follows) else p for value in read for p in parts(value))
        return {gene for gene in named if isinstance(gene, str)}

    def segments(self, name: str) -> tuple[Part, ...]:
        """Channels of a node's output, group by group; a gene keeps the leading channels of its
        groups."""
        node = self.by_name[name]
        if node.op == "concat":
            return tuple(s for other in node.inputs for s in self.segments(other))
        if node.op in (*JOINS, "pool", "maxpool", "act", "scale"):
            return self.segments(node.inputs[0])
        return parts(node.channels)

    @cached_property
    def pieces(self) -> tuple[tuple[Node, ...], ...]:
        """Consecutive pieces of the network, each of which reads only the last output of the piece
        before. Pieces begin at the second and, where possible, every later block, and after the
        last block."""
        at = {node.block: i for i, node in reversed(list(enumerate(self.nodes))) if node.block}
        starts = sorted(at.values())[1:]
        end = 1 + max((i for i, node in enumerate(self.nodes) if node.block), default=-1)
        last = {name: i for i, node in enumerate(self.nodes) for name in node.inputs}
        reach = [last.get(node.name, -1) for node in self.nodes]
        furthest = [-1, *itertools.accumulate(reach, max)]  # last reader of any earlier output
        cuts = [b for b in (*starts, end) if b and furthest[b - 1] < b]
        bounds = [0, *cuts, len(self.nodes)]
        return tuple(self.nodes[a:b] for a, b in itertools.pairwise(bounds) if a < b)

    def sides(self, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Height and width in pixels of every node's output, by its name: one number where they are
        the same, or a pair.

        Args:
            values: Value of the gene that chooses the image's side, a number or an array.
        """
        found: dict[str, Any] = {}
        for node in self.nodes:
            if node.size:
                found[node.name] = node.size
            elif node.op == "image":
                found[node.name] = resolve(node.side, values or {})
            elif node.op in ("pool", "linear"):
                found[node.name] = 1
            else:
                found[node.name] = _strided(found[node.inputs[0]], node.stride)
        return found

    def row(self, node: Node, side: Any, values: Mapping[str, Any] | None = None) -> LayerArray:
        """A layer as hardware prices it.

        Args:
            node: One of ``layers``.
            side: Height and width of its input, a number, an array, or a pair.
            values: Values of the genes it reads: numbers, or arrays that broadcast together.

        Returns:
            Array of :data:`apq.space.layer.LAYER_DTYPE` in the broadcast shape.
        """
        known = values or {}
        if node.op == "torch":
            return layer_array(
                op="conv", in_channels=resolve(node.fan_in, known),
                out_channels=resolve(node.channels, known), height=node.places, width=1,
                weight_bits=32, activation_bits=32,
            )  # fmt: skip
        height, width = side if isinstance(side, tuple) else (side, side)
        stride = min(both(node.stride))
        if node.op == "conv" and (node.size or node.stride != stride):
            # equivalent input size for padding by half the kernel and the smaller stride both ways
            ends = node.size or _strided((height, width), node.stride)
            height, width = (
                np.where(out_side(s, stride) == end, s, end * stride)
                for s, end in zip((height, width), ends, strict=True)
            )
        weight, activation = (AS_PRICED[resolve(v, known)] for v in (node.weight, node.activation))
        return layer_array(
            op=node.op,
            in_channels=resolve(self.in_channels(node), known),
            out_channels=resolve(node.channels, known),
            height=height,
            width=width,
            kernel=resolve(node.kernel, known),
            stride=stride,
            groups=resolve(node.groups, known),
            weight_bits=weight,
            activation_bits=activation,
        )

    def peak_bits(
        self,
        nodes: Sequence[Node],
        sides: Mapping[str, Any],
        values: Mapping[str, Any],
        handed_on: int,
    ) -> NDArray[np.int64]:
        """Largest number of activation bits alive while ``nodes`` run, one after the other.

        While a node runs, its inputs, its output, and tensors that later ``nodes`` read are alive;
        sums are computed in place. A tensor has the activation bits of the layer that reads it or,
        if only a sum or a node outside ``nodes`` does, ``handed_on`` bits, since the reader's bits
        belong to another block (ours).

        Args:
            nodes: A run of the graph's nodes, e.g. one block.
            sides: From :meth:`sides`.
            values: Values of the genes they read: numbers, or arrays that broadcast together.
            handed_on: Bits per value of the last node's output.
        """
        inside = {node.name for node in nodes}

        def bits(name: str) -> Any:
            readers = [n for n in self.readers[name] if n.name in inside and n.op in LAYERS]
            width = BITS[resolve(readers[0].activation, values)] if readers else handed_on
            side = sides[name]
            pixels = side[0] * side[1] if isinstance(side, tuple) else side**2
            return resolve(self.by_name[name].channels, values) * pixels * width

        peak: Any = 0
        for i, node in enumerate(nodes):
            if node.op in JOINS:
                continue
            later = {name for n in nodes[i + 1 :] for name in n.inputs}
            earlier = {name for n in nodes[: i + 1] for name in (*n.inputs, n.name)}
            alive = {node.name, *node.inputs, *(later & earlier)}
            peak = np.maximum(peak, there(node, values) * sum(bits(n) for n in sorted(alive)))
        return np.asarray(peak)


def _strided(side: Any, stride: Size) -> Any:
    """Output height and width of a padded window with this ``stride``, as in :meth:`sides`."""
    if isinstance(side, tuple) or not isinstance(stride, int):
        pair = side if isinstance(side, tuple) else (side, side)
        return tuple(_strided(s, step) for s, step in zip(pair, both(stride), strict=True))
    out = out_side(side, stride)
    return out if out.ndim else int(out)


def resolve(value: Any, values: Mapping[str, Any]) -> Any:
    """A number of a node: itself, the value of the gene it names, or the sum of several."""
    if isinstance(value, tuple):
        return sum(resolve(part, values) for part in value)
    if isinstance(value, Follows):
        choices, numbers = np.array(value.values).T
        found = numbers[np.searchsorted(choices, values[value.gene])]
        return found if np.ndim(found) else int(found)
    return values[value] if isinstance(value, str) else value


def number(value: Value) -> int:
    """A number of a node in one candidate's graph, where genes are substituted."""
    return int(resolve(value, {}))


def parts(value: Value) -> tuple[Part, ...]:
    """The summands of a node's number."""
    return value if isinstance(value, tuple) else (value,)


def runs(node: Node, values: Mapping[str, int]) -> bool:
    """Whether a node runs with these choices."""
    return all(values[gene] in allowed for gene, allowed in node.when)


def there(node: Node, values: Mapping[str, Any]) -> Any:
    """For which values of genes a node can run, given these genes only: booleans that broadcast
    with them."""
    out: Any = np.True_
    for gene, allowed in node.when:
        if gene in values:
            out = out & np.isin(values[gene], allowed)
    return out


def _resolved(node: Node, values: Mapping[str, int]) -> Node:
    found = {field: resolve(getattr(node, field), values) for field in CHOSEN}
    if node.op == "torch":
        shapes = [tuple(resolve(size, values) for size in held.shape) for held in node.held]
        found["held"] = tuple(
            replace(h, shape=shape) for h, shape in zip(node.held, shapes, strict=True)
        )
        found["fan_in"] = resolve(node.fan_in, values)
    return replace(node, **found)


def owns(node: Node) -> bool:
    """Whether a node has tensors of its own."""
    return node.op in LAYERS or bool(node.held)


def is_priced(node: Node) -> bool:
    """Whether a node is priced, i.e. multiplies by weights."""
    return node.op in LAYERS or node.places > 0


def channelwise(node: Node) -> bool:
    """Whether a node convolves every channel alone."""
    return node.groups != 1 and node.groups == node.channels


class Runnable(Protocol):
    """The attributes of a node that :func:`walk` needs."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def op(self) -> str: ...  # noqa: D102
    @property
    def inputs(self) -> tuple[str, ...]: ...  # noqa: D102


def walk(nodes: Sequence[Runnable], first: Any, apply: Callable[..., Any]) -> Any:
    """Run nodes on a value, releasing every output after its last use.

    Args:
        nodes: Nodes in order. If the first is not the image, it and others may read the output of
            one earlier node, ``first``.
        first: Value of the image, or of that output.
        apply: Maps a node and the values of its inputs to the value of its output.

    Returns:
        The value of the last node.
    """
    last = {name: i for i, node in enumerate(nodes) for name in node.inputs}
    values: dict[str, Any] = {}
    out = first
    for i, node in enumerate(nodes):
        if node.op != "image":
            out = apply(node, *(values.get(name, first) for name in node.inputs))
        for name in node.inputs:
            if last[name] == i:
                values.pop(name, None)
        values[node.name] = out
    return out
