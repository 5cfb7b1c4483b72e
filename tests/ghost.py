"""A family that apq does not ship: Ghost modules (Han et al., CVPR 2020, arXiv:1911.11907).

Half of a module's channels come from a pointwise convolution, the other half from a cheap depthwise
one of these, and both are joined. A block either runs such a module or a plain convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from apq.space.families import Builder


@dataclass(frozen=True)
class Ghost:
    """Blocks of Ghost modules between a stem and a classifier."""

    name: str
    resolution: int
    classes: int
    in_channels: int
    channels: tuple[int, ...]
    width: tuple[int, ...]
    bits: tuple[int, ...]
    fixed_bits: int = 8
    exclude: tuple[dict[str, int], ...] = ()

    def check(self) -> None:
        """Everything goes."""

    def write(self) -> Builder:
        """Every stage has one block that may be left out, where channels stay, after another."""
        net = Builder(self.fixed_bits, self.fixed_bits)
        x = net.image(self.in_channels, self.resolution)
        x = net.conv("stem", x, self.channels[0], kernel=3, act="relu6")
        for out in self.channels:
            stage = net.stage((1, 2))
            for position in range(2):
                with net.block(stage, position) as block:
                    x = self._block(net, block, x, out)
        net.linear("classifier", net.pool("pool", x), self.classes)
        return net

    def _block(self, net: Builder, block: str, x: str, out: int) -> str:
        kind, width = net.gene("kind", (0, 1)), net.gene("width", self.width)
        w, a = net.gene("w_bits", self.bits), net.gene("a_bits", self.bits)
        ghost, plain = ({"weight": w, "activation": a, "when": ((kind, (i,)),)} for i in (0, 1))
        y = net.conv(f"{block}.first", x, width, act="relu6", **ghost)
        z = net.conv(f"{block}.cheap", y, width, kernel=3, groups=width, act="relu6", **ghost)
        joined = net.concat(f"{block}.joined", y, z)
        y = net.conv(f"{block}.project", joined, out, **ghost)
        z = net.conv(f"{block}.plain", x, out, kernel=3, **plain)
        y = net.select(f"{block}.select", y, z)
        return net.add(f"{block}.add", x, y) if net.channels(x) == out else y
