"""Families of networks: descriptions that write the graph of a space."""

from apq.space.families.base import BitChoices, Family, WeightBits
from apq.space.families.builder import Builder
from apq.space.families.chain import Chain, ChainLayer
from apq.space.families.mobilenet_v2 import MobileNetV2, Stage
from apq.space.families.resnet import ResNet, ResNetStage
from apq.space.families.traced import Traced

FAMILIES: dict[str, type[Family]] = {
    "mobilenet_v2": MobileNetV2, "resnet": ResNet, "chain": Chain, "traced": Traced,
}  # fmt: skip
"""By the name that files say."""

DEFAULT_FAMILY = "mobilenet_v2"
"""Of a file that says none."""

__all__ = [
    "DEFAULT_FAMILY", "FAMILIES", "BitChoices", "Builder", "Chain", "ChainLayer", "Family",
    "MobileNetV2", "ResNet", "ResNetStage", "Stage", "Traced", "WeightBits",
]  # fmt: skip
