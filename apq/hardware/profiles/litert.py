"""LiteRT's ``benchmark_model --enable_op_profiling=true --profiling_output_csv_file=FILE``."""

from __future__ import annotations

from apq.errors import TableError
from apq.hardware.profiles.base import Profile, Reader, Timed, named, number, rows_of


def _read(text: str, where: str) -> Profile:
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("node type"))
    if not any("Run Order" in line for line in lines[:start]):
        raise TableError(f"{where}: its first section is not the one in run order; run it again")
    end = next(
        (i for i in range(start, len(lines)) if not lines[i].strip() or lines[i][0] == "="),
        len(lines),
    )
    need = ("node type", "first", "avg_ms", "times called", "name")
    rows, comma = rows_of(lines[start:end], where, need)
    found = []
    for row in rows:
        for column in ("first", "times called"):
            number(row[column], column, where, comma)
        for column in ("%", "cdf%"):
            if column in row and not row[column].endswith("%"):
                raise TableError(f"{where}: {column} is {row[column]!r}, which is no share")
        named(row, "node type", where)
        took = number(row["avg_ms"], "avg_ms", where, comma)
        found.append(Timed(named(row, "name", where), took))
    return Profile(tuple(found), "milliseconds, mean over the tool's runs")


READER = Reader(
    "LiteRT benchmark_model",
    lambda text: any(line.startswith("node type") for line in text.split("\n")),
    _read,
)
