"""Speed and quality of the searches on APQ's space, beside others in the same run.

    OMP_NUM_THREADS=1 python benchmarks/bench_search.py --reference REFERENCE [--peer APQ_CHECKOUT]

REFERENCE holds bitfusion_b1_lut.json, predictor_structured.npz and peer_search_results.json (the
published table, a fixed predictor, and what other searches reached with them); APQ_CHECKOUT is a
clone of mit-han-lab/apq. pymoo is used if installed. Seconds are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from search_peers import FixedPredictor, optuna_per_gene, pymoo_nsga2, released

from apq.errors import ApqError, BudgetError
from apq.hardware.importing import import_apq_json
from apq.hardware.pricing import price_space
from apq.search import ALGORITHMS
from apq.search.front import Reference, reference
from apq.search.options import Options
from apq.search.problem import Problem
from apq.search.search import search
from apq.space import PRESETS
from apq.space.layer import bitops, size_bits, to_array


def timed(function, *arguments, **options):
    cpu, wall = time.process_time(), time.perf_counter()
    result = function(*arguments, **options)
    return result, time.process_time() - cpu, time.perf_counter() - wall


def line(name, candidates, seconds, base=None, note=""):
    ratio = f"{candidates / seconds / base:8.1f}x" if base else " " * 9
    print(
        f"  {name:<44}{candidates:>8,} {seconds:>8.2f} s {candidates / seconds:>10,.0f}/s {ratio}  {note}",
        flush=True,
    )


def speed(priced, accuracy, peer):
    print("speed (ratio: to the released search if present, else to Optuna per gene)")
    one = Problem(priced, accuracy, ("accuracy",), {"latency_ms": 8.4})
    two = replace(one, objectives=("accuracy", "latency_ms"))
    search(two, "nsga2", 500), search(one, "evolution", 2000)  # imports and caches
    base = None
    if peer:
        n, seconds, _, _ = released(peer, accuracy, "latency", 8.4, 300, 0, bits_visible=False)
        base = n / seconds
        line("released APQ search", n, seconds, note="ratio 1")
    n, seconds, _, _ = optuna_per_gene(two, 5_000, 0)
    optuna = n / seconds
    base = base or optuna
    line("Optuna study.optimize, one suggest per gene", n, seconds, base)
    pymoo = None
    if importlib.util.find_spec("pymoo"):
        n, seconds, _, _ = pymoo_nsga2(two, 20_000, 0)
        pymoo = n / seconds
        line("pymoo NSGA-II, batches", n, seconds, base)
    genes = one.sample(50_000, np.random.default_rng(0))
    _, floor, _ = timed(lambda: [one.evaluate(genes[i : i + 100]) for i in range(0, 50_000, 100)])
    line("floor: score and price only, batches of 100", 50_000, floor, base)
    for name, problem, count in (
        ("nsga2", two, 5_000), ("nsga2", two, 50_000), ("evolution, front", two, 50_000),
        ("evolution", one, 50_000), ("evolution", one, 500_000),
    ):  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result, seconds, wall = timed(search, problem, name.split(",")[0], count)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        notes = [f"{wall:.1f} s wall", f"{50_000 / floor * seconds / count:.2f} of floor time"]
        notes += [f"{count / seconds / optuna:.0f}x Optuna per gene"]
        notes += [f"{count / seconds / pymoo:.1f}x pymoo"] if pymoo else []
        notes += [f"peak memory +{grown:.0f} MB", f"best {result.front.accuracy.max():.4f}"]
        line(name, result.candidates, seconds, base, ", ".join(notes))


def quality(priced, accuracy, folder, seeds, peer):
    print(f"\nbest accuracy within one budget, {seeds} seeds, 50,000 candidates")
    data = json.loads((folder / "peer_search_results.json").read_text())
    for best in data["best_known"]:
        if best["predictor"] != "structured":
            continue
        metric, limit, known = best["objective"], best["constraint"], best["score_true"]
        print(f"  {metric} <= {limit:g}: best known {known:.4f}")
        for variant in ("as_released", "bits_visible", "bits_visible_keep_all"):
            runs = [
                r["score_true"] for r in data["runs"]
                if (r["predictor"], r["variant"], r["objective"], r["constraint"])
                == ("structured", variant, metric, limit)
            ]  # fmt: skip
            print(
                f"    {'released search, ' + variant:<40} {min(runs):.4f} … {max(runs):.4f} (recorded)"
            )
        problem = Problem(priced, accuracy, ("accuracy",), {metric: limit})
        for name, candidates, count in (
            ("evolution", 50_000, seeds), ("nsga2", 50_000, seeds), ("paper", 50_100, seeds),
            ("milp", 20_000, 3), ("random", 50_000, 1),
        ):  # fmt: skip
            scores, times = [], []
            for seed in range(count):
                try:
                    result, seconds, _ = timed(search, problem, name, candidates, seed)
                except ApqError as error:
                    print(f"    {name:<40} {error}")
                    break
                scores.append(result.front.accuracy[0])
                times.append(seconds)
            if not scores:
                continue
            reached = sum(s >= known - 0.0005 for s in scores)
            print(
                f"    {name:<40} {min(scores):.4f} … {max(scores):.4f}, {reached}/{count} >= best known"
                f" - 0.0005, {np.mean(times):.2f} s", flush=True,
            )  # fmt: skip
            if name == "milp":
                notes = {k: round(v, 4) for k, v in result.notes.items()}
                print(f"      surrogate, last seed: {notes}")


def volume(priced, accuracy, seeds):
    print(
        "\nhypervolume at equal counts, accuracy over latency <= 18 ms, reference (0.5, 18 ms), ideal (0.8, minimum)"
    )
    problem = Problem(priced, accuracy, ("accuracy", "latency_ms"), {"latency_ms": 18.0})
    box = Reference(
        np.array([-0.8, problem.searched.extreme("latency_ms")[0]]), np.array([-0.5, 18.0])
    )
    print(f"  (the product's own reference is {reference(problem).worst})")
    alone = Options(local_search=0.0, warm_start=False)
    ways = {
        "nsga2, sampler alone": ("nsga2", alone),
        "nsga2, and a warm start": ("nsga2", Options(local_search=0.0)),
        "nsga2, and local search": ("nsga2", Options(warm_start=False)),
        "nsga2 (default)": ("nsga2", None),
        "evolution": ("evolution", None),
        "milp": ("milp", None),
        "random": ("random", None),
        "optuna, stock sampler": ("optuna", None),
    }
    for count in (5_000, 20_000):
        base = None
        if importlib.util.find_spec("pymoo"):
            found, took = [], 0.0
            for seed in range(seeds):
                _, seconds, _, values = pymoo_nsga2(problem, count, seed)
                found.append(box.hypervolume(values) if len(values) else 0.0)
                took += seconds
            base = count * seeds / took
            print(
                f"  {count:>7,} {'pymoo NSGA-II':<26} {np.mean(found):.4f} ± {np.std(found):.4f} "
                f"{base:>10,.0f}/s", flush=True,
            )  # fmt: skip
        for name, (algorithm, options) in ways.items():
            if count > 5_000 and algorithm in ("milp", "optuna"):
                continue
            found, took, scored = [], 0.0, 0
            for seed in range(1 if algorithm == "optuna" else seeds):
                try:
                    result, seconds, _ = timed(search, problem, algorithm, count, seed, options)
                except ApqError as error:
                    print(f"  {count:>7,} {name:<26} {error}", flush=True)
                    break
                found.append(box.hypervolume(result.front.values))
                took, scored = took + seconds, scored + result.candidates
            if not found:
                continue
            shares = ", ".join(
                f"{source} {c['candidates'] / result.candidates:.0%} ({c['front'] / len(result.front):.0%} of the front)"
                for source, c in result.sources.items()
            )
            ratio = f"{scored / took / base:>6.2f}x pymoo" if base else ""
            print(
                f"  {count:>7,} {name:<26} {np.mean(found):.4f} ± {np.std(found):.4f} "
                f"{scored / took:>10,.0f}/s {ratio}  {shares}", flush=True,
            )  # fmt: skip


def budgets(space, priced, table, accuracy, combinations=200, candidates=60):
    print(
        f"\n{combinations} random combinations of limits per engine, {candidates} candidates each"
    )
    ranges = {m: priced.reach(m) for m in ("latency_ms", "energy_mj", "size_mb", "bitops_g")}
    left_out = to_array([space.fixed_layers[n] for n in table.leaves_out])
    for name in (a for a in ALGORITHMS if a not in ("optuna", "paper")):  # these repair nothing
        rng, answered, over, slowest = np.random.default_rng(0), 0, 0, 0.0
        for i in range(combinations):
            metrics = rng.choice(list(ranges), size=rng.integers(1, 4), replace=False)
            limits = {
                str(m): ranges[m][0] + (rng.beta(1, 5) - 0.02) * np.ptp(ranges[m]) for m in metrics
            }
            cpu = time.process_time()
            try:
                problem = Problem(priced, accuracy, ("accuracy", str(metrics[0])), limits)
            except BudgetError:
                slowest = max(slowest, time.process_time() - cpu)
                continue
            front = search(problem, name, candidates, seed=i).front
            layers = to_array(list(space.layers(front.candidate(int(rng.integers(len(front)))))))
            cost = {m: v.sum() for m, v in table.price(layers[~np.isin(layers, left_out)]).items()}
            cost |= {
                "size_mb": size_bits(layers).sum() / 8e6,
                "bitops_g": bitops(layers).sum() / 1e9,
            }
            over += any(cost[m] > v * (1 + 1e-9) for m, v in limits.items())
            over += not problem.feasible(front.genes).all()
            answered += 1
        print(
            f"  {name:<12} {answered} answered, {over} over a limit; {combinations - answered} cannot be "
            f"met, slowest refusal {slowest:.3f} s", flush=True,
        )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--parts", default="speed,quality,volume,budgets")
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    space = PRESETS["apq-imagenet"]()
    table = import_apq_json(given.reference / "bitfusion_b1_lut.json")
    priced = price_space(space, table)
    accuracy = FixedPredictor(given.reference / "predictor_structured.npz", space)
    parts = given.parts.split(",")
    if "speed" in parts:
        speed(priced, accuracy, given.peer)
    if "quality" in parts:
        quality(priced, accuracy, given.reference, given.seeds, given.peer)
    if "budgets" in parts:
        budgets(space, priced, table, accuracy)
    if "volume" in parts:
        volume(priced, accuracy, min(given.seeds, 3))


if __name__ == "__main__":
    main()
