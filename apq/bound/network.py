"""Affine functions above and below the answer of an ensemble of MLPs, on a part of a space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from apq.bound.part import Affine, Part
from apq.predictor.features import SpaceFeatures, width
from apq.predictor.network import Network

Floats = NDArray[np.float64]
Mix = Callable[[Floats, Floats], Affine]
"""From weights ``(m, n)`` of a layer's n outputs and constants ``(m,)`` to functions above."""


@dataclass(frozen=True)
class _Member:
    """One MLP.

    Attributes:
        first: What goes into its first ReLU.
        bits: What is added to its output; None: nothing.
        layers: Weights ``(out, in)`` and biases of what comes after.
    """

    first: Affine
    bits: Affine | None
    layers: tuple[tuple[Floats, Floats], ...]


def members(network: Network, features: SpaceFeatures) -> list[_Member]:
    """The MLPs of an ensemble as functions of a candidate."""
    net = network.ensemble
    found = []
    for e in range(net.members):
        first = _layer(net.arch[e], net.arch_bias[e, 0], network, features, bits=False)
        bits = None
        if net.bits is not None and net.bits_bias is not None:
            bits = _layer(net.bits[e], net.bits_bias[e, 0], network, features, bits=True)
        layers = tuple(
            (_array(getattr(net, name)[e]).T, _array(getattr(net, f"{name}_bias")[e, 0]))
            for name in ("second", "third", "head")
        )
        found.append(_Member(first, bits, layers))
    return found


def _layer(
    weight: Tensor, bias: Tensor, network: Network, features: SpaceFeatures, bits: bool
) -> Affine:
    """A first layer ``(columns, h)`` on one-hot columns, then standardised smooth ones."""
    space = features.space
    of_choices, of_depths, of_logs = features.parts()
    wide = width(features.arch_groups)
    own = slice(wide, None) if bits else slice(0, wide)
    mean, std = (
        (network.bits_mean, network.bits_std) if bits else (network.arch_mean, network.arch_std)
    )
    full = _array(weight).T
    hot = full.shape[1] - len(mean)
    smooth = full[:, hot:] / _array(std)
    start = space.architecture_dims if bits else 0
    code = np.zeros((len(full), space.encoding_dims))
    code[:, start : start + hot] = full[:, :hot]
    return Affine(
        code + smooth @ of_choices[:, own].T, smooth @ of_depths[:, own].T,
        smooth @ of_logs[:, own].T, _array(bias) - smooth @ _array(mean),
    )  # fmt: skip


def _array(tensor: Tensor) -> Floats:
    found: Floats = tensor.detach().double().numpy()
    return found


def answers(ensemble: list[_Member], part: Part) -> tuple[Affine, Affine]:
    """Functions below and above the mean answer (one each).

    Linear bounds carried back through the ReLUs, whose ranges come from the same bounds of the
    layers before (CROWN, Zhang et al., NeurIPS 2018, arXiv:1811.00866); what goes into the first
    ReLU is bounded over combinations of choices within the limits, not over a box of columns.
    """
    pairs = [_answer(member, part) for member in ensemble]
    below, above = pairs[0]
    for low, high in pairs[1:]:
        below, above = below + low, above + high
    share = np.array([[1.0 / len(pairs)]])
    return below.mixed(share), above.mixed(share)


def _answer(member: _Member, part: Part) -> tuple[Affine, Affine]:
    mix = _through_relu(member.first.mixed, member.first, -member.first, part)
    if member.bits is not None:
        relu, bits = mix, member.bits

        def with_bits(weights: Floats, constant: Floats) -> Affine:
            return relu(weights, constant) + bits.mixed(weights)

        mix = with_bits
    for weight, bias in member.layers[:-1]:
        mix = _through_layer(mix, weight, bias)
        every = np.eye(len(weight))
        nothing = np.zeros(len(weight))
        mix = _through_relu(mix, mix(every, nothing), mix(-every, nothing), part)
    weight, bias = member.layers[-1]
    return -mix(-weight, -bias), mix(weight, bias)


def _through_layer(mix: Mix, weight: Floats, bias: Floats) -> Mix:
    return lambda weights, constant: mix(weights @ weight, constant + weights @ bias)


def _through_relu(mix: Mix, above: Affine, minus: Affine, part: Part) -> Mix:
    """What is above sums of outputs of ReLUs, given what is above their inputs and above minus
    their inputs."""
    high, low = part.maxima(above), -part.maxima(minus)
    open_ = (low < 0) & (high > 0)
    slope = np.where(high <= 0, 0.0, np.where(low >= 0, 1.0, high / np.where(open_, high - low, 1)))
    offset = np.where(open_, -slope * low, 0.0)
    least = np.where(open_, (high > -low).astype(float), slope)  # the line below, through zero

    def through(weights: Floats, constant: Floats) -> Affine:
        up, down = np.maximum(weights, 0.0), np.minimum(weights, 0.0)
        return mix(up * slope + down * least, constant + up @ offset)

    return through
