"""Other searches on the same space, table and predictor, for bench_search.py.

Each returns (candidates, CPU seconds, best accuracy, objectives of everything scored or None).
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np


class FixedPredictor:
    """APQ's MLP with given weights (npz), in numpy float32; genes to (accuracy, 0)."""

    def __init__(self, path, space):
        raw = np.load(path)
        names = ("layers.0.0", "quantize_fc", "layers.1.0", "layers.2.0", "regressor")
        self.w = {n: raw[f"{n}.weight"].astype(np.float32).T.copy() for n in names}
        self.b = {n: raw[f"{n}.bias"].astype(np.float32) for n in names}
        self.space = space

    def __call__(self, genes):
        y = self.encoded(self.space.encode(genes))
        return y, np.zeros(len(y))

    def encoded(self, x):
        w, b, split = self.w, self.b, self.space.architecture_dims
        h = np.maximum(x[:, :split] @ w["layers.0.0"] + b["layers.0.0"], 0)
        h += x[:, split:] @ w["quantize_fc"] + b["quantize_fc"]
        for name in ("layers.1.0", "layers.2.0"):
            h = np.maximum(h @ w[name] + b[name], 0)
        return (h @ w["regressor"] + b["regressor"])[:, 0].astype(np.float64)


def released(folder, predictor, kind, limit, iterations, seed, bits_visible):
    """The search of mit-han-lab/apq, unchanged but for the device of its predictor; optionally
    with the bits shown to it."""
    sys.path.insert(0, str(folder))
    here = Path.cwd()
    os.chdir(folder)
    try:
        from methods.evolution.evolution_finder import EvolutionFinder
        from utils.converter import Converter
        from utils.latency_predictor import LatencyPredictor
    finally:
        os.chdir(here)
    converter, counted = Converter(), [0]

    def predict(specs):
        counted[0] += len(specs)
        x = np.array([converter.spec2feature(s, quantize=bits_visible) for s in specs])
        return predictor.encoded(x.astype(np.float32))

    os.chdir(folder)
    table = LatencyPredictor(type=kind)
    os.chdir(here)
    finder = EvolutionFinder(table, types.SimpleNamespace(predict_accuracy=predict))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (its own generator)
    sample = random.sample
    random.sample = lambda population, k: sample(list(population), k)  # it samples dict keys
    begun = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        _, _, info = finder.run_evolution_search(constraint=limit, max_time_budget=iterations)
    seconds = time.process_time() - begun
    random.sample = sample
    spec = info[1]
    truth = predictor.encoded(
        np.array([converter.spec2feature(spec, quantize=True)]).astype(np.float32)
    )
    return counted[0], seconds, float(truth[0]), None


def pymoo_nsga2(problem, candidates, seed):
    """pymoo's NSGA-II (population 100, SBX and polynomial mutation on integers, duplicates
    removed), scored in batches, the limit as a constraint."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    seen = []

    class Searched(Problem):
        def __init__(self):
            high = problem.priced.space.cardinalities - 1
            super().__init__(
                n_var=len(high), n_obj=2, n_ieq_constr=len(problem.limits), xl=0, xu=high, vtype=int
            )

        def _evaluate(self, x, out, *args, **kwargs):
            scored = problem.evaluate(problem.space.snap(x.astype(np.int16)))
            out["F"] = scored.values
            out["G"] = np.stack([scored.costs[m] - v for m, v in problem.limits.items()], axis=1)
            seen.append(scored.values[(out["G"] <= 0).all(axis=1)])

    algorithm = NSGA2(
        pop_size=100,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minimize(Searched(), algorithm, ("n_gen", candidates // 100), seed=seed, verbose=False)
    seconds = time.process_time() - begun
    values = np.concatenate(seen)
    best = -values[:, 0].min() if len(values) else float("nan")
    return candidates, seconds, float(best), values


def optuna_per_gene(problem, candidates, seed):
    """Plain Optuna: ``study.optimize`` with one ``suggest_int`` per gene and constraints."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    axes, seen = problem.priced.space.axes, []

    def objective(trial):
        row = [trial.suggest_int(axis.name, 0, len(axis.choices) - 1) for axis in axes]
        scored = problem.evaluate(problem.space.snap(np.array([row], dtype=np.int16)))
        over = [float(scored.costs[m][0] - v) for m, v in problem.limits.items()]
        for metric, value in zip(problem.limits, over, strict=True):
            trial.set_constraint(metric, value)
        if max(over) <= 0:
            seen.append(scored.values[0])
        return tuple(scored.values[0])

    sampler = optuna.samplers.NSGAIISampler(population_size=100, seed=seed)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    begun = time.process_time()
    study.optimize(objective, n_trials=candidates)
    seconds = time.process_time() - begun
    values = np.array(seen).reshape(-1, 2)
    best = -values[:, 0].min() if len(values) else float("nan")
    return candidates, seconds, float(best), values
