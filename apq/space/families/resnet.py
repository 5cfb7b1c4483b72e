"""Residual networks (He et al., CVPR 2016): basic or bottleneck blocks, for small images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from apq.space.families.base import Checks, Name, Rules, Sides, WeightBits
from apq.space.families.builder import Builder
from apq.space.graph import Value


@dataclass(frozen=True)
class ResNetStage:
    """A run of residual blocks that add to the same channels.

    Attributes:
        channels: Output channels of every block; several: the whole stage chooses one of them.
        stride: Stride of the first block; the others have 1.
        depth: How many leading blocks may be kept. The largest is the number of slots.
        width: Channels inside a block to choose from.
        kernel: Sizes of the block's k x k convolutions to choose from (odd).
    """

    channels: tuple[int, ...]
    stride: int
    depth: tuple[int, ...]
    width: tuple[int, ...]
    kernel: tuple[int, ...] = (3,)


@dataclass(frozen=True)
class ResNet:
    """Residual networks as data: a 3x3 stem, the stages, the mean over all pixels, a classifier.

    Every block chooses its inner width, its kernel, and the formats of its weights and inputs;
    every stage how many blocks run and, if it offers several, its channels.

    Attributes:
        name: Short name.
        resolution: Input side in pixels; several: a candidate has one of them.
        classes: Outputs of the classifier.
        stages: The searchable stages.
        block: ``basic``: two k x k convolutions; ``bottleneck``: 1x1, k x k, 1x1.
        in_channels: Image channels.
        stem_channels, stem_stride: The 3x3 stem convolution.
        bits: Formats that blocks may use.
        fixed_bits: Bitwidth of everything that is not searched.
        exclude: Combinations no block may have.
    """

    name: Name
    resolution: Sides
    classes: int
    stages: tuple[ResNetStage, ...]
    block: Literal["basic", "bottleneck"] = "basic"
    in_channels: int = 3
    stem_channels: int = 16
    stem_stride: int = 1
    bits: WeightBits = field(default_factory=WeightBits)
    fixed_bits: int = 8
    exclude: Rules = ()

    def check(self) -> None:
        """Refuse numbers that contradict themselves (SpaceError)."""
        checks = Checks(self.name)
        checks.resolution(self.resolution)
        checks.channels(
            classes=self.classes, in_channels=self.in_channels,
            stem_channels=self.stem_channels, stem_stride=self.stem_stride,
        )  # fmt: skip
        checks.need(1 <= self.fixed_bits <= 32, "fixed_bits", self.fixed_bits, "1..32")
        checks.formats(self.bits)
        checks.stages(self.stages)
        for s, stage in enumerate(self.stages):
            checks.widths(f"stages[{s}].channels", stage.channels)
            checks.widths(f"stages[{s}].width", stage.width)

    def write(self) -> Builder:
        """The stem, the blocks, the mean over all pixels, the classifier."""
        net = Builder(self.fixed_bits, self.fixed_bits)
        x = net.image(self.in_channels, self.resolution)
        x = net.conv("stem", x, self.stem_channels, kernel=3, stride=self.stem_stride, act="relu")
        for s, stage in enumerate(self.stages):
            depth = net.stage(stage.depth)
            several = len(stage.channels) > 1
            out = net.gene(f"channels_{s}", stage.channels) if several else stage.channels[0]
            for position in range(max(stage.depth)):
                with net.block(depth, position) as block:
                    stride = 1 if position else stage.stride
                    x = self._block(net, block, x, out, stride, stage)
        net.linear("classifier", net.pool("pool", x), self.classes)
        return net

    def _block(
        self, net: Builder, block: str, x: str, out: Value, stride: int, stage: ResNetStage
    ) -> str:
        """Two or three convolutions, the input (or a 1x1 convolution of it) added, a ReLU."""
        kernel, width = net.gene("kernel", stage.kernel), net.gene("width", stage.width)
        bits = {n: net.gene(f"{n}_bits", self.bits.codes(n)) for n in ("w", "a")}
        same: dict[str, Any] = {"weight": bits["w"], "activation": bits["a"]}
        if self.block == "basic":
            y = net.conv(
                f"{block}.conv1", x, width, kernel=kernel, stride=stride, act="relu", **same
            )
            y = net.conv(f"{block}.conv2", y, out, kernel=kernel, **same)
        else:
            y = net.conv(f"{block}.conv1", x, width, act="relu", **same)
            y = net.conv(
                f"{block}.conv2", y, width, kernel=kernel, stride=stride, act="relu", **same
            )
            y = net.conv(f"{block}.conv3", y, out, **same)
        if stride > 1 or net.channels(x) != out:
            x = net.conv(f"{block}.shortcut", x, out, stride=stride, **same)
        return net.add(f"{block}.add", x, y, act="relu")
