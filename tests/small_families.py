"""Small spaces of every family, whose candidates can be listed."""

from __future__ import annotations

from apq.space import Space
from apq.space.families import Chain, ChainLayer, ResNet, ResNetStage, WeightBits


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


SMALL = {"basic": resnet(), "bottleneck": resnet("bottleneck"), "chain": chain()}
