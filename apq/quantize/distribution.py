"""Distribution loss: keeps pre-activations of binary layers from degenerating or saturating."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apq.quantize.levels import SignActivations
from apq.quantize.network import QuantizedConv
from apq.quantize.uniform import UniformActivations


@dataclass(frozen=True)
class DistributionLoss:
    """Three penalties per channel, averaged.

    Attributes:
        degeneration: Nearly all values have one sign.
        saturation: Most lie beyond -1 and 1, where the gradient of the hard tanh is 0.
        mismatch: Too many lie between, where the sign differs from the identity.
    """

    degeneration: Tensor
    saturation: Tensor
    mismatch: Tensor

    def total(self) -> Tensor:
        """Their sum."""
        return self.degeneration + self.saturation + self.mismatch


def distribution_loss(x: Tensor, widest: float = 4.0, narrowest: float = 2.0) -> DistributionLoss:
    """Distribution loss of Ding et al., CVPR 2019 (arXiv:1904.02823), with the released constants.

    Args:
        x: Pre-activations ``(n, c)`` or ``(n, c, h, w)``, on the scale where -1 and 1 are the ends
            of the hard tanh.
        widest: Standard deviations above this count as saturated.
        narrowest: ``|mean| + deviation`` below this counts as crowded.
    """
    dims = [d for d in range(x.dim()) if d != 1]
    mean = x.mean(dims)
    deviation = (x.var(dims, unbiased=False) + 1e-10).sqrt()
    return DistributionLoss(
        (mean.square() - deviation.square()).clamp_min(0).mean(),
        (deviation - widest).clamp_min(0).square().mean(),
        (narrowest - mean.abs() - deviation).clamp_min(0).square().mean(),
    )


class BinaryInputs:
    """Collects the distribution loss of every 1-bit activation of a network, pass by pass.

    What is rounded to 0 or a clip is shifted and scaled so that its threshold is 0 and its levels
    are -1 and 1.
    """

    def __init__(self, network: nn.Module) -> None:
        self._losses: list[Tensor] = []
        self._handles = [
            part.inputs.register_forward_pre_hook(self._note)
            for part in network.modules()
            if isinstance(part, QuantizedConv) and _binary(part.inputs)
        ]

    @property
    def count(self) -> int:
        """How many activations have 1 bit."""
        return len(self._handles)

    def _note(self, quantizer: nn.Module, args: tuple[Tensor, ...]) -> None:
        (x,) = args
        if isinstance(quantizer, UniformActivations):
            x = x / (quantizer.clip.detach() / 2) - 1
        elif isinstance(quantizer, SignActivations):
            x = x / quantizer.scale
        self._losses.append(distribution_loss(x).total())

    def collect(self) -> Tensor:
        """Mean over layers since the last call; 0 if nothing is binary."""
        losses, self._losses = self._losses, []
        return torch.stack(losses).mean() if losses else torch.zeros(())

    def remove(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()


def _binary(quantizer: object) -> bool:
    if isinstance(quantizer, UniformActivations):
        return quantizer.bits == 1
    return isinstance(quantizer, SignActivations)
