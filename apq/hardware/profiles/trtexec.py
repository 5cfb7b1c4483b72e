"""TensorRT's ``trtexec --exportProfile``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from apq.errors import TableError
from apq.files import Document, Schema
from apq.files.reading import Items, parse_json
from apq.hardware.profiles.base import Profile, Reader, Timed

Ms = Annotated[float, Field(ge=0, le=1e9)]


class Entry(Schema):
    """One layer."""

    model_config = Schema.model_config | {"extra": "ignore"}

    name: Annotated[str, Field(min_length=1, max_length=10_000)]
    timeMs: Ms
    averageMs: Ms
    medianMs: Ms | None = None


class Trace(Document):
    """The number of runs, then a layer each."""

    what = "what trtexec --exportProfile writes"
    remedy = "Run trtexec again."
    error = TableError

    count: Annotated[int, Field(ge=1)]
    layers: Annotated[Items[Entry], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _list(cls, data: Any) -> Any:
        if not isinstance(data, list) or not data or not isinstance(data[0], dict):
            raise ValueError("it is a list that begins with the number of runs")
        return {"count": data[0].get("count"), "layers": data[1:]}


def _read(text: str, where: str) -> Profile:
    trace = parse_json(text, Trace, where)
    for entry in trace.layers:
        if abs(entry.averageMs * trace.count - entry.timeMs) > 0.02 * entry.timeMs + 1e-3:
            raise TableError(
                f"{where}: {entry.name} took {entry.timeMs:g} ms in {trace.count} runs, and "
                f"{entry.averageMs:g} ms each: one of these is not what trtexec wrote"
            )
    rows = tuple(
        Timed(e.name, e.averageMs if e.medianMs is None else e.medianMs) for e in trace.layers
    )
    return Profile(rows, f"milliseconds, mean or median over {trace.count} runs")


READER = Reader(
    "trtexec", lambda text: text.lstrip().startswith("[") and '"averageMs"' in text, _read
)
