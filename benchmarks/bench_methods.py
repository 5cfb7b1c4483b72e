"""Every method at equal calls: winners, then what they really reach, then the table.

    python benchmarks/bench_methods.py methods.parquet
    python benchmarks/bench_methods.py passes.parquet --on-supernet --calls 100 --images CIFAR
    python benchmarks/bench_methods.py methods.parquet passes.parquet --measure --images CIFAR --workers 2
    python benchmarks/bench_methods.py methods.parquet passes.parquet --table

The first step lets every method answer every latency budget with every seed, as `apq compare` does,
a row per answer. With --on-supernet, the supernet itself scores in the predictor's place: a call is
then a network run on images, so there should be few. --measure measures every candidate that was
found, once per measuring seed, as the predictor's quantized samples were measured, into --measured.
All add to their file as they go and go on where they were. The last step prints Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from measuring import measured_rows, options, protocol_of

from apq.files.places import PREDICTOR, home, table_of
from apq.space import Space, load_space


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def find(told: argparse.Namespace) -> None:
    """Write the answers of all methods."""
    from apq.hardware import load_cost_model, price_space
    from apq.methods.compare import compare, known, read_answers, write_answers
    from apq.predictor import load_predictor
    from apq.search.many import Scenarios

    out, space = told.files[0], load_space(told.space)
    place, table = told.predictor or home(space.name) / PREDICTOR, told.lut or table_of(space.name)
    asked = {
        "space": space.fingerprint, "predictor": digest(place), "table": digest(table),
        "calls": told.calls, "pass_images": told.pass_images if told.on_supernet else 0,
    }  # fmt: skip
    earlier = read_answers(out, asked)
    if earlier is None and out.exists():
        raise SystemExit(f"{out} holds answers to something else: give another file")
    predictor = load_predictor(place, space)
    score = supernet_score(told, space) if told.on_supernet else predictor.predict
    budgets = [{"latency_ms": limit} for limit in told.latency_ms]
    priced = price_space(space, load_cost_model(str(table)))
    problems = Scenarios(priced, budgets, ("accuracy",)).problems(score)

    def keep(answers: pd.DataFrame) -> None:
        answers = with_candidates(space, answers, predictor)
        if told.on_supernet:
            ok = answers["error"].isna()
            answers.loc[ok, "supernet_passes"] = answers.loc[ok, "predictor_calls"]
        write_answers(out, asked, None, answers)
        print(f"{len(answers)} answers", flush=True)

    names = told.methods or (["spos"] if told.on_supernet else list(known()))
    compare(problems, names, told.calls, range(told.seeds), earlier=earlier, on_answer=keep)


def with_candidates(space: Space, answers: pd.DataFrame, predictor: Any) -> pd.DataFrame:
    """The answers with ``candidate`` (JSON) and ``predicted``, a fraction, where there is one."""
    ok = answers["error"].isna()
    genes = space.from_values({a.name: answers.loc[ok, a.name].to_numpy() for a in space.axes})
    answers = answers.assign(candidate=None, predicted=float("nan"))
    answers.loc[ok, "candidate"] = [json.dumps(space.build(row).to_dict()) for row in genes]
    answers.loc[ok, "predicted"] = predictor.predict(genes)[0]
    return answers


def supernet_score(told: argparse.Namespace, space: Space) -> Any:
    """The supernet's own accuracy on the first validation images, quantized, not fine-tuned."""
    from apq.accuracy import Quantization, SupernetAccuracy
    from apq.images import load_images
    from apq.supernet import load_supernet

    images = load_images(told.images, space.resolution, space.in_channels, space.classes)
    x, y = images.splits["validation"]
    part = {**images.splits, "validation": (x[: told.pass_images], y[: told.pass_images])}
    supernet = load_supernet(told.supernet, space)
    return SupernetAccuracy(supernet, replace(images, splits=part), Quantization(finetune_steps=0))


def answers_of(files: list[Path]) -> pd.DataFrame:
    """All answers; those that the supernet scored say so in their names."""
    frames = [pd.read_parquet(file) for file in files]
    for frame in frames:
        passes = frame["supernet_passes"].fillna(0).astype(int)
        names = frame["method"] + " (supernet, " + passes.astype(str) + " passes)"
        frame["method"] = frame["method"].where(passes == 0, names)
    return pd.concat(frames, ignore_index=True)


def measure(told: argparse.Namespace) -> None:
    """Measure what was found, all candidates with the first seed, then with the next one."""
    answers = answers_of(told.files)
    found = answers["candidate"].dropna().drop_duplicates()
    todo = [(one, seed) for seed in range(told.measuring_seeds) for one in found]
    protocol = protocol_of(told, home(told.space) / "quantized")
    for row in measured_rows(protocol, todo, told.measured, told.workers):
        names = answers.loc[answers["candidate"] == row["candidate"], "method"].unique()
        print(f"{', '.join(names)}  seed {row['seed']}: {row['measured']:.2%}", flush=True)


def table(told: argparse.Namespace) -> None:
    """Print predicted and measured of every method, and what the answers took."""
    from apq.methods.compare import summary

    answers = answers_of(told.files)
    answers["accuracy"] = answers["predicted"]
    if told.measured.exists():
        measured = pd.read_parquet(told.measured).groupby("candidate")["measured"]
        answers["measured"] = answers["candidate"].map(measured.mean())
        print(f"Measured: mean of {measured.size().min()} to {measured.size().max()} seeds.\n")
    head, rows = summary(answers)
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    for name, error in answers.dropna(subset="error")[["method", "error"]].drop_duplicates().values:
        print(f"\n{name}: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="answers; the first step writes one")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--space", default="cifar10-low-bits")
    parser.add_argument("--predictor", type=Path, help="default: data/SPACE/predictor.safetensors")
    parser.add_argument("--lut", type=Path, help="default: lut/bitfusion-apq-SPACE.csv")
    parser.add_argument("--latency-ms", nargs="+", type=float, default=[0.4, 0.5, 0.7])
    parser.add_argument("--methods", nargs="+", help="default: all; spos with --on-supernet")
    parser.add_argument("--calls", type=int, default=600, help="candidates scored per answer")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds per method")
    parser.add_argument("--on-supernet", action="store_true")
    parser.add_argument("--pass-images", type=int, default=1000, help="with --on-supernet")
    parser.add_argument(
        "--measured", type=Path, help="default: the first file's name and -measured"
    )
    parser.add_argument("--measuring-seeds", type=int, default=3)
    options(parser)
    told = parser.parse_args()
    first = told.files[0]
    told.measured = told.measured or first.with_name(f"{first.stem}-measured.parquet")
    if not (told.measure or told.table) and len(told.files) > 1:
        parser.error("one file of answers at a time")
    if (told.measure or told.on_supernet) and not told.images:
        parser.error("--images says what to measure on")
    (measure if told.measure else table if told.table else find)(told)


if __name__ == "__main__":
    main()
