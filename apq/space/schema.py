"""Field types for spaces and candidates in the schemas of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainValidator, ValidationError

from apq.errors import SpaceError
from apq.files.reading import in_words
from apq.space.base import Space
from apq.space.candidate import Candidate
from apq.space.tables import build, family_of, table_of


def _space(data: Any) -> Space:
    try:
        kind, rest = family_of(data)
        return Space(build(kind, table_of(kind).model_validate(rest)))
    except ValidationError as wrong:
        raise ValueError(in_words(wrong, table_of(kind))) from None
    except SpaceError as error:
        raise ValueError(str(error)) from error


def _candidate(data: Any) -> Candidate:
    try:
        return Candidate.from_dict(data)
    except SpaceError as error:
        raise ValueError(str(error)) from error


if TYPE_CHECKING:
    SpaceField = Space
    CandidateField = Candidate
else:  # a table in the file is the object itself in a schema
    SpaceField = Annotated[Any, PlainValidator(_space)]
    CandidateField = Annotated[Any, PlainValidator(_candidate)]
