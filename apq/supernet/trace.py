"""A trained torch network as a space and the supernet whose full-size subnet it is.

``torch.export`` is the one way in. The operations it gives become nodes of our graph; channels that
an addition joins are one group (union-find, as in DepGraph, Fang et al., CVPR 2023). What the graph
has no node for is refused by the user's source line, never guessed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from apq.errors import ModelError
from apq.space import Space
from apq.space.families import Traced, WeightBits
from apq.space.families.base import divisible
from apq.space.families.traced import TracedNode, TracedStage, TracedWidth
from apq.supernet.elastic import ConvBN
from apq.supernet.network import Supernet, largest

ACTS = {
    "relu": "relu", "relu_": "relu", "relu6": "relu6", "relu6_": "relu6", "hardswish": "hswish",
    "hardswish_": "hswish", "hardsigmoid": "hsigmoid", "hardsigmoid_": "hsigmoid",
}  # fmt: skip
SAME = (
    "dropout", "dropout_", "feature_dropout", "flatten", "view", "reshape", "clone", "contiguous",
    "squeeze", "detach", "alias",
)  # fmt: skip
"""Operations that change nothing a graph knows of: batches of one vector per image stay that."""


@dataclass(frozen=True)
class TracedNetwork:
    """A traced network.

    Attributes:
        space: What can be cut, skipped and rounded.
        supernet: Weights of all candidates; the largest one is the traced network.
        kept: What could not be made elastic: name and reason.
    """

    space: Space
    supernet: Supernet
    kept: tuple[tuple[str, str], ...]


def trace(
    module: nn.Module,
    example: Tensor,
    name: str = "traced",
    bits: WeightBits | None = None,
    smallest: float = 0.25,
    leave: Sequence[str] = (),
) -> TracedNetwork:
    """Read a trained network.

    Understood are convolutions (square, odd, padded by half the kernel; dense or depthwise) with or
    without batch norm, ReLU and ReLU6, hard swish and hard sigmoid, squeeze-and-excitation,
    additions, concatenations of channels, max-pooling, the mean over all pixels, and linear layers
    behind it.

    Args:
        module: Takes images ``(n, c, h, w)``, square, and gives logits ``(n, classes)``.
        example: One or two such images.
        name: Of the space.
        bits: Formats that blocks may use; None: 4, 6 and 8 bits.
        smallest: Share of a group's channels that is always kept.
        leave: Modules whose output channels stay as they are.

    Raises:
        ModelError: the network has an operation the graph knows nothing of, uses a module twice, or
            takes and gives something else; names the module and the line of its source.

    Example:
        >>> import apq, torch
        >>> from torch import nn
        >>> net = nn.Sequential(
        ...     nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        ...     nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
        >>> traced = apq.trace(net, torch.zeros(2, 1, 8, 8))
        >>> [axis.name for axis in traced.space.axes if axis.attribute.endswith("width")]
        ['0_width', '2_width']
    """
    shape = tuple(example.shape)
    if example.dim() != 4 or shape[2] != shape[3]:
        raise ModelError(f"the example input has shape {shape}, must be (n, channels, side, side)")
    read = _Reader(module, example)
    classes = read.nodes[-1].channels
    widths, kept = read.widths(smallest, leave)
    stages, nodes = _blocks(read, {w.name for w in widths})
    family = Traced(name, shape[2], classes, nodes, stages, widths, shape[1], bits or WeightBits())
    space = Space(family)
    supernet = Supernet(space).eval()
    read.copy_weights(supernet)
    supernet.sort_channels()
    _check(module, supernet, example)
    return TracedNetwork(space, supernet, kept)


@torch.no_grad()
def _check(module: nn.Module, supernet: Supernet, example: Tensor) -> None:
    """Refuse a supernet whose largest subnet is not the traced network."""
    was = module.training
    wanted, found = module.eval()(example), supernet(example, largest(supernet.space))
    module.train(was)
    gap = float((wanted - found).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if not gap < 1e-3:
        raise ModelError(
            f"what was traced answers otherwise than the network (relative difference {gap:.2g}): "
            "something in it is not what it seems. Please report it."
        )


@dataclass
class _Out:
    """What a value of the exported graph is: the node that gives it, and how its channels are made
    up; ``groups`` are numbers of groups, ``sizes`` their channels."""

    node: str
    groups: tuple[int, ...]
    sizes: tuple[int, ...]
    side: int


@dataclass
class _Reader:
    """Walks the exported graph."""

    module: nn.Module
    example: Tensor
    nodes: list[TracedNode] = field(default_factory=list)
    group_of: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        was = self.module.training
        try:
            exported = torch.export.export(self.module.eval(), (self.example,))
        except Exception as error:
            raise ModelError(
                f"torch.export cannot read the network: {str(error).splitlines()[0][:200]}"
            ) from error
        finally:
            self.module.train(was)
        signature = exported.graph_signature
        self._named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._state = {**exported.state_dict, **exported.constants}
        self._parent: list[int] = []
        self._values: dict[Any, _Out] = {}
        inputs = [
            n for n in exported.graph.nodes if n.op == "placeholder" and n.name not in self._named
        ]
        if len(inputs) != 1:
            raise ModelError(
                f"the network takes {len(inputs)} inputs; one tensor of images is read"
            )
        c, side = self.example.shape[1], self.example.shape[2]
        self._image = self._group()
        self._values[inputs[0]] = _Out("image", (self._image,), (c,), side)
        for node in exported.graph.nodes:
            if node.op == "call_function":
                self._read(node)
        (last,) = signature.user_outputs if len(signature.user_outputs) == 1 else ("",)
        if not self.nodes or self.nodes[-1].op != "linear" or not last:
            raise ModelError("the network must end with one linear layer that gives the logits")

    # ---- groups ----------------------------------------------------------------------------

    def _group(self) -> int:
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def find(self, group: int) -> int:
        """The group that stands for all that were joined with this one."""
        while self._parent[group] != group:
            self._parent[group] = self._parent[self._parent[group]]
            group = self._parent[group]
        return group

    def _join(self, a: int, b: int) -> None:
        self._parent[max(self.find(a), self.find(b))] = min(self.find(a), self.find(b))

    # ---- operations ------------------------------------------------------------------------

    def _read(self, node: Any) -> None:
        op = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
        if op in ACTS or op in ("hardtanh", "hardtanh_", "clamp", "clamp_"):
            self._activate(node, op)
        elif op == "conv2d":
            self._conv(node)
        elif op in ("batch_norm", "_native_batch_norm_legit_no_training"):
            self._norm(node)
        elif op in ("mul", "mul_"):
            self._scale(node)
        elif op in ("add", "add_", "cat"):
            self._together(node, "concat" if op == "cat" else "add")
        elif op in ("adaptive_avg_pool2d", "mean", "avg_pool2d"):
            self._pool(node, op)
        elif op == "max_pool2d":
            self._max_pool(node)
        elif op == "linear":
            self._linear(node)
        elif op in SAME:
            x = self._of(node.args[0], node)
            if x.side > 1:
                self._refuse(
                    node, f"{op} of whole images; a mean over all pixels has to come first"
                )
            self._values[node] = x
        else:
            self._refuse(node, f"{op} is an operation the graph has no node for")

    def _conv(self, node: Any) -> None:
        arguments = [*node.args, *[None] * 7][:7]
        x, weight, bias, stride, padding, dilation, groups = arguments
        stride, padding = _pair(stride, 1), _pair(padding, 0)
        groups = groups or 1
        before, name = self._of(x, node), self._module_of(weight, node)
        w = self._tensor(weight)
        if before.side == 1 and tuple(w.shape[2:]) == (1, 1) and groups == 1:
            self._dense(node, before, name, w.flatten(1), self._tensor(bias))
            return
        out, _, kernel, other = w.shape
        depthwise = groups > 1 and groups == out == sum(before.sizes)
        square = kernel == other and kernel % 2 == 1 and stride[0] == stride[1]
        if not square or padding != (kernel // 2,) * 2 or _pair(dilation, 1) != (1, 1):
            self._refuse(node, f"a {kernel}x{other} convolution with stride {stride}, padding "
                               f"{padding} and dilation {dilation or 1}; square, odd and padded by "
                               "half the kernel is what is read")  # fmt: skip
        if groups > 1 and (not depthwise or len(before.groups) > 1):
            self._refuse(node, f"a convolution of {groups} groups; dense and depthwise are read")
        group = before.groups[0] if depthwise else self._group()
        self._add(node, TracedNode(
            name, "conv", (before.node,), out, kernel=kernel, stride=stride[0], depthwise=depthwise,
        ), _Out(name, (group,), (out,), -(-before.side // stride[0])))  # fmt: skip
        self.tensors[name] = {"weight": w, "bias": self._tensor(bias)}

    def _norm(self, node: Any) -> None:
        x, weight, bias, mean, var = node.args[:5]
        before = self._of(x, node)
        last = self._before(node, before, "a batch norm", ("conv",))
        if "mean" in self.tensors[last.name]:
            self._refuse(node, "a second batch norm behind one convolution")
        eps = node.args[7] if "legit" not in str(node.target) else node.args[6]
        names = {"gain": weight, "shift": bias, "mean": mean, "var": var}
        self.tensors[last.name] |= {k: self._tensor(v) for k, v in names.items()} | {"eps": eps}
        self._values[node] = before

    def _activate(self, node: Any, op: str) -> None:
        act = ACTS.get(op)
        if act is None:
            ends = [*node.args[1:3], node.kwargs.get("min"), node.kwargs.get("max")]
            if [float(e) for e in ends if e is not None] != [0.0, 6.0]:
                self._refuse(node, f"{op} to {ends[:2]}; 0 to 6 is read")
            act = "relu6"
        before = self._of(node.args[0], node)
        if act in ("hswish", "hsigmoid"):
            name = self._name(node, "act")
            out = replace(before, node=name)
            self._add(node, TracedNode(name, "act", (before.node,), act=act), out)
            return
        last = self._before(node, before, "an activation", ("conv", "linear", "add"))
        if last.op == "add" and act != "relu":
            self._refuse(node, "an addition with another activation than ReLU")
        self.nodes[self.nodes.index(last)] = replace(last, act=act)
        self._values[node] = before

    def _scale(self, node: Any) -> None:
        """A product of a tensor and one number per channel: squeeze-and-excitation."""
        if any(not isinstance(s, torch.fx.Node) for s in node.args[:2]):
            self._refuse(node, "a product with something else than a tensor")
        x, factor = sorted((self._of(s, node) for s in node.args[:2]), key=lambda v: -v.side)
        last = next((n for n in self.nodes if n.name == factor.node), None)
        if x.sizes != factor.sizes or factor.side != 1 or last is None or last.act != "hsigmoid":
            self._refuse(node, "a product of two tensors that is no squeeze-and-excitation by a "
                               "hard sigmoid")  # fmt: skip
        for a, b in zip(x.groups, factor.groups, strict=True):
            self._join(a, b)
        name = self._name(node, "scale")
        self._add(node, TracedNode(name, "scale", (x.node, factor.node)), replace(x, node=name))

    def _before(self, node: Any, value: _Out, what: str, ops: Sequence[str]) -> TracedNode:
        """The layer that a batch norm or activation belongs to."""
        found = next((n for n in self.nodes if n.name == value.node), None)
        if found is None or found.op not in ops or found.act:
            self._refuse(node, f"{what} that does not follow {' or '.join(ops)}")
        if len(node.args[0].users) > 1:
            self._refuse(node, f"{what} of something that is read without it too")
        return found

    def _together(self, node: Any, op: str) -> None:
        sources = node.args[0] if op == "concat" else node.args[:2]
        if op == "concat" and (node.args[1] if len(node.args) > 1 else 0) not in (1, -3):
            self._refuse(node, "a concatenation along another axis than channels")
        if (
            any(not isinstance(s, torch.fx.Node) for s in sources)
            or node.kwargs.get("alpha", 1) != 1
        ):
            self._refuse(node, "an addition of something else than two tensors")
        parts = [self._of(s, node) for s in sources]
        name = self._name(node, op)
        groups, sizes = parts[0].groups, parts[0].sizes
        if op == "concat":
            groups = tuple(g for part in parts for g in part.groups)
            sizes = tuple(s for part in parts for s in part.sizes)
        elif any(part.sizes != sizes or part.side != parts[0].side for part in parts):
            self._refuse(node, f"an addition of channels {[part.sizes for part in parts]}")
        else:
            for part in parts[1:]:
                for a, b in zip(groups, part.groups, strict=True):
                    self._join(a, b)
        inputs = tuple(part.node for part in parts)
        self._add(node, TracedNode(name, op, inputs), _Out(name, groups, sizes, parts[0].side))  # type: ignore[arg-type]

    def _pool(self, node: Any, op: str) -> None:
        x = self._of(node.args[0], node)
        whole = {
            "adaptive_avg_pool2d": lambda: _pair(node.args[1], 1) == (1, 1),
            "mean": lambda: sorted(d % 4 for d in node.args[1]) == [2, 3],
            "avg_pool2d": lambda: _pair(node.args[1], 1) == (x.side, x.side),
        }
        if not whole[op]():
            self._refuse(node, f"{op} over a part of the pixels; over all of them is read")
        name = self._name(node, "pool")
        self._add(node, TracedNode(name, "pool", (x.node,)), _Out(name, x.groups, x.sizes, 1))

    def _max_pool(self, node: Any) -> None:
        x, kernel, stride, padding, dilation, ceil = [*node.args, *[None] * 6][:6]
        before, (kernel, other) = self._of(x, node), _pair(kernel, 1)
        step = _pair(stride, kernel)
        padded = _pair(padding, 0) == (kernel // 2 if kernel % 2 else 0,) * 2
        even = kernel % 2 == 1 or (step[0] == kernel and before.side % kernel == 0)
        plain = kernel == other and step[0] == step[1] and _pair(dilation, 1) == (1, 1)
        if not (padded and even and plain) or (ceil and before.side % step[0]):
            self._refuse(node, "max-pooling of another shape; read are odd windows padded by half, "
                               "and windows that cover the image without a rest")  # fmt: skip
        name = self._name(node, "maxpool")
        out = replace(before, node=name, side=-(-before.side // step[0]))
        made = TracedNode(name, "maxpool", (before.node,), kernel=kernel, stride=step[0])
        self._add(node, made, out)

    def _linear(self, node: Any) -> None:
        x, name = self._of(node.args[0], node), self._module_of(node.args[1], node)
        weight = self._tensor(node.args[1])
        if x.side != 1 or sum(x.sizes) != weight.shape[1]:
            self._refuse(node, "a linear layer behind something else than a mean over all pixels")
        bias = self._tensor(node.args[2]) if len(node.args) > 2 else None
        self._dense(node, x, name, weight, bias)

    def _dense(self, node: Any, x: _Out, name: str, weight: Tensor, bias: Tensor | None) -> None:
        """A linear layer, or a 1x1 convolution of one pixel."""
        self.tensors[name] = {"weight": weight, "bias": bias}
        out = _Out(name, (self._group(),), (len(weight),), 1)
        self._add(node, TracedNode(name, "linear", (x.node,), len(weight)), out)

    # ---- names and values ------------------------------------------------------------------

    def _add(self, node: Any, made: TracedNode, out: _Out) -> None:
        if any(made.name == other.name for other in self.nodes):
            self._refuse(
                node, f"module {made.name} is used twice, and its weights cannot be cut twice"
            )
        self.nodes.append(made)
        self.group_of[made.name] = out.groups[0] if made.op in ("conv", "linear") else -1
        self._values[node] = out

    def _of(self, value: Any, node: Any) -> _Out:
        if value not in self._values:
            self._refuse(node, f"its input {value} is no image or activation")
        return self._values[value]

    def _module_of(self, weight: Any, node: Any) -> str:
        path = str(self._named.get(getattr(weight, "name", ""), ""))
        if not path.endswith(".weight"):
            self._refuse(node, "its weights are no module's parameter")
        return path.removesuffix(".weight")

    def _name(self, node: Any, what: str) -> str:
        stack = node.meta.get("nn_module_stack") or {}
        path = [*stack.values()][-1][0] if stack else ""
        base = f"{path}.{what}" if path else what
        taken = {n.name for n in self.nodes}
        numbered = itertools.chain([base], (f"{base}{i}" for i in itertools.count(2)))
        return next(name for name in numbered if name not in taken)

    def _tensor(self, value: Any) -> Any:
        return None if value is None else self._state[self._named[value.name]].detach().float()

    def _refuse(self, node: Any, reason: str) -> NoReturn:
        stack = [*(node.meta.get("nn_module_stack") or {}).values()]
        where = f"module {stack[-1][0] or '(the network itself)'}" if stack else "the network"
        lines = re.findall(r'File "(.+?)", line (\d+)', node.meta.get("stack_trace") or "")
        own = [f"{file}:{line}" for file, line in lines if "/torch/" not in file]
        at = f" ({own[-1]})" if own else ""
        raise ModelError(f"cannot trace {where}{at}: {reason}")

    # ---- results ---------------------------------------------------------------------------

    def widths(
        self, smallest: float, leave: Sequence[str]
    ) -> tuple[tuple[TracedWidth, ...], tuple[tuple[str, str], ...]]:
        """The groups that can be cut, and what stays with the reason; names groups in the nodes."""
        members: dict[int, list[TracedNode]] = {}
        for node in self.nodes[:-1]:
            if node.op in ("conv", "linear"):
                members.setdefault(self.find(self.group_of[node.name]), []).append(node)
        known = {node.name for node in self.nodes}
        missing = [name for name in leave if name not in known]
        if missing:
            raise ModelError(
                f"no layer is called {missing[0]!r}; there are {', '.join(sorted(known))}"
            )
        widths, kept = [], []
        for group, nodes in members.items():
            full, first = nodes[0].channels, nodes[0].name
            choices = _choices(full, smallest)
            left = [node.name for node in nodes if node.name in leave]
            if self.find(self._image) == group:
                kept.append((first, "its channels are the image's"))
            elif left:
                kept.append((first, f"{left[0]} is to be left alone"))
            elif len(choices) < 2:
                kept.append((first, f"{full} channels are too few to cut"))
            else:
                gene = f"{first.replace('.', '_')}_width"
                widths.append(TracedWidth(gene, choices))
                own = {node.name for node in nodes}
                self.nodes = [replace(n, group=gene) if n.name in own else n for n in self.nodes]
        return tuple(widths), tuple(kept)

    @torch.no_grad()
    def copy_weights(self, supernet: Supernet) -> None:
        """Make the largest candidate the traced network."""
        for node in self.nodes:
            if node.op not in ("conv", "linear"):
                continue
            held, module = self.tensors[node.name], supernet.get_submodule(node.name)
            bias = held["bias"]
            if isinstance(module, nn.Linear):
                module.weight.copy_(held["weight"])
                module.bias.zero_() if bias is None else module.bias.copy_(bias)
                continue
            assert isinstance(module, ConvBN)
            module.conv.weight.copy_(held["weight"])
            bn = module.bn
            assert bn.running_mean is not None
            assert bn.running_var is not None
            gain = held.get("gain")
            eps = float(held.get("eps", bn.eps))
            # other epsilons go into the variance; a bias of the convolution into the mean
            bn.running_var.fill_(1.0 - bn.eps) if "var" not in held else bn.running_var.copy_(
                held["var"] + (eps - bn.eps)
            )
            mean = held.get("mean", torch.zeros(len(bn.weight)))
            bn.running_mean.copy_(mean if bias is None else mean - bias)
            bn.weight.fill_(1.0) if gain is None else bn.weight.copy_(gain)
            shift = held.get("shift")
            bn.bias.zero_() if shift is None else bn.bias.copy_(shift)


def _choices(full: int, smallest: float) -> tuple[int, ...]:
    """At most eight widths from a share of the channels to all of them, multiples of 8 where there
    are enough."""
    step = 8 if full >= 32 else 4 if full >= 16 else 2
    found = {min(full, divisible(full * k / 8, step)) for k in range(1, 9)}
    return tuple(sorted({full} | {c for c in found if c >= smallest * full}))


def _pair(value: Any, default: int) -> tuple[int, int]:
    if value is None or value == []:
        return default, default
    several = [*value] if isinstance(value, list | tuple) else [value]
    return (several * 2)[0], (several * 2)[1]


def _blocks(
    read: _Reader, widths: set[str]
) -> tuple[tuple[TracedStage, ...], tuple[TracedNode, ...]]:
    """Which block every layer belongs to, and the stages of blocks.

    A residual branch whose addition also reads the branch's input can be skipped, and such branches
    in a row are a stage with a depth. Every other layer is a block by itself, but for the first and
    the last one, whose formats are fixed.
    """
    nodes = {node.name: node for node in read.nodes}
    readers: dict[str, list[str]] = {}
    for node in read.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node.name)
    order = {node.name: i for i, node in enumerate(read.nodes)}
    branches: dict[str, tuple[str, set[str]]] = {}
    taken: set[str] = set()
    for node in read.nodes:
        if node.op != "add" or len(node.inputs) != 2:
            continue
        for skip, end in (node.inputs, node.inputs[::-1]):
            inside = _between(nodes, readers, skip, end)
            if inside and not inside & taken and _contiguous(order, inside, node.name):
                branches[node.name] = (skip, inside)
                taken |= inside
                break
    layers = [node.name for node in read.nodes if node.op in ("conv", "linear")]
    block_of: dict[str, int] = {}
    stages: list[TracedStage] = []
    blocks, before = 0, ""
    for node in read.nodes:
        name = node.name
        owner = next((add for add, (_, inside) in branches.items() if name in inside), None)
        if owner is not None and owner not in block_of:
            skip = branches[owner][0]
            if skip == before and stages:
                last = stages[-1].blocks
                stages[-1] = TracedStage(tuple(range(last + 2)), last + 1)
            else:
                stages.append(TracedStage((0, 1), 1))
            block_of |= dict.fromkeys((*branches[owner][1], owner), blocks)
            blocks, before = blocks + 1, owner
        elif node.op == "conv" and name in layers[1:-1] and name not in block_of:
            stages.append(TracedStage((1,), 1))
            block_of[name] = blocks
            blocks, before = blocks + 1, ""
        elif name not in block_of and node.op != "pool":
            before = ""
    return tuple(stages), tuple(replace(n, block=block_of.get(n.name, -1)) for n in read.nodes)


def _between(
    nodes: dict[str, TracedNode], readers: dict[str, list[str]], skip: str, end: str
) -> set[str]:
    """The nodes of a branch from ``skip`` to ``end`` that nothing else reads; perhaps none."""
    inside: set[str] = set()
    todo = [end]
    while todo:
        name = todo.pop()
        if name == skip or name in inside:
            continue
        if name == "image" or name not in nodes:
            return set()
        inside.add(name)
        todo.extend(nodes[name].inputs)
    outside = [r for name in inside - {end} for r in readers.get(name, []) if r not in inside]
    return set() if outside or len(readers.get(end, [])) > 1 else inside


def _contiguous(order: dict[str, int], inside: set[str], add: str) -> bool:
    """Whether a branch and its addition follow each other, so that they are one block."""
    places = sorted(order[name] for name in (*inside, add))
    return places == list(range(places[0], places[-1] + 1))


def read_size(text: str) -> tuple[int, int]:
    """Channels and side of square images, from ``3x32x32``.

    Raises:
        ModelError: it is something else.
    """
    found = re.fullmatch(r"(\d{1,3})x(\d{1,5})x(\d{1,5})", text)
    if not found or found[2] != found[3] or min(map(int, found.groups())) < 1:
        raise ModelError(f"--input {text!r} must be CHANNELSxSIDExSIDE, as in 3x32x32")
    return int(found[1]), int(found[2])


def normalisation(mean: str, std: str, channels: int) -> dict[str, list[float]]:
    """Mean and deviation of pixels, from ``0.49,0.48,0.45``; ImageNet's for three channels if none
    are given.

    Raises:
        ModelError: they are no numbers, or not one per channel.
    """
    if not mean and not std and channels == 3:
        return {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    out = {}
    for name, text in (("mean", mean), ("std", std)):
        try:
            out[name] = [float(part) for part in text.split(",")]
        except ValueError:
            out[name] = []
        ok = len(out[name]) == channels and all(0 <= v <= 1 for v in out[name])
        if not ok or (name == "std" and min(out[name]) <= 0):
            raise ModelError(
                f"--{name} {text!r} must be {channels} numbers from 0 to 1, comma between, as the "
                "network was trained with"
            )
    return out


def load_function(text: str) -> Callable[[], Any]:
    """The function that ``package.module:function`` names; the working directory counts.

    Raises:
        ModelError: there is no such module or function.
    """
    import importlib
    import sys

    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise ModelError(f"{text!r} is not MODULE:FUNCTION, as in models.mine:build")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ModelError(f"cannot import {module!r}: {error}") from error
    made = getattr(found, name, None)
    if not callable(made):
        names = [n for n, v in vars(found).items() if callable(v) and not n.startswith("_")]
        raise ModelError(f"{module} has no function {name!r}; it has {', '.join(names[:12])}")
    function: Callable[[], Any] = made
    return function
