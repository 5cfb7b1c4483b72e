"""Inverted residuals between a fixed beginning and end: APQ's family of networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apq.files.limits import MOST_CHANNELS, MOST_WIDTHS
from apq.space.families.base import BitChoices, Checks, Name, Rules, Sides, divisible
from apq.space.families.builder import Builder
from apq.space.formats import AS_PRICED
from apq.space.graph import Graph, Node, Value, number, resolve
from apq.space.layer import Layer, LayerArray, layer_array


@dataclass(frozen=True)
class Stage:
    """A run of block slots with one output width.

    Attributes:
        channels: Output channels of every block of the stage.
        stride: Stride of the first block; the others have 1.
        depth: How many leading blocks may be kept. The largest is the number of slots.
        kernel: Depthwise kernel sizes to choose from (odd).
        expand: With ``width_step``: lowest and highest hidden width as multiples of a block's
            input channels. Without: the multiples to choose from.
        width_step: Distance between hidden widths, in channels; 0 means ``expand`` is a list.
    """

    channels: int
    stride: int
    depth: tuple[int, ...]
    kernel: tuple[int, ...]
    expand: tuple[float, ...]
    width_step: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "expand", tuple(map(float, self.expand)))

    def widths(self, in_channels: int) -> tuple[int, ...]:
        """Hidden widths of a block with ``in_channels`` inputs, ascending."""
        if not self.width_step:
            return tuple(divisible(round(in_channels * e)) for e in self.expand)
        low, high = self.expand[0] * in_channels, self.expand[-1] * in_channels
        count = int((high - low) / self.width_step + 1e-9)
        return tuple(round(low) + i * self.width_step for i in range(count + 1))


@dataclass(frozen=True)
class MobileNetV2:
    """MobileNetV2-type networks as data.

    The network is: 3x3 stem, one fixed depthwise-separable block, the stages, a 1x1 head
    convolution, global average pooling, a linear classifier. The fixed layers use ``fixed_bits``.

    Attributes:
        name: Short name.
        resolution: Input side in pixels; several: a candidate has one of them.
        in_channels: Image channels.
        classes: Outputs of the classifier.
        stem_channels, stem_stride: The 3x3 stem convolution.
        first_channels: Output channels of the fixed first block (depthwise 3x3, then 1x1).
        head_channels: Output channels of the 1x1 convolution before pooling.
        stages: The searchable stages.
        bits: Number formats the searchable blocks may use.
        fixed_bits: Bitwidth of everything that is not searched.
        fixed_weight_bits: Bitwidth of its weights, if different. With a large classifier or small
            blocks these weights are a large part of a file.
        exclude: Combinations no block may have.
        norm_epsilon: Epsilon of batch norms; default 1e-5.
    """

    name: Name
    resolution: Sides
    classes: int
    stages: tuple[Stage, ...]
    in_channels: int = 3
    stem_channels: int = 16
    stem_stride: int = 1
    first_channels: int = 16
    head_channels: int = 320
    bits: BitChoices = field(default_factory=BitChoices)
    fixed_bits: int = 8
    fixed_weight_bits: int | None = None
    exclude: Rules = ()
    norm_epsilon: float | None = None

    def check(self) -> None:
        """Refuse numbers that contradict themselves (SpaceError)."""
        checks = Checks(self.name)
        checks.resolution(self.resolution)
        checks.channels(
            classes=self.classes, in_channels=self.in_channels,
            stem_channels=self.stem_channels, stem_stride=self.stem_stride,
            first_channels=self.first_channels, head_channels=self.head_channels,
        )  # fmt: skip
        checks.need(1 <= self.fixed_bits <= 32, "fixed_bits", self.fixed_bits, "1..32")
        weight = self.fixed_weight_bits
        ok = weight is None or 1 <= weight <= 32
        checks.need(ok, "fixed_weight_bits", weight, "1..32")
        checks.formats(self.bits)
        ok = self.norm_epsilon is None or 0 < self.norm_epsilon < 1
        checks.need(ok, "norm_epsilon", self.norm_epsilon, "between 0 and 1")
        checks.stages(self.stages)
        before = self.first_channels
        for s, stage in enumerate(self.stages):
            where = f"stages[{s}]"
            checks.ascending(f"{where}.expand", stage.expand)
            step = stage.width_step
            checks.need(step >= 0, f"{where}.width_step", step, "0 or more")
            for channels in dict.fromkeys((before, stage.channels)[: max(stage.depth)]):
                _check_widths(checks, where, stage, channels)
            before = stage.channels

    def write(self) -> Builder:
        """The stem, one depthwise-separable block, the searched blocks, a 1x1 convolution, the mean
        over all pixels, a linear classifier."""
        weight, epsilon = self.fixed_weight_bits or self.fixed_bits, self.norm_epsilon or 1e-5
        net = Builder(weight, self.fixed_bits, epsilon)
        stem, first = self.stem_channels, self.first_channels
        x = net.image(self.in_channels, self.resolution)
        x = net.conv("stem", x, stem, kernel=3, stride=self.stem_stride, act="relu6")
        x = net.conv("first.0", x, stem, kernel=3, groups=stem, act="relu6")
        x, before = net.conv("first.1", x, first), first
        for stage in self.stages:
            depth = net.stage(stage.depth)
            for position in range(max(stage.depth)):
                with net.block(depth, position) as block:
                    kernel = net.gene("kernel", stage.kernel)
                    width = net.gene("width", stage.widths(before))
                    formats = [net.gene(f"{n}_bits", self.bits.codes(n)) for n in vars(self.bits)]
                    stride = 1 if position else stage.stride
                    channels = (width, stage.channels)
                    x = inverted_residual(net, block, x, channels, kernel, stride, formats)
                before = stage.channels
        x = net.conv("head", x, self.head_channels, act="relu6")
        net.linear("classifier", net.pool("pool", x), self.classes)
        return net


def inverted_residual(
    net: Builder,
    block: str,
    x: str,
    channels: tuple[Value, int],
    kernel: Value,
    stride: int,
    formats: Sequence[Value],
    act: str = "relu6",
) -> str:
    """Expand, depthwise, project, and the input added where shapes allow.

    Args:
        net: Where it is written.
        block: Path of the block.
        x: Its input.
        channels: Hidden width, which a gene may choose, and channels of the output.
        kernel, stride: Kernel size and stride of the depthwise convolution.
        formats: Formats of pointwise weights and inputs, then of depthwise ones.
        act: Activation of the hidden layers.
    """
    width, out = channels
    pw, dw = ({"weight": w, "activation": a} for w, a in (formats[:2], formats[2:]))
    y = net.conv(f"{block}.expand", x, width, act=act, **pw)
    y = net.conv(
        f"{block}.depthwise", y, width, kernel=kernel, stride=stride, groups=width, act=act, **dw
    )
    y = net.conv(f"{block}.project", y, out, **pw)
    return net.add(f"{block}.add", x, y) if stride == 1 and net.channels(x) == out else y


def whole_block(
    graph: Graph, nodes: Sequence[Node], side: Any, values: Mapping[str, Any]
) -> LayerArray:
    """An inverted residual as one ``mbconv`` row, for tables of measured blocks.

    Args:
        graph: The network.
        nodes: Nodes of the block.
        side: Height and width of its input.
        values: Values of its genes, formats as codes; they broadcast together.
    """
    expand, depthwise, project = (node for node in nodes if node.op == "conv")
    pw_w, pw_a, dw_w, dw_a = (
        AS_PRICED[resolve(v, values)]
        for node in (expand, depthwise) for v in (node.weight, node.activation)
    )  # fmt: skip
    return layer_array(
        op="mbconv", in_channels=number(graph.in_channels(expand)),
        out_channels=number(project.channels),
        height=side, width=side, kernel=resolve(depthwise.kernel, values),
        stride=depthwise.stride, weight_bits=pw_w, activation_bits=pw_a,
        mid_channels=resolve(expand.channels, values), dw_weight_bits=dw_w,
        dw_activation_bits=dw_a,
    )  # fmt: skip


def block_alone(layer: Layer) -> Graph:
    """A network of the one block that an ``mbconv`` row stands for, at 8 bits."""
    net = Builder()
    x = net.image(layer.in_channels, layer.height)
    channels = (layer.mid_channels, layer.out_channels)
    inverted_residual(net, "block", x, channels, layer.kernel, layer.stride, (8, 8, 8, 8))
    return net.graph


def _check_widths(checks: Checks, where: str, stage: Stage, channels: int) -> None:
    """Hidden widths for a number of input channels: at least one, and not too many."""
    low, high = stage.expand[0] * channels, stage.expand[-1] * channels
    what = f"{where}.expand x {channels} input channels"
    checks.need(round(low) >= 1, what, f"{low:g} … {high:g}", "at least 1 hidden channel")
    rule = f"at most {MOST_CHANNELS} hidden channels"
    checks.need(high <= MOST_CHANNELS, what, f"{low:g} … {high:g}", rule)
    many = (high - low) / stage.width_step + 1 if stage.width_step else len(stage.expand)
    checks.need(many <= MOST_WIDTHS, f"{what} in steps of {stage.width_step}",
                f"{many:.0f} widths", f"at most {MOST_WIDTHS} widths")  # fmt: skip
    widths = stage.widths(channels)
    checks.need(len(set(widths)) == len(widths) and max(widths) <= MOST_CHANNELS,
                f"hidden widths of {what}", list(widths)[:8], "distinct and sane")  # fmt: skip
