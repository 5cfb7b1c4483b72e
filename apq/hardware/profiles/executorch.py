"""ExecuTorch's Inspector, ``save_data_to_tsv``."""

from __future__ import annotations

from apq.hardware.profiles.base import Profile, Reader, Timed, named, number, rows_of


def _read(text: str, where: str) -> Profile:
    rows, _ = rows_of(text.split("\n"), where, ("event_name", "avg (ms)"))
    found = [
        Timed(named(row, "event_name", where), number(row["avg (ms)"], "avg (ms)", where, True))
        for row in rows
        if not row["event_name"].startswith(("Method::", "Program::"))
    ]
    return Profile(tuple(found), "milliseconds, mean over the tool's runs")


READER = Reader(
    "ExecuTorch Inspector",
    lambda text: "event_name" in text.split("\n")[0] and "\t" in text.split("\n")[0],
    _read,
)
