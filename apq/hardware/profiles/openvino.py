"""OpenVINO's ``benchmark_app -report_type average_counters``."""

from __future__ import annotations

from apq.errors import TableError
from apq.hardware.profiles.base import Profile, Reader, Timed, named, number, rows_of


def _read(text: str, where: str) -> Profile:
    need = ("layerName", "execStatus", "layerType", "execType", "realTime (ms)")
    rows, comma = rows_of(text.split("\n"), where, need)
    found = [
        Timed(named(row, "layerName", where),
              number(row["realTime (ms)"], "realTime (ms)", where, comma))
        for row in rows
        if row["layerName"] != "Total" and row["execStatus"] != "NOT_RUN"
    ]  # fmt: skip
    if not found:
        raise TableError(f"{where} has no layer that was run")
    return Profile(tuple(found), "milliseconds, mean over the tool's runs")


READER = Reader("OpenVINO benchmark_app", lambda text: text.startswith("layerName"), _read)
