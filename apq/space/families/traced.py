"""Traced networks: the graph as data, with the parts that may be pruned, skipped and quantized."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from apq.files.limits import MOST_CHANNELS, MOST_ITEMS
from apq.space.families.base import Checks, Name, Rules, Sides, WeightBits
from apq.space.families.builder import Builder
from apq.space.graph import Follows, Held, Value
from apq.space.layer import both, size_of


@dataclass(frozen=True)
class TracedPart:
    """Consecutive channels that are pruned from the end.

    Attributes:
        channels: Number of channels at full width.
        group: Name of the width that chooses the number; empty: all are kept.
        each: Consecutive entries that belong to each channel, e.g. its pixels.
    """

    channels: int
    group: str = ""
    each: int = 1


@dataclass(frozen=True)
class TracedHeld:
    """A tensor that an operation without a kind of its own has.

    Attributes:
        shape: At full width.
        first, second: How the first and second dimension are made up; nothing: fixed.
        kind: As of :class:`apq.space.graph.Held`.
    """

    shape: tuple[int, ...] = ()
    first: tuple[TracedPart, ...] = ()
    second: tuple[TracedPart, ...] = ()
    kind: Literal["float", "fixed", "int", "bool"] = "float"


@dataclass(frozen=True)
class TracedNode:
    """One operation of a traced network.

    Attributes:
        name: The module's path in the traced network, or that of an addition or mean.
        op: As of :class:`apq.space.graph.Node`.
        inputs: Nodes it reads; ``image`` is the input.
        channels: Output channels at full width; 0 if the inputs determine them.
        group: Name of the width that chooses its channels; empty: they are fixed.
        kernel, stride: Of a convolution or max pooling. A convolution may have two
            strides: by rows, by columns.
        depthwise: Whether it convolves every channel by itself.
        act: Activation, or nothing.
        block: Number of the block it belongs to; -1: none, its formats are fixed.
        parts: How its channels are made up, where that is more than one group.
        groups: Groups of a convolution at full width: 1, or groups that are pruned as a whole.
        padding, size, call, args, places: As of :class:`apq.space.graph.Node`.
        epsilon: Epsilon of the convolution's batch norm.
        held: Tensors of an operation that has no kind of its own.
        taps: For such an operation with weights: products per output value, for each of the
            input channels in ``reads``.
        reads: The input channels whose products are summed up.
    """

    name: str
    op: Literal["conv", "linear", "add", "concat", "pool", "maxpool", "act", "scale", "torch"]
    inputs: tuple[str, ...]
    channels: int = 0
    group: str = ""
    kernel: int = 1
    stride: Sides = 1
    depthwise: bool = False
    act: str = ""
    block: int = -1
    parts: tuple[TracedPart, ...] = ()
    groups: int = 1
    padding: int = -1
    epsilon: float = 1e-5
    size: tuple[int, ...] = ()
    call: str = ""
    args: str = ""
    held: tuple[TracedHeld, ...] = ()
    places: int = 0
    taps: int = 0
    reads: tuple[TracedPart, ...] = ()


@dataclass(frozen=True)
class TracedWidth:
    """A group of channels that can only be pruned together.

    Attributes:
        name: Name of the gene.
        channels: Numbers of channels that may be kept, ascending; the last is the full width.
    """

    name: str
    channels: tuple[int, ...]


@dataclass(frozen=True)
class TracedStage:
    """Consecutive blocks of which a gene keeps the leading ones.

    Attributes:
        depth: Numbers of blocks that may be kept; 0 if all can be skipped.
        blocks: Number of blocks.
    """

    depth: tuple[int, ...]
    blocks: int


@dataclass(frozen=True)
class Traced:
    """A traced network, its widths, stages and formats.

    Attributes:
        name: Short name.
        resolution: Input side in pixels; several: a candidate has one of them.
        classes: Outputs of the last layer.
        nodes: The network in the order it runs; the last gives the logits.
        stages: Its blocks, in order.
        widths: The groups of channels that can be cut.
        in_channels: Image channels.
        bits: Formats that blocks may use.
        fixed_bits: Bitwidth of everything that is not searched.
        exclude: Combinations no block may have.
        size: Height and width of inputs that are not square, or the length of a signal; then
            ``resolution`` is the larger one.
        shared_formats: Per block the number of the genes that choose its formats, if several
            blocks share them; empty: every block has its own.
        layer_formats: Whether every layer of a block has formats of its own.
    """

    name: Name
    resolution: Sides
    classes: int
    nodes: tuple[TracedNode, ...]
    stages: tuple[TracedStage, ...] = ()
    widths: tuple[TracedWidth, ...] = ()
    in_channels: int = 3
    bits: WeightBits = field(default_factory=WeightBits)
    fixed_bits: int = 8
    exclude: Rules = ()
    size: tuple[int, ...] = ()
    shared_formats: tuple[int, ...] = ()
    layer_formats: bool = False

    def check(self) -> None:
        """Refuse numbers that contradict themselves (SpaceError)."""
        checks = Checks(self.name)
        checks.resolution(self.resolution)
        checks.channels(outputs=self.classes, in_channels=self.in_channels)  # of no classes perhaps
        checks.need(1 <= self.fixed_bits <= 32, "fixed_bits", self.fixed_bits, "1..32")
        checks.formats(self.bits)
        for width in self.widths:
            checks.widths(f"widths of {width.name}", width.channels)
        names = ["image", *(node.name for node in self.nodes)]
        checks.need(len(set(names)) == len(names), "nodes", "several of one name", "distinct")
        known, groups = {"image"}, {width.name for width in self.widths}
        blocks = sum(stage.blocks for stage in self.stages)
        for node in self.nodes:
            reads = bool(node.inputs) and {*node.inputs} <= known
            rule = "nodes before it"
            checks.need(reads, f"node {node.name}: inputs", list(node.inputs), rule)
            _check_channels(checks, node, groups)
            _check_numbers(checks, node, blocks)
            known.add(node.name)
        for s, stage in enumerate(self.stages):
            fits = 0 < stage.blocks == max(stage.depth, default=0) and min(stage.depth) >= 0
            rule = f"between 0 and the number of blocks, {stage.blocks}, which is the last"
            checks.need(fits, f"stages[{s}].depth", list(stage.depth), rule)
        last = self.nodes[-1]
        ends = last.op in ("linear", "torch") and last.channels == self.classes and not last.group
        checks.need(ends, "the last node", last.name, "one that gives the classes")
        fits = len(self.size) in (0, 1, 2) and all(0 < n <= MOST_CHANNELS for n in self.size)
        fits &= not self.size or max(self.size) == self.resolution
        checks.need(fits, "size", self.size, "height and width, the larger of them the resolution")
        shared = self.shared_formats
        fits = not shared or (len(shared) == blocks and all(0 <= n < blocks for n in shared))
        fits &= not (shared and self.layer_formats)
        checks.need(fits, "shared_formats", shared, "a number per block, and no formats per layer")

    def write(self) -> Builder:
        """The nodes as they are, with genes for widths, depths and formats."""
        net = Builder(self.fixed_bits, self.fixed_bits)
        if self.size:
            size = (*self.size, 1)[:2]
            net.node("image", "image", channels=self.in_channels, side=max(self.size), size=size)
        else:
            net.image(self.in_channels, self.resolution)
        stages = [net.stage(stage.depth) for stage in self.stages]
        for width in self.widths:
            net.gene(width.name, width.channels)
        formats = {n: self._formats(net, f"s{n:02d}_") for n in sorted({*self.shared_formats})}
        place = [
            (s, p)
            for s, stage in zip(stages, self.stages, strict=True)
            for p in range(stage.blocks)
        ]
        last = -1
        own: dict[str, Value] = {}
        for node in self.nodes:
            if node.block > last:
                net.close()
                net.open(*place[node.block])
                last = node.block
                if self.shared_formats:
                    own = formats[self.shared_formats[node.block]]
                elif not self.layer_formats:
                    own = self._formats(net)
            elif node.block < 0:
                net.close()
            if self.layer_formats and node.block >= 0 and node.op in ("conv", "linear"):
                own = self._formats(net, f"{node.name.replace('.', '_')}_")
            self._write(net, node, own if node.block >= 0 else {})
        net.close()
        return net

    def _formats(self, net: Builder, name: str = "") -> dict[str, Value]:
        """Genes for the formats of weights and of what layers read."""
        return {"weight": net.gene(f"{name}w_bits", self.bits.codes("w")),
                "activation": net.gene(f"{name}a_bits", self.bits.codes("a"))}  # fmt: skip

    def _write(self, net: Builder, node: TracedNode, formats: dict[str, Value]) -> None:
        channels: Value = self._value(node.parts) if node.parts else node.group or node.channels
        where: dict[str, Any] = {"size": node.size} if node.size else {}
        if node.op == "conv":
            net.conv(
                node.name, node.inputs[0], channels, kernel=node.kernel,
                stride=size_of(node.stride), act=node.act,
                groups=channels if node.depthwise else self._groups(node),
                padding=node.padding, epsilon=node.epsilon, **formats, **where,
            )  # fmt: skip
        elif node.op == "linear":
            net.linear(node.name, node.inputs[0], channels, act=node.act, **formats)
        elif node.op == "maxpool":
            net.maxpool(node.name, node.inputs[0], node.kernel, both(node.stride)[0])
        elif node.op == "act":
            net.act(node.name, node.inputs[0], node.act)
        elif node.op in ("pool", "scale", "concat"):
            getattr(net, node.op)(node.name, *node.inputs)
        elif node.op == "torch":
            held = tuple(Held(self._shape(tensor), tensor.kind) for tensor in node.held)
            net.node(
                node.name, "torch", *node.inputs, channels=channels, call=node.call, args=node.args,
                held=held, places=node.places, fan_in=self._value(node.reads, node.taps), **where,
            )  # fmt: skip
        else:
            net.add(node.name, *node.inputs, act=node.act)

    def _value(self, made_of: tuple[TracedPart, ...], times: int = 1) -> Value:
        """A number of entries as a value of the graph."""
        found = tuple(self._part(part, part.each * times) for part in made_of)
        return found[0] if len(found) == 1 else found or 0

    def _part(self, part: TracedPart, times: int) -> int | str | Follows:
        if not part.group:
            return part.channels * times
        if times == 1:
            return part.group
        choices = next(w.channels for w in self.widths if w.name == part.group)
        return Follows(part.group, tuple((n, n * times) for n in choices))

    def _shape(self, held: TracedHeld) -> tuple[Value, ...]:
        made = (held.first, held.second)
        return tuple(
            self._value(made[dim]) if dim < 2 and made[dim] else size
            for dim, size in enumerate(held.shape)
        )

    def _groups(self, node: TracedNode) -> Value:
        """Groups of a convolution: as many as its channels have room for."""
        if node.groups == 1 or not node.group:
            return node.groups
        choices = next(w.channels for w in self.widths if w.name == node.group)
        width = node.channels // node.groups
        return Follows(node.group, tuple((n, n // width) for n in choices))


def _check_channels(checks: Checks, node: TracedNode, groups: set[str]) -> None:
    """Channels of a node and of what it holds: positive, and of groups that there are."""
    where, rule = f"node {node.name}", f"one of {sorted(groups)}"
    checks.need(not node.group or node.group in groups, f"{where}: group", node.group, rule)
    own = node.op not in ("conv", "linear") or node.channels > 0
    checks.need(own, f"{where}: channels", node.channels, "positive")
    held = (part for tensor in node.held for part in (*tensor.first, *tensor.second))
    for part in (*node.parts, *node.reads, *held):
        checks.need(not part.group or part.group in groups, f"{where}: group", part.group, rule)
        checks.need(part.channels > 0 < part.each, f"{where}: channels", part, "positive")


def _check_numbers(checks: Checks, node: TracedNode, blocks: int) -> None:
    """Block, kernel, strides, sizes, groups and padding of a node."""
    where = f"node {node.name}"
    checks.need(-1 <= node.block < blocks, f"{where}: block", node.block, f"-1..{blocks - 1}")
    if node.op == "maxpool" or node.padding >= 0:
        checks.need(1 <= node.kernel <= 31, f"{where}: kernel", node.kernel, "1..31")
    else:
        checks.kernels(f"{where}: kernel", (node.kernel,))
    steps = (node.stride,) if isinstance(node.stride, int) else node.stride
    fits = len(steps) in (1, 2 if node.op == "conv" else 1)
    fits &= all(1 <= step <= 32 for step in steps)
    checks.need(fits, f"{where}: stride", node.stride, "1..32; of a convolution, or two")
    small = all(0 <= n <= MOST_ITEMS for n in (*node.size, node.places, node.taps))
    small &= all(0 < n <= MOST_ITEMS for held in node.held for n in held.shape)
    checks.need(small, f"{where}: sizes", node.size, f"between 0 and {MOST_ITEMS}")
    checks.need(len(node.size) in (0, 2), f"{where}: size", node.size, "height and width")
    checks.need(0 < node.groups <= MOST_CHANNELS, f"{where}: groups", node.groups, "positive")
    checks.need(-1 <= node.padding <= 64, f"{where}: padding", node.padding, "-1..64")
    called = bool(node.call) == (node.op == "torch")
    checks.need(called, f"{where}: call", node.call, "that of a torch node")
