"""The program that ``torch.export`` makes of a network, and what its operations say."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from apq.errors import ModelError

BATCH = 251
"""Images the network is read with: a prime that no layer has as its size."""


def export(module: nn.Module, example: Tensor) -> Any:
    """``torch.export`` of a network for :data:`BATCH` inputs like the example.

    Raises:
        ModelError: it cannot be exported; says why and where.
    """
    many = torch.zeros((BATCH, *example.shape[1:]), dtype=example.dtype)
    try:
        return torch.export.export(module, (many,))
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        own = re.findall(r'File "(.+?)", line (\d+)', str(error))
        at = [f"{file}:{line}" for file, line in own if not is_ours(file)]
        hint = ""
        if any(word in str(error) for word in ("data-dependent", "Could not guard", "branch")):
            hint = (
                " What runs depends on the values it sees; a network must do the same for every "
                "image."
            )
        if "missing a required argument" in str(error):
            hint = (
                ". A network that is traced takes one tensor: wrap it in a module that gives its "
                "other arguments values."
            )
        raise ModelError(
            f"torch.export cannot read the network{f' ({at[-1]})' if at else ''}: "
            f"{lines[0][:200]}{hint}"
        ) from error


def place_of(node: Any) -> str:
    """Module and line of the user's source that an operation comes from."""
    stack = [*(node.meta.get("nn_module_stack") or {}).values()]
    where = f"module {stack[-1][0] or '(the network itself)'}" if stack else "the network"
    lines = re.findall(r'File "(.+?)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [f"{file}:{line}" for file, line in lines if not is_ours(file)]
    return f"{where} ({own[-1]})" if own else where


def is_ours(file: str) -> bool:
    """Whether a source file is none of the user's: torch's, or what runs networks from files."""
    return "/torch/" in file or "/supernet/imported/" in file


def op_of(node: Any) -> str:
    """Name of an operation, without the mark of those that change what they take."""
    name = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
    return name.rstrip("_") if not name.startswith("__") else name


def many(value: Any, count: int, default: int) -> list[Any]:
    """An argument per dimension, from one for all or none."""
    if value is None or value == []:
        return [default] * count
    several = [*value] if isinstance(value, list | tuple) else [value]
    return several * count if len(several) == 1 else several


def multiplications(node: Any) -> float:
    """Multiplications per image of an operation, in millions, by torch's counter; 0: none."""
    from torch.utils.flop_counter import flop_registry

    def shown(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [shown(part) for part in argument]
        return argument.meta.get("val") if isinstance(argument, torch.fx.Node) else argument

    args = [shown(a) for a in node.args]
    if op_of(node) == "scaled_dot_product_attention":
        q, k, v = (a.shape for a in args[:3])
        return float(math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])) / BATCH / 1e6
    count = flop_registry.get(node.target.overloadpacket)
    if op_of(node) == "matmul":
        return float(math.prod(node.meta["val"].shape) * args[0].shape[-1]) / BATCH / 1e6
    if count is None:
        return 0.0
    try:
        return float(count(*args, out_val=node.meta["val"])) / 2 / BATCH / 1e6
    except (TypeError, ValueError, AssertionError):
        return 0.0


def shape_of(node: Any) -> tuple[int, ...]:
    """Shape of what an operation gives."""
    return tuple(node.meta["val"].shape)


def in_place(node: Any) -> bool:
    """Whether an operation changes what it takes."""
    return str(node.target).split(".")[1].endswith("_")
