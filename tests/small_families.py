"""Small spaces of every family, whose candidates can be listed."""

from __future__ import annotations

from apq.space import Space
from apq.space.families import (
    BitChoices,
    Chain,
    ChainLayer,
    MobileNetV2,
    MobileNetV3,
    ResNet,
    ResNetStage,
    Stage,
    V3Stage,
    WeightBits,
)
from apq.space.families.traced import Traced, TracedNode, TracedStage, TracedWidth


def resnet(block: str = "basic") -> Space:
    """Two stages; the second chooses its channels, which its blocks and the classifier read."""
    stages = (
        ResNetStage((8,), 1, depth=(1,), width=(8, 16), kernel=(1, 3)),
        ResNetStage((16, 24), 2, depth=(1, 2), width=(16, 32)),
    )
    bits = WeightBits((4, 8), (4, 8))
    rules = ({"width": 32, "w_bits": 4},)
    return Space(
        ResNet("small-resnet", 8, 10, stages, block, 1, 8, bits=bits, exclude=rules)  # type: ignore[arg-type]
    )


def chain() -> Space:
    """Three layers; every width is read by two of them."""
    layers = (
        ChainLayer((8, 16), (3, 5)), ChainLayer((8, 16, 24), (1, 3), 2), ChainLayer((16, 32)),
    )  # fmt: skip
    return Space(Chain("small-chain", 8, 10, layers, 1, WeightBits((4, 8), (4, 8))))


def traced() -> Space:
    """What tracing a network of two residual branches in a row and one more layer gives."""

    def conv(name: str, x: str, channels: int, group: str, block: int, act: str = "") -> TracedNode:
        return TracedNode(name, "conv", (x,), channels, group, 3, 1, act=act, block=block)

    nodes = (
        conv("stem", "image", 8, "stream_width", -1, "relu"),
        conv("one.a", "stem", 16, "one_width", 0, "relu"),
        conv("one.b", "one.a", 8, "stream_width", 0),
        TracedNode("one.add", "add", ("one.b", "stem"), act="relu", block=0),
        conv("two.a", "one.add", 16, "two_width", 1, "relu"),
        conv("two.b", "two.a", 8, "stream_width", 1),
        TracedNode("two.add", "add", ("one.add", "two.b"), act="relu", block=1),
        conv("last", "two.add", 24, "last_width", 2, "relu"),
        TracedNode("pool", "pool", ("last",)), TracedNode("fc", "linear", ("pool",), 10),
    )  # fmt: skip
    widths = tuple(
        TracedWidth(name, (most // 2, most))
        for name, most in (
            ("stream_width", 8),
            ("one_width", 16),
            ("two_width", 16),
            ("last_width", 24),
        )
    )
    stages = (TracedStage((0, 1, 2), 2), TracedStage((1,), 1))
    bits = WeightBits((4, 8), (8,))
    return Space(Traced("small-traced", 8, 10, nodes, stages, widths, 1, bits))


def mobilenet_v3() -> Space:
    """Two stages, the second with squeeze-and-excitation and hard swish."""
    stages = (
        V3Stage(8, 1, (1, 2), (3,), (1, 2), "relu"),
        V3Stage(16, 2, (1,), (3, 5), (2, 4), "hswish", excite=True),
    )
    bits = BitChoices((4, 8), (8,), (8,), (8,))
    family = MobileNetV3("small-v3", 8, 10, stages, 1, 8, 1, 8, 32, 32, bits)
    return Space(family)


def resolutions() -> Space:
    """Images of three sizes, and two stages of few choices: all layers but the last read the
    resolution."""
    stages = (
        Stage(8, 1, (1, 2), (3,), (1, 2), 0), Stage(16, 2, (1,), (3, 5), (2, 3), 0),
    )  # fmt: skip
    bits = BitChoices((4, 8), (8,), (8,), (8,))
    sides = (6, 8, 12)
    family = MobileNetV2("small-resolutions", sides, 10, stages, 1, 8, 1, 8, 32, bits)
    return Space(family)


SMALL = {
    "resolutions": resolutions(),
    "mobilenet_v3": mobilenet_v3(),
    "traced": traced(),
    "basic": resnet(),
    "bottleneck": resnet("bottleneck"),
    "chain": chain(),
}
