"""One training in several processes, as ``torchrun`` starts them: each has a part of every batch.

The processes are called ranks, as everywhere. All hold the same weights and run the same subnets;
statistics of batch norm, losses and gradients are those of the whole batch. So training in any
number of processes is the same training, up to the rounding of sums.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from apq.errors import ApqError
from apq.training.devices import at_least_float32, find_device
from apq.workers import torchrun_place

PATIENCE = timedelta(hours=2)
"""How long a rank waits for another, for instance while rank 0 measures the finished network."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a training; alone, all of this does nothing.

    Attributes:
        number: Of this one, from 0.
        count: Of all.

    Example:
        >>> Ranks(1, 3).part(8)
        slice(3, 6, None)
    """

    number: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Those of ``torch.distributed``, if it has been initialised."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.number == 0

    def part(self, count: int) -> slice:
        """This rank's rows of a batch; parts differ by one row at most."""
        size, more = divmod(count, self.count)
        start = self.number * size + min(self.number, more)
        return slice(start, start + size + (self.number < more))

    @torch.no_grad()
    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        total = values.clone()
        if self.count > 1:
            _exchange(dist.all_reduce, total)
        return total

    @torch.no_grad()
    def sum_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by the sum over all ranks, in one message. Only parameters of the
        subnets that ran have gradients, and these are the same everywhere."""
        if self.count == 1:
            return
        found = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([grad.flatten() for grad in found])
        _exchange(dist.all_reduce, flat)
        for grad, part in zip(found, torch.split(flat, [g.numel() for g in found]), strict=True):
            grad.copy_(part.view(grad.shape))

    @torch.no_grad()
    def take_first(self, *tensors: Tensor) -> None:
        """Overwrite tensors by those of rank 0."""
        for tensor in tensors if self.count > 1 else ():
            held = tensor.contiguous()
            _exchange(dist.broadcast, held, 0)
            tensor.copy_(held)

    def agree(self, what: str, device: torch.device) -> bool:
        """Whether all ranks say the same."""
        if self.count == 1:
            return True
        number = int.from_bytes(hashlib.sha256(what.encode()).digest()[:7])
        extremes = torch.tensor([number, -number], device=device)
        _exchange(dist.all_reduce, extremes, dist.ReduceOp.MAX)
        return extremes.tolist() == [number, -number]

    def wait(self, device: torch.device) -> None:
        """Until all ranks are here."""
        self.agree("", device)


ALONE = Ranks()


def _exchange(operation: Any, tensor: Tensor, *how: Any) -> None:
    """Run an operation of ``torch.distributed``.

    Raises:
        ApqError: another rank does not answer.
    """
    try:
        operation(tensor, *how)
    except RuntimeError as error:
        raise ApqError(
            "another process of this training has ended or cannot be reached; the same command "
            f"continues from the checkpoint ({_line(error)})"
        ) from error


def _line(error: Exception) -> str:
    """The beginning of what an error says."""
    return str(error).splitlines()[0][:200]


def normalised(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Batch norm by the mean and variance over the batches of all ranks.

    PyTorch's ``SyncBatchNorm`` does this on GPUs alone. Sums are exchanged in float64, so that
    nothing cancels: one message on the way forward, one back.

    Args:
        x: This rank's rows, ``(n, c, h, w)``; ``n`` may differ.
        weight, bias: ``(c,)``.
        epsilon: Added to the variance.

    Returns:
        Shape and type of ``x``.
    """
    found: Tensor = _BatchNorm.apply(x, weight, bias, epsilon)  # type: ignore[no-untyped-call]
    return found


_ROWS = (0, 2, 3)
"""Dimensions of a batch that statistics of channels go over."""


class _BatchNorm(torch.autograd.Function):
    """The mean of the gradient, and of its product with the output, go over all ranks as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        variance, mean = (
            v.double() for v in torch.var_mean(at_least_float32(x), _ROWS, correction=0)
        )
        count = x.numel() // x.shape[1]
        sums = torch.cat([mean, variance + mean.square(), mean.new_ones(1)]) * count
        _exchange(dist.all_reduce, sums)
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        scale = (square - mean.square() + epsilon).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, sums[-1])
        return _affine(x, weight * scale, bias - weight * scale * mean)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        gradient = gradients[0]
        centred = _affine(x, scale, -scale * mean)
        own = torch.cat([gradient.sum(_ROWS), (gradient * centred).sum(_ROWS)]).double()
        means = own.clone()
        _exchange(dist.all_reduce, means)
        level, slope = (means / count).chunk(2)
        found = _affine(gradient, weight * scale, -weight * scale * level)
        found.addcmul_(centred, (-weight * scale * slope).to(x.dtype)[:, None, None])
        to_bias, to_weight = own.to(weight.dtype).chunk(2)
        return found, to_weight, to_bias, None


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``x scale + shift`` per channel."""
    scale, shift = (v.to(x.dtype)[:, None, None] for v in (scale, shift))
    return torch.addcmul(shift, x, scale)


@contextlib.contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that ``torchrun`` has started; alone, nothing.

    Args:
        device: As for :func:`~apq.training.find_device`; of several GPUs each process on a machine
            takes its own.

    Yields:
        The device of this process.

    Raises:
        ApqError: there is no such device, or processes cannot work together on it.
    """
    place = torchrun_place()
    if place.count == 1:
        yield device
        return
    kind = device if ":" in device else find_device(device).type
    if kind not in ("cpu", "cuda"):
        raise ApqError(
            f"{place.count} processes cannot share --device {device}: use --device cuda, with "
            "which each takes a GPU of its own, or --device cpu"
        )
    name = f"cuda:{place.local}" if kind == "cuda" else kind
    where = find_device(name)
    if kind == "cuda":
        torch.cuda.set_device(where)
    _meet("nccl" if kind == "cuda" else "gloo")
    yield name
    dist.destroy_process_group()  # not after an error: it would wait for the others


def _meet(backend: str) -> None:
    """Find the others. A restart of ``torchrun`` may come with the store of the first start; where
    processes listened that have ended is no use then."""
    from torch.distributed.rendezvous import rendezvous

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store, number, count = next(rendezvous("env://", timeout=PATIENCE))
        own = dist.PrefixStore(f"apq {attempt}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=own, rank=number, world_size=count, timeout=PATIENCE)
    except RuntimeError as error:
        raise ApqError(
            f"the processes that torchrun started do not reach each other: {_line(error)}"
        ) from error
