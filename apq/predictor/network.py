"""The MLP ensemble as a predictor: standardised inputs, training, prediction by gathering."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq.predictor.features import Features, Inputs, one_hot, width
from apq.predictor.fitting import answers, fit, folds
from apq.predictor.model import Ensemble
from apq.training import OnProgress

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """An ensemble and the maps that give its smooth columns mean 0 and deviation 1.

    Attributes:
        ensemble: The MLPs.
        arch_mean, arch_std, bits_mean, bits_std: For the smooth columns, ``(a,)`` and ``(b,)``.
        floor: Deviation that remains where all members agree (their held-out error).
    """

    ensemble: Ensemble
    arch_mean: Tensor
    arch_std: Tensor
    bits_mean: Tensor
    bits_std: Tensor
    floor: float = 0.0

    def predict(self, inputs: Inputs) -> tuple[Array, Array]:
        """Mean and deviation over members, standardised units, ``(n,)`` each."""
        out = self._members(inputs)
        spread = out.std(axis=0, ddof=1) if len(out) > 1 else np.zeros(out.shape[1])
        return out.mean(axis=0), np.hypot(spread, self.floor)

    def covariance(self, inputs: Inputs) -> Array:
        """Covariance ``(n, n)`` of the members' answers; zero for a single one."""
        out = self._members(inputs)
        out -= out.mean(axis=0)
        together: Array = out.T @ out / max(len(out) - 1, 1)
        return together

    @torch.inference_mode()
    def _members(self, inputs: Inputs) -> Array:
        """Answers ``(e, n)``. The first layer adds up rows of its weight matrix instead of
        multiplying vectors of mostly zeros."""
        arch, bits = self.standardised(inputs)
        hidden = self._arch_layer(inputs.arch_hot, arch).relu_()
        if self._bits_layer is not None:
            hidden += self._bits_layer(inputs.bits_hot, bits)
        # member by member: what one needs stays in the cache
        net = self.ensemble
        out = [
            net.tail_of(i, part) for i, part in enumerate(torch.split(hidden, net.hidden, dim=1))
        ]
        answers: Array = torch.stack(out).double().numpy()
        return answers

    @cached_property
    def _arch_layer(self) -> _First:
        return _First.of(self.ensemble.arch, self.ensemble.arch_bias, len(self.arch_mean))

    @cached_property
    def _bits_layer(self) -> _First | None:
        net = self.ensemble
        if net.bits is None or net.bits_bias is None:
            return None
        return _First.of(net.bits, net.bits_bias, len(self.bits_mean))

    def standardised(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The smooth columns with mean 0 and deviation 1."""
        arch = (torch.from_numpy(inputs.arch) - self.arch_mean) / self.arch_std
        bits = (torch.from_numpy(inputs.bits) - self.bits_mean) / self.bits_std
        return arch, bits

    def dense(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Dense inputs for training: one-hot code and smooth columns side by side."""
        net = self.ensemble
        arch, bits = self.standardised(inputs)
        hot = one_hot(inputs.arch_hot, net.arch.shape[1] - arch.shape[1])
        x = torch.cat([torch.from_numpy(hot), arch], dim=1)
        if net.bits is None:
            return x, None
        hot = one_hot(inputs.bits_hot, net.bits.shape[1] - bits.shape[1])
        return x, torch.cat([torch.from_numpy(hot), bits], dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors to save, by name."""
        own = {n: getattr(self, n) for n in ("arch_mean", "arch_std", "bits_mean", "bits_std")}
        return own | {
            f"ensemble.{n}": p.detach().contiguous() for n, p in self.ensemble.named_parameters()
        }

    def to_dict(self) -> dict[str, Any]:
        """The numbers that are no tensors."""
        return {
            "members": self.ensemble.members, "hidden": self.ensemble.hidden, "floor": self.floor
        }  # fmt: skip

    @classmethod
    def from_parts(
        cls, tensors: Mapping[str, Tensor], *, members: int, hidden: int, floor: float
    ) -> Network:
        """Inverse of :meth:`tensors` and :meth:`to_dict`; the tensors as :func:`shapes` says."""
        weights = {n.removeprefix("ensemble."): t for n, t in tensors.items() if "ensemble." in n}
        bits = weights["bits"].shape[1] if "bits" in weights else 0
        ensemble = Ensemble(weights["arch"].shape[1], bits, hidden=hidden, members=members)
        ensemble.load_state_dict(weights)
        ensemble.requires_grad_(False)
        own = {n: t for n, t in tensors.items() if "ensemble." not in n}
        return cls(ensemble, **own, floor=floor)


def shapes(
    features: Features, *, bits: bool, members: int, hidden: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a network by name, all float32."""
    arch, smooth_bits = width(features.arch_groups), width(features.bits_groups)
    inputs = {"arch": width(features.arch_hot_groups) + arch}
    if bits:
        inputs["bits"] = width(features.bits_hot_groups) + smooth_bits
    found: dict[str, tuple[int, ...]] = {
        "arch_mean": (arch,), "arch_std": (arch,),
        "bits_mean": (smooth_bits,), "bits_std": (smooth_bits,),
    }  # fmt: skip
    inputs |= {"second": hidden, "third": hidden, "head": hidden}
    for name, fan_in in inputs.items():
        fan_out = 1 if name == "head" else hidden
        found[f"ensemble.{name}"] = (members, fan_in, fan_out)
        found[f"ensemble.{name}_bias"] = (members, 1, fan_out)
    return found


def new_network(
    features: Features, inputs: Inputs, *, bits: bool, hidden: int, members: int, seed: int
) -> Network:
    """An untrained network whose standardisation fits ``inputs``."""
    ensemble = Ensemble(
        width(features.arch_hot_groups) + inputs.arch.shape[1],
        width(features.bits_hot_groups) + inputs.bits.shape[1] if bits else 0,
        hidden=hidden, members=members, seed=seed,
    )  # fmt: skip
    with torch.no_grad():
        ensemble.head_bias.zero_()  # targets are standardised, so this is their mean
    return Network(ensemble, *_mean_std(inputs.arch), *_mean_std(inputs.bits))


def continued(base: Network, features: Features, inputs: Inputs, *, bits: bool) -> Network:
    """A copy of an fp32 network to be trained on, with a fresh map of bit columns if ``bits``
    (APQ, CVPR 2020, section 3.3)."""
    ensemble = copy.deepcopy(base.ensemble).requires_grad_(True)
    if bits:
        ensemble.add_bits(width(features.bits_hot_groups) + inputs.bits.shape[1])
    return Network(ensemble, base.arch_mean, base.arch_std, *_mean_std(inputs.bits))


def train_network(
    network: Network,
    inputs: Inputs,
    target: Array,
    blocks: NDArray[np.int64],
    *,
    updates: int,
    rank_weight: float,
    seed: int,
    on_progress: OnProgress | None = None,
) -> tuple[Network, Array, Array]:
    """Train in place.

    Args:
        network: Trained in place; the result shares its weights.
        inputs: Inputs of n candidates.
        target: Standardised measurements ``(n,)``.
        blocks: Rows with equal numbers are held out together ``(n,)``.
        updates: Steps, about.
        rank_weight: Weight of the ranking term of the loss.
        seed: Random seed of the order of rows and the held-out rows.
        on_progress: See :func:`apq.predictor.fitting.fit`.

    Returns:
        The network with its floor set and, per row, mean and deviation by the members that did
        not train on it; NaN for rows every member trained on.
    """
    batch = int(np.clip(len(target) // 8, 16, 256))
    epochs = int(np.clip(updates * batch // len(target), 8, 200))
    arch, bits = network.dense(inputs)
    held = folds(blocks, network.ensemble.members, seed)
    fit(
        network.ensemble, arch, bits, torch.from_numpy(target).float(), held,
        epochs=epochs, batch=batch, rank_weight=rank_weight, seed=seed, on_progress=on_progress,
    )  # fmt: skip
    network.ensemble.requires_grad_(False)
    out = answers(network.ensemble, arch, bits).double().numpy()
    count = held.sum(axis=0)
    mean = np.where(count > 0, (out * held).sum(axis=0) / np.maximum(count, 1), np.nan)
    spread = out.std(axis=0, ddof=1) if len(out) > 1 else np.zeros(len(target))
    floor = float(np.sqrt(np.nanmean((mean - target) ** 2)))
    trained = Network(
        network.ensemble, network.arch_mean, network.arch_std, network.bits_mean,
        network.bits_std, floor,
    )  # fmt: skip
    return trained, mean, np.hypot(spread, floor)


@dataclass(frozen=True)
class _First:
    """A first layer of all members side by side, e * h columns.

    Attributes:
        choices: A row per one-hot column and a last one of zeros for "no column" (-1).
        smooth: A row per smooth column.
        bias: One row.
    """

    choices: Tensor
    smooth: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, smooth: int) -> _First:
        """Lay out the layer ``(e, columns, h)`` whose last ``smooth`` columns are smooth."""
        flat = weight.detach().transpose(0, 1).flatten(1)
        choices, rest = torch.split(flat, [len(flat) - smooth, smooth])
        choices = torch.nn.functional.pad(choices, (0, 0, 0, 1))
        return cls(choices, rest.contiguous(), bias.detach().flatten())

    def __call__(self, hot: NDArray[np.int64], smooth: Tensor) -> Tensor:
        """Its output ``(n, e * h)``."""
        last = len(self.choices) - 1
        index = torch.from_numpy(np.where(hot < 0, last, hot))
        out = torch.nn.functional.embedding_bag(index, self.choices, mode="sum")
        return out.addmm_(smooth, self.smooth).add_(self.bias)


def _mean_std(columns: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    std = columns.std(axis=0)
    std = np.where(std > 1e-6, std, np.float32(1)).astype(np.float32)
    return torch.from_numpy(columns.mean(axis=0)), torch.from_numpy(std)
