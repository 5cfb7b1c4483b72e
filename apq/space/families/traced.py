"""Networks that were traced: the graph as data, with what may be cut, skipped and rounded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from apq.space.families.base import Checks, Name, Rules, Sides, WeightBits
from apq.space.families.builder import Builder
from apq.space.graph import Value


@dataclass(frozen=True)
class TracedNode:
    """One operation of a traced network.

    Attributes:
        name: The module's path in the traced network, or that of an addition or mean.
        op: As of :class:`apq.space.graph.Node`.
        inputs: Nodes it reads; ``image`` is the input.
        channels: Of its output, at full width; 0 where they follow from the inputs.
        group: Name of the width that chooses its channels; empty: they are fixed.
        kernel, stride: Of a convolution or of a maximum over pixels.
        depthwise: Whether it convolves every channel by itself.
        act: Activation, or nothing.
        block: Number of the block it belongs to; -1: none, its formats are fixed.
    """

    name: str
    op: Literal["conv", "linear", "add", "concat", "pool", "maxpool", "act", "scale"]
    inputs: tuple[str, ...]
    channels: int = 0
    group: str = ""
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    act: str = ""
    block: int = -1


@dataclass(frozen=True)
class TracedWidth:
    """A group of channels that can only be cut together.

    Attributes:
        name: Of the gene.
        channels: How many may be kept, ascending; the last is the full width.
    """

    name: str
    channels: tuple[int, ...]


@dataclass(frozen=True)
class TracedStage:
    """Blocks in a row of which a gene keeps the leading ones.

    Attributes:
        depth: How many may be kept; 0 if all can be skipped.
        blocks: How many there are.
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
    """

    name: Name
    resolution: Sides
    classes: int
    nodes: tuple[TracedNode, ...]
    stages: tuple[TracedStage, ...]
    widths: tuple[TracedWidth, ...] = ()
    in_channels: int = 3
    bits: WeightBits = field(default_factory=WeightBits)
    fixed_bits: int = 8
    exclude: Rules = ()

    def check(self) -> None:
        """Refuse numbers that contradict themselves (SpaceError)."""
        checks = Checks(self.name)
        checks.resolution(self.resolution)
        checks.channels(classes=self.classes, in_channels=self.in_channels)
        checks.need(1 <= self.fixed_bits <= 32, "fixed_bits", self.fixed_bits, "1..32")
        checks.formats(self.bits)
        for width in self.widths:
            checks.widths(f"widths of {width.name}", width.channels)
        names = ["image", *(node.name for node in self.nodes)]
        checks.need(len(set(names)) == len(names), "nodes", "several of one name", "distinct")
        known, groups = {"image"}, {width.name for width in self.widths}
        blocks = sum(stage.blocks for stage in self.stages)
        for node in self.nodes:
            where = f"node {node.name}"
            reads = bool(node.inputs) and {*node.inputs} <= known
            checks.need(reads, f"{where}: inputs", list(node.inputs), "nodes before it")
            cut = not node.group or node.group in groups
            checks.need(cut, f"{where}: group", node.group, f"one of {sorted(groups)}")
            own = node.op not in ("conv", "linear") or node.channels > 0
            checks.need(own, f"{where}: channels", node.channels, "positive")
            checks.need(
                -1 <= node.block < blocks, f"{where}: block", node.block, f"-1..{blocks - 1}"
            )
            if node.op == "maxpool":
                checks.need(1 <= node.kernel <= 31, f"{where}: kernel", node.kernel, "1..31")
            else:
                checks.kernels(f"{where}: kernel", (node.kernel,))
            checks.need(1 <= node.stride <= 8, f"{where}: stride", node.stride, "1..8")
            known.add(node.name)
        for s, stage in enumerate(self.stages):
            fits = 0 < stage.blocks == max(stage.depth, default=0) and min(stage.depth) >= 0
            rule = f"between 0 and the number of blocks, {stage.blocks}, which is the last"
            checks.need(fits, f"stages[{s}].depth", list(stage.depth), rule)
        ends = self.nodes[-1].op == "linear" and self.nodes[-1].channels == self.classes
        checks.need(ends, "the last node", self.nodes[-1].name, "a linear layer that gives classes")

    def write(self) -> Builder:
        """The nodes as they are, with genes for widths, depths and formats."""
        net = Builder(self.fixed_bits, self.fixed_bits)
        net.image(self.in_channels, self.resolution)
        stages = [net.stage(stage.depth) for stage in self.stages]
        for width in self.widths:
            net.gene(width.name, width.channels)
        place = [
            (s, p)
            for s, stage in zip(stages, self.stages, strict=True)
            for p in range(stage.blocks)
        ]
        last = -1
        formats: dict[str, Value] = {}
        for node in self.nodes:
            if node.block > last:
                net.close()
                net.open(*place[node.block])
                last = node.block
                formats = {"weight": net.gene("w_bits", self.bits.codes("w")),
                           "activation": net.gene("a_bits", self.bits.codes("a"))}  # fmt: skip
            elif node.block < 0:
                net.close()
            self._write(net, node, formats if node.block >= 0 else {})
        net.close()
        return net

    def _write(self, net: Builder, node: TracedNode, formats: dict[str, Value]) -> None:
        channels: Value = node.group or node.channels
        if node.op == "conv":
            net.conv(
                node.name, node.inputs[0], channels, kernel=node.kernel, stride=node.stride,
                groups=channels if node.depthwise else 1, act=node.act, **formats,
            )  # fmt: skip
        elif node.op == "linear":
            net.linear(node.name, node.inputs[0], channels, act=node.act, **formats)
        elif node.op == "pool":
            net.pool(node.name, node.inputs[0])
        elif node.op == "maxpool":
            net.maxpool(node.name, node.inputs[0], node.kernel, node.stride)
        elif node.op == "act":
            net.act(node.name, node.inputs[0], node.act)
        elif node.op == "scale":
            net.scale(node.name, *node.inputs)
        elif node.op == "concat":
            net.concat(node.name, *node.inputs)
        else:
            net.add(node.name, *node.inputs, act=node.act)
