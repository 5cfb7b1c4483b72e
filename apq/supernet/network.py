"""One candidate as a network: its graph run by torch, node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apq.errors import ModelError
from apq.space import Candidate, Space
from apq.space.graph import Graph, Node, number, owns, walk
from apq.space.layer import both
from apq.supernet.calls import TorchCall, run_call
from apq.supernet.elastic import (
    ACTIVATIONS,
    ConvBN,
    resized,
)


class Network(nn.Module):
    """A graph of plain numbers, or a run of its nodes, with the modules that hold their weights.

    The modules' paths are the nodes' names. Input is that of the first node, output that of the
    last; a whole network takes normalised images ``(n, c, h, w)``, resizes them to the graph's
    image size, and returns logits ``(n, classes)``.
    """

    def __init__(self, graph: Graph, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.graph = graph
        attach(self, modules)

    def forward(self, x: Tensor) -> Tensor:
        """Run the nodes in order."""
        return run_nodes(self.graph.nodes, x, self.run)

    def run(self, node: Node, *inputs: Tensor) -> Tensor:
        """Run one node."""
        if owns(node):
            out: Tensor = self.get_submodule(node.name)(*inputs)
            return activated(node, out) if node.op == "linear" else out
        return combine(node, *inputs)

    def pieces(self) -> list[Network]:
        """The network in consecutive pieces (:attr:`apq.space.graph.Graph.pieces`), which share
        this network's modules. Many subnets begin with the same pieces."""
        return [self._part(nodes) for nodes in self.graph.pieces]

    def _part(self, nodes: Sequence[Node]) -> Network:
        names = [node.name for node in nodes if owns(node)]
        return Network(Graph(tuple(nodes)), {name: self.get_submodule(name) for name in names})


class Subnet(Network):
    """One candidate as an ordinary network."""

    def __init__(self, space: Space, candidate: Candidate) -> None:
        space.genes([candidate])  # refuses a candidate of another space
        graph = space.graph_of(candidate)
        super().__init__(graph, build_modules(graph))


def run_nodes(nodes: Sequence[Node], x: Tensor, run: Callable[..., Tensor]) -> Tensor:
    """Run nodes in order; images are resized to the side that their node says.

    Args:
        nodes: With numbers in place of genes, as :func:`apq.space.graph.walk` takes them.
        x: Images, or what the first node reads.
        run: From a node and the values of its inputs to the value of its output.
    """
    if nodes[0].op == "image":
        x = resized(x, Graph(tuple(nodes[:1])).size)
    out: Tensor = walk(nodes, x, run)
    return out


def build_modules(graph: Graph) -> dict[str, nn.Module]:
    """A module with new weights for every layer of a graph of plain numbers, fixed layers first."""
    found: dict[str, nn.Module] = {}
    for node in sorted(filter(owns, graph.nodes), key=lambda node: bool(node.block)):
        if node.op == "torch":
            found[node.name] = TorchCall(node)
            continue
        cin, cout = number(graph.in_channels(node)), number(node.channels)
        if node.op == "linear":
            found[node.name] = nn.Linear(cin, cout, bias=node.bias)
        else:
            found[node.name] = ConvBN(
                cin, cout, number(node.kernel), node.stride, number(node.groups), node.act,
                node.epsilon, node.padding,
            )  # fmt: skip
    return found


def attach(root: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Put modules at dotted paths below ``root``.

    Raises:
        ModelError: a part of a path is what torch calls something else of every module.
    """
    for path, module in modules.items():
        *parents, leaf = path.split(".")
        at = root
        for name in parents:
            if name not in dict(at.named_children()):
                _add(at, name, nn.Module(), path)
            at = at.get_submodule(name)
        _add(at, leaf, module, path)


def _add(at: nn.Module, name: str, module: nn.Module, path: str) -> None:
    before = at._modules.get(name)
    try:
        at.add_module(name, module)
    except KeyError as error:
        raise ModelError(
            f"no node can be called {path!r}: every torch module has something else named "
            f"{name!r}; give it another name in its family"
        ) from error
    if type(before) is nn.Module:  # stood for the path alone
        for child, inside in before.named_children():
            module.add_module(child, inside)


def combine(node: Node, *inputs: Tensor) -> Tensor:
    """Compute a node without weights."""
    if node.op == "add":
        return activated(node, sum(inputs[1:], inputs[0]))
    if node.op == "concat":
        return torch.cat(inputs, dim=1)
    if node.op == "scale":
        return inputs[0] * inputs[1][:, :, None, None]
    if node.op == "act":
        return activated(node, inputs[0])
    if node.op == "maxpool":
        return max_pool(inputs[0], number(node.kernel), both(node.stride)[0])
    if node.op == "torch":
        return run_call(node.call, node.args, inputs, ())
    assert node.op == "pool", node.op
    return inputs[0].mean(dim=(2, 3))


def max_pool(x: Tensor, kernel: int, stride: int) -> Tensor:
    """The largest of neighbouring pixels; odd kernels are padded by half."""
    return F.max_pool2d(x, kernel, stride, kernel // 2 if kernel % 2 else 0)


def activated(node: Node, x: Tensor) -> Tensor:
    """Apply a node's activation."""
    out: Tensor = ACTIVATIONS[node.act]()(x) if node.act else x
    return out
