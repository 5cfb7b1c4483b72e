"""What operations on entries one by one do to channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from apq.space.families.traced import TracedNode
from apq.supernet.exported.nodes import Nodes, Rule, Runs, Seen
from apq.supernet.exported.program import BATCH, op_of, shape_of

UNARY = {
    "relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "hardswish", "hardsigmoid",
    "silu", "gelu", "sigmoid", "tanh", "leaky_relu", "elu", "selu", "celu", "softplus", "mish",
    "abs", "neg", "exp", "log", "sqrt", "rsqrt", "square", "reciprocal", "sin", "cos", "erf",
    "softsign", "softshrink", "hardshrink", "threshold", "log_sigmoid", "sign", "floor", "ceil",
    "round", "type_as",
}  # fmt: skip
BINARY = {"add", "sub", "mul", "div", "maximum", "minimum", "pow", "rsub", "where"}
"""Operations on entries one by one, whose tensors broadcast."""


def activate(net: Nodes, node: Any) -> Seen:
    """An activation goes into its layer if it can."""
    op, seen = op_of(node), net.values[node.args[0]]
    ends = [*node.args[1:3], node.kwargs.get("min"), node.kwargs.get("max")]
    six = op in ("hardtanh", "clamp") and [e for e in ends if e is not None] == [0, 6]
    act = "relu6" if six else op
    if act in ("relu", "relu6"):
        last = net.behind(node, seen, ("conv", "linear", "add"))
        if last is not None and not last.act and (act == "relu" or last.op != "add"):
            net.change(last, act=act)
            return seen
    kinds = {"hardswish": "hswish", "hardsigmoid": "hsigmoid"}
    if act in kinds and seen.node != "image" and (seen.axis == -3 or len(seen.shape) == 2):
        name = net.name(node, "act")
        made = TracedNode(name, "act", (seen.node,), act=kinds[act])
        return replace(net.put(made, seen.runs, seen.axis), flat=seen.flat)
    return broadcast(net, node)


def mul(net: Nodes, node: Any) -> Seen:
    """Squeeze-and-excitation by a hard sigmoid has a kind of its own."""
    both = [net.values[n] for n in node.args if isinstance(n, torch.fx.Node)]
    if len(both) == 2 and all(s.node and s.axis == -3 for s in both):
        x, factor = sorted(both, key=lambda s: s.flat)
        last = net.drafts.get(factor.node)
        if (
            factor.flat and not x.flat and last is not None and last.node.act == "hsigmoid"
            and x.node != "image" and net.join([x.runs, factor.runs], node)
        ):  # fmt: skip
            name = net.name(node, "scale")
            return net.put(TracedNode(name, "scale", (x.node, factor.node)), x.runs, -3)
    return broadcast(net, node)


def add(net: Nodes, node: Any) -> Seen:
    """The sum of two tensors of one shape has a kind of its own."""
    sources = [net.values[n] for n in node.args[:2] if isinstance(n, torch.fx.Node)]
    same = len(sources) == 2 and all(s.node not in ("", "image") for s in sources)
    if not same or node.kwargs.get("alpha", 1) != 1:
        return broadcast(net, node)
    a, b = sources
    if a.shape != b.shape or a.flat != b.flat or a.shape[0] != BATCH or a.node == b.node:
        return broadcast(net, node)
    runs, axis = _over_each_other(net, node, sources)
    made = TracedNode(net.name(node, "add"), "add", (a.node, b.node))
    return replace(net.put(made, runs, axis), flat=a.flat)


def _over_each_other(net: Nodes, node: Any, sources: list[Seen]) -> tuple[Runs, int | None]:
    """Channels of tensors of one shape."""
    tracked = [s for s in sources if s.axis is not None]
    alike = len({s.axis for s in sources}) == 1 and tracked
    if alike and net.join([s.runs for s in tracked], node):
        return tracked[0].runs, tracked[0].axis
    for s in tracked:
        net.freeze(s.runs, node, f"{op_of(node)} with something whose channels are fixed")
    return (), None


def broadcast(net: Nodes, node: Any) -> Seen:
    """Any operation on entries one by one; tensors of fewer dimensions are spread."""
    sources = {n: net.values[n] for n in node.all_input_nodes if n in net.values}
    tracked = [s for s in sources.values() if s.axis is not None]
    if not tracked:
        return net.emit(node, None, ())
    axis = tracked[0].axis
    assert axis is not None
    full = shape_of(node)[axis]
    held: dict[Any, Any] = {}
    meet: list[Runs] = []
    good = True
    for n, seen in sources.items():
        size = seen.shape[axis] if len(seen.shape) >= -axis else 1
        if seen.axis is not None:
            spread = size == 1 < full
            good &= seen.axis == axis and not spread
            meet.append(seen.runs)
        elif size > 1 and seen.constant is not None:
            dim = len(seen.shape) + axis
            good &= dim in (0, 1)
            held[n] = (tracked[0].runs, ()) if dim == 0 else ((), tracked[0].runs)
        elif size > 1:
            good = False
    if not good or not net.join(meet, node):
        for s in tracked:
            net.freeze(s.runs, node, f"{op_of(node)} with something whose channels are fixed")
        return net.emit(node, None, ())
    return net.emit(node, axis, tracked[0].runs, held=held)


def to(net: Nodes, node: Any) -> Seen:
    """Another type; devices are where the network is."""
    seen, dtype = net.values[node.args[0]], node.meta["val"].dtype
    if dtype == node.args[0].meta["val"].dtype:
        return seen
    return net.emit(
        node, seen.axis, seen.runs, call="aten._to_copy.default", args=[],
        kwargs={"dtype": dtype},
    )  # fmt: skip


RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, activate), **dict.fromkeys(BINARY, broadcast),
    "add": add, "mul": mul, "to": to, "_to_copy": to,
}  # fmt: skip
