"""Walks an exported program and finds the node for every operation."""

from __future__ import annotations

import json
import math
import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from apq.errors import ModelError
from apq.space.families.traced import TracedNode
from apq.supernet.exported import entries, layers, shapes
from apq.supernet.exported.groups import Run
from apq.supernet.exported.nodes import Draft, Nodes, Runs, Seen, dim_of, places_of
from apq.supernet.exported.program import BATCH, export, in_place, op_of, place_of, shape_of

RULES = layers.RULES | entries.RULES | shapes.RULES
"""What becomes of an operation, by its name; those that are missing keep all channels they read."""
ALIAS = {"dropout", "feature_dropout", "alpha_dropout", "clone", "contiguous", "detach", "alias",
         "lift_fresh_copy", "detach_copy"}  # fmt: skip
"""Operations that give what they take."""
WRAPS = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
"""Parts of a network that torch runs under a switch."""


class Reader(Nodes):
    """The nodes of a network.

    Args:
        module: The network, in eval mode.
        example: What it takes, one image or more.
    """

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        super().__init__(name for name, _ in module.named_modules())
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
                self.values[node] = Seen(tuple(tensor.shape), constant=tensor, path=str(path))
            elif node.op == "call_function":
                self._read(node)
        outputs = signature.user_outputs
        (last,) = outputs if len(outputs) == 1 else ("",)
        found = [seen for node, seen in self.values.items() if node.name == last]
        if not found or not found[0].node or found[0].node == "image":
            raise ModelError(
                f"the network gives {len(outputs)} results; one tensor made from the images is read"
            )
        self._end(found[0])

    def _image(self, node: Any) -> None:
        shape = shape_of(node)
        run = Run(self.new_group(), shape[1])
        self.freeze([run], None, "its channels are the image's")
        self.values[node] = Seen(shape, "image", 1 - len(shape), (run,))

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
        op = op_of(node)
        shown = node.meta.get("val")
        if op.startswith(("_assert", "sym_")) or shown is None:
            return
        if not isinstance(shown, Tensor):
            self.values[node] = Seen(())  # several results: whoever picks one makes a node
            return
        tensors = [self.values[n] for n in node.all_input_nodes]
        if self._folded(node, tensors):
            return
        if op in ALIAS and tensors:
            self.values[node] = tensors[0]
            return
        result = RULES[op](self, node) if op in RULES else self.opaque(node)
        self.values[node] = replace(result, shape=tuple(shown.shape))
        self.pixels.setdefault(result.node, math.prod(map(int, shown.shape[2:])))
        if in_place(node) and isinstance(node.args[0], torch.fx.Node):
            self.values[node.args[0]] = self.values[node]  # from here on it is that

    def _folded(self, node: Any, tensors: list[Seen]) -> bool:
        """Compute what follows from constants alone."""
        shape = shape_of(node)
        blank = op_of(node) in ("new_zeros", "new_ones", "new_full", "new_empty")
        known = blank or all(seen.constant is not None for seen in tensors)
        if not known or BATCH in shape[:1]:
            return False
        if tensors and tensors[0].path and op_of(node) in ALIAS:
            self.values[node] = tensors[0]
            return True

        def real(argument: Any) -> Any:
            if isinstance(argument, torch.fx.Node):
                return torch.zeros(()) if blank else self.values[argument].constant
            if isinstance(argument, list | tuple):
                return [real(part) for part in argument]
            return argument

        with torch.no_grad():
            kwargs = {k: real(v) for k, v in node.kwargs.items()}
            made = node.target(*map(real, node.args), **kwargs)
        self.values[node] = Seen(tuple(made.shape), constant=made)
        return True

    def _inside(self, node: Any) -> None:
        """A part of the network under a switch of torch (autocast, gradients): its operations."""
        place = next(i for i, a in enumerate(node.args)
                     if isinstance(a, torch.fx.Node) and a.op == "get_attr")  # fmt: skip
        graph = getattr(self._root, node.args[place].target).graph
        given = iter(node.args[place + 1 :])
        for inner in graph.nodes:
            if inner.op == "placeholder":
                self.values[inner] = self.values[next(given)]
            elif inner.op == "call_function":
                self._read(inner)
            elif inner.op == "output":
                results = inner.args[0]
                several = results if isinstance(results, list | tuple) else [results]
                self._results[node] = [self.values[r] for r in several]
        self.values[node] = self._results[node][0]

    def _pick(self, node: Any) -> None:
        """One of several results: the operation once more, for this one."""
        source, place = node.args
        if source in self._results:
            self.values[node] = self._results[source][place]
            return
        if source not in self.values or not isinstance(node.meta.get("val"), Tensor):
            return
        op, x = op_of(source), self.values[source.args[0]] if source.args else Seen(())
        dim = dim_of(source, x, 2 if op != "unbind" else 1, 0)
        kept: tuple[int | None, Runs] = (None, ())
        if op in ("split", "split_with_sizes", "chunk", "unbind", "tensor_split"):
            if x.axis is not None and dim - len(x.shape) != x.axis:
                moved = 1 if op == "unbind" and dim - len(x.shape) > x.axis else 0
                kept = (x.axis + moved, x.runs)
            elif x.axis is not None:
                self.freeze(x.runs, source, f"its channels are divided by {op}")
        elif op == "max_pool2d_with_indices" and x.axis is not None and place == 0:
            kept = (x.axis, x.runs)
        if kept[0] is None:
            self.opaque_inputs(source)
        made = self.emit(source, *kept, shown=node.meta["val"], pick=place)
        self.values[node] = replace(made, shape=shape_of(node))

    def _end(self, last: Seen) -> None:
        """What the network gives keeps its channels, and comes from a layer."""
        self.freeze(last.runs, None, "it is what the network gives")
        *_, name = self.drafts
        self._last = last
        draft = self.drafts[last.node]
        if name == last.node and draft.node.op in ("linear", "torch") and not draft.node.act:
            return
        made = TracedNode(
            "logits", "torch", (last.node,), last.shape[1], call="aten.clone.default",
            args=json.dumps([[{"in": 0}], {}]), size=places_of(last.shape, 1 - len(last.shape)),
        )  # fmt: skip
        self.drafts["logits"] = Draft(made)
        self.tensors["logits"] = {}

    @property
    def classes(self) -> int:
        """Channels of what the network gives."""
        return self._last.shape[1]
