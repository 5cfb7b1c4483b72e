"""Convolution of every channel alone whose weight gradient is fast on a CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apq.space.layer import Size
from apq.supernet.elastic import convolve

WORTH_IT = 5
"""Kernel size from which our gradient beats PyTorch's (measured: 3 to 15 times for 5 and 7)."""


def channelwise(x: Tensor, weight: Tensor, stride: Size) -> Tensor:
    """Convolution of every channel alone, same padding, ``(n, c, h, w)`` by ``(c, 1, k, k)``.

    The same numbers as ``F.conv2d`` up to rounding in the weight gradient: with numba installed
    (the extra ``fast``) and large kernels on a CPU, that gradient is computed by our own loop,
    where PyTorch spends a third of a training step on it.
    """
    kernel = weight.shape[-1]
    ours = (
        kernel >= WORTH_IT
        and isinstance(stride, int)
        and weight.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
        and _loop() is not None
    )
    if not ours:
        return convolve(x, weight, None, stride, len(weight))
    out: Tensor = _Channelwise.apply(x, weight, stride)  # type: ignore[no-untyped-call]
    return out


class _Channelwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        kernel, stride = weight.shape[-1], ctx.stride
        back = None
        if ctx.needs_input_grad[0]:
            back = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [stride, stride], [kernel // 2] * 2, [1, 1], False, [0, 0],
                len(weight), [True, False, False],
            )[0]  # fmt: skip
        return back, weight_gradient(x, grad, kernel, stride), None


def weight_gradient(x: Tensor, grad: Tensor, kernel: int, stride: int) -> Tensor:
    """Gradient of such a convolution's weights, ``(c, 1, k, k)``.

    Both arguments channels-last float32 on the CPU: input ``(n, c, h, w)``, gradient of the output.
    """
    loop = _loop()
    assert loop is not None
    parts = min(torch.get_num_threads(), len(x))
    sums = np.zeros((parts, kernel, kernel, x.shape[1]), dtype=np.float32)
    pixels, slopes = x.detach().permute(0, 2, 3, 1).numpy(), grad.permute(0, 2, 3, 1).numpy()
    shares = zip(np.array_split(pixels, parts), np.array_split(slopes, parts), sums, strict=True)
    if parts == 1:
        loop(pixels, slopes, stride, sums[0])
    else:  # the loop lets go of the interpreter lock
        list(_threads(parts).map(lambda share: loop(share[0], share[1], stride, share[2]), shares))
    return torch.from_numpy(sums.sum(0)).permute(2, 0, 1)[:, None]


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)


@cache
def _loop() -> Any | None:
    """The compiled loop, or None without numba."""
    try:
        from numba import njit
    except ImportError:
        return None

    def loop(x: Any, grad: Any, stride: int, sums: Any) -> None:
        # Channels last and innermost: every line below is a row of contiguous multiply-adds.
        images, height, width, channels = x.shape
        kernel = sums.shape[0]
        pad = kernel // 2
        for n in range(images):
            for i in range(kernel):
                for row in range(grad.shape[1]):
                    y = row * stride + i - pad
                    if y < 0 or y >= height:
                        continue
                    for j in range(kernel):
                        total = sums[i, j]
                        first = max(0, (pad - j + stride - 1) // stride)
                        last = min(grad.shape[2], (width - 1 - j + pad) // stride + 1)
                        for col in range(first, last):
                            pixels, slopes = x[n, y, col * stride + j - pad], grad[n, row, col]
                            for c in range(channels):
                                total[c] += pixels[c] * slopes[c]

    return njit(fastmath=True, nogil=True, error_model="numpy")(loop)
