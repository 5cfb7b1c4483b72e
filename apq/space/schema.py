"""What a file says of a space and of a candidate, as the types other schemas are made of.

Types, names and lengths of lists are checked here; which numbers a space may have is the matter of
:class:`~apq.space.base.Space` itself, whoever builds one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from apq.errors import SpaceError
from apq.files import Document, Schema
from apq.files.limits import (
    MOST_CHANNELS,
    MOST_DEPTHS,
    MOST_RULES,
    MOST_STAGES,
    MOST_TEXT,
    MOST_WIDTHS,
)
from apq.space.base import BitChoices, Space, Stage
from apq.space.candidate import Bits, Block, Candidate
from apq.space.formats import Choice, choice_of, code_of

_Item = TypeVar("_Item")
_Some = Annotated[tuple[_Item, ...], Field(strict=False, min_length=1, max_length=MOST_WIDTHS)]


def _format(value: Any) -> Choice:
    try:
        return choice_of(code_of(value))
    except SpaceError as error:
        raise ValueError(str(error)) from error


Format = Annotated[int | str, BeforeValidator(_format)]
"""A number format: a plain width, its digits, or a name."""


class _StageTable(Schema):
    channels: int
    stride: int
    depth: _Some[int]
    kernel: _Some[int]
    expand: _Some[float]
    width_step: int = Stage.width_step


class _BitsTable(Schema):
    pw_w: _Some[Format] = BitChoices.pw_w
    pw_a: _Some[Format] = BitChoices.pw_a
    dw_w: _Some[Format] = BitChoices.dw_w
    dw_a: _Some[Format] = BitChoices.dw_a


class _Rule(Schema):
    kernel: int = 0
    width: int = 0
    pw_w_bits: Format = 8
    pw_a_bits: Format = 8
    dw_w_bits: Format = 8
    dw_a_bits: Format = 8


class SpaceTable(Document):
    """A space as TOML, JSON and Parquet metadata hold it."""

    model_config = Schema.model_config
    what = "a space"
    remedy = ""
    error = SpaceError

    name: Annotated[str, StringConstraints(pattern=r"\S", max_length=MOST_TEXT)]
    resolution: int
    classes: int
    in_channels: int = Space.in_channels
    stem_channels: int = Space.stem_channels
    stem_stride: int = Space.stem_stride
    first_channels: int = Space.first_channels
    head_channels: int = Space.head_channels
    fixed_bits: int = Space.fixed_bits
    fixed_weight_bits: int | None = None
    bits: _BitsTable = _BitsTable()
    stages: Annotated[
        tuple[_StageTable, ...], Field(strict=False, min_length=1, max_length=MOST_STAGES)
    ]
    exclude: Annotated[tuple[_Rule, ...], Field(strict=False, max_length=MOST_RULES)] = ()

    def build(self) -> Space:
        """The space.

        Raises:
            SpaceError: its numbers contradict themselves.
        """
        return Space(
            **dict(self)
            | {
                "stages": tuple(Stage(**dict(stage)) for stage in self.stages),
                "bits": BitChoices(**dict(self.bits)),
                "exclude": tuple(rule.model_dump(exclude_unset=True) for rule in self.exclude),
            }
        )


def _space(table: SpaceTable) -> Space:
    try:
        return table.build()
    except SpaceError as error:
        raise ValueError(str(error)) from error


class _BlockBits(Schema):
    pw_w: Format = Bits.pw_w
    pw_a: Format = Bits.pw_a
    dw_w: Format = Bits.dw_w
    dw_a: Format = Bits.dw_a


class _BlockTable(Schema):
    kernel: Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
    width: Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
    bits: _BlockBits


class CandidateTable(Schema):
    """A candidate as JSON holds it."""

    resolution: Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
    stages: Annotated[
        tuple[Annotated[tuple[_BlockTable, ...], Field(strict=False, max_length=MOST_DEPTHS)], ...],
        Field(strict=False, max_length=MOST_STAGES),
    ]

    def build(self) -> Candidate:
        """The candidate."""
        return Candidate(
            self.resolution,
            tuple(
                tuple(Block(b.kernel, b.width, Bits(**dict(b.bits))) for b in stage)
                for stage in self.stages
            ),
        )


if TYPE_CHECKING:
    SpaceField = Space
    CandidateField = Candidate
else:  # a table in the file is the object itself in a schema
    SpaceField = Annotated[SpaceTable, AfterValidator(_space)]
    CandidateField = Annotated[CandidateTable, AfterValidator(CandidateTable.build)]
