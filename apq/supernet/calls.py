"""Operations of traced networks without a kind of node of their own, run by torch unchanged.

A node names an operation of torch's dispatcher and holds its arguments as JSON. Objects in it are
placeholders for values at run time: ``{"in": 0}`` is the first input (``"wide": 1``: with two axes
of one pixel behind its channels), ``{"held": 0}`` the first tensor the node owns, ``{"of": [0,
1]}`` the second dimension of the first input (times ``"times"``, divided by ``"over"``),
``{"dtype": "float32"}`` a type. ``{"pick": 1}`` behind the arguments takes the second of several
results.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from apq.errors import ModelError
from apq.space.graph import Node, number

DTYPES = {
    "float32": torch.float32, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool,
    "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16,
}  # fmt: skip
TEXTS = ("approximate", "mode", "padding_mode", "padding", "reduce", "rounding_mode")
"""Arguments of operations that may be texts: none of them is a path."""
MAKES = ("zeros", "ones", "full", "arange", "linspace", "eye", "scalar_tensor")
"""Operations that make a tensor of nothing but numbers."""


@cache
def find_call(name: str) -> Any:
    """The operation of torch that ``aten.mul.Tensor`` names.

    Raises:
        ModelError: there is none here, or it does something else than compute tensors from tensors.
    """
    found: Any = torch.ops
    try:
        for part in name.split("."):
            found = getattr(found, part)
        schema = found._schema
    except (AttributeError, RuntimeError) as error:
        raise ModelError(
            f"this torch ({torch.__version__}) has no operation {name!r}. If a package adds it, "
            "import that package first"
        ) from error
    kinds = [str(argument.type) for argument in schema.arguments]
    texts = [a.name for a in schema.arguments if "str" in str(a.type) and a.name not in TEXTS]
    makes = schema.name.startswith("aten::") and schema.name.removeprefix("aten::") in MAKES
    computes = (makes or any("Tensor" in kind for kind in kinds)) and all(
        "Tensor" in str(result.type) for result in schema.returns
    )
    if not computes or texts or schema.is_mutable or not schema.returns:
        raise ModelError(f"{name!r} is no operation that computes tensors from tensors")
    return found


class TorchCall(nn.Module):
    """One such operation with the tensors it owns."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.call, self.args = node.call, node.args
        for i, held in enumerate(node.held):
            shape = tuple(map(number, held.shape))
            if held.kind == "float":
                self.register_parameter(f"held_{i}", nn.Parameter(torch.zeros(shape)))
            else:
                dtype = {"int": torch.int64, "bool": torch.bool}.get(held.kind, torch.float32)
                self.register_buffer(f"held_{i}", torch.zeros(shape, dtype=dtype))

    def tensors(self) -> list[Tensor]:
        """The tensors it owns."""
        own = {
            **dict(self.named_parameters(recurse=False)), **dict(self.named_buffers(recurse=False))
        }  # fmt: skip
        return [own[f"held_{i}"] for i in range(len(own))]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Output of the operation."""
        return run_call(self.call, self.args, inputs, self.tensors())


def run_call(call: str, args: str, inputs: Sequence[Tensor], held: Sequence[Tensor]) -> Tensor:
    """Run an operation.

    Args:
        call: Its name.
        args: Its arguments as JSON, see the module's head.
        inputs, held: Tensors that the arguments refer to.
    """
    positional, keywords, pick = _parsed(args)
    result = find_call(call)(
        *(_value(a, inputs, held) for a in positional),
        **{name: _value(a, inputs, held) for name, a in keywords.items()},
    )
    out: Tensor = result if pick is None else result[pick]
    return out


@cache
def _parsed(args: str) -> tuple[list[Any], dict[str, Any], int | None]:
    try:
        found = json.loads(args)
        positional, keywords = found[0], found[1]
        pick = found[2]["pick"] if len(found) > 2 else None
    except (ValueError, LookupError, TypeError) as error:
        raise ModelError(f"arguments of an operation that are none: {args[:80]!r}") from error
    return positional, keywords, pick


def _value(argument: Any, inputs: Sequence[Tensor], held: Sequence[Tensor]) -> Any:
    if isinstance(argument, list):
        return [_value(part, inputs, held) for part in argument]
    if not isinstance(argument, dict):
        return argument
    if "in" in argument:
        x = inputs[argument["in"]]
        return x[:, :, None, None] if argument.get("wide") else x
    if "held" in argument:
        return held[argument["held"]]
    if "dtype" in argument:
        return DTYPES[argument["dtype"]]
    which, dim = argument["of"]
    return inputs[which].shape[dim] * argument.get("times", 1) // argument.get("over", 1)
