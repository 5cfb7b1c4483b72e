"""The trained predictor: candidates in, accuracy and spread out, without running a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from apq import __version__
from apq.errors import ModelError
from apq.predictor.features import Features, Inputs, SpaceFeatures, features_from_dict
from apq.predictor.model import Ensemble
from apq.space import Space

FORMAT = 1
"""Version of the file's layout; raised when an older apq could not read it."""


@dataclass(frozen=True)
class Scale:
    """Affine maps that give columns and targets mean 0 and deviation 1 on the training rows."""

    arch_mean: NDArray[np.float32]
    arch_std: NDArray[np.float32]
    bits_mean: NDArray[np.float32]
    bits_std: NDArray[np.float32]
    target_mean: float
    target_std: float


@dataclass(frozen=True)
class Predictor:
    """Accuracy of candidates (fractions), with doubt.

    Attributes:
        features: What it sees of a candidate; knows the space.
        network: The MLPs.
        scale: Standardisation of cost columns and target.
        spread_scale: Calibration factor of the members' deviation (see ``calibrate``).
        spread_floor: Deviation that remains where all members agree.
        report: Held-out errors, sample counts, seed, hash of the supernet: what made it.
    """

    features: Features
    network: Ensemble
    scale: Scale
    spread_scale: float = 1.0
    spread_floor: float = 0.0
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """The space whose genes it takes.

        Raises:
            ModelError: it was trained on a table that is not of a space.
        """
        if not isinstance(self.features, SpaceFeatures):
            raise ModelError("this predictor scores rows of a table, not genes of a space")
        return self.features.space

    @property
    def quantized(self) -> bool:
        """Whether it sees bits; an fp32 predictor ignores them."""
        return self.network.bits is not None

    def predict(
        self, candidates: Any, *, batch: int = 4096
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predict n candidates.

        Args:
            candidates: Genes ``(n, axes)``, or a table's rows if it was trained on one.
            batch: How many at a time (bounds memory, does not change the answer).

        Returns:
            Mean accuracy and spread (one standard deviation, calibrated), float64 ``(n,)`` each.
        """
        means, deviations = [np.empty(0)], [np.empty(0)]
        for start in range(0, len(candidates), batch):
            mean, deviation = self.predict_inputs(
                self.features.inputs(candidates[start : start + batch])
            )
            means.append(mean)
            deviations.append(deviation)
        return np.concatenate(means), np.concatenate(deviations)

    def predict_inputs(self, inputs: Inputs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As :meth:`predict`, from inputs that were computed before."""
        answers = self._answers(inputs) * self.scale.target_std
        mean = answers.mean(axis=0) + self.scale.target_mean
        deviation = answers.std(axis=0, ddof=1 if len(answers) > 1 else 0)
        return mean, np.hypot(deviation * self.spread_scale, self.spread_floor)

    @torch.inference_mode()
    def _answers(self, inputs: Inputs) -> NDArray[np.float64]:
        """Standardised answers of every member, ``(e, n)``.

        The first layer adds up rows of its weight matrix instead of multiplying a vector of
        mostly zeros.
        """
        net = self.network
        arch_costs, bits_costs = standardise(inputs, self.scale)
        hidden = torch.relu(_first(net.arch, net.arch_bias, inputs.arch_hot, arch_costs))
        if net.bits is not None and net.bits_bias is not None:
            hidden = hidden + _first(net.bits, net.bits_bias, inputs.bits_hot, bits_costs)
        answers: NDArray[np.float64] = net.tail(hidden).double().numpy()
        return answers

    def save(self, path: Path | str) -> None:
        """Write one safetensors file; its header holds the rest as JSON. Never pickle."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach().contiguous() for name, p in self.network.named_parameters()}
        for name in ("arch_mean", "arch_std", "bits_mean", "bits_std"):
            tensors[f"scale.{name}"] = torch.from_numpy(getattr(self.scale, name))
        about = {
            "format": FORMAT,
            "apq": __version__,
            "features": self.features.to_dict(),
            "network": {"hidden": self.network.hidden, "members": self.network.members},
            "target": [self.scale.target_mean, self.scale.target_std],
            "spread": [self.spread_scale, self.spread_floor],
            "report": dict(self.report),
        }
        if isinstance(self.features, SpaceFeatures):
            about["fingerprint"] = self.features.space.fingerprint
        partial = path.with_name(path.name + ".partial")
        save_file(tensors, partial, metadata={"apq-predictor": json.dumps(about, sort_keys=True)})
        partial.replace(path)


def standardise(inputs: Inputs, scale: Scale) -> tuple[Tensor, Tensor]:
    """The cost columns with mean 0 and deviation 1, ``(n, f)`` and ``(n, g)``."""
    arch = (inputs.arch_costs - scale.arch_mean) / scale.arch_std
    bits = (inputs.bits_costs - scale.bits_mean) / scale.bits_std
    return torch.from_numpy(arch), torch.from_numpy(bits)


def _first(weight: Tensor, bias: Tensor, hot: NDArray[np.int64], costs: Tensor) -> Tensor:
    """First layer by gathering: weight ``(e, columns + costs, h)`` to ``(e, n, h)``."""
    columns = weight.shape[1] - costs.shape[1]
    # members side by side, and a row of zeros for "no column" (-1)
    rows = torch.nn.functional.pad(weight[:, :columns].transpose(0, 1), (0, 0, 0, 0, 0, 1))
    index = torch.from_numpy(np.where(hot < 0, columns, hot))
    flat = torch.nn.functional.embedding_bag(index, rows.flatten(1), mode="sum")
    out = flat.view(len(index), weight.shape[0], -1).transpose(0, 1) + bias
    return out + costs @ weight[:, columns:]


def load_predictor(path: Path | str, space: Space | None = None) -> Predictor:
    """Read a predictor.

    Args:
        path: What :meth:`Predictor.save` wrote.
        space: Refuse a predictor of another space.

    Raises:
        ModelError: the file is missing, is no predictor, or is damaged.
        SpaceError: it was trained for another space; the message shows the differences.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no predictor at {path}; apq train-predictor --out {path} makes one")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("apq-predictor")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}") from error
    if text is None:
        raise ModelError(f"{path} is a safetensors file but no predictor of apq")
    try:
        about = json.loads(text)
        if about["format"] > FORMAT:
            raise ModelError(
                f"{path} has format {about['format']} (apq {about['apq']}); "
                f"this apq {__version__} reads up to {FORMAT}. Upgrade apq."
            )
        features = features_from_dict(about["features"])
        if space is not None and isinstance(features, SpaceFeatures):
            features.space.require_same(space, str(path), "the space asked for")
        scale = Scale(
            *(tensors.pop(f"scale.{n}").numpy() for n in ("arch_mean", "arch_std", "bits_mean", "bits_std")),
            *map(float, about["target"]),
        )
        bits = tensors["bits"].shape[1] if "bits" in tensors else 0
        network = Ensemble(tensors["arch"].shape[1], bits, **about["network"])
        network.load_state_dict(tensors)
        network.requires_grad_(False)
        spread = about["spread"]
        return Predictor(features, network, scale, float(spread[0]), float(spread[1]), about["report"])
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ModelError(f"{path} is damaged: {type(error).__name__}: {error}") from error
