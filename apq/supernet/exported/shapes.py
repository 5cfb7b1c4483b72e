"""What operations on pixels and on the shape of tensors do to channels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from apq.space.families.traced import TracedNode
from apq.supernet.exported.groups import Run
from apq.supernet.exported.nodes import Nodes, Rule, Seen, dim_of
from apq.supernet.exported.program import many, op_of, shape_of

SPATIAL = {
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d",
    "upsample_linear1d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d",
    "constant_pad_nd", "pad", "max_pool2d_with_indices",
}  # fmt: skip
"""Operations on the pixels of every channel by itself."""
REDUCE = {"mean", "sum", "amax", "amin", "std", "var"}


def spatial(net: Nodes, node: Any) -> Seen:
    """Any operation on pixels, if it leaves channels alone."""
    seen = net.values[node.args[0]]
    dims = {"constant_pad_nd": 2, "pad": 2}.get(op_of(node))
    touched = len(node.args[1]) // 2 if dims else len(seen.shape) - 2
    if seen.axis is not None and -seen.axis <= touched:
        return net.opaque(node)
    return net.emit(node, seen.axis, seen.runs)


def max_pool(net: Nodes, node: Any) -> Seen:
    """Windows in the middle of even steps have a kind of their own."""
    x, kernel, stride, padding, dilation = [*node.args, *[None] * 5][:5]
    seen = net.values[x]
    (k, other), h, w = many(kernel, 2, 1), *seen.shape[-2:]
    steps = many(stride, 2, k) if stride else [k, other]
    padded = many(padding, 2, 0) == [k // 2 if k % 2 else 0] * 2
    even = k % 2 == 1 or (steps[0] == k and h % k == 0 == w % k)
    plain = k == other <= 31 and steps[0] == steps[1] <= 8 and many(dilation, 2, 1) == [1, 1]
    shown = tuple(shape_of(node)[-2:])
    fits = shown == tuple(-(-s // steps[0]) for s in (h, w)) and seen.axis == -3
    if not (padded and even and plain and fits) or seen.flat or seen.node == "image":
        return spatial(net, node)
    name = net.name(node, "maxpool")
    made = TracedNode(name, "maxpool", (seen.node,), kernel=k, stride=steps[0])
    return net.put(made, seen.runs, -3)


def pool(net: Nodes, node: Any) -> Seen:
    """The mean over all pixels has a kind of its own."""
    op, seen = op_of(node), net.values[node.args[0]]
    four = len(seen.shape) == 4 and seen.axis == -3 and not seen.flat and seen.node != "image"
    shown = shape_of(node)
    whole = four and shown[:2] == seen.shape[:2] and math.prod(shown) == math.prod(shown[:2])
    if op == "mean":
        whole &= sorted(d % 4 for d in node.args[1]) == [2, 3] if len(node.args) > 1 else False
    if op == "avg_pool2d":
        rest = [*node.args[3:], *node.kwargs.values()]
        whole &= many(node.args[1], 2, 1) == [*seen.shape[2:]] and rest in ([], [[0, 0]])
    if not whole or node.kwargs.get("dtype") is not None:
        return reduce(net, node) if op == "mean" else spatial(net, node)
    made = TracedNode(net.name(node, "pool"), "pool", (seen.node,))
    flat = len(shown) == 4
    return replace(net.put(made, seen.runs, -3 if flat else -1), flat=flat)


def reduce(net: Nodes, node: Any) -> Seen:
    """Sums and the like over other dimensions than channels."""
    seen = net.values[node.args[0]]
    dims = node.args[1] if len(node.args) > 1 else None
    if seen.axis is None or not isinstance(dims, list | tuple) or not dims:
        return net.opaque(node)
    rank = len(seen.shape)
    gone = [d % rank - rank for d in dims]
    if seen.axis in gone:
        return net.opaque(node)
    kept = len(shape_of(node)) == rank
    axis = seen.axis + (0 if kept else sum(d > seen.axis for d in gone))
    return net.emit(node, axis, seen.runs)


def view(net: Nodes, node: Any) -> Seen:
    """Another shape; channels are known if they stay together."""
    seen, shown = net.values[node.args[0]], shape_of(node)
    if shown == seen.shape:
        return seen
    if seen.flat and shown == seen.shape[:2]:
        return replace(seen, flat=False, axis=-1)
    if seen.axis is None:
        return net.emit(node, None, ())
    place = len(seen.shape) + seen.axis
    before, after = math.prod(seen.shape[:place]), math.prod(seen.shape[place + 1 :])
    sums = [math.prod(shown[:i]) for i in range(len(shown) + 1)]
    for i, size in enumerate(shown):
        if sums[i] != before:
            continue
        if size == seen.shape[place] and math.prod(shown[i + 1 :]) == after:
            return _resized(net, node, seen, i, 1)
        if size == seen.shape[place] * after and i == len(shown) - 1:
            return _resized(net, node, seen, i, after)
    net.freeze(seen.runs, node, f"{op_of(node)} from {seen.shape[1:]} to {shown[1:]}")
    return net.emit(node, None, ())


def _resized(net: Nodes, node: Any, seen: Seen, place: int, each: int) -> Seen:
    """A view that keeps channels in their order: its sizes follow from what it reads."""
    runs = tuple(Run(r.group, r.channels, r.each * each) for r in seen.runs)
    shown = shape_of(node)
    sizes: list[Any] = [*map(int, shown)]
    at = len(seen.shape) + (seen.axis or 0)
    sizes[place] = -1 if each > 1 else {"of": [0, at]}
    return net.emit(node, place - len(shown), runs, call="aten.reshape.default", args=[sizes])


def squeeze(net: Nodes, node: Any) -> Seen:
    """Fewer or more dimensions of one entry."""
    seen, shown = net.values[node.args[0]], shape_of(node)
    if seen.flat and shown == seen.shape[:2]:
        return replace(seen, flat=False, axis=-1)
    if seen.axis is None:
        return net.emit(node, None, ())
    rank, result = len(seen.shape), len(shown)
    single = [i for i, size in enumerate(seen.shape) if size == 1]
    dims = node.args[1] if len(node.args) > 1 else single
    dims = [dims] if isinstance(dims, int) else [*dims]
    if op_of(node) == "unsqueeze":
        dim = dims[0] % result - result
        return net.emit(node, seen.axis - (1 if dim > seen.axis - 1 else 0), seen.runs)
    gone = [d % rank - rank for d in dims if seen.shape[d] == 1]
    if seen.axis in gone:
        return net.opaque(node)
    return net.emit(node, seen.axis + sum(d > seen.axis for d in gone), seen.runs)


def permute(net: Nodes, node: Any) -> Seen:
    """Dimensions in another order."""
    seen = net.values[node.args[0]]
    rank = len(seen.shape)
    order = list(range(rank))
    if op_of(node) == "permute":
        order = [d % rank for d in node.args[1]]
    else:
        a, b = (d % rank for d in node.args[1:3])
        order[a], order[b] = order[b], order[a]
    if seen.axis is None:
        return net.emit(node, None, ())
    return net.emit(node, order.index(rank + seen.axis) - rank, seen.runs)


def slices(net: Nodes, node: Any) -> Seen:
    """A part of a dimension, if it is not that of the channels."""
    seen, shown = net.values[node.args[0]], shape_of(node)
    if shown == seen.shape:
        return seen
    dim = dim_of(node, seen, 1, 0) - len(seen.shape)
    if dim == seen.axis:
        return net.opaque(node)
    return net.emit(node, seen.axis, seen.runs)


def concat(net: Nodes, node: Any) -> Seen:
    """Several tensors, one behind the other, along channels or not."""
    seen = [net.values[n] for n in node.args[0]]
    rank = len(shape_of(node))
    dim = (node.args[1] if len(node.args) > 1 else 0) % rank - rank
    if all(s.axis is None for s in seen):
        return net.emit(node, None, ())
    axis = next(s.axis for s in seen if s.axis is not None)
    tracked = [s for s in seen if s.axis is not None]
    if any(s.axis != axis for s in tracked) or (dim != axis and len(tracked) < len(seen)):
        return net.opaque(node)
    if dim != axis:
        if not net.join([s.runs for s in seen], node):
            return net.emit(node, None, ())
        return net.emit(node, axis, seen[0].runs)
    runs: list[Run] = []
    for s in seen:
        if s.axis is None:
            fixed = Run(net.new_group(), s.shape[dim])
            net.freeze([fixed], node, "it is fixed")
            runs.append(fixed)
        runs.extend(s.runs)
    plain = all(s.axis == -3 or (s.axis == -1 and rank == 2) for s in seen)
    plain &= len({s.flat for s in seen}) == 1 and all(s.node != "image" for s in seen)
    if not plain or len({s.node for s in seen}) < len(seen):
        return net.emit(node, axis, tuple(runs))
    made = TracedNode(net.name(node, "concat"), "concat", tuple(s.node for s in seen))
    return replace(net.put(made, tuple(runs), axis), flat=seen[0].flat)


RULES: dict[str, Rule] = {
    **dict.fromkeys(SPATIAL, spatial), **dict.fromkeys(REDUCE, reduce),
    **dict.fromkeys(("flatten", "view", "reshape", "unflatten", "reshape_as", "view_as"), view),
    "max_pool2d": max_pool, "avg_pool2d": pool, "adaptive_avg_pool2d": pool, "mean": pool,
    "squeeze": squeeze, "unsqueeze": squeeze, "permute": permute, "transpose": permute,
    "slice": slices, "cat": concat,
}  # fmt: skip
