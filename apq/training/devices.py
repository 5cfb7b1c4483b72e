"""Where training and measuring run: processors, CUDA, Apple's GPUs; and in which precision."""

from __future__ import annotations

import contextlib

import torch

from apq.cost import cores
from apq.errors import ApqError, choose

KINDS = ("auto", "cpu", "cuda", "mps")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types that convolutions and matrix products of a training step are computed in."""


def find_device(name: str = "cpu") -> torch.device:
    """The device of a name, checked to be there.

    Convolutions on CUDA are then computed in the float32 they are asked for (TF32 off), so that
    accuracies agree with those of a CPU.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: the best there is.

    Raises:
        ApqError: no such device, or not on this machine; the message says which there are.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    kind, _, index = name.partition(":")
    choose(kind, KINDS, "device")
    if kind == "auto":
        kind = next(k for k in ("cuda", "mps", "cpu") if _count(k))
    if index and not (kind == "cuda" and index.isdecimal()):
        raise ApqError(f"device {name!r} is not known; write cuda:0 for the first of several GPUs")
    if _count(kind) <= int(index or 0):
        there = ", ".join(_present())
        raise ApqError(
            f"this machine has no device {name!r} that PyTorch {torch.__version__} can use; it "
            f"has: {there}. Use --device auto, or install a build of PyTorch for your GPU."
        )
    if kind == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(f"{kind}:{index}" if index else kind)


def _count(kind: str) -> int:
    """Devices of a kind on this machine."""
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    return int(torch.backends.mps.is_available()) if kind == "mps" else 1


def _present() -> list[str]:
    cuda = [f"cuda:{i}" for i in range(_count("cuda"))]
    return ["cpu", *cuda, *(["mps"] if _count("mps") else [])]


def describe(device: torch.device) -> str:
    """What a cost calls a device: its maker's name, or the number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    return cores()


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """The same numbers in float32, or in float64 if they are in that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context of a forward pass in a precision of ``PRECISIONS``; fp32 changes nothing.

    Raises:
        ApqError: the precision is unknown.
    """
    kind = PRECISIONS[choose(precision, PRECISIONS, "precision")]
    if kind is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, kind)
