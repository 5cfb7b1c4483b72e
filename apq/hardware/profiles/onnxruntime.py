"""ONNX Runtime's profile (``enable_profiling``): a Chrome trace with shapes."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated

from pydantic import Field

from apq.errors import TableError
from apq.files import Document, Schema
from apq.files.reading import Items, parse_json
from apq.hardware.profiles.base import Profile, Reader, Timed
from apq.space import Layer

Shapes = list[dict[str, list[int]]]
BITS = {"float": 32, "uint8": 8, "int8": 8}
ENDS = "_kernel_time"


class Args(Schema):
    """Arguments of an operator's event."""

    model_config = Schema.model_config | {"extra": "ignore"}

    op_name: str = ""
    input_type_shape: Shapes = Field(default_factory=list)
    output_type_shape: Shapes = Field(default_factory=list)


class Event(Schema):
    """One span of time, in microseconds."""

    model_config = Schema.model_config | {"extra": "ignore"}

    cat: str
    name: Annotated[str, Field(min_length=1, max_length=10_000)]
    dur: Annotated[float, Field(ge=0, le=1e12)]
    args: Args = Field(default_factory=Args)


class Trace(Document):
    """A list of spans."""

    what = "a profile of ONNX Runtime"
    remedy = "Profile again, and end the session before the file is copied."
    error = TableError

    root = "events"

    events: Annotated[Items[Event], Field(min_length=1)]


def _read(text: str, where: str) -> Profile:
    events = parse_json(text, Trace, where).events
    took: dict[str, list[float]] = defaultdict(list)
    known: dict[str, Layer | None] = {}
    for event in events:
        if event.cat == "Node" and event.name.endswith(ENDS):
            name = event.name.removesuffix(ENDS)
            took[name].append(event.dur / 1e3)
            known[name] = _layer(event.args)
    if not took:
        raise TableError(f"{where} has no kernel times of nodes: was a network run?")
    if not any(event.name == "model_run" for event in events):
        raise TableError(f"{where} has no whole run of the network: it was cut short")
    rows = tuple(Timed(n, sum(t) / len(t), layer=known[n]) for n, t in took.items())
    return Profile(rows, "microseconds, mean over the runs in the trace")


def _layer(args: Args) -> Layer | None:
    """The layer given by shapes; None: another operator, or a non-square one."""
    ins, outs = ([next(iter(e.items())) for e in s if e] for s in
                 (args.input_type_shape, args.output_type_shape))  # fmt: skip
    if args.op_name == "Conv" and len(ins) >= 2 and outs:
        (kind, x), (_, w), (_, y) = ins[0], ins[1], outs[0]
        if len(x) != 4 or len(w) != 4 or len(y) != 4 or x[2] != x[3] or w[2] != w[3]:
            return None
        if min(*x, *w, *y) < 1 or kind not in BITS or x[1] % w[1]:
            return None
        bits, stride = BITS[kind], round(x[2] / y[2])
        return Layer("conv", x[1], w[0], x[2], x[3], w[2], stride, x[1] // w[1], bits, bits)
    if args.op_name == "Gemm" and len(ins) >= 2 and outs and len(ins[0][1]) == 2:
        (kind, x), (_, y) = ins[0], outs[0]
        if kind in BITS and min(*x, *y) >= 1:
            return Layer("linear", x[1], y[-1], 1, 1, 1, 1, 1, BITS[kind], BITS[kind])
    return None


READER = Reader(
    "ONNX Runtime", lambda text: text.lstrip().startswith("[") and '"cat"' in text[:500], _read
)
