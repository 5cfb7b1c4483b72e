"""The accuracy MLP of APQ, several of them side by side."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """``members`` equal MLPs trained and run as one batch of matrices.

    APQ's form (released code; CVPR 2020, section 3.3): three hidden layers with ReLU. The first
    sees the architecture columns; bit columns enter through one linear map added to its output
    after the ReLU, so that an fp32 predictor is the same network without that map.

        h = relu(A x_arch + a) [+ Q x_bits + q]
        h = relu(B h + b);  h = relu(C h + c);  y = R h + r

    Shape letters: e members, n candidates, a architecture columns, b bit columns, h hidden.

    Args:
        arch: Architecture columns, one-hot and costs together.
        bits: Bit columns likewise; 0 for an fp32 predictor.
        hidden: Width of every hidden layer (the paper: 400).
        members: Number of MLPs.
        seed: Random seed of the initial weights (PyTorch's default for linear layers).
    """

    def __init__(
        self, arch: int, bits: int = 0, *, hidden: int = 400, members: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        self.members, self.hidden = members, hidden
        self._generator = torch.Generator().manual_seed(seed)
        self.arch, self.arch_bias = self._linear(arch, hidden)
        self.bits: nn.Parameter | None = None
        self.bits_bias: nn.Parameter | None = None
        self.second, self.second_bias = self._linear(hidden, hidden)
        self.third, self.third_bias = self._linear(hidden, hidden)
        self.head, self.head_bias = self._linear(hidden, 1)
        if bits:
            self.add_bits(bits)

    def _linear(self, fan_in: int, fan_out: int) -> tuple[nn.Parameter, nn.Parameter]:
        bound = 1 / math.sqrt(max(fan_in, 1))
        make = [(self.members, fan_in, fan_out), (self.members, 1, fan_out)]
        weight, bias = (
            nn.Parameter((torch.rand(shape, generator=self._generator) * 2 - 1) * bound)
            for shape in make
        )
        return weight, bias

    def add_bits(self, bits: int) -> None:
        """Give the network its map of bit columns, with random weights as in the paper."""
        self.bits, self.bits_bias = self._linear(bits, self.hidden)

    def forward(self, arch: Tensor, bits: Tensor | None = None) -> Tensor:
        """Answers ``(e, n)`` for ``arch`` of shape ``(e, n, a)`` and ``bits`` of ``(e, n, b)``."""
        hidden = torch.relu(torch.baddbmm(self.arch_bias, arch, self.arch))
        if self.bits is not None and self.bits_bias is not None and bits is not None:
            hidden = hidden + torch.baddbmm(self.bits_bias, bits, self.bits)
        return self.tail(hidden)

    def tail(self, hidden: Tensor) -> Tensor:
        """Everything after the first hidden layer: ``(e, n, h)`` to ``(e, n)``."""
        hidden = torch.relu(torch.baddbmm(self.second_bias, hidden, self.second))
        hidden = torch.relu(torch.baddbmm(self.third_bias, hidden, self.third))
        return torch.baddbmm(self.head_bias, hidden, self.head).squeeze(-1)

    def tail_of(self, member: int, hidden: Tensor) -> Tensor:
        """:meth:`tail` of one member, without gradients: ``(n, h)`` to ``(n,)``."""
        hidden = torch.addmm(self.second_bias[member], hidden, self.second[member]).relu_()
        hidden = torch.addmm(self.third_bias[member], hidden, self.third[member]).relu_()
        return torch.addmv(self.head_bias[member, 0], hidden, self.head[member, :, 0])
