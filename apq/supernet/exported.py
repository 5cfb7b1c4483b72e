"""Reads what ``torch.export`` gives: which node every operation is, and whose channels it carries.

Channels that an operation ties together are one group (union-find, as in DepGraph, Fang et al.,
CVPR 2023; the rules per operation are ours). Every tensor is followed with the dimension that holds
its channels and how these are made up. What an operation does to channels is either known, or the
groups it reads are kept at full width and the user's line and the reason are noted: then the
operation runs as torch runs it, and nothing can be cut wrongly.
"""

from __future__ import annotations

import itertools
import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from apq.errors import ModelError
from apq.space.families.traced import TracedHeld, TracedNode, TracedPart
from apq.space.layer import size_of
from apq.supernet.calls import DTYPES, find_call

BATCH = 251
"""Images the network is read with: a prime that no layer has as its size."""

ALIAS = {"dropout", "feature_dropout", "alpha_dropout", "clone", "contiguous", "detach", "alias",
         "lift_fresh_copy", "detach_copy"}  # fmt: skip
"""Operations that give what they take."""
UNARY = {
    "relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "hardswish", "hardsigmoid",
    "silu", "gelu", "sigmoid", "tanh", "leaky_relu", "elu", "selu", "celu", "softplus", "mish",
    "abs", "neg", "exp", "log", "sqrt", "rsqrt", "square", "reciprocal", "sin", "cos", "erf",
    "softsign", "softshrink", "hardshrink", "threshold", "log_sigmoid", "sign", "floor", "ceil",
    "round", "type_as",
}  # fmt: skip
BINARY = {"add", "sub", "mul", "div", "maximum", "minimum", "pow", "rsub", "where"}
"""Operations on entries one by one, whose tensors broadcast."""
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
SIZED = {"view", "reshape", "expand", "_unsafe_view", "zeros", "ones", "full", "new_zeros",
         "new_ones", "new_full", "repeat", "empty"}  # fmt: skip
"""Operations whose arguments are sizes, perhaps of the batch."""


WRAPS = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
"""Parts of a network that torch runs under a switch."""


class Run(NamedTuple):
    """Channels of one group in a row: its number, how many, and entries that belong to each."""

    group: int
    channels: int
    each: int = 1


@dataclass(frozen=True)
class Seen:
    """What a value of the exported graph is.

    Attributes:
        shape: For :data:`BATCH` images.
        node: The node that gives it; empty for a constant.
        axis: Dimension with the channels, counted from the last; None: all of it is fixed.
        runs: What the channels are made up of.
        flat: Whether our node gives ``(n, c)`` where torch has ``(n, c, 1, 1)``.
        constant, path: A tensor that is no activation, and its parameter's path.
    """

    shape: tuple[int, ...]
    node: str = ""
    axis: int | None = None
    runs: tuple[Run, ...] = ()
    flat: bool = False
    constant: Tensor | None = None
    path: str = ""


@dataclass
class Draft:
    """A node in the making, and the channels in it, by number of group."""

    node: TracedNode
    runs: tuple[Run, ...] = ()
    held: list[tuple[TracedHeld, tuple[Run, ...], tuple[Run, ...]]] = field(default_factory=list)
    reads: tuple[Run, ...] = ()


class Frozen(NamedTuple):
    """Why a group keeps its full width, and where that is."""

    reason: str
    where: str


class Reader:
    """Walks an exported graph.

    Args:
        module: The network, in eval mode.
        example: What it takes, one image or more.

    Attributes:
        drafts: The nodes, by name, in the order they run.
        tensors: Per layer its weights; per operation the tensors it owns.
        unpriced: Multiplications per image of operations that no table prices, by name.
        notes: What became of things that could not be kept as they were: name and words.
        weighted: Per layer with weights the group of its output.
        step: Per group how many channels must be kept or cut together.
        pixels: Per node the pixels of each of its channels.
    """

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        self.drafts: dict[str, Draft] = {}
        self.tensors: dict[str, dict[str, Any]] = {}
        self.unpriced: dict[str, float] = {}
        self.notes: list[tuple[str, str]] = []
        self.weighted: dict[str, int] = {}
        self.step: dict[int, int] = {}
        self.pixels: dict[str, int] = {}
        self._modules = {name for name, _ in module.named_modules()}
        self._parent: list[int] = []
        self._frozen: dict[int, Frozen] = {}
        self._values: dict[Any, Seen] = {}
        self._uses: dict[str, list[tuple[str, tuple[Run, ...]]]] = {}
        self._results: dict[Any, list[Seen]] = {}
        exported = export(module, example)
        self._root = exported.graph_module
        signature = exported.graph_signature
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
                 **signature.inputs_to_lifted_tensor_constants}  # fmt: skip
        state = {**exported.state_dict, **exported.constants}
        given = [n for n in exported.graph.nodes if n.op == "placeholder" and n.name not in named]
        if len(given) != 1 or not isinstance(given[0].meta.get("val"), Tensor):
            raise ModelError(f"the network takes {len(given)} inputs; one tensor of images is read")
        self._image(given[0])
        for node in exported.graph.nodes:
            if node.op == "placeholder" and node.name in named:
                path = named[node.name]
                tensor = state[path].detach()
                self._values[node] = Seen(tuple(tensor.shape), constant=tensor, path=str(path))
            elif node.op == "call_function":
                self._read(node)
        outputs = signature.user_outputs
        (last,) = outputs if len(outputs) == 1 else ("",)
        found = [seen for node, seen in self._values.items() if node.name == last]
        if not found or not found[0].node or found[0].node == "image":
            raise ModelError(
                f"the network gives {len(outputs)} results; one tensor made from the images is read"
            )
        self._end(found[0])

    def _image(self, node: Any) -> None:
        shape = tuple(node.meta["val"].shape)
        run = Run(self.new_group(), shape[1])
        self._frozen[run.group] = Frozen("its channels are the image's", "")
        self._values[node] = Seen(shape, "image", 1 - len(shape), (run,))

    # ---- groups ----------------------------------------------------------------------------

    def new_group(self) -> int:
        """A group of its own."""
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def find(self, group: int) -> int:
        """The group that stands for all that were joined with this one."""
        while self._parent[group] != group:
            self._parent[group] = self._parent[self._parent[group]]
            group = self._parent[group]
        return group

    def frozen(self, group: int) -> Frozen | None:
        """Why a group cannot be cut, or None."""
        top = self.find(group)
        return next((why for g, why in self._frozen.items() if self.find(g) == top), None)

    def together(self, group: int) -> int:
        """How many channels of a group are kept or cut at once."""
        top = self.find(group)
        return math.lcm(*(n for g, n in self.step.items() if self.find(g) == top))

    def _freeze(self, runs: Iterable[Run], node: Any, reason: str) -> None:
        for run in runs:
            self._frozen.setdefault(run.group, Frozen(reason, place_of(node)))

    def _join(self, several: Sequence[tuple[Run, ...]], node: Any) -> bool:
        """Tie runs together that lie over each other; if they do not match, keep them all."""
        shapes = {tuple((run.channels, run.each) for run in runs) for runs in several}
        if len(shapes) > 1:
            reason = f"{_op(node)} of channels that are made up differently"
            self._freeze(itertools.chain(*several), node, reason)
            return False
        for runs in several[1:]:
            for a, b in zip(several[0], runs, strict=True):
                low, high = sorted((self.find(a.group), self.find(b.group)))
                self._parent[high] = low
        return True

    # ---- operations ------------------------------------------------------------------------

    def _read(self, node: Any) -> None:
        if node.target is operator.getitem:
            self._pick(node)
            return
        if str(node.target) in WRAPS:
            self._inside(node)
            return
        if not isinstance(node.target, torch._ops.OpOverload):
            raise ModelError(
                f"cannot trace {place_of(node)}: {node.target} chooses what runs by what it sees "
                "(a branch or loop); a network is one and the same for every image"
            )
        op = _op(node)
        shown = node.meta.get("val")
        if op.startswith(("_assert", "sym_")) or shown is None:
            return
        if not isinstance(shown, Tensor):
            self._values[node] = Seen(())  # several results: whoever picks one makes a node
            return
        tensors = [self._values[n] for n in node.all_input_nodes]
        if self._folded(node, tensors):
            return
        if op in ALIAS and tensors:
            self._values[node] = tensors[0]
            return
        rule = self._rule(op)
        result = rule(node) if rule is not None else self._opaque(node)
        self._values[node] = replace(result, shape=tuple(shown.shape))
        self.pixels.setdefault(result.node, math.prod(map(int, shown.shape[2:])))
        in_place = str(node.target).split(".")[1].endswith("_")
        if in_place and isinstance(node.args[0], torch.fx.Node):
            self._values[node.args[0]] = self._values[node]  # from here on it is that

    def _rule(self, op: str) -> Callable[[Any], Seen] | None:
        rules: dict[str, Callable[[Any], Seen]] = {
            "conv1d": self._conv, "conv2d": self._conv, "conv3d": self._conv,
            "linear": self._linear, "batch_norm": self._norm, "prelu": self._prelu,
            "cat": self._concat, "add": self._add, "mul": self._mul, "flatten": self._view,
            "view": self._view, "reshape": self._view, "unflatten": self._view,
            "reshape_as": self._view, "view_as": self._view,
            "squeeze": self._squeeze, "unsqueeze": self._squeeze,
            "permute": self._permute, "transpose": self._permute, "slice": self._slice,
            "to": self._to, "_to_copy": self._to, "max_pool2d": self._max_pool,
            "avg_pool2d": self._pool, "mean": self._pool,
            "adaptive_avg_pool2d": self._pool,
        }  # fmt: skip
        if op in rules:
            return rules[op]
        if op in UNARY:
            return self._activate
        if op in BINARY:
            return self._broadcast
        if op in SPATIAL:
            return self._spatial
        return self._reduce if op in REDUCE else None

    def _folded(self, node: Any, tensors: list[Seen]) -> bool:
        """Compute what follows from constants alone."""
        shape = tuple(node.meta["val"].shape)
        blank = _op(node) in ("new_zeros", "new_ones", "new_full", "new_empty")
        known = blank or all(seen.constant is not None for seen in tensors)
        if not known or BATCH in shape[:1]:
            return False
        if tensors and tensors[0].path and _op(node) in ALIAS:
            self._values[node] = tensors[0]
            return True

        def real(argument: Any) -> Any:
            if isinstance(argument, torch.fx.Node):
                return torch.zeros(()) if blank else self._values[argument].constant
            if isinstance(argument, list | tuple):
                return [real(part) for part in argument]
            return argument

        with torch.no_grad():
            kwargs = {k: real(v) for k, v in node.kwargs.items()}
            made = node.target(*map(real, node.args), **kwargs)
        self._values[node] = Seen(tuple(made.shape), constant=made)
        return True

    def _inside(self, node: Any) -> None:
        """A part of the network under a switch of torch (autocast, gradients): its operations."""
        place = next(i for i, a in enumerate(node.args)
                     if isinstance(a, torch.fx.Node) and a.op == "get_attr")  # fmt: skip
        graph = getattr(self._root, node.args[place].target).graph
        given = iter(node.args[place + 1 :])
        for inner in graph.nodes:
            if inner.op == "placeholder":
                self._values[inner] = self._values[next(given)]
            elif inner.op == "call_function":
                self._read(inner)
            elif inner.op == "output":
                results = inner.args[0]
                several = results if isinstance(results, list | tuple) else [results]
                self._results[node] = [self._values[r] for r in several]
        self._values[node] = self._results[node][0]

    def _pick(self, node: Any) -> None:
        """One of several results: the operation once more, for this one."""
        source, place = node.args
        if source in self._results:
            self._values[node] = self._results[source][place]
            return
        if source not in self._values or not isinstance(node.meta.get("val"), Tensor):
            return
        op, x = _op(source), self._values[source.args[0]] if source.args else Seen(())
        dim = _dim(source, x, 2 if op != "unbind" else 1, 0)
        kept: tuple[int | None, tuple[Run, ...]] = (None, ())
        if op in ("split", "split_with_sizes", "chunk", "unbind", "tensor_split"):
            if x.axis is not None and dim - len(x.shape) != x.axis:
                moved = 1 if op == "unbind" and dim - len(x.shape) > x.axis else 0
                kept = (x.axis + moved, x.runs)
            elif x.axis is not None:
                kept = self._divided(source, x, place)
        elif op == "max_pool2d_with_indices" and x.axis is not None and place == 0:
            kept = (x.axis, x.runs)
        if kept[0] is None:
            self._opaque_inputs(source)
        made = self._emit(source, kept[0], kept[1], shown=node.meta["val"], pick=place)
        self._values[node] = replace(made, shape=tuple(node.meta["val"].shape))

    def _divided(self, node: Any, x: Seen, place: int) -> tuple[int | None, tuple[Run, ...]]:
        """Channels divided where groups end; elsewhere they all stay."""
        self._freeze(x.runs, node, f"its channels are divided by {_op(node)}")
        return None, ()

    # ---- layers ----------------------------------------------------------------------------

    def _conv(self, node: Any) -> Seen:
        x, weight, bias, stride, padding, dilation, groups = [*node.args, *[None] * 7][:7]
        seen, held = self._values[x], self._values[weight]
        groups = groups or 1
        if held.constant is None or not seen.node:
            return self._opaque(node)
        w, dims = held.constant, len(held.shape) - 2
        if seen.axis is not None and seen.axis != -dims - 1:
            self._freeze(seen.runs, node, "a convolution over another dimension than its channels")
            seen = replace(seen, axis=None, runs=())
        out, cin = len(w), seen.shape[1]
        steps, pads = _many(stride, dims, 1), _many(padding, dims, 0)
        uniform = dims == 2 and w.shape[2] == w.shape[3] <= 31 and max(steps) <= 32
        uniform = uniform and pads[0] == pads[1] and set(_many(dilation, dims, 1)) == {1}
        name, again = self._layer_name(node, held)
        runs, reads = self._conv_groups(node, seen, out, cin, groups)
        self._freeze(runs if again else (), node, again)
        data = {"weight": w, "bias": self._constant(bias)}
        if seen.flat and uniform and w.shape[2] == 1 and groups == 1:
            return self._dense(node, seen, name, {**data, "weight": w.flatten(1)}, runs, reads)
        if (
            seen.flat
            or not uniform
            or isinstance(pads[0], str)
            or (groups == cin and out > cin > 1)
        ):
            weights = {weight: (runs, reads if groups == 1 else ())}
            weights |= {bias: (runs, ())} if bias is not None else {}
            return self._call_layer(node, name, runs, reads, weights, groups, w, -dims - 1)
        depthwise = 1 < groups == out == cin
        made = TracedNode(
            name, "conv", (seen.node,), out, kernel=w.shape[2], stride=size_of(steps),
            depthwise=depthwise, groups=1 if depthwise else groups,
            padding=-1 if pads[0] == w.shape[2] // 2 and w.shape[2] % 2 else pads[0],
        )  # fmt: skip
        shown, size = node.meta["val"].shape, seen.shape[2:]
        usual = tuple(-(-n // step) for n, step in zip(size, steps, strict=True))
        if tuple(shown[2:]) != usual:
            made = replace(made, size=tuple(map(int, shown[2:])))
        self.tensors[name] = data
        return self._put(made, runs, -3)

    def _conv_groups(
        self, node: Any, seen: Seen, out: int, cin: int, groups: int
    ) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        """What a convolution's output channels are made up of, and its inputs."""
        reads = seen.runs
        if groups == 1:
            return (Run(self.new_group(), out),), reads
        if groups == cin and seen.axis is not None:
            times = out // cin
            return tuple(Run(r.group, r.channels, r.each * times) for r in reads), reads
        if seen.axis is not None and len(reads) == 1 and reads[0].each == 1 and out == cin:
            self.step[reads[0].group] = math.lcm(cin // groups, self.step.get(reads[0].group, 1))
            return reads, reads
        self._freeze(reads, node, f"a convolution of {groups} groups, {cin} to {out} channels")
        fresh = (Run(self.new_group(), out),)
        self._freeze(fresh, node, f"a convolution of {groups} groups, {cin} to {out} channels")
        return fresh, reads

    def _call_layer(
        self, node: Any, name: str, runs: tuple[Run, ...], reads: tuple[Run, ...],
        weights: dict[Any, Any], groups: int, w: Tensor, axis: int,
    ) -> Seen:  # fmt: skip
        """A layer that no kind of node is for."""
        changed: dict[int, Any] = {}
        if groups > 1 and runs:
            width = max(1, self._values[node.args[0]].shape[1] // groups)
            changed[6] = {"of": [0, 1], "over": width}
        taps = math.prod(w.shape[2:])
        work = (taps, reads) if groups == 1 and reads else (taps * w.shape[1], ())
        places = math.prod(node.meta["val"].shape) // BATCH // len(w)
        return self._emit(
            node, axis, runs, held=weights, name=name, changed=changed, work=(places, *work)
        )

    def _linear(self, node: Any) -> Seen:
        x, weight, bias = [*node.args, None][:3]
        seen, held = self._values[x], self._values[weight]
        if held.constant is None or not seen.node:
            return self._opaque(node)
        if seen.axis not in (None, -1):
            self._freeze(seen.runs, node, "a linear layer over another dimension than its channels")
            seen = replace(seen, axis=None, runs=())
        name, again = self._layer_name(node, held)
        runs, reads = (Run(self.new_group(), len(held.constant)),), seen.runs
        self._freeze(runs if again else (), node, again)
        if len(seen.shape) == 2 and seen.shape[0] == BATCH:
            data = {"weight": held.constant, "bias": self._constant(bias)}
            return replace(self._dense(node, seen, name, data, runs, reads), flat=False)
        weights = {weight: (runs, reads)} | ({bias: (runs, ())} if bias is not None else {})
        return self._call_layer(node, name, runs, reads, weights, 1, held.constant, -1)

    def _dense(
        self, node: Any, x: Seen, name: str, data: dict[str, Any], runs: tuple[Run, ...],
        reads: tuple[Run, ...],
    ) -> Seen:  # fmt: skip
        """A linear layer of a vector per image, or a 1x1 convolution of one pixel."""
        self.tensors[name] = data
        made = TracedNode(name, "linear", (x.node,), len(data["weight"]))
        seen = self._put(made, runs, -1)
        four = len(node.meta["val"].shape) == 4
        return replace(seen, axis=-3 if four else -1, flat=four)

    def _norm(self, node: Any) -> Seen:
        x, weight, bias, mean, var = node.args[:5]
        seen = self._values[x]
        last = self._behind(node, seen, ("conv",))
        if last is not None and "mean" not in self.tensors[last.name]:
            names = {"gain": weight, "shift": bias, "mean": mean, "var": var}
            found = {k: self._constant(v) for k, v in names.items()}
            self.tensors[last.name] |= found
            self._change(last, epsilon=float(node.args[7]))
            return seen
        if seen.axis != 1 - len(seen.shape) or any(
            self._values[v].constant is None for v in (weight, bias, mean, var) if v is not None
        ):
            return self._opaque(node)
        held = {v: (seen.runs, ()) for v in (weight, bias, mean, var) if v is not None}
        return self._emit(node, seen.axis, seen.runs, held=held)

    def _prelu(self, node: Any) -> Seen:
        seen, slope = self._values[node.args[0]], self._values[node.args[1]]
        if slope.constant is None or seen.axis not in (None, 1 - len(seen.shape)):
            return self._opaque(node)
        runs = seen.runs if slope.shape[0] > 1 else ()
        return self._emit(node, seen.axis, seen.runs, held={node.args[1]: (runs, ())})

    # ---- entries one by one ----------------------------------------------------------------

    def _activate(self, node: Any) -> Seen:
        op, seen = _op(node), self._values[node.args[0]]
        ends = [*node.args[1:3], node.kwargs.get("min"), node.kwargs.get("max")]
        six = op in ("hardtanh", "clamp") and [e for e in ends if e is not None] == [0, 6]
        act = "relu6" if six else op
        if act in ("relu", "relu6"):
            last = self._behind(node, seen, ("conv", "linear", "add"))
            if last is not None and not last.act and (act == "relu" or last.op != "add"):
                self._change(last, act=act)
                return seen
        kinds = {"hardswish": "hswish", "hardsigmoid": "hsigmoid"}
        if act in kinds and seen.node != "image" and (seen.axis == -3 or len(seen.shape) == 2):
            name = self._name(node, "act")
            made = TracedNode(name, "act", (seen.node,), act=kinds[act])
            return replace(self._put(made, seen.runs, seen.axis), flat=seen.flat)
        return self._broadcast(node)

    def _to(self, node: Any) -> Seen:
        """Another type; devices are where the network is."""
        seen, dtype = self._values[node.args[0]], node.meta["val"].dtype
        if dtype == node.args[0].meta["val"].dtype:
            return seen
        return self._emit(
            node, seen.axis, seen.runs, call="aten._to_copy.default", sizes=[],
            kwargs={"dtype": {"dtype": next(n for n, d in DTYPES.items() if d == dtype)}},
        )  # fmt: skip

    def _mul(self, node: Any) -> Seen:
        """Squeeze-and-excitation by a hard sigmoid has a kind of its own."""
        both = [self._values[n] for n in node.args if isinstance(n, torch.fx.Node)]
        if len(both) == 2 and all(s.node and s.axis == -3 for s in both):
            x, factor = sorted(both, key=lambda s: s.flat)
            last = self.drafts.get(factor.node)
            if (
                factor.flat and not x.flat and last is not None and last.node.act == "hsigmoid"
                and x.node != "image" and self._join([x.runs, factor.runs], node)
            ):  # fmt: skip
                name = self._name(node, "scale")
                return self._put(TracedNode(name, "scale", (x.node, factor.node)), x.runs, -3)
        return self._broadcast(node)

    def _add(self, node: Any) -> Seen:
        sources = [self._values[n] for n in node.args[:2] if isinstance(n, torch.fx.Node)]
        same = len(sources) == 2 and all(s.node not in ("", "image") for s in sources)
        if not same or node.kwargs.get("alpha", 1) != 1:
            return self._broadcast(node)
        a, b = sources
        if a.shape != b.shape or a.flat != b.flat or a.shape[0] != BATCH or a.node == b.node:
            return self._broadcast(node)
        runs, axis = self._over_each_other(node, sources)
        made = TracedNode(self._name(node, "add"), "add", (a.node, b.node))
        return replace(self._put(made, runs, axis, shape=a.shape), flat=a.flat)

    def _over_each_other(
        self, node: Any, sources: list[Seen]
    ) -> tuple[tuple[Run, ...], int | None]:
        """Channels of tensors of one shape."""
        tracked = [s for s in sources if s.axis is not None]
        alike = len({s.axis for s in sources}) == 1 and tracked
        if alike and self._join([s.runs for s in tracked], node):
            return tracked[0].runs, tracked[0].axis
        for s in tracked:
            self._freeze(s.runs, node, f"{_op(node)} with something whose channels are fixed")
        return (), None

    def _broadcast(self, node: Any) -> Seen:
        """Any operation on entries one by one; tensors of fewer dimensions are spread."""
        sources = {n: self._values[n] for n in node.all_input_nodes if n in self._values}
        tracked = [s for s in sources.values() if s.axis is not None]
        if not tracked:
            return self._emit(node, None, ())
        axis = tracked[0].axis
        assert axis is not None
        full = node.meta["val"].shape[axis]
        held: dict[Any, Any] = {}
        meet: list[tuple[Run, ...]] = []
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
        if not good or not self._join(meet, node):
            for s in tracked:
                self._freeze(s.runs, node, f"{_op(node)} with something whose channels are fixed")
            return self._emit(node, None, ())
        return self._emit(node, axis, tracked[0].runs, held=held)

    # ---- pixels ----------------------------------------------------------------------------

    def _spatial(self, node: Any) -> Seen:
        seen = self._values[node.args[0]]
        dims = {"constant_pad_nd": 2, "pad": 2}.get(_op(node))
        touched = len(node.args[1]) // 2 if dims else len(seen.shape) - 2
        if seen.axis is not None and -seen.axis <= touched:
            return self._opaque(node)
        return self._emit(node, seen.axis, seen.runs)

    def _max_pool(self, node: Any) -> Seen:
        x, kernel, stride, padding, dilation = [*node.args, *[None] * 5][:5]
        seen = self._values[x]
        (k, other), h, w = _many(kernel, 2, 1), *seen.shape[-2:]
        steps = _many(stride, 2, k) if stride else [k, other]
        padded = _many(padding, 2, 0) == [k // 2 if k % 2 else 0] * 2
        even = k % 2 == 1 or (steps[0] == k and h % k == 0 == w % k)
        plain = k == other <= 31 and steps[0] == steps[1] <= 8 and _many(dilation, 2, 1) == [1, 1]
        shown = tuple(node.meta["val"].shape[-2:])
        fits = shown == tuple(-(-s // steps[0]) for s in (h, w)) and seen.axis == -3
        if not (padded and even and plain and fits) or seen.flat or seen.node == "image":
            return self._spatial(node)
        name = self._name(node, "maxpool")
        made = TracedNode(name, "maxpool", (seen.node,), kernel=k, stride=steps[0])
        return self._put(made, seen.runs, -3)

    def _pool(self, node: Any) -> Seen:
        """The mean over all pixels has a kind of its own."""
        op, seen = _op(node), self._values[node.args[0]]
        four = len(seen.shape) == 4 and seen.axis == -3 and not seen.flat and seen.node != "image"
        shown = node.meta["val"].shape
        whole = four and shown[:2] == seen.shape[:2] and math.prod(shown) == math.prod(shown[:2])
        if op == "mean":
            whole &= sorted(d % 4 for d in node.args[1]) == [2, 3] if len(node.args) > 1 else False
        if op == "avg_pool2d":
            rest = [*node.args[3:], *node.kwargs.values()]
            whole &= _many(node.args[1], 2, 1) == [*seen.shape[2:]] and rest in ([], [[0, 0]])
        if not whole or node.kwargs.get("dtype") is not None:
            return self._reduce(node) if op == "mean" else self._spatial(node)
        made = TracedNode(self._name(node, "pool"), "pool", (seen.node,))
        flat = len(shown) == 4
        return replace(self._put(made, seen.runs, -3 if flat else -1), flat=flat)

    def _reduce(self, node: Any) -> Seen:
        seen = self._values[node.args[0]]
        dims = node.args[1] if len(node.args) > 1 else None
        if seen.axis is None or not isinstance(dims, list | tuple) or not dims:
            return self._opaque(node)
        rank = len(seen.shape)
        gone = [d % rank - rank for d in dims]
        if seen.axis in gone:
            return self._opaque(node)
        kept = len(node.meta["val"].shape) == rank
        axis = seen.axis + (0 if kept else sum(d > seen.axis for d in gone))
        return self._emit(node, axis, seen.runs)

    # ---- shapes ----------------------------------------------------------------------------

    def _view(self, node: Any) -> Seen:
        seen, shown = self._values[node.args[0]], tuple(node.meta["val"].shape)
        if shown == seen.shape:
            return seen
        if seen.flat and shown == seen.shape[:2]:
            return replace(seen, flat=False, axis=-1)
        if seen.axis is None:
            return self._emit(node, None, ())
        place = len(seen.shape) + seen.axis
        before, after = math.prod(seen.shape[:place]), math.prod(seen.shape[place + 1 :])
        sums = [math.prod(shown[:i]) for i in range(len(shown) + 1)]
        for i, size in enumerate(shown):
            if sums[i] != before:
                continue
            if size == seen.shape[place] and math.prod(shown[i + 1 :]) == after:
                return self._resized(node, seen, i, 1)
            if size == seen.shape[place] * after and i == len(shown) - 1:
                return self._resized(node, seen, i, after)
        self._freeze(seen.runs, node, f"{_op(node)} from {seen.shape[1:]} to {shown[1:]}")
        return self._emit(node, None, ())

    def _resized(self, node: Any, seen: Seen, place: int, each: int) -> Seen:
        """A view that keeps channels in their order: its sizes follow from what it reads."""
        runs = tuple(Run(r.group, r.channels, r.each * each) for r in seen.runs)
        shown = node.meta["val"].shape
        sizes: list[Any] = [*map(int, shown)]
        at = len(seen.shape) + (seen.axis or 0)
        sizes[place] = -1 if each > 1 else {"of": [0, at]}
        return self._emit(node, place - len(shown), runs, call="aten.reshape.default", sizes=sizes)

    def _squeeze(self, node: Any) -> Seen:
        seen, shown = self._values[node.args[0]], tuple(node.meta["val"].shape)
        if seen.flat and shown == seen.shape[:2]:
            return replace(seen, flat=False, axis=-1)
        if seen.axis is None:
            return self._emit(node, None, ())
        rank, result = len(seen.shape), len(shown)
        dims = (
            node.args[1] if len(node.args) > 1 else [i for i, s in enumerate(seen.shape) if s == 1]
        )
        dims = [dims] if isinstance(dims, int) else [*dims]
        if _op(node) == "unsqueeze":
            dim = dims[0] % result - result
            return self._emit(node, seen.axis - (1 if dim > seen.axis - 1 else 0), seen.runs)
        gone = [d % rank - rank for d in dims if seen.shape[d] == 1]
        if seen.axis in gone:
            return self._opaque(node)
        return self._emit(node, seen.axis + sum(d > seen.axis for d in gone), seen.runs)

    def _permute(self, node: Any) -> Seen:
        seen = self._values[node.args[0]]
        rank = len(seen.shape)
        order = list(range(rank))
        if _op(node) == "permute":
            order = [d % rank for d in node.args[1]]
        else:
            a, b = (d % rank for d in node.args[1:3])
            order[a], order[b] = order[b], order[a]
        if seen.axis is None:
            return self._emit(node, None, ())
        return self._emit(node, order.index(rank + seen.axis) - rank, seen.runs)

    def _slice(self, node: Any) -> Seen:
        seen, shown = self._values[node.args[0]], tuple(node.meta["val"].shape)
        if shown == seen.shape:
            return seen
        dim = _dim(node, seen, 1, 0) - len(seen.shape)
        if dim == seen.axis:
            return self._opaque(node)
        return self._emit(node, seen.axis, seen.runs)

    def _concat(self, node: Any) -> Seen:
        seen = [self._values[n] for n in node.args[0]]
        rank = len(node.meta["val"].shape)
        dim = (node.args[1] if len(node.args) > 1 else 0) % rank - rank
        if all(s.axis is None for s in seen):
            return self._emit(node, None, ())
        axis = next(s.axis for s in seen if s.axis is not None)
        tracked = [s for s in seen if s.axis is not None]
        if any(s.axis != axis for s in tracked) or (dim != axis and len(tracked) < len(seen)):
            return self._opaque(node)
        if dim != axis:
            if not self._join([s.runs for s in seen], node):
                return self._emit(node, None, ())
            return self._emit(node, axis, seen[0].runs)
        runs: list[Run] = []
        for s in seen:
            if s.axis is None:
                fixed = Run(self.new_group(), s.shape[dim])
                self._freeze([fixed], node, "it is fixed")
                runs.append(fixed)
            runs.extend(s.runs)
        plain = all(s.axis == -3 or (s.axis == -1 and rank == 2) for s in seen)
        plain &= len({s.flat for s in seen}) == 1 and all(s.node != "image" for s in seen)
        if not plain or len({s.node for s in seen}) < len(seen):
            return self._emit(node, axis, tuple(runs))
        made = TracedNode(self._name(node, "concat"), "concat", tuple(s.node for s in seen))
        return replace(self._put(made, tuple(runs), axis), flat=seen[0].flat)

    # ---- what nobody knows -----------------------------------------------------------------

    def _opaque(self, node: Any) -> Seen:
        """An operation of which is not known what it does to channels: what it reads is kept."""
        self._opaque_inputs(node)
        return self._emit(node, None, ())

    def _opaque_inputs(self, node: Any) -> None:
        for n in node.all_input_nodes:
            if n in self._values:
                self._freeze(self._values[n].runs, node, f"{_op(node)} reads its channels")
        count = _multiplications(node)
        if count:
            self.unpriced[place_of(node)] = count

    # ---- nodes -----------------------------------------------------------------------------

    def _put(
        self, made: TracedNode, runs: tuple[Run, ...], axis: int | None,
        shape: tuple[int, ...] = (),
    ) -> Seen:  # fmt: skip
        """Add a node of a kind of its own."""
        self.drafts[made.name] = Draft(made, runs)
        if made.op in ("conv", "linear"):
            self.weighted[made.name] = runs[0].group if runs else -1
        if made.op == "add" and axis is None:
            made = replace(made, size=_places(shape, 1 - len(shape)))
        return Seen((), made.name, axis, runs)

    def _emit(
        self, node: Any, axis: int | None, runs: tuple[Run, ...], *,
        held: Mapping[Any, tuple[tuple[Run, ...], tuple[Run, ...]]] | None = None, name: str = "",
        changed: Mapping[int, Any] | None = None,
        work: tuple[int, int, tuple[Run, ...]] | None = None,
        call: str = "", sizes: list[Any] | None = None, kwargs: dict[str, Any] | None = None,
        shown: Tensor | None = None,
        pick: int | None = None,
    ) -> Seen:  # fmt: skip
        """Add a node that torch runs as it is."""
        call, op = call or str(node.target), _op(node)
        if str(node.target).split(".")[1].endswith("_") and not call.startswith("aten.reshape"):
            call = call.replace(f".{op}_.", f".{op}.")
        if call in ("aten.view.default", "aten._unsafe_view.default"):
            call = "aten.reshape.default"  # gaps in memory may lie otherwise in cut networks
        try:
            find_call(call)
        except ModelError as error:
            raise ModelError(f"cannot trace {place_of(node)}: {error}") from error
        inputs: list[str] = []
        own: list[tuple[Seen, Any]] = []

        def template(argument: Any, sized: bool = False) -> Any:
            if isinstance(argument, torch.fx.Node):
                seen = self._values[argument]
                if seen.constant is not None:
                    own.append((seen, (held or {}).get(argument, ((), ()))))
                    return {"held": len(own) - 1}
                if seen.node not in inputs:
                    inputs.append(seen.node)
                return {"in": inputs.index(seen.node), **({"wide": 1} if seen.flat else {})}
            if isinstance(argument, list | tuple):
                return [template(part, sized) for part in argument]
            if isinstance(argument, torch.dtype):
                return {"dtype": next(n for n, d in DTYPES.items() if d == argument)}
            whole = isinstance(argument, int) and not isinstance(argument, bool)
            if sized and whole and argument and argument % BATCH == 0:
                return self._of_batch(node, argument // BATCH, inputs)
            return argument

        flat = sizes is not None
        given = [*node.args[: 1 if flat else None]]
        args = [given[0] if i is None else template(a, op in SIZED and not flat)
                for i, a in enumerate(given)] if not flat else [template(given[0])]  # fmt: skip
        if sizes:
            args.append([template(size, sized=True) if isinstance(size, int) else size
                         for size in sizes])  # fmt: skip
        for i, value in (changed or {}).items():
            args[i : i + 1] = [value]
        dropped = ("device", "layout", "memory_format", "pin_memory")
        if kwargs is None:
            given_too = {} if flat else node.kwargs
            kwargs = {
                k: template(v) for k, v in given_too.items() if k not in dropped and v is not None
            }
        if not inputs:
            inputs.append("image")
        shape = tuple((node.meta["val"] if shown is None else shown).shape)
        weights = next((s.path for s, _ in own if s.path), "")
        name = name or self._name(node, op, weights)
        channel = axis if axis is not None else (1 - len(shape) if len(shape) > 1 else 0)
        made = TracedNode(
            name, "torch", tuple(inputs), shape[channel] if shape else 1, call=call,
            args=json.dumps([args, kwargs] + ([{"pick": pick}] if pick is not None else [])),
            size=_places(shape, channel),
        )  # fmt: skip
        draft = Draft(made, runs)
        if work:
            places, taps, draft.reads = work
            draft.node = replace(made, places=places, taps=taps)
            self.weighted[name] = runs[0].group if runs else -1
        for seen, (first, second) in own:
            assert seen.constant is not None
            draft.held.append((_held(seen), first, second))
        self.tensors[name] = {f"held_{i}": seen.constant for i, (seen, _) in enumerate(own)}
        self.drafts[name] = draft
        return Seen(shape, name, axis, runs)

    def _of_batch(self, node: Any, times: int, inputs: list[str]) -> Any:
        """A size that grows with the number of images."""
        source = next((self._values[n] for n in node.all_input_nodes
                       if n in self._values and self._values[n].node
                       and self._values[n].shape[:1]
                       and self._values[n].shape[0] % BATCH == 0), None)  # fmt: skip
        name, over = (source.node, source.shape[0] // BATCH) if source else ("image", 1)
        if name not in inputs:
            inputs.append(name)
        return {"of": [inputs.index(name), 0], "times": times, "over": over}

    def _behind(self, node: Any, seen: Seen, ops: Sequence[str]) -> TracedNode | None:
        """The layer that a batch norm or activation can be put into: nothing else reads it."""
        draft = self.drafts.get(seen.node)
        others = [user for user in node.args[0].users if user is not node]
        in_place = str(node.target).split(".")[1].endswith("_")
        if draft is None or draft.node.op not in ops or draft.node.act:
            return None
        return None if others and not in_place else draft.node

    def _change(self, made: TracedNode, **fields: Any) -> None:
        draft = self.drafts[made.name]
        draft.node = replace(draft.node, **fields)

    def _layer_name(self, node: Any, weight: Seen) -> tuple[str, str]:
        """The path of a layer, and why its channels stay: its weights have been used before."""
        path = weight.path.rpartition(".")[0] if weight.path.endswith(".weight") else ""
        name = (
            path if path and path not in self.drafts else self._name(node, _op(node), weight.path)
        )
        runs = self._values[node.args[0]].runs
        earlier = self._uses.setdefault(weight.path or name, [])
        earlier.append((name, runs))
        if len(earlier) < 2:
            return name, ""
        reason = f"the weights of {earlier[0][0]} are used more than once"
        self.notes.append((name, f"{reason}: every use has its own copy from here on"))
        for other, read in earlier:
            self._freeze(read, node, reason)
            if other in self.drafts:
                self._freeze(self.drafts[other].runs, node, reason)
        return name, reason

    def _name(self, node: Any, what: str, weights: str = "") -> str:
        stack = [*(node.meta.get("nn_module_stack") or {}).values()]
        path = stack[-1][0] if stack else ""
        base = f"{path}.{what}" if path else what
        taken = {*self.drafts, *self._modules, "image"}
        if weights and path and weights.rpartition(".")[0] == path and path not in self.drafts:
            return path
        numbered = itertools.chain([base], (f"{base}{i}" for i in itertools.count(2)))
        return next(name for name in numbered if name not in taken)

    def _constant(self, value: Any) -> Any:
        return None if value is None else self._values[value].constant

    def _end(self, last: Seen) -> None:
        """What the network gives keeps its channels, and comes from a layer."""
        for run in last.runs:
            self._frozen.setdefault(run.group, Frozen("it is what the network gives", ""))
        *_, name = self.drafts
        self._last = last
        draft = self.drafts[last.node]
        if name == last.node and draft.node.op in ("linear", "torch") and not draft.node.act:
            return
        made = TracedNode(
            "logits", "torch", (last.node,), last.shape[1], call="aten.clone.default",
            args=json.dumps([[{"in": 0}], {}]), size=_places(last.shape, 1 - len(last.shape)),
        )  # fmt: skip
        self.drafts["logits"] = Draft(made)
        self.tensors["logits"] = {}

    @property
    def classes(self) -> int:
        """Channels of what the network gives."""
        return self._last.shape[1]


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
        if (
            "data-dependent" in str(error)
            or "Could not guard" in str(error)
            or "branch" in str(error)
        ):
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


def _op(node: Any) -> str:
    """Name of an operation, without the mark of those that change what they take."""
    name = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
    return name.rstrip("_") if not name.startswith("__") else name


def _dim(node: Any, seen: Seen, place: int, default: int) -> int:
    dim = node.args[place] if len(node.args) > place else node.kwargs.get("dim", default)
    return int(dim) % max(1, len(seen.shape))


def _many(value: Any, count: int, default: int) -> list[Any]:
    if value is None or value == []:
        return [default] * count
    several = [*value] if isinstance(value, list | tuple) else [value]
    return several * count if len(several) == 1 else several


def _places(shape: tuple[int, ...], channel: int) -> tuple[int, int]:
    """Height and width that hold as many entries per channel as a tensor has."""
    rest = [size for i, size in enumerate(shape) if i != len(shape) + channel]
    if len(shape) == 4 and channel == -3 and shape[0] == BATCH:
        return int(shape[2]), int(shape[3])
    return max(1, math.prod(map(int, rest)) // BATCH), 1


def _held(seen: Seen) -> TracedHeld:
    tensor = seen.constant
    assert tensor is not None
    kind = (
        "float"
        if seen.path and not seen.path.endswith(("running_mean", "running_var"))
        else "fixed"
    )
    if not tensor.is_floating_point():
        kind = "bool" if tensor.dtype == torch.bool else "int"
    return TracedHeld(tuple(map(int, tensor.shape)), kind=kind)  # type: ignore[arg-type]


def _multiplications(node: Any) -> float:
    """Multiplications per image of an operation, in millions, by torch's counter; 0: none."""
    from torch.utils.flop_counter import flop_registry

    def shown(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [shown(part) for part in argument]
        return argument.meta.get("val") if isinstance(argument, torch.fx.Node) else argument

    args = [shown(a) for a in node.args]
    if _op(node) == "scaled_dot_product_attention":
        q, k, v = (a.shape for a in args[:3])
        return float(math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])) / BATCH / 1e6
    count = flop_registry.get(node.target.overloadpacket)
    if _op(node) == "matmul":
        return float(math.prod(node.meta["val"].shape) * args[0].shape[-1]) / BATCH / 1e6
    if count is None:
        return 0.0
    try:
        return float(count(*args, out_val=node.meta["val"])) / 2 / BATCH / 1e6
    except (TypeError, ValueError, AssertionError):
        return 0.0


def parts_of(runs: tuple[Run, ...], gene: Callable[[int], str]) -> tuple[TracedPart, ...]:
    """Runs with the names of genes; none if all are fixed."""
    found = tuple(TracedPart(run.channels, gene(run.group), run.each) for run in runs)
    return found if any(part.group for part in found) else ()
