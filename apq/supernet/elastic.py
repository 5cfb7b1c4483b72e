"""Elastic layers: slices and transforms of shared weights, as functions."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apq.supernet.depthwise import depthwise


class ConvBN(nn.Module):
    """Convolution without bias, batch norm, and ReLU6 or nothing.

    The plain building block of subnets; at its largest also the store of the supernet's weights.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.act: nn.Module = nn.ReLU6() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Shapes ``(n, cin, h, w) -> (n, cout, ceil(h / stride), ceil(w / stride))``."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


def slice_norm(x: Tensor, bn: nn.BatchNorm2d, channels: int) -> Tensor:
    """Batch norm by the first ``channels`` entries of a wider one.

    In training mode it normalises by the batch and leaves the running statistics alone: they would
    mix those of many subnets, so every extracted subnet gets its own (OFA recalibrates too).
    """
    mean, var = bn.running_mean, bn.running_var
    assert mean is not None
    assert var is not None
    weight, bias = bn.weight[:channels], bn.bias[:channels]
    if bn.training:
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, bn.eps)
    return F.batch_norm(x, mean[:channels], var[:channels], weight, bias, False, 0.0, bn.eps)


class ElasticBlock(nn.Module):
    """Inverted residual whose kernel and hidden width are chosen per forward pass.

    Width n uses the first n hidden channels. A smaller kernel is the centre of the next larger one,
    passed through a learned matrix shared by all channels (OFA, arXiv:1908.09791, section 3.3;
    matrices start as identity).
    """

    def __init__(
        self, cin: int, cout: int, stride: int, kernels: tuple[int, ...], widest: int
    ) -> None:
        super().__init__()
        self.kernels = kernels
        self.shortcut = stride == 1 and cin == cout
        self.stride = stride
        self.expand = ConvBN(cin, widest)
        self.depthwise = ConvBN(widest, widest, max(kernels), stride, widest)
        self.project = ConvBN(widest, cout, act=False)
        self.transforms = nn.ParameterDict(
            {
                f"{big}to{small}": nn.Parameter(torch.eye(small * small))
                for small, big in itertools.pairwise(kernels)
            }
        )

    def depthwise_weight(self, kernel: int, width: int) -> Tensor:
        """Depthwise weights ``(width, 1, kernel, kernel)`` after the chain of transforms."""
        weight = self.depthwise.conv.weight[:width]
        steps = zip(reversed(self.kernels[:-1]), reversed(self.kernels[1:]), strict=True)
        for small, big in steps:
            if small < kernel:
                break
            edge = (big - small) // 2
            centre = weight[:, :, edge : edge + small, edge : edge + small].reshape(width, -1)
            matrix = self.transforms[f"{big}to{small}"]
            weight = F.linear(centre, matrix).reshape(width, 1, small, small)
        return weight

    def slices(self, kernel: int, width: int) -> dict[str, Tensor]:
        """The weights and statistics of a plain block of that kernel and width, by its names."""
        found = {
            "expand.conv.weight": self.expand.conv.weight[:width],
            "depthwise.conv.weight": self.depthwise_weight(kernel, width),
            "project.conv.weight": self.project.conv.weight[:, :width],
        }
        for name, count in (("expand", width), ("depthwise", width), ("project", None)):
            norm = getattr(self, name).bn.state_dict(prefix=f"{name}.bn.", keep_vars=True)
            found |= {key: value[:count] if value.dim() else value for key, value in norm.items()}
        return found

    def forward(self, x: Tensor, kernel: int, width: int) -> Tensor:
        """Run with the given kernel size and hidden width."""
        y = F.conv2d(x, self.expand.conv.weight[:width])
        y = F.relu6(slice_norm(y, self.expand.bn, width))
        weight = self.depthwise_weight(kernel, width)
        y = depthwise(y, weight, self.stride)
        y = F.relu6(slice_norm(y, self.depthwise.bn, width))
        y = F.conv2d(y, self.project.conv.weight[:, :width])
        y = slice_norm(y, self.project.bn, y.shape[1])
        return x + y if self.shortcut else y

    @torch.no_grad()
    def sort_channels(self) -> None:
        """Reorder hidden channels by falling L1 norm of their project weights.

        The largest block computes the same function afterwards; prefixes now hold what matters
        most (OFA; APQ section 3.1).
        """
        importance = self.project.conv.weight.abs().sum(dim=(0, 2, 3))
        order = torch.argsort(importance, descending=True, stable=True)
        self.project.conv.weight.copy_(self.project.conv.weight[:, order])
        for part in (self.expand, self.depthwise):
            tensors = (part.conv.weight, part.bn.weight, part.bn.bias,
                       part.bn.running_mean, part.bn.running_var)  # fmt: skip
            for tensor in tensors:
                assert tensor is not None
                tensor.copy_(tensor[order])
