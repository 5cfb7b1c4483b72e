"""What can be searched: spaces, candidates and the layers they consist of (numpy only)."""

from apq.space.base import (
    ATTRIBUTES,
    BIT_ATTRIBUTES,
    Axis,
    BitChoices,
    Genes,
    Slot,
    Space,
    Stage,
)
from apq.space.candidate import Bits, Block, Candidate
from apq.space.files import load_space
from apq.space.formats import FORMATS, Choice, Format
from apq.space.layer import Layer, LayerArray
from apq.space.presets import PRESETS

__all__ = [
    "ATTRIBUTES", "BIT_ATTRIBUTES", "FORMATS", "PRESETS", "Axis", "BitChoices", "Bits", "Block",
    "Candidate", "Choice", "Format", "Genes", "Layer", "LayerArray", "Slot", "Space", "Stage",
    "load_space",
]  # fmt: skip
