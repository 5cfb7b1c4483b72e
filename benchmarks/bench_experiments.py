"""Small experiments that papers' methods call for, on a predictor and a table, minutes in all.

    python benchmarks/bench_experiments.py [haq amc ...] [--images CIFAR]

Each asks whether a part of a method does what its paper says, on `cifar10-low-bits` at three latency
budgets and three seeds unless it says otherwise. Accuracies are predicted ones. Only `spos` runs
networks, and needs --images. docs/methods.md says what came out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from apq.files.places import PREDICTOR, home, table_of
from apq.hardware import LookupTable, load_cost_model, price_space
from apq.methods import run_method
from apq.methods.book import Book, reference_network
from apq.predictor import load_predictor
from apq.search.problem import Forgiving, Problem
from apq.search.sequential import steps_of
from apq.space import load_space

SEEDS, LIMITS, CALLS = range(3), (0.4, 0.5, 0.7), 300
Told = argparse.Namespace


def problem(told: Told, limit: float, metric: str = "latency_ms") -> Problem:
    return Problem(told.priced, told.predictor.predict, ("accuracy",), {metric: limit})


def line(name: str, values: object) -> None:
    found = np.atleast_1d(np.asarray(values, dtype=float))
    print(f"  {name:<44} {found.mean():.2%} ({found.min():.2%} … {found.max():.2%})", flush=True)


def haq(told: Told) -> None:
    """Formats of one network: HAQ beside random policies, one width everywhere, and greedy."""
    from apq.methods.haq import _alternating, budget_walk

    for limit in told.limits:
        print(f"haq, {limit} ms, {CALLS} policies")
        asked = problem(told, limit)
        line("HAQ", [run_method("haq", asked, CALLS, seed).accuracy for seed in SEEDS])
        space, row = asked.space, reference_network(asked)
        book = Book(asked, 10**9, 0)
        decides = space.decides(row)[0]
        axes = [i for i in steps_of(space)[2] if decides[i] and len(space.allowed[i]) > 1]
        axes = _alternating(book, axes)
        lowest = [space.allowed[i][0] for i in axes]

        def keeps(trial, asked=asked, space=space):
            return bool(asked.feasible(space.snap(trial))[0])

        best = []
        for seed in SEEDS:
            rng, rows = np.random.default_rng(seed), []
            for _ in range(CALLS):
                trial = row.copy()
                trial[0, axes] = [rng.choice(space.allowed[i]) for i in axes]
                rows.append(space.snap(budget_walk(trial, axes, lowest, keeps)))
            best.append(book.score(np.concatenate(rows)).max())
        line("random policies, the same walk", best)
        same = []
        for g in range(max(len(space.allowed[i]) for i in axes)):
            trial = row.copy()
            trial[0, axes] = [space.allowed[i][min(g, len(space.allowed[i]) - 1)] for i in axes]
            same.append(space.snap(trial))
        same = [r for r in same if keeps(r)]
        line("one width everywhere", max(book.score(np.concatenate(same))) if same else np.nan)
        line("greedy by sensitivity", greedy(book, row, axes))


def greedy(book: Book, row, axes) -> float:
    """One format after the other is lowered, that which loses least per ms, until all fits."""
    problem, row = book.problem, row.copy()
    while not problem.feasible(problem.space.snap(row))[0]:
        rows = np.repeat(row, len(axes), axis=0)
        rows[np.arange(len(axes)), axes] -= 1
        rows = rows[[problem.space.allowed[i][0] <= r[i] for r, i in zip(rows, axes, strict=True)]]
        both = problem.space.snap(np.concatenate([row, rows]))
        lost = -np.diff(
            book.score(both)[[0] * len(rows) + [*range(1, len(both))]].reshape(2, -1), axis=0
        )[0]
        cost = problem.priced.costs(both, ["latency_ms"])["latency_ms"]
        saved = cost[0] - cost[1:]
        order = np.where(saved > 1e-9, lost / np.maximum(saved, 1e-9), np.inf)
        row = rows[[int(order.argmin())]]
    return float(book.score(problem.space.snap(row))[0])


def amc(told: Told) -> None:
    """Widths at 8 bits within a share of the MACs: AMC beside one multiplier for all layers."""
    wide = reference_network(problem(told, 1e9), "largest")
    macs = float(told.priced.costs(wide, ["macs_m"])["macs_m"][0])
    for share in (0.7, 0.8, 0.9):
        print(f"amc, {share:.0%} of the MACs, {CALLS} episodes")
        asked = problem(told, share * macs, "macs_m")
        line("AMC", [run_method("amc", asked, CALLS, seed).accuracy for seed in SEEDS])
        space, found = asked.space, []
        for keep in np.linspace(0, 1, 41):
            row = wide.copy()
            for i in steps_of(space)[1]:
                row[0, i] = space.allowed[i][round(keep * (len(space.allowed[i]) - 1))]
            if asked.feasible(space.snap(row))[0]:
                found.append(float(asked.accuracy(space.snap(row))[0][0]))
        line("one multiplier", max(found))


def architectures(told: Told) -> None:
    """Architectures at 8 bits: ProxylessNAS and Single-Path NAS beside 50 random ones as dear."""
    for limit in told.limits:
        print(f"architectures at 8 bits, {limit} ms, {CALLS} calls")
        asked = problem(told, limit)
        for name in ("proxylessnas", "singlepath"):
            line(name, [run_method(name, asked, CALLS, seed).accuracy for seed in SEEDS])
        best, mean = [], []
        for seed in SEEDS:
            at8 = Book(asked, 10**9, seed).at_eight_bits()
            rows = at8.sample(3000, np.random.default_rng(seed))
            cost = at8.priced.costs(rows, ["latency_ms"])["latency_ms"]
            score = at8.accuracy(rows[np.argsort(-cost)[:50]])[0]
            best.append(score.max()), mean.append(score.mean())
        line("50 random architectures, mean", mean)
        line("50 random architectures, best", best)


def sweep(told: Told) -> None:
    """A fixed weight of the cost, rising: does what is chosen get cheaper, step by step?"""
    from apq.methods.mpnas import HOT, STEPS
    from apq.methods.relaxed import (
        expected_costs,
        gumbel,
        gumbel_softmax,
        open_logits,
        soft_accuracy,
    )
    from apq.methods.singlepath import Step, chosen_by

    asked = problem(told, 0.5)
    book = Book(asked, 10**9, 0)
    accuracy = soft_accuracy(book, CALLS)
    over = expected_costs(asked.searched, dict(asked.limits))
    weights = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)
    for name in ("Gumbel-softmax (MP-NAS, DNAS)", "thresholds (Single-Path NAS)"):
        cells = []
        for weight in weights:
            generator = torch.Generator().manual_seed(0)
            closed = open_logits(asked.space)
            free = torch.zeros_like(closed, requires_grad=True)
            margins = [torch.zeros(len(a) - 1, requires_grad=True) for a in asked.space.allowed]
            learned = [free] if name[0] == "G" else [m for m in margins if len(m)]
            optimizer = torch.optim.Adam(learned, lr=0.05)
            for step in range(STEPS):
                if name[0] == "G":
                    noise = gumbel(tuple(closed.shape), generator)
                    soft = gumbel_softmax(closed + free, HOT * 0.06 ** (step / STEPS), noise)
                else:
                    soft = chosen_by(asked.space, [Step.apply(m) for m in margins])
                loss = -accuracy(soft) + weight * (1 + over(soft)).clamp(min=0.05).log()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            odds = (
                torch.softmax(closed + free.detach(), dim=-1) if name[0] == "G" else soft.detach()
            )
            entropy = float(-(odds * odds.clamp(min=1e-9).log()).sum(dim=1).mean())
            row = asked.space.snap(odds.argmax(dim=1)[None].numpy().astype(np.int16))
            ms = float(told.priced.costs(row, ["latency_ms"])["latency_ms"][0])
            cells.append((weight, ms, float(asked.accuracy(row)[0][0]), entropy))
        print(f"sweep, {name}: weight, ms, accuracy, entropy per gene")
        for weight, ms, score, entropy in cells:
            print(f"  {weight:>6}  {ms:.3f} ms  {score:.2%}  {entropy:.2f}", flush=True)


def chamnet(told: Told) -> None:
    """ChamNet's process beside APQ's MLP and apq's predictor: pairs in order of 1,000 held out."""
    from apq.methods.chamnet import fitted, summary
    from apq.predictor.features import SpaceFeatures
    from apq.predictor.metrics import pairwise_accuracy
    from apq.predictor.training import PRESETS, data_of, learn
    from apq.samples import read_samples

    samples = read_samples(Path("data/cifar10/fp32"))
    genes, truth, space = samples.genes, np.asarray(samples.accuracy), samples.space
    x = summary(space, genes)
    print("chamnet, fp32 samples of cifar10, n: process, covered by its 90 % interval; MLP; apq")
    for n in (30, 60, 120, 240):
        found: dict[str, list[float]] = {}
        for seed in SEEDS:
            order = np.random.default_rng(seed).permutation(len(genes))
            train, test = order[:n], order[-1000:]
            mean, spread = fitted(x[train], truth[train], seed).predict(x[test], return_std=True)
            found.setdefault("process", []).append(pairwise_accuracy(mean, truth[test]))
            inside = np.abs(mean - truth[test]) < 1.645 * spread
            found.setdefault("covered", []).append(float(inside.mean()))
            for preset in ("paper", "default"):
                recipe = PRESETS[preset]
                features = SpaceFeatures(space, smooth=recipe.smooth)
                data = data_of(features.inputs(genes[train]), truth[train], "samples")
                model = learn(data, features, recipe, bits=False, seed=seed)
                answer = model.predict_inputs(features.inputs(genes[test]))[0]
                found.setdefault(preset, []).append(pairwise_accuracy(answer, truth[test]))
        print(
            f"  {n:>4}  " + "  ".join(f"{k} {np.mean(v):.3f}" for k, v in found.items()), flush=True
        )


def lana(told: Told) -> None:
    """Do losses of single replacements add up? 50 networks composed of replacements."""
    from apq.methods.lana import _pools
    from apq.search.sequential import largest

    for seed in SEEDS:
        asked = problem(told, 0.5)
        book = Book(asked, CALLS, seed)
        space = asked.space
        teacher = space.snap(
            np.array([[largest(space, i) for i in range(len(space.axes))]], np.int16)
        )
        base = float(asked.accuracy(teacher)[0][0])
        pools = _pools(book, teacher)
        rows, total = np.repeat(teacher, 50, axis=0), np.zeros(50)
        for slot, pool in zip(space.slots, pools, strict=True):
            pick = book.rng.integers(1, len(pool.rows), size=50)
            rows[:, list(space.own(slot))] = pool.rows[pick]
            total += pool.loss[pick]
        real = base - asked.accuracy(space.snap(rows))[0]
        print(f"lana, seed {seed}: Pearson {np.corrcoef(total, real)[0, 1]:.2f}, Spearman "
              f"{spearmanr(total, real).statistic:.2f}; sums {total.mean():.2%}, real {real.mean():.2%}",
              flush=True)  # fmt: skip


def autoqkeras(told: Told) -> None:
    """Formats and filters, formats or filters alone; by blocks or whole; dearest or first first."""
    from apq.methods.autoqkeras import TUNERS, groups_by_energy, split_trials, tuned

    for limit in told.limits:
        asked = problem(told, limit)
        row = reference_network(asked)
        factor = Forgiving("latency_ms", limit, smaller=1.0, larger=30.0)
        _, widths, formats = steps_of(asked.space)
        ways = {
            "formats and filters, dearest block first": ((*widths, *formats), "energy"),
            "formats and filters, first block first": ((*widths, *formats), "order"),
            "formats and filters, all at once": ((*widths, *formats), "whole"),
            "formats alone": (formats, "energy"),
            "filters alone": (widths, "energy"),
        }
        print(f"autoqkeras, {limit} ms, {CALLS} trials: best within the limit")
        for name, (genes, how) in ways.items():
            best = []
            for seed in SEEDS:
                book, found = Book(asked, CALLS, seed), row
                groups = [
                    (e, [i for i in own if i in genes]) for e, own in groups_by_energy(book, row)
                ]
                groups = [group for group in groups if group[1]]
                if how == "order":
                    groups = sorted(groups, key=lambda group: min(group[1]))
                if how == "whole":
                    groups = [(1.0, [i for _, own in groups for i in own])]
                for (_, own), trials in zip(
                    groups, split_trials([e for e, _ in groups], CALLS), strict=True
                ):
                    found = tuned(book, found, own, trials, factor, TUNERS["tpe"](seed))
                best.append(book.outcome().accuracy if book._best else np.nan)
            line(name, best)


def metrics(told: Told) -> None:
    """What tells a layer's latency without a simulator: held-out rows of the ImageNet table."""
    from apq.space.layer import bitops, macs, weight_count

    table = LookupTable.read("lut/bitfusion-apq-apq-imagenet.csv")
    layers, ms = table.layers, np.log(table.prices["latency_ms"])
    f = {name: layers[name].astype(float) for name in layers.dtype.names}
    count, w, a = macs(layers).astype(float), f["weight_bits"], f["activation_bits"]
    fan = f["in_channels"] / f["groups"] * f["kernel"] ** 2
    out = count / fan
    bops = count * (a * w + a + w + np.log2(fan))
    traffic = weight_count(layers) * w + f["in_channels"] * f["height"] * f["width"] * a + out * a

    def roof(ratio: float):
        return np.maximum(count * w * a, ratio * traffic)

    counted = {"MACs": count, "MACs x bits x bits": bitops(layers).astype(float), "BOPS": bops}
    print("metrics: R2 of log latency, Spearman, on a third of the rows, held out")
    deep = f["groups"] > 1
    for kind, rows in (("all", deep | True), ("pointwise", ~deep), ("depthwise", deep)):
        rows = np.random.default_rng(0).permutation(np.flatnonzero(rows))
        test, train = rows[: len(rows) // 3], rows[len(rows) // 3 :]

        def fit(x, on, train=train):
            slope, shift = np.polyfit(np.log(x[train]), ms[train], 1)
            return slope * np.log(x[on]) + shift

        def missed(r, train=train, fit=fit):
            return float(np.square(fit(roof(r), train) - ms[train]).sum())

        ratio = min(np.geomspace(1, 1e5, 60), key=missed)
        for name, x in {**counted, f"roofline, {ratio:.0f} : 1": roof(ratio)}.items():
            guess, true = fit(x, test), ms[test]
            r2 = 1 - np.square(guess - true).sum() / np.square(true - true.mean()).sum()
            rank = spearmanr(guess, true).statistic
            print(f"  {kind:<10} {len(rows):>5} rows  {name:<24} {r2:5.2f}  {rank:.2f}", flush=True)


def spos(told: Told) -> None:
    """Recalibrated batch norm: 20 subnets of the supernet with and without, 1,000 images."""
    from apq.images import load_images
    from apq.supernet import load_supernet
    from apq.supernet.evaluate import EvalImages, accuracy, recalibrate

    torch.set_num_threads(1)
    supernet = load_supernet(Path("data/cifar10/supernet.safetensors"))
    space = supernet.network.space
    images = load_images(told.images, space.resolution, space.in_channels, space.classes)
    data = EvalImages.of(images, supernet.mean, supernet.std, limit=1000)
    scores = []
    for row in space.sample(20, np.random.default_rng(0)):
        subnet = supernet.network.subnet(space.build(row)).eval()
        before = accuracy(subnet, data)[0]
        recalibrate(subnet, data.calibration)
        scores.append((before, accuracy(subnet.eval(), data)[0]))
    without, recalibrated = np.array(scores).T
    line("spos, recalibrated", recalibrated)
    line("spos, as trained", without)
    print(f"  Spearman of the two {spearmanr(without, recalibrated).statistic:.2f}")


EXPERIMENTS: dict[str, Callable[[Told], None]] = {
    "haq": haq, "amc": amc, "architectures": architectures, "sweep": sweep, "chamnet": chamnet,
    "lana": lana, "autoqkeras": autoqkeras, "metrics": metrics, "spos": spos,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--space", default="cifar10-low-bits")
    parser.add_argument("--predictor", type=Path)
    parser.add_argument("--limits", nargs="+", type=float, default=LIMITS)
    parser.add_argument("--images")
    told = parser.parse_args()
    space = load_space(told.space)
    told.priced = price_space(space, load_cost_model(str(table_of(space.name))))
    told.predictor = load_predictor(told.predictor or home(space.name) / PREDICTOR, space)
    for name in told.names or [n for n in EXPERIMENTS if n != "spos" or told.images]:
        EXPERIMENTS[name](told)


if __name__ == "__main__":
    main()
