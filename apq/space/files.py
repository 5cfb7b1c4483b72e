"""Spaces and candidates from files, names and plain data, with errors a person can act on."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from apq.errors import SpaceError, choose
from apq.space.base import ATTRIBUTES, BIT_ATTRIBUTES, BIT_FIELDS, BitChoices, Space, Stage
from apq.space.candidate import Candidate
from apq.space.formats import Choice, choice_of, code_of
from apq.space.presets import PRESETS

_LISTS = {"depth", "kernel", *BIT_FIELDS}


def load_space(name_or_path: str) -> Space:
    """A preset by name, or a TOML file by path (anything that ends in ``.toml``).

    Raises:
        ApqError: unknown preset.
        SpaceError: the file is missing, is not TOML, or does not describe a space.
    """
    if not name_or_path.endswith(".toml"):
        return PRESETS[choose(name_or_path, PRESETS, "space")]()
    path = Path(name_or_path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SpaceError(f"cannot read space file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpaceError(f"{path} is not valid TOML: {error}") from error
    try:
        return space_from_dict(data)
    except SpaceError as error:
        raise SpaceError(f"{path}: {error}") from error


def read_candidate(path: Path) -> tuple[Candidate, dict[str, Any]]:
    """Read ``best.json`` of a search, or a JSON file that is a candidate or has one.

    Returns:
        The candidate, and all that the file says (``best.json``: its space, costs, predictions).

    Raises:
        SpaceError: missing, not JSON, or no candidate in it.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        return Candidate.from_dict(data.get("candidate", data)), data
    except FileNotFoundError as error:
        raise SpaceError(
            f"no candidate at {path}. Search one: apq search --latency-ms 0.5 --out {path.parent}"
        ) from error
    except OSError as error:
        raise SpaceError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, SpaceError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise SpaceError(
            f"{path} holds no candidate: {why}. "
            "Give the best.json of a search, or the value of its 'candidate' alone."
        ) from error


def space_from_dict(data: Mapping[str, Any]) -> Space:
    """Build a :class:`Space` from plain data; the one reader for TOML, JSON and Parquet metadata.

    Raises:
        SpaceError: a field is unknown, missing, or of the wrong type or range.
    """
    values = _values(Space, data, "the space")
    stages = values["stages"]
    if not isinstance(stages, list):
        raise SpaceError("stages must be a list of tables ([[stages]] in TOML)")
    values["stages"] = tuple(
        Stage(**_values(Stage, _table(s, f"stages[{i}]"), f"stages[{i}]"))
        for i, s in enumerate(stages)
    )
    if "bits" in values:
        values["bits"] = BitChoices(**_values(BitChoices, _table(values["bits"], "bits"), "bits"))
    rules = values.get("exclude", [])
    if not isinstance(rules, list):
        raise SpaceError("exclude must be a list of tables ([[exclude]] in TOML)")
    for i, rule in enumerate(rules):
        for key, value in _table(rule, f"exclude[{i}]").items():
            if key not in ATTRIBUTES:
                raise SpaceError(_unknown(key, ATTRIBUTES, f"exclude[{i}]"))
            read = _format if key in BIT_ATTRIBUTES else _integer
            read(value, f"exclude[{i}].{key}")
    values["exclude"] = tuple(dict(rule) for rule in rules)
    return Space(**values)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SpaceError(f"{where} must be a table, got {value!r}")
    return value


def _unknown(key: str, known: tuple[str, ...] | list[str], where: str) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown field {key!r} in {where}.{hint} Allowed: {', '.join(known)}."


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpaceError(f"{where} must be a whole number, got {value!r}")
    return value


def _format(value: Any, where: str) -> Choice:
    try:
        return choice_of(code_of(value))
    except SpaceError as error:
        raise SpaceError(f"{where}: {error}") from error


def _values(cls: type, data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check names and types of a table's fields against a dataclass."""
    known = {f.name: f for f in fields(cls)}
    out: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise SpaceError(_unknown(key, list(known), where))
        if key in ("stages", "bits", "exclude"):
            out[key] = value
        elif key == "name":
            if not isinstance(value, str) or not value.strip():
                raise SpaceError(f"{key} in {where} must be text, got {value!r}")
            out[key] = value
        elif key in _LISTS or key == "expand":
            if not isinstance(value, list) or not value:
                raise SpaceError(f"{key} in {where} must be a list of numbers, got {value!r}")
            if key == "expand":
                if any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
                    raise SpaceError(f"expand in {where} must be a list of numbers, got {value!r}")
                out[key] = tuple(float(v) for v in value)
            else:
                read = _format if key in BIT_FIELDS else _integer
                out[key] = tuple(read(v, f"{key} in {where}") for v in value)
        else:
            out[key] = _integer(value, f"{key} in {where}")
    missing = [name for name, f in known.items() if f.default is MISSING and name not in out]
    if missing:
        raise SpaceError(f"{where} lacks {', '.join(missing)}")
    return out
