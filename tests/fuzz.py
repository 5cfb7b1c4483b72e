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
import struct
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from apq.deploy.export import export
from apq.deploy.model import FP32, Model, build_network, load_model, read_candidate, save_model
from apq.deploy.verify import open_file
from apq.errors import ApqError
from apq.files import sealed
from apq.files.tensors import tensors_hash, weights_hash
from apq.hardware import COST_MODELS, LookupTable, build_table, price_space
from apq.hardware.importing import import_apq_json
from apq.images import load_images
from apq.predictor import load_columns, load_predictor, train_predictor
from apq.predictor.predictor import content_hash
from apq.samples import read_samples, write_part
from apq.search.best import read_best
from apq.search.problem import Problem
from apq.search.run import read_table, run_search
from apq.space import BitChoices, MobileNetV2, Space, Stage, load_space
from apq.supernet import Supernet, load_supernet, save_supernet
from apq.supernet.network import SupernetFile, largest

SPACE = Space(MobileNetV2(
    name="tiny", resolution=8, in_channels=1, classes=10, stem_channels=8, first_channels=8,
    head_channels=16,
    stages=(
        Stage(8, 1, depth=(1, 2), kernel=(3, 5), expand=(2, 3), width_step=8),
        Stage(16, 2, depth=(1,), kernel=(3,), expand=(2, 4), width_step=8),
    ),
    bits=BitChoices((4, 8, "ternary"), (8,), (4, 8), (4, 8)),
    exclude=({"kernel": 5, "dw_a_bits": 4},),
))  # fmt: skip

TOML = """
name = "mine"
resolution = 8
classes = 4
stem_channels = 8

[bits]
pw_w = [4, 8, "ternary", "po2-4"]
pw_a = ["8", 4]

[[stages]]
channels = 16
stride = 2
depth = [1, 2]
kernel = [3, 5]
expand = [2, 4]

[[exclude]]
kernel = 5
pw_w_bits = "ternary"
"""

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


class Formula:
    """An accuracy by formula."""

    def __call__(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = 0.5 + 0.4 * (1 - np.exp(-genes.sum(axis=1) / 8))
        return mean, np.full(len(genes), 0.01)


@dataclass
class Artefact:
    """A file, what reads it, and how it carries JSON.

    ``texts`` lists the JSON texts inside, ``put`` writes the file with others in their place,
    ``seal`` gives them a checksum that fits.
    """

    name: str
    path: Path
    load: Callable[[Path], Any]
    texts: Callable[[bytes], dict[str, str]] | None = None
    put: Callable[[Path, bytes, dict[str, str]], None] | None = None
    seal: Callable[[bytes, dict[str, str]], dict[str, str]] | None = None
    by_hand: bool = False
    original: bytes = field(init=False)
    content: Any = field(init=False)

    def __post_init__(self) -> None:
        self.original = self.path.read_bytes()
        self.content = self.load(self.path)


# ---- what a loaded artefact is ------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Equal for equal contents, bit by bit."""
    return json.dumps(value, sort_keys=True, default=str)


def said(metadata: dict[str, Any]) -> Any:
    """What a file says, its hashes aside, under whatever name a mutant left them."""
    hashes = ("checksum", "tensors", "table")
    return plain({k: v for k, v in metadata.items() if not get_close_matches(k, hashes)})


def supernet_content(path: Path) -> Any:
    file = load_supernet(path)
    state = tensors_hash(file.network.state_dict())
    return plain(file.network.space.to_dict()), file.mean, file.std, state, said(file.metadata)


def model_content(path: Path) -> Any:
    model = load_model(path)
    state = tensors_hash(model.network.state_dict())
    return (
        plain(model.space.to_dict()), model.candidate, model.scheme, model.mean, model.std,
        model.classes, state, said(model.metadata),
    )  # fmt: skip


def samples_content(path: Path) -> Any:
    samples = read_samples(path)
    return samples.frame.to_json(), samples.genes.tobytes(), said(samples.metadata)


def predictor_content(path: Path) -> Any:
    predictor = load_predictor(path)
    genes = predictor.space.sample(8, np.random.default_rng(0))
    told = plain(dict(predictor.report)), plain(predictor.features.to_dict())
    return [a.tobytes() for a in predictor.predict(genes)], told


def best_content(path: Path) -> Any:
    best = read_best(path)
    assert read_candidate(path).candidate == best.candidate
    return said(best.said), best.space.fingerprint


def front_content(path: Path) -> Any:
    table = read_table(path, SPACE, ["size_mb"])
    found = table.schema.metadata
    return table.to_pandas().to_json(), said({k.decode(): v.decode() for k, v in found.items()})


def lut_content(path: Path) -> Any:
    table = LookupTable.read(path)
    prices = {k: v.tobytes() for k, v in table.prices.items()}
    return table.name, table.layers.tobytes(), prices, table.leaves_out, plain(table.header)


def space_content(path: Path) -> Any:
    return plain(load_space(str(path)).to_dict())


def export_content(path: Path) -> Any:
    runner, _ = open_file(path, {})
    return runner(np.ones((1, 1, 8, 8), dtype=np.float32)).tobytes()


def candidate_content(path: Path) -> Any:
    return read_candidate(path)


def columns_content(path: Path) -> Any:
    return plain(load_columns(str(path)).to_dict())


def apq_table_content(path: Path) -> Any:
    table = import_apq_json(path)
    return table.layers.tobytes(), table.prices["latency_ms"].tobytes()


# ---- JSON inside files --------------------------------------------------------------------------


def header_texts(data: bytes) -> dict[str, str]:
    (length,) = struct.unpack("<Q", data[:8])
    texts: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return texts


def put_header(path: Path, data: bytes, texts: dict[str, str]) -> None:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length]) | {"__metadata__": texts}
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + length :])


def seal_header(_: bytes, texts: dict[str, str]) -> dict[str, str]:
    data = {k: json.loads(v) for k, v in texts.items()}
    return {k: json.dumps(v) for k, v in sealed(data).items()}


def seal_predictor(data: bytes, texts: dict[str, str]) -> dict[str, str]:
    about = json.loads(texts["apq-predictor"])
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        Path(file.name).write_bytes(data)
        about["hash"] = content_hash(about, load_file(file.name))
    return {"apq-predictor": json.dumps(about)}


def parquet_texts(data: bytes) -> dict[str, str]:
    metadata = pq.read_schema(pa.BufferReader(data)).metadata
    return {k.decode(): v.decode() for k, v in metadata.items()}


def put_parquet(path: Path, data: bytes, texts: dict[str, str]) -> None:
    table = pq.read_table(pa.BufferReader(data)).replace_schema_metadata(texts)
    pq.write_table(table, path, write_page_checksum=True)


def seal_part(_: bytes, texts: dict[str, str]) -> dict[str, str]:
    return {"apq": json.dumps(sealed(json.loads(texts["apq"])))}


def seal_front(_: bytes, texts: dict[str, str]) -> dict[str, str]:
    return {k: str(v) for k, v in sealed(texts).items()}


def put_text(path: Path, _: bytes, texts: dict[str, str]) -> None:
    path.write_text(texts["all"], encoding="utf-8")


def seal_text(_: bytes, texts: dict[str, str]) -> dict[str, str]:
    return {"all": json.dumps(sealed(json.loads(texts["all"])))}


# ---- the artefacts ------------------------------------------------------------------------------


def make_samples(folder: Path, precision: str) -> Path:
    genes = SPACE.sample(200, np.random.default_rng(1))
    if precision == "fp32":
        values = {k: v for k, v in SPACE.values(genes).items() if not k.endswith("bits")}
        genes = SPACE.from_values(values)
    genes = np.unique(genes, axis=0)[:24]
    n, mean = len(genes), Formula()(genes)[0]
    quantized = precision == "quantized"
    how = {"scheme": "uniform", "finetune_steps": 2, "batch": 8, "lr": 0.002}
    measured = {
        "accuracy": mean, "loss": 1 - mean, "scheme": ["uniform" if quantized else None] * n,
        "finetune_steps": [2 * quantized] * n, "images": [100] * n, "seed": [0] * n,
        "seconds": [0.1] * n,
    }  # fmt: skip
    about = {
        "supernet": "abc", "images": "def", "image_set": "digits", "split": "validation",
        "validation_images": 100, "drawn": False, "calibration_images": 50, "seed": 0,
        "precision": precision, "quantization": how if quantized else None,
    }  # fmt: skip
    path = folder / f"{precision}.parquet"
    write_part(path, SPACE, genes, measured, precision, about)
    return path


def make_model(path: Path, supernet: SupernetFile, scheme: str) -> Path:
    candidate = largest(SPACE)
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    subnet = supernet.network.subnet(candidate).eval()
    network = build_network(SPACE, candidate, scheme, subnet, images)
    about = {
        "recipe": {"epochs": 1, "scheme": scheme}, "supernet": supernet.hash,
        "accuracy": {
            "before": 0.3, "epochs": [0.5, 0.6], "best_epoch": 2, "after": 0.6, "test": 0.58,
            "predicted": 0.61, "predicted_spread": None,
            "cost": {"wall_s": 1.5, "cpu_s": 1.0, "device": "CPU, 1 cores"},
        },
        "costs": {"size_mb": 0.01}, "devices": ["built in"],
        "images": {"name": "digits", "digest": "def"},
    }  # fmt: skip
    names = tuple(str(i) for i in range(10))
    made = Model(network.eval(), SPACE, candidate, scheme, (0.5,), (0.25,), names, about)
    save_model(path, made)
    return path


def make_artefacts(folder: Path) -> list[Artefact]:
    """One of each kind; takes a few seconds."""
    torch.manual_seed(0)
    supernet = folder / "supernet.safetensors"
    images = load_images("digits", 8, 1)
    recipe = {"epochs": 1.0, "phases": ["largest", "kernel"], "lr": 0.1}
    save_supernet(
        supernet, Supernet(SPACE),
        {
            "mean": images.mean, "std": images.std, "image_set": "digits", "recipe": recipe,
            "images": images.digest(), "start_from": [], "steps": 9, "seconds": 1.0,
            "channels_sorted": False, "validation_accuracy": {"smallest": 0.5, "largest": 0.6},
        },
    )  # fmt: skip
    fp32, quantized = make_samples(folder, "fp32"), make_samples(folder, "quantized")
    predictor = folder / "predictor.safetensors"
    train_predictor(
        read_samples(fp32), read_samples(quantized), members=1, compare=False
    ).save(predictor)  # fmt: skip
    priced = price_space(SPACE)
    problem = Problem(priced, Formula(), ("accuracy", "size_mb"), made_from={"predictor": "abc"})
    run_search(folder / "run", problem, "random", 300)
    front = folder / "run/front.parquet"
    costs = set(pq.read_schema(front).names) & {"size_mb"}
    assert costs, "the front has the cost that is read"
    lut, toml = folder / "device.csv", folder / "mine.toml"
    build_table(SPACE, COST_MODELS["bitfusion-apq"]()).write(lut)
    toml.write_text(TOML)
    loaded = load_supernet(supernet)
    exported, alone = folder / "m.plain.safetensors", folder / "candidate.json"
    export(load_model(make_model(folder / "m.safetensors", loaded, "uniform")), exported, "torch")
    alone.write_text(json.dumps(largest(SPACE).to_dict()))
    theirs, columns = folder / "theirs.json", folder / "columns.toml"
    rows = {f"(16, {o}, 8, 3, 1, 1, 1)-W4A8": {"latency": 0.1, "energy": 1.5} for o in (8, 16)}
    theirs.write_text(json.dumps(rows | {"head": {"latency": 1, "energy": 2}}))
    columns.write_text(
        'target = "top1"\nchoices = ["ks_*", "e_*"]\nunit = 0.01\ncosts = ["macs"]\n'
    )
    tensors = {"texts": header_texts, "put": put_header, "seal": seal_header}
    part = {"texts": parquet_texts, "put": put_parquet, "seal": seal_part}
    text = {"texts": lambda data: {"all": data.decode()}, "put": put_text, "seal": seal_text}
    return [
        Artefact("supernet", supernet, supernet_content, **tensors),
        Artefact("fp32 samples", fp32, samples_content, **part),
        Artefact("quantized samples", quantized, samples_content, **part),
        Artefact("predictor", predictor, predictor_content, **tensors | {"seal": seal_predictor}),
        Artefact("best.json", folder / "run/best.json", best_content, **text),
        Artefact("front", front, front_content, **part | {"seal": seal_front}),
        Artefact("model", make_model(folder / "m.safetensors", loaded, "uniform"), model_content,
                 **tensors),
        Artefact("float model", make_model(folder / "f.safetensors", loaded, FP32), model_content,
                 **tensors),
        Artefact("export", exported, export_content, **tensors),
        Artefact("candidate", alone, candidate_content, **text, by_hand=True),
        Artefact("APQ's table", theirs, apq_table_content, **text, by_hand=True),
        Artefact("columns", columns, columns_content, by_hand=True),
        Artefact("table", lut, lut_content, by_hand=True),
        Artefact("space", toml, space_content, by_hand=True),
    ]  # fmt: skip


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
