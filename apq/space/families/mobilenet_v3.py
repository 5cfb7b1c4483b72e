"""MobileNetV3 (Howard et al., ICCV 2019) as Once-for-All makes it elastic (arXiv:1908.09791)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from apq.space.families.base import BitChoices, Checks, Name, Rules, Sides, divisible
from apq.space.families.builder import Builder
from apq.space.graph import Follows, Value

Act = Literal["relu", "relu6", "hswish"]


@dataclass(frozen=True)
class V3Stage:
    """A run of block slots with one output width.

    Attributes:
        channels: Output channels of every block of the stage.
        stride: Stride of the first block; the others have 1.
        depth: How many leading blocks may be kept. The largest is the number of slots.
        kernel: Depthwise kernel sizes to choose from (odd).
        expand: Hidden widths to choose from, as multiples of a block's input channels.
        act: Activation of the hidden layers.
        excite: Whether blocks have squeeze-and-excitation behind the depthwise convolution.
    """

    channels: int
    stride: int
    depth: tuple[int, ...]
    kernel: tuple[int, ...]
    expand: tuple[float, ...]
    act: Act = "hswish"
    excite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "expand", tuple(map(float, self.expand)))

    def widths(self, in_channels: int) -> tuple[int, ...]:
        """Hidden widths of a block with ``in_channels`` inputs, ascending."""
        return tuple(divisible(round(in_channels * e)) for e in self.expand)


@dataclass(frozen=True)
class MobileNetV3:
    """MobileNetV3-type networks as data.

    The network is: 3x3 stem, one fixed depthwise-separable block, the stages, a 1x1 convolution,
    the mean over all pixels, a linear layer without bias, a classifier; hard swish throughout but
    for the first block and stages that say otherwise.

    Attributes:
        name: Short name.
        resolution: Input side in pixels; several: a candidate has one of them.
        classes: Outputs of the classifier.
        stages: The searchable stages.
        in_channels: Image channels.
        stem_channels, stem_stride: The 3x3 stem convolution.
        first_channels: Output channels of the fixed first block.
        last_channels: Output channels of the 1x1 convolution before the mean.
        feature_channels: Outputs of the linear layer behind it.
        bits: Number formats the searchable blocks may use; squeeze-and-excitation has fixed ones.
        fixed_bits: Bitwidth of everything that is not searched.
        exclude: Combinations no block may have.
    """

    name: Name
    resolution: Sides
    classes: int
    stages: tuple[V3Stage, ...]
    in_channels: int = 3
    stem_channels: int = 16
    stem_stride: int = 2
    first_channels: int = 16
    last_channels: int = 960
    feature_channels: int = 1280
    bits: BitChoices = field(default_factory=BitChoices)
    fixed_bits: int = 8
    exclude: Rules = ()

    def check(self) -> None:
        """Refuse numbers that contradict themselves (SpaceError)."""
        checks = Checks(self.name)
        checks.resolution(self.resolution)
        checks.channels(
            classes=self.classes, in_channels=self.in_channels,
            stem_channels=self.stem_channels, stem_stride=self.stem_stride,
            first_channels=self.first_channels, last_channels=self.last_channels,
            feature_channels=self.feature_channels,
        )  # fmt: skip
        checks.need(1 <= self.fixed_bits <= 32, "fixed_bits", self.fixed_bits, "1..32")
        checks.formats(self.bits)
        checks.stages(self.stages)
        before = self.first_channels
        for s, stage in enumerate(self.stages):
            checks.ascending(f"stages[{s}].expand", stage.expand)
            for channels in dict.fromkeys((before, stage.channels)[: max(stage.depth)]):
                checks.widths(f"hidden widths of stages[{s}]", stage.widths(channels))
            before = stage.channels

    def write(self) -> Builder:
        """The stem, a fixed block, the searched blocks, and two layers around the mean."""
        net = Builder(self.fixed_bits, self.fixed_bits)
        x = net.image(self.in_channels, self.resolution)
        x = net.conv("stem", x, self.stem_channels, kernel=3, stride=self.stem_stride)
        stem = x = net.act("stem.act", x, "hswish")
        width = self.stem_channels
        x = net.conv("first.0", x, width, kernel=3, groups=width, act="relu")
        x, before = net.conv("first.1", x, self.first_channels), self.first_channels
        if before == width:
            x = net.add("first.add", stem, x)
        for stage in self.stages:
            depth = net.stage(stage.depth)
            for position in range(max(stage.depth)):
                with net.block(depth, position) as block:
                    stride = 1 if position else stage.stride
                    x = self._block(net, block, x, stage, stage.widths(before), stride)
                before = stage.channels
        x = net.act("last.act", net.conv("last", x, self.last_channels), "hswish")
        x = net.linear("feature", net.pool("pool", x), self.feature_channels, bias=False)
        net.linear("classifier", net.act("feature.act", x, "hswish"), self.classes)
        return net

    def _block(
        self, net: Builder, block: str, x: str, stage: V3Stage, widths: Sequence[int], stride: int
    ) -> str:
        """Expand, depthwise, perhaps squeeze and excite, project; the input added where shapes
        allow."""
        kernel, width = net.gene("kernel", stage.kernel), net.gene("width", widths)
        bits = [net.gene(f"{name}_bits", self.bits.codes(name)) for name in vars(self.bits)]
        pw, dw = ({"weight": w, "activation": a} for w, a in (bits[:2], bits[2:]))
        y = _conv(net, f"{block}.expand", x, width, stage.act, **pw)
        y = _conv(
            net, f"{block}.depthwise", y, width, stage.act, kernel=kernel, stride=stride,
            groups=width, **dw,
        )  # fmt: skip
        if stage.excite:
            y = squeeze_and_excite(net, f"{block}.se", y, width, widths)
        y = net.conv(f"{block}.project", y, stage.channels, **pw)
        same = stride == 1 and net.channels(x) == stage.channels
        return net.add(f"{block}.add", x, y) if same else y


def squeeze_and_excite(
    net: Builder, path: str, x: str, gene: str, widths: Sequence[int], share: int = 4
) -> str:
    """Scale channels by what two small layers make of their means (Hu et al., CVPR 2018); the inner
    width is a share of the active channels, a multiple of 8 (as OFA has it).

    Args:
        net: Where it is written.
        path: Path of its layers.
        x: The tensor that is scaled.
        gene: Gene of its channels; ``widths`` are the choices.
        share: Channels per inner one.
    """
    inner = Follows(gene, tuple((w, divisible(w // share)) for w in widths))
    y = net.linear(f"{path}.reduce", net.pool(f"{path}.pool", x), inner, act="relu")
    y = net.linear(f"{path}.expand", y, gene)
    return net.scale(f"{path}.scale", x, net.act(f"{path}.act", y, "hsigmoid"))


def _conv(net: Builder, name: str, x: str, channels: Value, act: Act, **fields: Value) -> str:
    """A convolution and its activation, which is a node of its own if it is a curve."""
    if act == "hswish":
        return net.act(f"{name}.act", net.conv(name, x, channels, **fields), act)
    return net.conv(name, x, channels, act=act, **fields)
