"""Arm Vela's ``--verbose-performance``: the CSV per layer, with its newer and older header."""

from __future__ import annotations

from apq.errors import TableError
from apq.hardware.profiles.base import Profile, Reader, Timed, named, number, rows_of


def _read(text: str, where: str) -> Profile:
    lines = text.split("\n")
    if lines[0].startswith("experiment,"):
        rows, _ = rows_of(lines, where, ("inference_time", "core_clock", "cycles_total"))
        took = number(rows[0]["inference_time"], "inference_time", where) * 1e3
        raise TableError(
            f"{where} is Vela's summary of a whole network ({took:.4g} ms), which is no table of "
            "layers. Import the per-layer CSV (vela --verbose-performance), or write the figure "
            "beside the network's choices in a CSV for `apq lut calibrate --networks`."
        )
    rows, _ = rows_of(lines, where, ("NNG Operator", "Op Cycles", "MAC Count", "Name"))
    found = []
    for row in rows:
        number(row["MAC Count"], "MAC Count", where)
        named(row, "NNG Operator", where)
        cycles = number(row["Op Cycles"], "Op Cycles", where)
        found.append(Timed(named(row, "Name", where), cycles=cycles))
    return Profile(tuple(found), "cycles of the core's clock, estimated by the compiler")


READER = Reader(
    "Arm Vela",
    lambda text: "NNG Operator" in text.split("\n")[0] or text.startswith("experiment,"),
    _read,
)
