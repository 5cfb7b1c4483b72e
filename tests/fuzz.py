"""Broken files against the readers: a mutant is refused in words or is what it was.

    python tests/fuzz.py --mutants 2000 --seed 0

Small real artefacts are made once, changed in one place, and loaded with what the commands load
them with. Outcomes:

    refused     an ApqError
    same        loads to what the original holds (the change was in what nobody reads)
    other       loads to something else, and may: text that people edit by hand, or a change that
                was sealed with a new checksum as a program of one's own would
    silent      loads to something else although nothing should: a finding
    traceback   any other exception: a finding
"""

from __future__ import annotations

import argparse
import json
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuzz_artefacts import Artefact, header_texts, make_artefacts, parquet_texts
from safetensors.torch import load_file, save_file

from apq.errors import ApqError
from apq.files import sealed
from apq.files.tensors import tensors_hash, weights_hash
from apq.predictor.predictor import content_hash

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**30), 3.7, 0.5, -0.0, 1e308, "",
    "x", "3", "__del__", "nan", "\x00", "🦆" * 50, "x" * 100_000, [], {}, [[]], [None], {"a": 1},
    {"__class__": 1}, [1] * 100_000, ["8"] * 5_000, float("nan"), float("inf"), -float("inf"),
    "@deep", "@deeper", "@digits", "@huge",
)  # fmt: skip
RAW = {
    '"@deep"': "[" * 100_000 + "]" * 100_000, '"@deeper"': '{"a":' * 500 + "1" + "}" * 500,
    '"@digits"': "9" * 5_000, '"@huge"': "1e999",
}  # fmt: skip
"""What JSON text can say and Python would not write."""


# ---- mutations: each writes ``path`` and says what it did ----------------------------------------


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here]
    if isinstance(value, dict):
        found += [p for k, v in value.items() for p in places(v, (*here, k))]
    if isinstance(value, list):
        found += [p for i, v in enumerate(value) for p in places(v, (*here, i))]
    return found


def json_mutant(text: str, rng: np.random.Generator, others: list[Any]) -> tuple[str, str]:
    """A JSON text with one value dropped, doubled, renamed or replaced; and what happened."""
    data = json.loads(text)
    every = places(data)
    place = every[rng.integers(len(every))]
    odd = ODD[rng.integers(len(ODD))]
    if rng.random() < 0.2:
        odd = others[rng.integers(len(others))]
    if not place:
        data, did = odd, f"all = {str(odd)[:40]!r}"
    else:
        parent = data
        for step in place[:-1]:
            parent = parent[step]
        way = rng.integers(6)
        if way == 0:
            parent.pop(place[-1])
            did = f"dropped {place}"
        elif way == 1 and isinstance(parent, dict):
            parent[f"{place[-1]}x"] = parent.pop(place[-1])
            did = f"renamed {place}"
        elif way == 1:
            parent.insert(0, parent[place[-1]])
            did = f"doubled {place}"
        elif way == 2 and isinstance(parent, dict):
            parent["__del__"] = odd
            did = f"added __del__ beside {place}"
        elif way == 3 and isinstance(parent[place[-1]], int | float):
            parent[place[-1]] = parent[place[-1]] * [-1, 10, 0.5, 1e6][rng.integers(4)]
            did = f"{place} = {parent[place[-1]]}"
        else:
            parent[place[-1]] = odd
            did = f"{place} = {str(odd)[:40]!r}"
    out = json.dumps(data)
    for mark, raw in RAW.items():
        out = out.replace(mark, raw)
    return out, did


def mutate_json(
    art: Artefact, path: Path, rng: np.random.Generator, all_of: list[Artefact]
) -> tuple[str, bool]:
    assert art.texts
    assert art.put
    assert art.seal
    texts = art.texts(art.original)
    donor = all_of[rng.integers(len(all_of))]
    others: list[Any] = [0]
    if donor.texts:
        for text in donor.texts(donor.original).values():
            try:
                data = json.loads(text)
            except ValueError:
                continue
            for place in places(data)[:200]:
                value = data
                for step in place:
                    value = value[step]
                others.append(value)
    key = list(texts)[rng.integers(len(texts))]
    try:
        texts[key], did = json_mutant(texts[key], rng, others)
    except ValueError:  # a text that is no JSON
        texts[key], did = str(ODD[rng.integers(len(ODD))]).replace("\x00", "0"), f"{key} = odd"
    again = False
    if rng.random() < 0.5:
        try:
            texts, again = art.seal(art.original, texts), True
        except Exception:  # what cannot be sealed stays as it is
            again = False
    art.put(path, art.original, texts)
    return f"{key}: {did}" + (", sealed again" if again else ""), again


def mutate_bytes(art: Artefact, path: Path, rng: np.random.Generator) -> str:
    data = bytearray(art.original)
    way = rng.integers(8)
    if way < 5:  # anywhere, or where headers and footers are
        span = {3: (0, min(4096, len(data))), 4: (max(0, len(data) - 8192), len(data))}
        low, high = span.get(int(way), (0, len(data)))
        spots = rng.integers(low, high, size=rng.integers(1, 4))
        for spot in spots:
            data[spot] ^= 1 << int(rng.integers(8))
        did = f"flipped bits at {spots.tolist()}"
    elif way == 5:
        cut = int(rng.integers(len(data)))
        del data[cut:]
        did = f"cut after {cut} bytes"
    elif way == 6:
        start = int(rng.integers(len(data)))
        stop = min(len(data), start + int(rng.integers(1, 64)))
        data[start:stop] = bytes(stop - start)
        did = f"zeroed {start}:{stop}"
    else:
        start = int(rng.integers(len(data)))
        data[start:start] = rng.bytes(int(rng.integers(1, 16)))
        did = f"inserted bytes at {start}"
    path.write_bytes(data)
    return did


def mutate_tensors(art: Artefact, path: Path, rng: np.random.Generator) -> str:
    path.write_bytes(art.original)
    tensors, texts = load_file(path), header_texts(art.original)
    name = sorted(tensors)[rng.integers(len(tensors))]
    t = tensors[name]
    way = rng.integers(6)
    if way == 0:
        del tensors[name]
    elif way == 1:
        tensors[f"{name}_"] = tensors.pop(name)
    elif way == 2:
        tensors[name] = t.to([torch.float16, torch.int64, torch.float64][rng.integers(3)])
    elif way == 3:
        tensors[name] = t[None].contiguous()
    elif way == 4:
        tensors[name] = t.flatten()[:0].contiguous()
    else:
        tensors["__del__"] = torch.zeros(3)
    if "apq-predictor" in texts:
        about = json.loads(texts["apq-predictor"])
        texts = {"apq-predictor": json.dumps(about | {"hash": content_hash(about, tensors)})}
    else:
        data = {k: json.loads(v) for k, v in texts.items()} | {"tensors": tensors_hash(tensors)}
        data |= {"hash": weights_hash(tensors)} if "hash" in data else {}
        texts = {k: json.dumps(v) for k, v in sealed(data).items()}
    save_file(tensors, path, metadata=texts)
    return f"tensor {name}: way {way}"


def mutate_columns(art: Artefact, path: Path, rng: np.random.Generator) -> str:
    table = pq.read_table(pa.BufferReader(art.original))
    name = table.column_names[rng.integers(table.num_columns)]
    i, way = table.column_names.index(name), rng.integers(5)
    if way == 0:
        table = table.drop_columns([name])
    elif way == 1:
        values = pa.array([str(v) for v in table[name].to_pylist()])
        table = table.set_column(i, name, values)
    elif way == 2:
        table = table.set_column(i, name, pa.array([[1, 2]] * len(table)))
    elif way == 3:
        table = table.set_column(i, name, pa.nulls(len(table), table[name].type))
    else:
        table = table.slice(0, int(rng.integers(2)) * (len(table) - 1))
    pq.write_table(table, path, write_page_checksum=True)
    return f"column {name}: way {way}"


def mutate_lines(art: Artefact, path: Path, rng: np.random.Generator) -> str:
    """A cell of a table or a value of a TOML file becomes something else."""
    lines = art.original.decode().splitlines()
    row = int(rng.integers(len(lines)))
    odd = ODD[rng.integers(len(ODD))]
    word = {"@digits": "9" * 5_000, "@deep": "[" * 100_000, "@huge": "1e999"}.get(
        odd if isinstance(odd, str) else "", odd if isinstance(odd, str) else json.dumps(odd)
    )
    mark = "=" if art.path.suffix == ".toml" else ":" if lines[row].startswith("#") else ","
    cells = lines[row].split(mark)
    cells[rng.integers(len(cells))] = f" {word}"
    lines[row] = mark.join(cells)
    path.write_bytes("\n".join(lines).encode() + b"\n")
    return f"line {row}: {str(word)[:40]!r}"


def mutant(art: Artefact, path: Path, rng: np.random.Generator, all_of: list[Artefact]) -> Any:
    """Write one; returns what it did, and whether it may load to something else."""
    way = rng.random()
    if way < 0.03:
        donor = all_of[rng.integers(len(all_of))]
        path.write_bytes(donor.original)
        return f"the bytes of {donor.name}", art.by_hand or donor is art or donor.load is art.load
    if art.by_hand and art.texts and way < 0.6:
        return mutate_json(art, path, rng, all_of)[0], True
    if art.by_hand:
        act = mutate_lines if way < 0.6 and not art.texts else mutate_bytes
        return act(art, path, rng), True
    if way < 0.5:
        return mutate_json(art, path, rng, all_of)
    if way < 0.65 and art.texts is header_texts:
        return mutate_tensors(art, path, rng), False
    if way < 0.65 and art.texts is parquet_texts:
        return mutate_columns(art, path, rng), False
    return mutate_bytes(art, path, rng), False


@dataclass
class Findings:
    """Outcomes counted by artefact, and what was found, in words."""

    counts: dict[str, Counter[str]]
    found: list[str]


def fuzz(mutants: int, seed: int, folder: Path) -> Findings:
    """Make artefacts in a folder and load that many mutants of them."""
    artefacts = make_artefacts(folder)
    counts: dict[str, Counter[str]] = {art.name: Counter() for art in artefacts}
    found = []
    for number in range(mutants):
        rng = np.random.default_rng([seed, number])
        art = artefacts[number % len(artefacts)]
        path = folder / f"mutant{art.path.suffix}"
        did, free = mutant(art, path, rng, artefacts)
        try:
            outcome = "same" if art.load(path) == art.content else "other" if free else "silent"
            why = ""
        except ApqError as error:
            outcome, why = "refused", str(error)
            assert why, "a refusal says something"
        except Exception:
            outcome, why = "traceback", traceback.format_exc(limit=-4)
        counts[art.name][outcome] += 1
        if outcome in ("silent", "traceback"):
            found.append(f"#{number} {art.name}, {did}: {outcome}\n{why}")
    return Findings(counts, found)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Load broken files; see the top of this file.")
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = fuzz(told.mutants, told.seed, Path(folder))
    print("\n".join(result.found))
    kinds = ("refused", "same", "other", "silent", "traceback")
    total: Counter[str] = Counter()
    for name, count in result.counts.items():
        print(f"{name:<18}", *(f"{kind} {count[kind]:<5}" for kind in kinds))
        total += count
    print(f"{'all':<18}", *(f"{kind} {total[kind]:<5}" for kind in kinds))


if __name__ == "__main__":
    main()
