"""Plain chains of convolutions, where neighbouring layers share widths."""

from __future__ import annotations

from dataclasses import dataclass, field

from apq.space.families.base import Checks, Name, Rules, Sides, WeightBits
from apq.space.families.builder import Builder


@dataclass(frozen=True)
class ChainLayer:
    """A convolution of a chain.

    Attributes:
        channels: Output channels to choose from, which the next layer reads.
        kernel: Sizes to choose from (odd).
        stride: Stride of the convolution.
    """

    channels: tuple[int, ...]
    kernel: tuple[int, ...] = (3,)
    stride: int = 1


@dataclass(frozen=True)
class Chain:
    """Convolutions one after the other, the mean over all pixels, a classifier.

    Every layer chooses its channels, its kernel, and the formats of its weights and inputs. What a
    layer costs depends on the channels of the one before too.

    Attributes:
        name: Short name.
        resolution: Input side in pixels; several: a candidate has one of them.
        classes: Outputs of the classifier.
        layers: The convolutions.
        in_channels: Image channels.
        bits: Formats that layers may use. The first one's input is the image, which has 8 bits.
        fixed_bits: Bitwidth of the classifier.
        exclude: Combinations no layer may have.
    """

    name: Name
    resolution: Sides
    classes: int
    layers: tuple[ChainLayer, ...]
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
        checks.count("layers", self.layers)
        for i, layer in enumerate(self.layers):
            checks.widths(f"layers[{i}].channels", layer.channels)
            checks.kernels(f"layers[{i}].kernel", layer.kernel)
            checks.need(1 <= layer.stride <= 8, f"layers[{i}].stride", layer.stride, "1..8")

    def write(self) -> Builder:
        """The convolutions, the mean over all pixels, the classifier."""
        net = Builder(self.fixed_bits, self.fixed_bits)
        x = net.image(self.in_channels, self.resolution)
        stage = net.stage((len(self.layers),))
        for position, layer in enumerate(self.layers):
            with net.block(stage, position) as block:
                kernel, width = net.gene("kernel", layer.kernel), net.gene("width", layer.channels)
                weight = net.gene("w_bits", self.bits.codes("w"))
                inputs = net.gene("a_bits", self.bits.codes("a")) if position else self.fixed_bits
                x = net.conv(
                    f"{block}.conv", x, width, kernel=kernel, stride=layer.stride, act="relu",
                    weight=weight, activation=inputs,
                )  # fmt: skip
        net.linear("classifier", net.pool("pool", x), self.classes)
        return net
