"""Genes, one axis each, and the slots and stages they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from apq.space.formats import Choice, choice_of


def is_format(attribute: str) -> bool:
    """Whether choices of an attribute are number formats: its name ends in ``_bits``."""
    return attribute.endswith("_bits")


@dataclass(frozen=True)
class Axis:
    """One gene: its column name and its choices.

    Attributes:
        name: Name of the gene, e.g. ``b03_kernel`` or ``depth_0``.
        attribute: The attribute it chooses: ``kernel``, ``width``, ``pw_w_bits``, ``depth`` …
        choices: Values in arrays: depths, kernels, widths, codes of number formats.
        slot: Index of the slot it belongs to; None for a depth or a gene of several blocks.
    """

    name: str
    attribute: str
    choices: tuple[int, ...]
    slot: int | None = None

    @property
    def is_depth(self) -> bool:
        """Whether it chooses how many blocks of a stage run."""
        return self.attribute == "depth"

    @property
    def is_format(self) -> bool:
        """Whether it chooses a number format; every other axis belongs to the architecture."""
        return is_format(self.attribute)

    @cached_property
    def labels(self) -> tuple[Choice, ...]:
        """The choices in their readable form: numbers, and names of formats."""
        return tuple(map(choice_of, self.choices)) if self.is_format else self.choices

    @cached_property
    def named(self) -> bool:
        """Whether a choice has a name. Columns of such an axis hold text, ``"8"`` too."""
        return any(isinstance(label, str) for label in self.labels)


@dataclass(frozen=True)
class Slot:
    """A place for a block, and the genes that only this block reads.

    Attributes:
        index: Its place among all slots, in network order.
        stage: Index of the stage whose depth decides whether it runs.
        position: It runs if the stage's depth is larger.
        attributes: Attributes of its genes, in their order.
        choices: Per attribute, formats as codes.
    """

    index: int
    stage: int
    position: int
    attributes: tuple[str, ...] = ()
    choices: tuple[tuple[int, ...], ...] = ()

    @property
    def name(self) -> str:
        """The block's name, as in ``b03``."""
        return f"b{self.index:02d}"

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes, in the order of ``attributes``."""
        return tuple(f"{self.name}_{attribute}" for attribute in self.attributes)


@dataclass(frozen=True)
class SearchedStage:
    """Slots of which a gene keeps the leading ones.

    Attributes:
        depth: How many may be kept.
        slots: Their indices, in network order.
    """

    depth: tuple[int, ...]
    slots: tuple[int, ...]
