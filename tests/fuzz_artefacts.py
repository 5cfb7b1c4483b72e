"""One small real file of every kind apq reads, for :mod:`fuzz` to break."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from profile_texts import TEXTS
from safetensors.torch import load_file

from apq.deploy.export import export
from apq.deploy.model import FP32, Model, build_network, load_model, read_candidate, save_model
from apq.deploy.verify import open_file
from apq.files import sealed
from apq.files.tensors import tensors_hash
from apq.hardware import COST_MODELS, LookupTable, build_table, price_space
from apq.hardware.importing import import_apq_json
from apq.hardware.profiles import import_profiles, kind_of
from apq.images import load_images
from apq.predictor import load_columns, load_predictor, train_predictor
from apq.predictor.predictor import content_hash
from apq.samples import read_samples, write_part
from apq.search.best import read_best
from apq.search.problem import Problem
from apq.search.run import read_table, run_search
from apq.space import BitChoices, MobileNetV2, Space, Stage, load_space
from apq.supernet import Supernet, load_supernet, save_supernet
from apq.supernet.files import SupernetFile
from apq.supernet.supernet import largest
from apq.supernet.trace import trace
from apq.training.loop import Training, sgd

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


def checkpoint_content(path: Path) -> Any:
    model = training_model()
    training = Training(model, sgd(model, 0.1), path, {"seed": 0}, best_of(model))
    momentum = [tensors_hash(s) for s in training.optimiser.state.values()]
    kept = {name: tensors_hash(held) for name, held in training.kept.items()}
    state = tensors_hash(model.state_dict())
    return state, momentum, kept, training.step, training.scores, training.cost()["cpu_s"] // 1000


def profile_content(path: Path) -> Any:
    table = import_profiles([path], kind_of(path) or "none", 500.0)
    return table.layers.tobytes(), {k: v.tobytes() for k, v in table.prices.items()}


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


def training_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))


def best_of(model: torch.nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    return {"best": model.state_dict()}


def make_checkpoint(path: Path) -> Path:
    """A training of three steps."""
    model = training_model()
    training = Training(model, sgd(model, 0.1), path, {"seed": 0}, best_of(model))

    def step(_: int) -> float:
        loss = model(torch.ones(2, 3)).square().mean()
        training.backward(loss)
        return float(loss.detach())

    training.run(3, lambda _: 0.1, step)
    training.scores = [0.25, 0.5]
    training.kept = {"best": {k: v.clone() for k, v in model.state_dict().items()}}
    training.save()
    return path


def make_traced(path: Path) -> Path:
    """The supernet of a network of one's own, with a layer that only torch runs."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, padding=1),
        torch.nn.GELU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3),
    )  # fmt: skip
    traced = trace(network, torch.zeros(1, 1, 8, 8), name="mine")
    save_supernet(path, traced.supernet, {"mean": (0.5,), "std": (0.25,)})
    return path


def make_profiles(folder: Path) -> list[Artefact]:
    """What each device tool writes."""
    made = []
    for kind, text in TEXTS.items():
        path = folder / f"{kind}.{'json' if text[0] in '[{' else 'csv'}"
        path.write_text(text)
        texts = {"texts": lambda data: {"all": data.decode()}, "put": put_text, "seal": seal_text}
        told = texts if path.suffix == ".json" else {}
        made.append(Artefact(f"{kind} profile", path, profile_content, **told, by_hand=True))
    return made


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
        Artefact("checkpoint", make_checkpoint(folder / "c.safetensors"), checkpoint_content,
                 **tensors),
        Artefact("own network", make_traced(folder / "t.safetensors"), supernet_content, **tensors),
        *make_profiles(folder),
    ]  # fmt: skip
