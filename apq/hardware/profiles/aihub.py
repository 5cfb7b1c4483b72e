"""Qualcomm AI Hub's profile (its documented fields)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from apq.errors import TableError
from apq.files import Document, Schema
from apq.files.reading import Items, parse_json
from apq.hardware.profiles.base import Profile, Reader, Timed


class Operator(Schema):
    """One layer, in microseconds."""

    model_config = Schema.model_config | {"extra": "ignore"}

    name: Annotated[str, Field(min_length=1, max_length=10_000)]
    execution_time: Annotated[float, Field(ge=0, le=1e12)]


class Job(Document):
    """A job on the device."""

    what = "a profile of Qualcomm AI Hub"
    remedy = "Download it again."
    error = TableError

    execution_detail: Annotated[Items[Operator], Field(min_length=1)]


def _read(text: str, where: str) -> Profile:
    job = parse_json(text, Job, where)
    rows = tuple(Timed(o.name, o.execution_time / 1e3) for o in job.execution_detail)
    return Profile(rows, "microseconds, as the service reports them")


READER = Reader("Qualcomm AI Hub", lambda text: '"execution_detail"' in text, _read)
