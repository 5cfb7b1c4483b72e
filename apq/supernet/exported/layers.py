"""What layers with weights do to channels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from apq.space.families.traced import TracedNode
from apq.space.layer import size_of
from apq.supernet.exported.groups import Run
from apq.supernet.exported.nodes import Nodes, Rule, Runs, Seen
from apq.supernet.exported.program import BATCH, many, shape_of


def conv(net: Nodes, node: Any) -> Seen:
    """A convolution; usual ones have a kind of their own."""
    x, weight, bias, stride, padding, dilation, groups = [*node.args, *[None] * 7][:7]
    seen, held = net.values[x], net.values[weight]
    groups = groups or 1
    if held.constant is None or not seen.node:
        return net.opaque(node)
    w, dims = held.constant, len(held.shape) - 2
    if seen.axis is not None and seen.axis != -dims - 1:
        net.freeze(seen.runs, node, "a convolution over another dimension than its channels")
        seen = replace(seen, axis=None, runs=())
    out, cin = len(w), seen.shape[1]
    steps, pads = many(stride, dims, 1), many(padding, dims, 0)
    uniform = dims == 2 and w.shape[2] == w.shape[3] <= 31 and max(steps) <= 32
    uniform = uniform and pads[0] == pads[1] and set(many(dilation, dims, 1)) == {1}
    name, again = net.layer_name(node, held)
    runs, reads = _conv_groups(net, node, seen, out, cin, groups)
    net.freeze(runs if again else (), node, again)
    data = {"weight": w, "bias": net.constant(bias)}
    if seen.flat and uniform and w.shape[2] == 1 and groups == 1:
        return _dense(net, node, seen, name, {**data, "weight": w.flatten(1)}, runs, reads)
    several = groups == cin and out > cin > 1
    if seen.flat or not uniform or isinstance(pads[0], str) or several:
        weights = {weight: (runs, reads if groups == 1 else ())}
        weights |= {bias: (runs, ())} if bias is not None else {}
        return _call_layer(net, node, name, runs, reads, weights, groups, w, -dims - 1)
    single = 1 < groups == out == cin
    made = TracedNode(
        name, "conv", (seen.node,), out, kernel=w.shape[2], stride=size_of(steps),
        depthwise=single, groups=1 if single else groups,
        padding=-1 if pads[0] == w.shape[2] // 2 and w.shape[2] % 2 else pads[0],
    )  # fmt: skip
    shown, size = shape_of(node), seen.shape[2:]
    usual = tuple(-(-n // step) for n, step in zip(size, steps, strict=True))
    if tuple(shown[2:]) != usual:
        made = replace(made, size=tuple(map(int, shown[2:])))
    net.tensors[name] = data
    return net.put(made, runs, -3)


def _conv_groups(
    net: Nodes, node: Any, seen: Seen, out: int, cin: int, groups: int
) -> tuple[Runs, Runs]:
    """What a convolution's output channels are made up of, and its inputs."""
    reads = seen.runs
    if groups == 1:
        return (Run(net.new_group(), out),), reads
    if groups == cin and seen.axis is not None:
        times = out // cin
        return tuple(Run(r.group, r.channels, r.each * times) for r in reads), reads
    if seen.axis is not None and len(reads) == 1 and reads[0].each == 1 and out == cin:
        net.step[reads[0].group] = math.lcm(cin // groups, net.step.get(reads[0].group, 1))
        return reads, reads
    fresh = (Run(net.new_group(), out),)
    reason = f"a convolution of {groups} groups, {cin} to {out} channels"
    net.freeze((*reads, *fresh), node, reason)
    return fresh, reads


def linear(net: Nodes, node: Any) -> Seen:
    """A linear layer; those of one vector per image have a kind of their own."""
    x, weight, bias = [*node.args, None][:3]
    seen, held = net.values[x], net.values[weight]
    if held.constant is None or not seen.node:
        return net.opaque(node)
    if seen.axis not in (None, -1):
        net.freeze(seen.runs, node, "a linear layer over another dimension than its channels")
        seen = replace(seen, axis=None, runs=())
    name, again = net.layer_name(node, held)
    runs, reads = (Run(net.new_group(), len(held.constant)),), seen.runs
    net.freeze(runs if again else (), node, again)
    if len(seen.shape) == 2 and seen.shape[0] == BATCH:
        data = {"weight": held.constant, "bias": net.constant(bias)}
        return replace(_dense(net, node, seen, name, data, runs, reads), flat=False)
    weights = {weight: (runs, reads)} | ({bias: (runs, ())} if bias is not None else {})
    return _call_layer(net, node, name, runs, reads, weights, 1, held.constant, -1)


def _dense(net: Nodes, node: Any, x: Seen, name: str, data: dict[str, Any], runs: Runs,
    reads: Runs,
) -> Seen:  # fmt: skip
    """A linear layer of a vector per image, or a 1x1 convolution of one pixel."""
    net.tensors[name] = data
    made = TracedNode(name, "linear", (x.node,), len(data["weight"]))
    seen = net.put(made, runs, -1)
    four = len(shape_of(node)) == 4
    return replace(seen, axis=-3 if four else -1, flat=four)


def _call_layer(
    net: Nodes, node: Any, name: str, runs: Runs, reads: Runs, weights: dict[Any, Any],
    groups: int, w: Tensor, axis: int,
) -> Seen:  # fmt: skip
    """A layer that no kind of node is for."""
    args: list[Any] | None = None
    if groups > 1 and runs:
        width = max(1, net.values[node.args[0]].shape[1] // groups)
        args = [*node.args[1:6], {"of": [0, 1], "over": width}, *node.args[7:]]
    seen = net.emit(node, axis, runs, held=weights, name=name, args=args, kwargs=node.kwargs)
    taps, places = math.prod(w.shape[2:]), math.prod(shape_of(node)) // BATCH // len(w)
    alone = groups > 1 or not reads
    net.drafts[name].reads = () if alone else reads
    taps *= w.shape[1] if alone else 1
    net.change(net.drafts[name].node, places=places, taps=taps)
    net.weighted[name] = runs[0].group if runs else -1
    return seen


def norm(net: Nodes, node: Any) -> Seen:
    """Batch norm goes into its convolution if it can."""
    x, weight, bias, mean, var = node.args[:5]
    seen = net.values[x]
    last = net.behind(node, seen, ("conv",))
    if last is not None and "mean" not in net.tensors[last.name]:
        names = {"gain": weight, "shift": bias, "mean": mean, "var": var}
        found = {k: net.constant(v) for k, v in names.items()}
        net.tensors[last.name] |= found
        net.change(last, epsilon=float(node.args[7]))
        return seen
    if seen.axis != 1 - len(seen.shape) or any(
        net.values[v].constant is None for v in (weight, bias, mean, var) if v is not None
    ):
        return net.opaque(node)
    held = {v: (seen.runs, ()) for v in (weight, bias, mean, var) if v is not None}
    return net.emit(node, seen.axis, seen.runs, held=held)


def prelu(net: Nodes, node: Any) -> Seen:
    """A slope per channel, or one for all."""
    seen, slope = net.values[node.args[0]], net.values[node.args[1]]
    if slope.constant is None or seen.axis not in (None, 1 - len(seen.shape)):
        return net.opaque(node)
    runs = seen.runs if slope.shape[0] > 1 else ()
    return net.emit(node, seen.axis, seen.runs, held={node.args[1]: (runs, ())})


RULES: dict[str, Rule] = {
    "conv1d": conv, "conv2d": conv, "conv3d": conv, "linear": linear, "batch_norm": norm,
    "prelu": prelu,
}  # fmt: skip
