"""The nodes of a traced network in the making."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from apq.errors import ModelError
from apq.space.families.traced import TracedHeld, TracedNode
from apq.supernet.calls import DTYPES, find_call
from apq.supernet.exported.groups import Groups, Run
from apq.supernet.exported.program import (
    BATCH,
    in_place,
    multiplications,
    op_of,
    place_of,
    shape_of,
)

Runs = tuple[Run, ...]
Held = Mapping[Any, tuple[Runs, Runs]]

SIZED = {"view", "reshape", "expand", "_unsafe_view", "zeros", "ones", "full", "new_zeros",
         "new_ones", "new_full", "repeat", "empty"}  # fmt: skip
"""Operations whose arguments are sizes, perhaps of the batch."""
DROPPED = ("device", "layout", "memory_format", "pin_memory")
"""Arguments that networks do not depend on."""


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
    runs: Runs = ()
    flat: bool = False
    constant: Tensor | None = None
    path: str = ""


@dataclass
class Draft:
    """A node in the making, and the channels in it, by number of group."""

    node: TracedNode
    runs: Runs = ()
    held: list[tuple[TracedHeld, Runs, Runs]] = field(default_factory=list)
    reads: Runs = ()


class Nodes(Groups):
    """The nodes that were found so far.

    Attributes:
        drafts: The nodes, by name, in the order they run.
        tensors: Per layer its weights; per operation the tensors it owns.
        values: What every node of the exported graph is.
        unpriced: Multiplications per image of operations that no table prices, by name.
        notes: What became of things that could not be kept as they were: name and words.
        weighted: Per layer with weights the group of its output.
        pixels: Per node the pixels of each of its channels.
    """

    def __init__(self, modules: Iterable[str]) -> None:
        super().__init__()
        self.drafts: dict[str, Draft] = {}
        self.tensors: dict[str, dict[str, Any]] = {}
        self.values: dict[Any, Seen] = {}
        self.unpriced: dict[str, float] = {}
        self.notes: list[tuple[str, str]] = []
        self.weighted: dict[str, int] = {}
        self.pixels: dict[str, int] = {}
        self._modules = {*modules, "image"}
        self._uses: dict[str, list[tuple[str, Runs]]] = {}

    def put(self, made: TracedNode, runs: Runs, axis: int | None) -> Seen:
        """Add a node of a kind of its own."""
        self.drafts[made.name] = Draft(made, runs)
        if made.op in ("conv", "linear"):
            self.weighted[made.name] = runs[0].group if runs else -1
        return Seen((), made.name, axis, runs)

    def emit(
        self, node: Any, axis: int | None, runs: Runs, *, held: Held | None = None, name: str = "",
        args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, call: str = "",
        shown: Tensor | None = None, pick: int | None = None,
    ) -> Seen:  # fmt: skip
        """Add a node that torch runs as it is.

        Args:
            node: Of the exported graph.
            axis, runs: Where its channels are, and what they are made up of.
            held: What the first two dimensions of tensors it owns are made up of.
            name: Its name, if it has one.
            args, kwargs: What it takes instead of the first input's followers.
            call: The operation instead of its own.
            shown: What it gives, if it gives several.
            pick: Which of several results.
        """
        taken = _Arguments(self, node, held or {})
        positional, keywords = (
            taken.all() if args is None else taken.of(args, kwargs or {}, sized=bool(call))
        )
        found = positional, keywords, *([{"pick": pick}] if pick is not None else [])
        shape = shape_of(node) if shown is None else tuple(shown.shape)
        own = [seen for seen, _ in taken.own]
        name = name or self.name(node, op_of(node), next((s.path for s in own if s.path), ""))
        channel = axis if axis is not None else (1 - len(shape) if len(shape) > 1 else 0)
        made = TracedNode(
            name, "torch", tuple(taken.inputs or ["image"]), shape[channel] if shape else 1,
            call=_checked(node, call), args=json.dumps(found), size=places_of(shape, channel),
        )  # fmt: skip
        self.drafts[name] = Draft(made, runs, [(_held(seen), *parts) for seen, parts in taken.own])
        self.tensors[name] = {f"held_{i}": seen.constant for i, seen in enumerate(own)}
        return Seen(shape, name, axis, runs)

    def behind(self, node: Any, seen: Seen, ops: Sequence[str]) -> TracedNode | None:
        """The layer that a batch norm or activation can be put into: nothing else reads it."""
        draft = self.drafts.get(seen.node)
        others = [user for user in node.args[0].users if user is not node]
        if draft is None or draft.node.op not in ops or draft.node.act:
            return None
        return None if others and not in_place(node) else draft.node

    def change(self, made: TracedNode, **fields: Any) -> None:
        """Give a node other fields."""
        draft = self.drafts[made.name]
        draft.node = replace(draft.node, **fields)

    def layer_name(self, node: Any, weight: Seen) -> tuple[str, str]:
        """The path of a layer, and why its channels stay: its weights have been used before."""
        path = weight.path.rpartition(".")[0] if weight.path.endswith(".weight") else ""
        fresh = path and path not in self.drafts
        name = path if fresh else self.name(node, op_of(node), weight.path)
        runs = self.values[node.args[0]].runs
        earlier = self._uses.setdefault(weight.path or name, [])
        earlier.append((name, runs))
        if len(earlier) < 2:
            return name, ""
        reason = f"the weights of {earlier[0][0]} are used more than once"
        self.notes.append((name, f"{reason}: every use has its own copy from here on"))
        for other, read in earlier:
            self.freeze(read, node, reason)
            if other in self.drafts:
                self.freeze(self.drafts[other].runs, node, reason)
        return name, reason

    def name(self, node: Any, what: str, weights: str = "") -> str:
        """A name that nothing has: its module's path if its ``weights`` are, or made of it."""
        stack = [*(node.meta.get("nn_module_stack") or {}).values()]
        path = stack[-1][0] if stack else ""
        base = f"{path}.{what}" if path else what
        taken = {*self.drafts, *self._modules}
        if weights and path and weights.rpartition(".")[0] == path and path not in self.drafts:
            return path
        numbered = itertools.chain([base], (f"{base}{i}" for i in itertools.count(2)))
        return next(name for name in numbered if name not in taken)

    def constant(self, value: Any) -> Any:
        """The tensor that an argument is, or None."""
        return None if value is None else self.values[value].constant

    def opaque(self, node: Any) -> Seen:
        """An operation of which is not known what it does to channels: what it reads is kept."""
        self.opaque_inputs(node)
        return self.emit(node, None, ())

    def opaque_inputs(self, node: Any) -> None:
        """Keep all channels that an operation reads."""
        for n in node.all_input_nodes:
            if n in self.values:
                self.freeze(self.values[n].runs, node, f"{op_of(node)} reads its channels")
        if count := multiplications(node):
            self.unpriced[place_of(node)] = count


class _Arguments:
    """The arguments of an operation as :mod:`apq.supernet.calls` writes them.

    Attributes:
        inputs: Nodes they refer to.
        own: Tensors they refer to, with what these are made up of.
    """

    def __init__(self, net: Nodes, node: Any, held: Held) -> None:
        self.values, self.node, self.held = net.values, node, held
        self.inputs: list[str] = []
        self.own: list[tuple[Seen, tuple[Runs, Runs]]] = []

    def all(self) -> tuple[list[Any], dict[str, Any]]:
        """The operation's own."""
        sized = op_of(self.node) in SIZED
        said = {k: v for k, v in self.node.kwargs.items() if k not in DROPPED and v is not None}
        positional = [self.one(a, sized) for a in self.node.args]
        return positional, {k: self.one(v) for k, v in said.items()}

    def of(
        self, others: Sequence[Any], kwargs: Mapping[str, Any], sized: bool
    ) -> tuple[list[Any], dict[str, Any]]:
        """Its first, then others."""
        positional = [self.one(a, sized) for a in (self.node.args[0], *others)]
        return positional, {k: self.one(v) for k, v in kwargs.items()}

    def one(self, argument: Any, sized: bool = False) -> Any:
        """An argument; ``sized``: whether whole numbers in it are sizes."""
        if isinstance(argument, torch.fx.Node):
            seen = self.values[argument]
            if seen.constant is not None:
                self.own.append((seen, self.held.get(argument, ((), ()))))
                return {"held": len(self.own) - 1}
            return {"in": self._input(seen.node), **({"wide": 1} if seen.flat else {})}
        if isinstance(argument, list | tuple):
            return [self.one(part, sized) for part in argument]
        if isinstance(argument, torch.dtype):
            return {"dtype": next(n for n, d in DTYPES.items() if d == argument)}
        whole = isinstance(argument, int) and not isinstance(argument, bool)
        if not (sized and whole and argument and argument % BATCH == 0):
            return argument
        known = (self.values[n] for n in self.node.all_input_nodes if n in self.values)
        many = (s for s in known if s.node and s.shape[:1] and s.shape[0] % BATCH == 0)
        source = next(many, Seen((BATCH,), "image"))  # a size that grows with the number of images
        at, over = self._input(source.node), source.shape[0] // BATCH
        return {"of": [at, 0], "times": argument // BATCH, "over": over}

    def _input(self, name: str) -> int:
        if name not in self.inputs:
            self.inputs.append(name)
        return self.inputs.index(name)


def _checked(node: Any, call: str) -> str:
    """Name of the operation to run, one that changes nothing in place."""
    if not call:
        op, call = op_of(node), str(node.target)
        call = call.replace(f".{op}_.", f".{op}.") if in_place(node) else call
    if call in ("aten.view.default", "aten._unsafe_view.default"):
        call = "aten.reshape.default"  # gaps in memory may lie otherwise in cut networks
    try:
        find_call(call)
    except ModelError as error:
        raise ModelError(f"cannot trace {place_of(node)}: {error}") from error
    return call


def _held(seen: Seen) -> TracedHeld:
    tensor = seen.constant
    assert tensor is not None
    trained = seen.path and not seen.path.endswith(("running_mean", "running_var"))
    kind: Literal["float", "fixed", "int", "bool"] = "float" if trained else "fixed"
    if not tensor.is_floating_point():
        kind = "bool" if tensor.dtype == torch.bool else "int"
    return TracedHeld(tuple(map(int, tensor.shape)), kind=kind)


def places_of(shape: tuple[int, ...], channel: int) -> tuple[int, int]:
    """Height and width that hold as many entries per channel as a tensor has."""
    rest = [size for i, size in enumerate(shape) if i != len(shape) + channel]
    if len(shape) == 4 and channel == -3 and shape[0] == BATCH:
        return int(shape[2]), int(shape[3])
    return max(1, math.prod(map(int, rest)) // BATCH), 1


def dim_of(node: Any, seen: Seen, place: int, default: int) -> int:
    """The dimension that an operation is told at a place of its arguments, or by name."""
    dim = node.args[place] if len(node.args) > place else node.kwargs.get("dim", default)
    return int(dim) % max(1, len(seen.shape))


Rule = Callable[[Nodes, Any], Seen]
"""What an operation gives; adds the nodes that are needed."""
