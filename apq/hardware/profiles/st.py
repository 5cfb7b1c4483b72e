"""ST Edge AI's ``validate`` on a board: the inspector's text, layer by layer."""

from __future__ import annotations

import re

from apq.errors import TableError
from apq.hardware.profiles.base import Profile, Reader, Timed, number

ROW = re.compile(r"\s*(\d+)\s+(\d+)\s+(.+?)\s+\(([\d,\s]+)\)\s+(\S+)\s*")


def _read(text: str, where: str) -> Profile:
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith("Clayer"))
    if lines[start].split()[-1] != "ms":
        raise TableError(f"{where}: the last column of its layers is not ms")
    found = []
    for line in lines[start + 1 :]:
        if not line.strip() or set(line.strip()) <= {"-", "="}:
            continue
        match = ROW.fullmatch(line)
        if match is None:
            break
        found.append(Timed(match[3], number(match[5], "ms", where)))
    if not found:
        raise TableError(
            f"{where} has the inspector's head and no row of a layer; save the whole report. Its "
            "duration of the whole network belongs into a CSV for `apq lut calibrate --networks`."
        )
    return Profile(tuple(found), "milliseconds, mean over the tool's runs")


READER = Reader(
    "ST Edge AI inspector",
    lambda text: any(line.lstrip().startswith("Clayer") for line in text.split("\n")),
    _read,
)
