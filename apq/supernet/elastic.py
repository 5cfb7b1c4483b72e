"""Elastic layers: slices and transforms of shared weights, as functions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apq.space.layer import Size, both, size_of
from apq.training.ranks import ALONE, Ranks, normalised


class HardSigmoid(nn.Module):
    """``relu6(x + 3) / 6``, in the operations and the order in which exported files have them."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return (x + 3.0).clamp(0.0, 6.0) / 6.0


class HardSwish(nn.Module):
    """``x relu6(x + 3) / 6`` (Howard et al., ICCV 2019), likewise."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * (x + 3.0).clamp(0.0, 6.0) / 6.0


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6, "hsigmoid": HardSigmoid,
    "hswish": HardSwish,
}  # fmt: skip
"""Modules of the activations that nodes of a graph have."""


class ConvBN(nn.Module):
    """Convolution without bias, batch norm, and an activation or nothing.

    The plain building block of subnets; at its largest also the store of the supernet's weights.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int = 1,
        stride: Size = 1,
        groups: int = 1,
        act: str = "relu6",
        epsilon: float = 1e-5,
        padding: int = -1,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding < 0 else padding
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=epsilon)
        self.act: nn.Module = ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:
        """Shapes ``(n, cin, h, w) -> (n, cout, ceil(h / stride), ceil(w / stride))``."""
        c = self.conv
        single = c.kernel_size == (1, 1) and c.padding == (0, 0)
        if x.is_cuda or (single and c.stride != (1, 1) and torch.is_grad_enabled()):
            x = convolve(x, c.weight, c.bias, stride_of(c), c.groups, int(c.padding[0]))
        else:
            x = c(x)
        out: Tensor = self.act(self.bn(x))
        return out


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    groups: int = 1,
    padding: int = -1,
) -> Tensor:
    """A convolution padded by half its kernel (or as said), ``(n, cin, h, w) -> (n, cout, …)``.

    One of single pixels first drops those that its stride skips. The numbers are the same; the
    backward pass of such convolutions of four channels, channels last, writes outside its memory in
    oneDNN as PyTorch 2.13 has it.

    On CUDA, single pixels are matrix products and other convolutions get their images channel by
    channel, for which PyTorch has depthwise kernels of its own. cuDNN spends milliseconds on a plan
    for every new shape, and subnets never stop having new shapes: on an H200 a quantized sample of
    the CIFAR-10 space took 9.1 seconds with it and takes 3.2.
    """
    kernel = weight.shape[-1]
    if kernel == 1 and stride != 1 and padding <= 0:
        rows, columns = both(stride)
        x, stride, padding = x[:, :, ::rows, ::columns], 1, 0
    if x.is_cuda:
        if kernel == 1 and groups == 1 and padding <= 0:
            return pixelwise(x, weight, bias)
        x, weight = x.contiguous(), weight.reshape(len(weight), -1).view(weight.shape)
    return F.conv2d(x, weight, bias, stride, kernel // 2 if padding < 0 else padding, 1, groups)


def pixelwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of single pixels as a matrix product: ``(n, cin, h, w)`` by
    ``(cout, cin, 1, 1)`` gives ``(n, cout, h, w)``."""
    count, _, rows, columns = x.shape
    out = torch.bmm(weight.flatten(1).expand(count, -1, -1), x.flatten(2))
    out = out.view(count, -1, rows, columns)
    return out if bias is None else out + bias.view(-1, 1, 1)


def stride_of(conv: nn.Conv2d) -> Size:
    """Stride of a convolution by rows and columns."""
    return size_of([int(step) for step in conv.stride])


def resized(images: Tensor, size: Size) -> Tensor:
    """Images of a height and width: ``(n, c, h, w) -> (n, c, height, width)``, any type.

    Linear interpolation over as many pixels as one of the result covers, as Pillow resizes; images
    of that size already are returned as they are, and so are signals, ``(n, c, length)``.
    """
    if images.dim() != 4 or images.shape[-2:] == both(size):
        return images
    return F.interpolate(images, both(size), mode="bilinear", antialias=True)


def taken(tensor: Tensor, dim: int, kept: Sequence[tuple[int, int]]) -> Tensor:
    """The leading entries of every part of a dimension.

    Args:
        tensor: Any.
        dim: The dimension.
        kept: Per part how many entries it has and how many are taken.
    """
    if len(kept) == 1:
        return tensor.narrow(dim, 0, kept[0][1])
    starts = itertools.accumulate((full for full, _ in kept), initial=0)
    found = [tensor.narrow(dim, a, n) for a, (_, n) in zip(starts, kept, strict=False)]
    return torch.cat(found, dim=dim)


def slice_norm(
    x: Tensor, bn: nn.BatchNorm2d, kept: Sequence[tuple[int, int]], ranks: Ranks = ALONE
) -> Tensor:
    """Batch norm by the first entries of a wider one, or of each of its parts (:func:`taken`).

    In training mode it normalises by the batch (of all ``ranks``) and leaves the running statistics
    alone: they would mix those of many subnets, so every extracted subnet gets its own (OFA
    recalibrates too).
    """
    mean, var = bn.running_mean, bn.running_var
    assert mean is not None
    assert var is not None
    weight, bias = taken(bn.weight, 0, kept), taken(bn.bias, 0, kept)
    if bn.training and ranks.count > 1:
        return normalised(x, weight, bias, bn.eps)
    if bn.training:
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, bn.eps)
    mean, var = taken(mean, 0, kept), taken(var, 0, kept)
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, bn.eps)


def transforms(kernels: Sequence[int]) -> nn.ParameterDict:
    """Learned matrices from each kernel size to the next smaller one, the identity at first."""
    return nn.ParameterDict(
        {
            f"{big}to{small}": nn.Parameter(torch.eye(small * small))
            for small, big in itertools.pairwise(kernels)
        }
    )


def shrink(
    weight: Tensor, kernel: int, kernels: Sequence[int], matrices: nn.ParameterDict
) -> Tensor:
    """Weights of a smaller kernel, ``(out, in, kernel, kernel)``.

    A smaller kernel is the centre of the next larger one, passed through a learned matrix shared by
    all channels (OFA, arXiv:1908.09791, section 3.3).

    Args:
        weight: Those of the largest kernel, ``(out, in, k, k)``.
        kernel: Size to cut out.
        kernels: All sizes, ascending.
        matrices: From :func:`transforms`.
    """
    steps = zip(reversed(kernels[:-1]), reversed(kernels[1:]), strict=True)
    for small, big in steps:
        if small < kernel:
            break
        edge = (big - small) // 2
        centre = weight[:, :, edge : edge + small, edge : edge + small].flatten(2)
        weight = F.linear(centre, matrices[f"{big}to{small}"])
        weight = weight.reshape(*weight.shape[:2], small, small)
    return weight
