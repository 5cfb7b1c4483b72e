"""From samples to a predictor: fp32 pre-training, transfer to quantized samples, comparison."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq.errors import SamplesError, choose, side_by_side
from apq.predictor.baselines import BASELINES, fit_baseline
from apq.predictor.columns import Columns, TableFeatures
from apq.predictor.features import Features, Inputs, SpaceFeatures
from apq.predictor.fitting import folds
from apq.predictor.gaussian_process import Family, GaussianProcess, Prior, fit_process
from apq.predictor.metrics import coverage, score
from apq.predictor.network import Network, continued, new_network, train_network
from apq.predictor.predictor import Predictor, Warp, process_columns, process_groups
from apq.samples import Samples
from apq.training import OnProgress

Array = NDArray[np.float64]

LEAST_ROWS = 10
"""Fewest samples that can be split into a training and a validation part."""

CORRECTION = Prior((Family(1, 1.0), Family(1, 0.003), Family(1, 0.01)), amplitude=0.05)
"""Priors of a pre-trained predictor's rescaled output and of its corrections by architecture and by
bits. Chosen on samples of the digits preset and on simulated ones, never on those that are
reported; a tenfold change of any of them has little effect."""

LEVEL, LEVEL_SPREADS = 0.9, 1.6449
"""Calibration: ``mean ± 1.6449 * spread`` is to cover nine of ten measurements."""


@dataclass(frozen=True)
class Recipe:
    """How a predictor is built.

    Attributes:
        members: MLPs in the ensemble.
        hidden: Width of their three hidden layers.
        smooth: Whether smooth columns (values, sums, log costs) are added to the one-hot code.
        log_target: Whether models are fitted to the logarithm of the distance from a ceiling.
        rank_weight: Weight of the ranking term in the MLPs' loss.
        updates: Approximate number of training steps of the MLPs.
        process_rows: Most samples for a Gaussian process (on top of the fp32 predictor's output, if
            there is one); with more, MLPs are trained.
    """

    members: int = 5
    hidden: int = 128
    smooth: bool = True
    log_target: bool = True
    rank_weight: float = 0.3
    updates: int = 600
    process_rows: int = 2000


PRESETS: dict[str, Recipe] = {
    "default": Recipe(),
    "paper": Recipe(
        members=1, hidden=400, smooth=False, log_target=False, rank_weight=0.0, updates=2000,
        process_rows=0,
    ),
}  # fmt: skip
"""``paper`` is APQ's form: one MLP on the one-hot code, squared error, plain fine-tuning. The
default differs because on real tables a Gaussian process on smooth columns needs a fraction of the
samples, and as a correction on top of the fp32 predictor it keeps what that one has learnt."""


@dataclass(frozen=True)
class Data:
    """Measured candidates as arrays.

    Attributes:
        inputs: Inputs of the predictor.
        accuracy: Measurements, shape ``(n,)``.
        blocks: Equal numbers mark one architecture; its rows stay in one part of every split.
    """

    inputs: Inputs
    accuracy: Array
    blocks: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.accuracy)

    def __getitem__(self, rows: Any) -> Data:
        return Data(self.inputs[rows], self.accuracy[rows], self.blocks[rows])


def data_of(inputs: Inputs, accuracy: Array, what: str) -> Data:
    """Group rows by architecture and check that something can be learnt from them.

    Raises:
        SamplesError: too few rows, measurements that are not finite, or all equal.
    """
    if len(inputs) < LEAST_ROWS:
        raise SamplesError(
            f"{what}: {len(inputs)} row(s); at least {LEAST_ROWS} are needed to learn from some "
            "and judge by others. Collect more: apq collect --count N"
        )
    wrong = np.flatnonzero(~np.isfinite(accuracy))
    if len(wrong):
        raise SamplesError(
            f"{what}: {len(wrong)} of {len(accuracy)} accuracies are not numbers "
            f"(first: row {wrong[0]}). Remove those rows or collect them again."
        )
    if np.ptp(accuracy) == 0:
        raise SamplesError(
            f"{what}: all {len(accuracy)} accuracies equal {accuracy[0]:g}, so there is nothing "
            "to learn. Check the supernet (apq train-supernet) and its validation images."
        )
    code = np.concatenate([inputs.arch_hot.astype(np.float64), inputs.arch], axis=1)
    _, blocks = np.unique(code, axis=0, return_inverse=True)
    return Data(inputs, accuracy, blocks.reshape(-1).astype(np.int64))


def train_predictor(
    fp32: Samples | None,
    quantized: Samples | None = None,
    *,
    transfer: bool = True,
    preset: str = "default",
    members: int | None = None,
    compare: bool = True,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Predictor:
    """Train a predictor; its ``report`` holds the held-out comparison and what made it.

    Args:
        fp32: Cheap samples; needed unless ``transfer`` is False.
        quantized: Expensive samples. None: the result is an fp32 predictor that ignores bits.
        transfer: Start from a predictor pre-trained on ``fp32`` instead of from scratch.
        preset: A name of ``PRESETS``.
        members: Overrides the preset's ensemble size.
        compare: Also train the alternatives and judge all on held-out samples.
        seed: Random seed of weights, splits and order.
        on_progress: Called while MLPs train: passes done, all passes, latest held-out error.

    Raises:
        ApqError: unknown preset.
        SamplesError: samples that cannot be learnt from, or none at all, or of two supernets.
        SpaceError: the two kinds of samples are of different spaces.

    Example:
        >>> import apq
        >>> fp32, quantized = (apq.read_samples(f"digits/{kind}") for kind in ("fp32", "quantized"))
        >>> predictor = apq.train_predictor(fp32, quantized, compare=False)
        >>> mean, spread = predictor.predict(quantized.genes)
        >>> mean.shape == spread.shape == (len(quantized),)  # fractions
        True
        >>> predictor.save("digits/predictor.safetensors")
    """
    recipe = _recipe(preset, members)
    both = {"fp32": fp32, "quantized": quantized}
    given = {kind: samples for kind, samples in both.items() if samples is not None}
    bits = "quantized" in given
    moves = bits and transfer
    if not given or (moves and "fp32" not in given):
        raise SamplesError(
            "transfer starts from fp32 samples and none were given; "
            "pass --samples DIR, or --no-transfer to train from scratch"
        )
    first, last = next(iter(given.values())), next(reversed(given.values()))
    first.space.require_same(
        last.space, "the fp32 samples", "the quantized samples", formats=not moves
    )
    if moves:
        first = given["fp32"] = first.of(last.space)
    _check_origin(first, last)
    for kind, samples in given.items():
        _check_kind(samples, kind)
    features = SpaceFeatures(first.space, smooth=recipe.smooth)
    data = {
        kind: data_of(features.inputs(samples.genes), samples.accuracy, f"the {kind} samples")
        for kind, samples in given.items()
    }
    held_out: dict[str, Any] = {}
    base = None
    if moves:
        base = learn(data["fp32"], features, recipe, bits=False, seed=seed, on_progress=on_progress)
        held_out["fp32"] = dict(base.report)
    kind = "quantized" if bits else "fp32"
    final = learn(
        data[kind], features, recipe, bits=bits, base=base, seed=seed, on_progress=on_progress
    )
    held_out[kind] = dict(final.report)
    if compare:
        held_out[kind] |= compare_ways(base, data[kind], features, recipe, bits=bits, seed=seed)
    about = {
        "preset": preset,
        "seed": seed,
        "fingerprint": first.space.fingerprint,
        "supernet": last.supernet,
        "images": last.metadata.get("images"),
        "image_set": last.metadata.get("image_set"),
        "corrected": last.corrected,
        "quantization": last.metadata.get("quantization"),
        "original_accuracy": _original(first),
        "transfer": moves,
        "counts": {kind: len(rows) for kind, rows in data.items()},
        "held_out": held_out,
    }
    return replace(final, report=about)


def _original(samples: Samples) -> float | None:
    """Accuracy of the whole network in fp32 samples, a fraction; None: not measured."""
    if set(samples.precision) != {"fp32"}:
        return None
    whole = (samples.genes == samples.space.whole).all(axis=1)
    return float(samples.accuracy[whole.argmax()]) if whole.any() else None


def _check_origin(fp32: Samples, quantized: Samples) -> None:
    """Refuse samples of two supernets or image sets: one says little of the other."""
    mine, theirs = (
        {key: samples.metadata.get(key) for key in ("supernet", "image_set", "images")}
        | {"corrected": samples.corrected}
        for samples in (fp32, quantized)
    )
    if mine != theirs:
        both = side_by_side(mine, theirs, ("fp32", "quantized"))
        raise SamplesError(
            f"the fp32 and the quantized samples were measured on different things:\n{both}\n"
            "Collect both with the same --supernet and --images, and both or neither with "
            "--corrected."
        )


def _check_kind(samples: Samples, kind: str) -> None:
    """Refuse samples of the other kind: nothing would fail, and all figures would be wrong."""
    others = {str(precision) for precision in samples.precision} - {kind}
    if others:
        option = "--samples" if kind == "fp32" else "--quantized-samples"
        raise SamplesError(
            f"{option} takes {kind} samples and these are {', '.join(sorted(others))}; "
            "fp32 ones go to --samples, quantized ones to --quantized-samples"
        )


def train_on_table(
    frame: pd.DataFrame,
    columns: Columns,
    *,
    preset: str = "default",
    members: int | None = None,
    compare: bool = True,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Predictor:
    """Train a predictor on a table measured elsewhere; repeats of a candidate are averaged.

    Args:
        frame: Rows as from :func:`apq.predictor.columns.read_table`.
        columns: What its columns mean.
        preset, members, compare, seed, on_progress: As for :func:`train_predictor`.

    Raises:
        SamplesError: the rows cannot be learnt from.
    """
    recipe = _recipe(preset, members)
    features = TableFeatures.of(frame, columns, smooth=recipe.smooth)
    key = columns.group or [*features.values]
    target = frame.groupby(key)[columns.target].transform("mean")
    once = ~frame.duplicated(key)
    rows = frame[once]
    accuracy = target[once].to_numpy(np.float64) * columns.unit
    data = data_of(features.inputs(rows), accuracy, "the table")
    predictor = learn(data, features, recipe, bits=False, seed=seed, on_progress=on_progress)
    ways = dict(predictor.report)
    if compare:
        ways |= compare_ways(None, data, features, recipe, bits=False, seed=seed)
    about = {
        "preset": preset, "seed": seed, "counts": {"table": len(data)}, "held_out": {"table": ways}
    }  # fmt: skip
    return replace(predictor, report=about)


def _recipe(preset: str, members: int | None) -> Recipe:
    recipe = PRESETS[choose(preset, PRESETS, "preset")]
    return recipe if members is None else replace(recipe, members=members)


def learn(
    data: Data,
    features: Features,
    recipe: Recipe,
    *,
    bits: bool,
    base: Predictor | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Predictor:
    """Fit one predictor to measured candidates.

    Args:
        data: The candidates.
        features: Features that computed ``data.inputs``.
        recipe: How.
        bits: Whether it is to see bit columns.
        base: An fp32 predictor to start from.
        seed: Random seed of weights, splits and order.
        on_progress: As for :func:`train_predictor`.

    Returns:
        The predictor, calibrated on rows it did not train on; ``report`` scores those.
    """
    warp = Warp.of(data.accuracy, log=recipe.log_target)
    target = warp.to_target(data.accuracy)
    if len(data) <= recipe.process_rows:
        answer = None if base is None else base.latent(data.inputs)[0]
        process, mean, deviation = fit_process(
            process_columns(data.inputs, features, bits, answer),
            process_groups(features, bits, base is not None),
            target, data.blocks, prior=_prior(features, bits, base is not None), seed=seed,
        )  # fmt: skip
        if answer is not None:
            process, mean = _cautious(process, mean, answer, target, data.blocks, seed)
        models = (*(base.models if base else ()), process)
        if on_progress is not None:
            on_progress(1, 1, {"held-out rmse/sd": float(np.sqrt(np.mean((mean - target) ** 2)))})
    else:
        start = base.models[0] if base is not None else None
        if isinstance(start, Network):
            network = continued(start, features, data.inputs, bits=bits)
        else:
            network = new_network(
                features, data.inputs, bits=bits, hidden=recipe.hidden, members=recipe.members,
                seed=seed,
            )  # fmt: skip
        network, mean, deviation = train_network(
            network, data.inputs, target, data.blocks, updates=recipe.updates,
            rank_weight=recipe.rank_weight, seed=seed, on_progress=on_progress,
        )  # fmt: skip
        models = (network,)
    judged = np.isfinite(mean)
    held, spread = warp.to_accuracy(mean[judged], deviation[judged])
    calibration = conformal(held, spread, data.accuracy[judged])
    report = {"out of fold": asdict(score(held, data.accuracy[judged], seed=seed))}
    return Predictor(features, models, warp, bits, calibration, report)


def _prior(features: Features, bits: bool, answer: bool) -> Prior:
    """Prior of a process over the columns of :func:`process_columns`."""
    counts = [len(features.arch_groups + features.arch_hot_groups)]
    if bits:
        counts.append(len(features.bits_groups + features.bits_hot_groups))
    if not answer:
        return Prior(tuple(Family(count) for count in counts))
    families = zip([1, *counts], CORRECTION.families, strict=False)
    return replace(CORRECTION, families=tuple(replace(f, groups=n) for n, f in families))


def _cautious(
    process: GaussianProcess,
    mean: Array,
    answer: Array,
    target: Array,
    blocks: NDArray[np.int64],
    seed: int,
) -> tuple[GaussianProcess, Array]:
    """Shrink a corrected prediction towards the rescaled fp32 prediction, by the amount that is
    best on held-out rows.

    Args:
        process: Sees ``answer`` as its first column.
        mean: Its held-out answers ``(n,)``.
        answer: The pre-trained predictor's ``(n,)``.
        target: Standardised measurements ``(n,)``.
        blocks: Rows with equal numbers are left out together, ``(n,)``.
        seed: Random seed of the folds.

    Returns:
        The process and the held-out answers, both shrunk.
    """
    plain = np.empty(len(target))
    for held in folds(blocks, 5, seed):
        plain[held] = _line(answer[~held], target[~held])(answer[held])
    change, error = mean - plain, target - plain
    share = float(np.clip(change @ error / max(float(change @ change), 1e-12), 0.0, 1.0))
    line = _line(answer, target)
    return process.shrunk(share, float(line(1.0) - line(0.0))), plain + share * change


def _line(x: Array, y: Array) -> np.poly1d:
    """Least squares line, never falling."""
    slope, offset = np.polyfit(x, y, 1)
    return np.poly1d([slope, offset] if slope > 0 else [0.0, float(y.mean())])


def conformal(mean: Array, spread: Array, measured: Array) -> float:
    """Factor on ``spread`` that makes ``mean ± 1.6449 * spread`` cover nine of ten new rows.

    Split conformal prediction with scaled residuals (Lei et al., 2018, section 5.2): the right
    order statistic of the held-out rows' residuals in units of their spread. All ``(n,)``.
    """
    n = len(measured)
    ratios = np.sort(np.abs(measured - mean) / spread)
    rank = min(math.ceil((n + 1) * LEVEL), n)
    return float(ratios[rank - 1]) / LEVEL_SPREADS


def compare_ways(
    base: Predictor | None,
    data: Data,
    features: Features,
    recipe: Recipe,
    *,
    bits: bool,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Judge every way of using the samples on rows it has not seen.

    Fifths of the architectures are left out in turn until about 100 rows are judged. The
    alternatives: the fp32 predictor rescaled by two parameters, training from scratch, not seeing
    bits, and scikit-learn's models on the same columns.
    """
    parts = folds(data.blocks, 5, seed)
    rounds = min(5, math.ceil(500 / len(data)))
    rows = np.flatnonzero(parts[:rounds].any(axis=0))
    out: dict[str, tuple[Array, Array]] = {}

    def note(name: str, held: NDArray[np.bool_], mean: Array, spread: Array | None) -> None:
        means, spreads = out.setdefault(name, (np.zeros(len(data)), np.zeros(len(data))))
        means[held] = mean
        spreads[held] = np.nan if spread is None else spread

    for held in parts[:rounds]:
        train, test = data[~held], data[held]
        if base is not None:
            moved = learn(train, features, recipe, bits=bits, base=base, seed=seed)
            note("transfer", held, *moved.predict_inputs(test.inputs))
            note("rescaled fp32", held, rescaled(base, train, test.inputs, recipe), None)
        scratch = learn(train, features, recipe, bits=bits, seed=seed)
        name = "from scratch" if base is not None or bits else "this predictor"
        note(name, held, *scratch.predict_inputs(test.inputs))
        if bits:
            blind = learn(train, features, recipe, bits=False, base=base, seed=seed)
            note("bits-blind", held, *blind.predict_inputs(test.inputs))
        for name in BASELINES:
            fitted = fit_baseline(name, train.inputs, train.accuracy, bits=bits, seed=seed)
            note(name, held, fitted(test.inputs), None)
    report = {}
    for name, (mean, spread) in out.items():
        truth = data.accuracy[rows]
        figures = asdict(score(mean[rows], truth, seed=seed))
        if not np.isnan(spread[rows]).any():
            figures["coverage_90"] = coverage(mean[rows], spread[rows], truth, LEVEL_SPREADS)
        report[name] = figures
    return report


def rescaled(base: Predictor, train: Data, test: Inputs, recipe: Recipe) -> Array:
    """The fp32 predictor's answers moved onto the new measurements by slope and offset."""
    warp = Warp.of(train.accuracy, log=recipe.log_target)
    line = _line(base.latent(train.inputs)[0], warp.to_target(train.accuracy))
    new = line(base.latent(test)[0])
    return warp.to_accuracy(new, np.zeros(len(new)))[0]
