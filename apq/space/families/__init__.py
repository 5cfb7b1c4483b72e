"""Families of networks: descriptions that write the graph of a space."""

from apq.space.families.base import BitChoices, Family
from apq.space.families.builder import Builder
from apq.space.families.mobilenet_v2 import MobileNetV2, Stage

FAMILIES: dict[str, type[Family]] = {"mobilenet_v2": MobileNetV2}
"""By the name that files say."""

DEFAULT_FAMILY = "mobilenet_v2"
"""Of a file that says none."""

__all__ = ["DEFAULT_FAMILY", "FAMILIES", "BitChoices", "Builder", "Family", "MobileNetV2", "Stage"]
