"""From samples to a predictor: fp32 pre-training, transfer to quantized samples, comparison."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq.errors import SamplesError, choose
from apq.predictor.features import Features, Inputs, SpaceFeatures
from apq.predictor.fitting import OnProgress, answers, fit, folds
from apq.predictor.metrics import Scores, score
from apq.predictor.model import Ensemble
from apq.predictor.predictor import Predictor, Scale, standardise
from apq.samples import Samples

LEAST_ROWS = 10
"""Fewer samples than this cannot be split into a part to learn from and a part to judge by."""


@dataclass(frozen=True)
class Recipe:
    """How a predictor is built.

    Attributes:
        members: MLPs in the ensemble.
        hidden: Width of their hidden layers.
        costs: Whether they see log counts beside the one-hot code.
        rank_weight: Weight of the ranking term in the loss.
        updates: Training steps of the fp32 stage, about; passes over the rows follow from it.
        transfer_updates: The same for the quantized stage.
        rescale: Whether transfer starts from the pre-trained answers fitted to the new samples
            by two parameters, instead of from the bare weights.
    """

    members: int = 5
    hidden: int = 400
    costs: bool = True
    rank_weight: float = 0.5
    updates: int = 1000
    transfer_updates: int = 300
    rescale: bool = True


PRESETS: dict[str, Recipe] = {
    "default": Recipe(),
    "paper": Recipe(
        members=1, costs=False, rank_weight=0.0, updates=2000, transfer_updates=600, rescale=False
    ),
}
"""``paper`` is APQ's form: one MLP on the one-hot code, squared error, plain fine-tuning."""


@dataclass(frozen=True)
class Data:
    """Measured candidates as arrays.

    Attributes:
        inputs: What the predictor sees.
        target: Accuracies, shape ``(n,)``.
        groups: Equal numbers mark one architecture (its bit policies stay in one part of a split).
    """

    inputs: Inputs
    target: NDArray[np.float64]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, rows: Any) -> Data:
        return Data(self.inputs[rows], self.target[rows], self.groups[rows])


def data_of(samples: Samples, features: Features, what: str) -> Data:
    """Check samples and turn them into arrays.

    Raises:
        SamplesError: too few, not finite, or all accuracies equal.
    """
    inputs = features.inputs(samples.genes)
    _, groups = np.unique(inputs.arch_hot, axis=0, return_inverse=True)
    return checked(Data(inputs, samples.accuracy, groups.reshape(-1)), what)


def checked(data: Data, what: str) -> Data:
    """Return ``data`` unless nothing can be learnt from it.

    Raises:
        SamplesError: too few, not finite, or all accuracies equal.
    """
    if len(data) < LEAST_ROWS:
        raise SamplesError(
            f"{what} holds {len(data)} sample(s); at least {LEAST_ROWS} are needed to learn from some "
            "and judge by others. Collect more: apq collect --count N"
        )
    wrong = np.flatnonzero(~np.isfinite(data.target))
    if len(wrong):
        raise SamplesError(
            f"{what}: {len(wrong)} of {len(data)} accuracies are not numbers (first: row {wrong[0]}). "
            "Remove those rows or collect them again."
        )
    if np.ptp(data.target) == 0:
        raise SamplesError(
            f"{what}: all {len(data)} accuracies equal {data.target[0]:g}, so there is nothing to "
            "learn. Check the supernet (apq train-supernet) and the validation split."
        )
    return data


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
        seed: Of weights, splits and order.
        on_progress: Called with steps done, all steps and the latest held-out error.

    Raises:
        ApqError: unknown preset.
        SamplesError: samples that cannot be learnt from, or none at all.
        SpaceError: the two kinds of samples are of different spaces.
    """
    recipe = PRESETS[choose(preset, PRESETS, "preset")]
    if members is not None:
        recipe = replace(recipe, members=members)
    first = fp32 if fp32 is not None else quantized
    if first is None or (quantized is not None and transfer and fp32 is None):
        raise SamplesError(
            "transfer starts from fp32 samples and none were given; "
            "pass --samples DIR, or --no-transfer to train from scratch"
        )
    if fp32 is not None and quantized is not None:
        fp32.space.require_same(quantized.space, "fp32 samples", "quantized samples")
    features = SpaceFeatures(first.space, costs=recipe.costs)
    about: dict[str, Any] = {
        "preset": preset,
        "recipe": asdict(recipe),
        "seed": seed,
        "supernet": first.supernet,
        "fp32_count": 0 if fp32 is None else len(fp32),
        "quantized_count": 0 if quantized is None else len(quantized),
        "transfer": bool(transfer and quantized is not None),
    }
    cheap = None if fp32 is None else data_of(fp32, features, "the fp32 samples")
    dear = None if quantized is None else data_of(quantized, features, "the quantized samples")
    if dear is None:
        assert cheap is not None
        return _fp32_only(cheap, features, recipe, about, compare, seed, on_progress)
    base = None
    if transfer:
        assert cheap is not None
        base = pretrain(cheap, features, recipe, seed=seed, on_progress=on_progress)
        about["fp32"] = asdict(_out_of_fold(base, cheap, seed))
    if compare:
        about["quantized"] = {
            name: asdict(s) for name, s in compare_quantized(base, dear, features, recipe, seed).items()
        }
    if base is not None:
        final = transfer_to(base, dear, recipe, seed=seed)
    else:
        final = pretrain(dear, features, recipe, bits=True, seed=seed, on_progress=on_progress)
    return replace(final, report=about)


def _fp32_only(
    cheap: Data, features: Features, recipe: Recipe, about: Mapping[str, Any], compare: bool,
    seed: int, on_progress: OnProgress | None,
) -> Predictor:  # fmt: skip
    predictor = pretrain(cheap, features, recipe, seed=seed, on_progress=on_progress)
    return replace(predictor, report={**about, "fp32": asdict(_out_of_fold(predictor, cheap, seed))})


def compare_quantized(
    base: Predictor | None, dear: Data, features: Features, recipe: Recipe, seed: int
) -> dict[str, Scores]:
    """Train every way of using the samples on four fifths and judge it on the rest."""
    held = folds(dear.groups, 1, seed)[0]
    train, test = dear[~held], dear[held]
    ways: dict[str, Predictor] = {}
    if base is not None:
        ways["transfer"] = transfer_to(base, train, recipe, seed=seed)
    ways["from scratch"] = pretrain(train, features, recipe, bits=True, seed=seed)
    ways["bits-blind"] = pretrain(train, features, recipe, bits=False, seed=seed)
    return {name: score(way.predict_inputs(test.inputs)[0], test.target) for name, way in ways.items()}


def pretrain(
    data: Data,
    features: Features,
    recipe: Recipe,
    *,
    bits: bool = False,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Predictor:
    """Train an ensemble from random weights; ``bits`` says whether it sees bit columns."""
    scale = Scale(
        *_mean_std(data.inputs.arch_costs),
        *_mean_std(data.inputs.bits_costs),
        float(data.target.mean()),
        float(data.target.std()) or 1.0,
    )
    network = Ensemble(
        features.arch_columns + len(features.arch_costs),
        features.bits_columns + len(features.bits_costs) if bits else 0,
        hidden=recipe.hidden,
        members=recipe.members,
        seed=seed,
    )
    with torch.no_grad():
        network.head_bias.zero_()  # the target's mean is 0, so training starts at the mean
    predictor = Predictor(features, network, scale)
    return _fitted(predictor, data, recipe.updates, recipe, seed, on_progress)


def transfer_to(
    base: Predictor, data: Data, recipe: Recipe, *, seed: int = 0
) -> Predictor:
    """Continue an fp32 predictor on quantized samples (APQ, CVPR 2020, section 3.3)."""
    network = copy.deepcopy(base.network).requires_grad_(True)
    bits = base.features.bits_columns + len(base.features.bits_costs)
    network.add_bits(bits, zero=recipe.rescale)
    bits_mean, bits_std = _mean_std(data.inputs.bits_costs)
    scale = replace(base.scale, bits_mean=bits_mean, bits_std=bits_std)
    if recipe.rescale:
        scale = replace(
            scale, target_mean=float(data.target.mean()), target_std=float(data.target.std())
        )
        _rescale(network, Predictor(base.features, network, scale), data)
    moved = Predictor(base.features, network, scale)
    return _fitted(moved, data, recipe.transfer_updates, recipe, seed, None)


@torch.no_grad()
def _rescale(network: Ensemble, predictor: Predictor, data: Data) -> None:
    """Fit answers to the new targets by slope and offset (least squares, slope not negative)."""
    arch, _, target = dense(predictor, data)
    old = answers(network, arch, None).mean(dim=0)
    slope = float(((old - old.mean()) * target).mean() / old.var(unbiased=False).clamp(min=1e-9))
    slope = max(slope, 0.0)
    network.head.mul_(slope)
    network.head_bias.mul_(slope).add_(float(target.mean()) - slope * float(old.mean()))


def _fitted(
    predictor: Predictor, data: Data, updates: int, recipe: Recipe, seed: int,
    on_progress: OnProgress | None,
) -> Predictor:  # fmt: skip
    batch = int(np.clip(len(data) // 8, 16, 256))
    epochs = int(np.clip(updates * batch // len(data), 10, 400))
    arch, bits, target = dense(predictor, data)
    held = folds(data.groups, recipe.members, seed)
    fit(
        predictor.network, arch, bits, target, held, epochs=epochs, batch=batch,
        rank_weight=recipe.rank_weight, seed=seed, on_progress=on_progress,
    )  # fmt: skip
    predictor.network.requires_grad_(False)
    return predictor


def dense(predictor: Predictor, data: Data) -> tuple[Tensor, Tensor | None, Tensor]:
    """Dense inputs and standardised targets for training: ``(n, a)``, ``(n, b)``, ``(n,)``."""
    features, scale = predictor.features, predictor.scale
    arch_costs, bits_costs = standardise(data.inputs, scale)
    arch = torch.cat([_one_hot(data.inputs.arch_hot, features.arch_columns), arch_costs], dim=1)
    bits = None
    if predictor.quantized:
        bits = torch.cat([_one_hot(data.inputs.bits_hot, features.bits_columns), bits_costs], dim=1)
    target = torch.from_numpy((data.target - scale.target_mean) / scale.target_std).float()
    return arch, bits, target


def _one_hot(hot: NDArray[np.int64], columns: int) -> Tensor:
    out = np.zeros((len(hot), columns + 1), dtype=np.float32)
    np.put_along_axis(out, np.where(hot < 0, columns, hot), 1.0, axis=1)
    return torch.from_numpy(np.ascontiguousarray(out[:, :-1]))


def _mean_std(columns: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    std = columns.std(axis=0)
    return columns.mean(axis=0), np.where(std > 1e-6, std, np.float32(1)).astype(np.float32)


def _out_of_fold(predictor: Predictor, data: Data, seed: int) -> Scores:
    """Judge on rows by the members that did not train on them."""
    arch, bits, _ = dense(predictor, data)
    held = torch.from_numpy(folds(data.groups, predictor.network.members, seed))
    out = (answers(predictor.network, arch, bits) * held).sum(dim=0) / held.sum(dim=0).clamp(min=1)
    rows = held.any(dim=0).numpy()
    mean = out.double().numpy() * predictor.scale.target_std + predictor.scale.target_mean
    return score(mean[rows], data.target[rows], seed=seed)
