"""Search spaces, candidates and the layers they consist of (numpy only)."""

from apq.space.axes import Axis, Slot, is_format
from apq.space.base import Space
from apq.space.candidate import Candidate
from apq.space.factors import Factor
from apq.space.families import FAMILIES, BitChoices, MobileNetV2, Stage
from apq.space.files import load_space
from apq.space.formats import FORMATS, Choice, Format
from apq.space.layer import Layer, LayerArray
from apq.space.presets import PRESETS
from apq.space.structure import Genes

__all__ = [
    "FAMILIES", "FORMATS", "PRESETS", "Axis", "BitChoices", "Candidate", "Choice", "Factor",
    "Format", "Genes", "Layer", "LayerArray", "MobileNetV2", "Slot", "Space", "Stage",
    "is_format", "load_space",
]  # fmt: skip
