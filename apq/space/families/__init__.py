"""Families of networks: descriptions that write the graph of a space."""

from apq.space.families.base import BitChoices, Family, WeightBits
from apq.space.families.builder import Builder
from apq.space.families.chain import Chain, ChainLayer
from apq.space.families.mobilenet_v2 import MobileNetV2, Stage
from apq.space.families.mobilenet_v3 import MobileNetV3, V3Stage
from apq.space.families.resnet import ResNet, ResNetStage
from apq.space.families.traced import Traced

FAMILIES: dict[str, type[Family]] = {
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3,
    "resnet": ResNet,
    "chain": Chain,
    "traced": Traced,
}
"""Families by their name in files."""

DEFAULT_FAMILY = "mobilenet_v2"
"""Family of a file that names none."""

__all__ = [
    "DEFAULT_FAMILY", "FAMILIES", "BitChoices", "Builder", "Chain", "ChainLayer", "Family",
    "MobileNetV2", "MobileNetV3", "ResNet", "ResNetStage", "Stage", "Traced", "V3Stage",
    "WeightBits",
]  # fmt: skip
