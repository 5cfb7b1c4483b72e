"""On APQ's space, with its published table and a fixed predictor: what other searches reached."""

from __future__ import annotations

import json

import numpy as np
import pytest

from apq.errors import BudgetError
from apq.search.options import Options
from apq.search.problem import Problem
from apq.search.search import search
from apq.space.layer import bitops, size_bits, to_array


@pytest.fixture(scope="module")
def peers(shared):
    return json.loads((shared / "reference/apq/peer_search_results.json").read_text())


def test_predictor_and_table_are_the_references(shared, apq_priced, apq_accuracy):
    import pandas as pd

    frame = pd.read_parquet(shared / "reference/apq/apq_specs_1000.parquet").head(200)
    space = apq_priced.space
    columns = {f"depth_{s}": [d[s] if s < 5 else 1 for d in frame["d"]] for s in range(6)}
    names = {"kernel": "ks", "width": "mid_channels"} | {
        f"{n}_bits": f"{n}_bits" for n in ("pw_w", "pw_a", "dw_w", "dw_a")
    }
    for slot in space.slots:
        for ours, theirs in names.items():
            columns[f"b{slot.index:02d}_{ours}"] = [row[slot.index] for row in frame[theirs]]
    genes = space.from_values({k: np.array(v, dtype=float) for k, v in columns.items()})
    costs = apq_priced.costs(genes, ["latency_ms", "energy_mj"])
    assert costs["latency_ms"] == pytest.approx(frame["latency_ms"].to_numpy(), rel=1e-9)
    assert costs["energy_mj"] == pytest.approx(frame["energy_mj"].to_numpy(), rel=1e-9)
    assert apq_accuracy(genes)[0] == pytest.approx(frame["pred_structured"].to_numpy(), abs=2e-5)


@pytest.mark.parametrize("known", range(3))
def test_evolution_reaches_the_best_known(apq_priced, apq_accuracy, peers, known):
    best = [b for b in peers["best_known"] if b["predictor"] == "structured"][known]
    limits = {best["objective"]: best["constraint"]}
    problem = Problem(apq_priced, apq_accuracy, ("accuracy",), limits)
    front = search(problem, "evolution", candidates=30_000, seed=1).front
    assert front.accuracy[0] >= best["score_true"] - 0.0005
    rivals = [
        r["score_true"] for r in peers["runs"]
        if r["predictor"] == "structured" and r["objective"] == best["objective"]
        and r["constraint"] == best["constraint"]
    ]  # fmt: skip
    assert front.accuracy[0] > max(rivals)


def test_nsga2_draws_a_better_front_than_evolution_without_local_search(apq_priced, apq_accuracy):
    problem = Problem(apq_priced, apq_accuracy, limits={"latency_ms": 8.4})
    ours = search(problem, "nsga2", candidates=15_000)
    plain = search(problem, "evolution", candidates=15_000, options=Options(local_search=0.0))
    random = search(problem, "random", candidates=15_000)
    volumes = [r.curve[-1].hypervolume for r in (ours, plain, random)]
    assert volumes[0] > volumes[1] > volumes[2]


def test_everything_returned_keeps_its_budgets_layer_by_layer(shared, apq_priced, apq_accuracy):
    from apq.hardware.importing import import_apq_json

    table = import_apq_json(shared / "reference/apq/bitfusion_b1_lut.json")
    space, rng = apq_priced.space, np.random.default_rng(0)
    ranges = {m: apq_priced.reach(m) for m in ("latency_ms", "energy_mj", "size_mb", "bitops_g")}
    found, limits_of, layers, owner = [], [], [], []
    for i in range(200):
        metrics = rng.choice(list(ranges), size=rng.integers(1, 4), replace=False)
        limits = {str(m): ranges[m][0] + rng.beta(1, 3) * np.ptp(ranges[m]) for m in metrics}
        try:
            problem = Problem(apq_priced, apq_accuracy, ("accuracy", str(metrics[0])), limits)
        except BudgetError:
            continue
        algorithm, candidates = ("evolution", 900) if i % 20 == 0 else ("random", 60)
        front = search(problem, algorithm, candidates, seed=i).front
        for row in rng.choice(len(front), size=min(2, len(front)), replace=False):
            kept = space.layers(front.candidate(row))
            layers += kept
            owner += [len(found)] * len(kept)
            found.append({m: front.costs[m][row] for m in ranges})
            limits_of.append(limits)
    assert len(found) > 200
    rows, owner = to_array(layers), np.array(owner)
    left_out = np.isin(rows, to_array([space.fixed_layers[n] for n in table.leaves_out]))
    prices = {m: np.zeros(len(rows)) for m in ("latency_ms", "energy_mj")}
    for metric, values in table.price(rows[~left_out]).items():
        prices[metric][~left_out] = values
    prices |= {"size_mb": size_bits(rows) / 8e6, "bitops_g": bitops(rows) / 1e9}
    for metric, values in prices.items():
        truth = np.bincount(owner, weights=values)
        assert truth == pytest.approx(np.array([f[metric] for f in found]), rel=1e-9)
        for total, limits in zip(truth, limits_of, strict=True):
            assert total <= limits.get(metric, np.inf) * (1 + 1e-9)
