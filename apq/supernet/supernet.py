"""The supernet that holds every candidate's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apq.space import Candidate, Space
from apq.space.graph import Follows, Node, Value, number, owns, parts, resolve
from apq.space.graph import channelwise as is_channelwise
from apq.supernet.calls import TorchCall, run_call
from apq.supernet.channelwise import channelwise
from apq.supernet.elastic import (
    ConvBN,
    convolve,
    shrink,
    slice_norm,
    taken,
    transforms,
)
from apq.supernet.network import Subnet, activated, attach, build_modules, combine, run_nodes
from apq.training.ranks import ALONE


class Supernet(nn.Module):
    """All candidates of a space in one set of weights.

    ``forward(x, candidate)`` runs a candidate in place; :meth:`subnet` cuts it out. A layer of n
    channels uses the first n, of every group where several are joined; a smaller kernel is cut
    from the next larger one (:func:`apq.supernet.elastic.shrink`).

    Attributes:
        ranks: The processes that train it, each with a part of every batch.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space, self.ranks = space, ALONE
        choices = {axis.name: axis.choices for axis in space.axes}
        self.most = {name: max(values) for name, values in choices.items()}
        attach(self, build_modules(space.graph.filled(self.most)))
        self._kernels = {
            node.name: choices[node.kernel]
            for node in space.graph.layers
            if isinstance(node.kernel, str)
        }
        attach(self, {_matrices(name): transforms(k) for name, k in self._kernels.items()})
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor, candidate: Candidate) -> Tensor:
        """Logits of ``candidate``, shape ``(n, classes)``; its bits are not applied."""
        chosen = self.space.chosen(candidate)
        return run_nodes(self.space.graph.at(chosen).nodes, x, partial(self._run, chosen))

    def _run(self, chosen: Mapping[str, int], node: Node, *inputs: Tensor) -> Tensor:
        if not owns(node):
            return combine(node, *inputs)
        if node.op == "torch":
            return run_call(node.call, node.args, inputs, [*self._held(node, chosen).values()])
        (x,) = inputs
        module, weight = self.get_submodule(node.name), self.weight(node, chosen)
        kept = self.kept(self.space.graph.by_name[node.name].channels, chosen)
        if isinstance(module, nn.Linear):
            bias = None if module.bias is None else taken(module.bias, 0, kept)
            return activated(node, F.linear(x, weight, bias))
        assert isinstance(module, ConvBN)
        if is_channelwise(node) and node.padding < 0:
            y = channelwise(x, weight, node.stride)
        else:
            y = convolve(x, weight, None, node.stride, number(node.groups), node.padding)
        out: Tensor = module.act(slice_norm(y, module.bn, kept, self.ranks))
        return out

    def kept(self, value: Value, chosen: Mapping[str, int]) -> list[tuple[int, int]]:
        """Per part of a dimension, how many entries it has and how many a candidate keeps."""
        return [(int(resolve(p, self.most)), int(resolve(p, chosen))) for p in parts(value)]

    def _held(self, node: Node, chosen: Mapping[str, int]) -> dict[str, Tensor]:
        """What a candidate keeps of the tensors of a node of kind ``torch``, by their names."""
        module = self.get_submodule(node.name)
        assert isinstance(module, TorchCall)
        found: dict[str, Tensor] = {}
        shapes = self.space.graph.by_name[node.name].held
        for i, (tensor, held) in enumerate(zip(module.tensors(), shapes, strict=True)):
            for dim, size in enumerate(held.shape):
                if not isinstance(size, int):
                    tensor = taken(tensor, dim, self.kept(size, chosen))
            found[f"held_{i}"] = tensor
        return found

    def weight(self, node: Node, chosen: Mapping[str, int]) -> Tensor:
        """The weights of one layer of a candidate: a slice, through which gradients reach the
        supernet.

        Args:
            node: The layer, with numbers in place of genes.
            chosen: Values of the genes by name.
        """
        module = self.get_submodule(node.name)
        kept = self.kept(self.space.graph.by_name[node.name].channels, chosen)
        stored = taken(self.stored(node), 0, kept)
        weight = stored if is_channelwise(node) else self._inputs(node, stored, chosen)
        if isinstance(module, nn.Linear) or node.name not in self._kernels:
            return weight
        matrices = self.get_submodule(_matrices(node.name))
        assert isinstance(matrices, nn.ParameterDict)
        return shrink(weight, number(node.kernel), self._kernels[node.name], matrices)

    def _inputs(self, node: Node, weight: Tensor, chosen: Mapping[str, int]) -> Tensor:
        """The columns for the input channels that a candidate keeps: the first of every group."""
        graph = self.space.graph
        read = graph.segments(graph.by_name[node.name].inputs[0])
        kept = self.kept(read, chosen)
        if number(node.groups) > 1:
            return weight[:, : sum(n for _, n in kept) // number(node.groups)]
        return taken(weight, 1, kept)

    def slices(self, candidate: Candidate) -> dict[str, Tensor]:
        """The supernet's own weights and statistics by their names in :class:`Subnet`.

        Slices, not copies: gradients reach the supernet.
        """
        chosen = self.space.chosen(candidate)
        found: dict[str, Tensor] = {}
        for node in filter(owns, self.space.graph.at(chosen).nodes):
            if node.op == "torch":
                found |= {f"{node.name}.{k}": v for k, v in self._held(node, chosen).items()}
                continue
            module = self.get_submodule(node.name)
            weight = self.weight(node, chosen)
            kept = self.kept(self.space.graph.by_name[node.name].channels, chosen)
            if isinstance(module, nn.Linear):
                found[f"{node.name}.weight"] = weight
                if module.bias is not None:
                    found[f"{node.name}.bias"] = taken(module.bias, 0, kept)
                continue
            found[f"{node.name}.conv.weight"] = weight
            norm = module.get_submodule("bn").state_dict(prefix=f"{node.name}.bn.", keep_vars=True)
            found |= {k: taken(v, 0, kept) if v.dim() else v for k, v in norm.items()}
        return found

    @torch.no_grad()
    def subnet(self, candidate: Candidate) -> Subnet:
        """A candidate's own network, with copied weights and the stored batch-norm statistics.

        Recalibrate it (:func:`apq.supernet.evaluate.recalibrate`) before measuring accuracy.
        """
        net = Subnet(self.space, candidate)
        net.load_state_dict(self.slices(candidate))
        net.train(self.training)
        return net

    @property
    def _by_gene(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries():
            found.setdefault(entry.gene, []).append(entry)
        return found

    @cached_property
    def widths(self) -> dict[str, int]:
        """Genes that choose channels, and how many there are at most."""
        return {gene: self.most[gene] for gene in self._by_gene}

    def importance(self) -> dict[str, Tensor]:
        """L1 norm of what reads a channel, ``(channels,)`` by gene (OFA; APQ section 3.1); of those
        that something reads."""
        return {
            gene: reduce(torch.add, [entry.norms() for entry in found if entry.reads])
            for gene, found in self._by_gene.items()
            if any(entry.reads for entry in found)
        }

    @torch.no_grad()
    def sort_channels(self, importance: Mapping[str, Tensor] | None = None) -> None:
        """Reorder the channels that a gene chooses from by falling importance.

        The largest network computes the same function afterwards; prefixes now hold what matters
        most. Channels of a grouped convolution move with their group.

        Args:
            importance: ``(channels,)`` by gene, as :mod:`apq.supernet.orders` measures it; None:
                :meth:`importance`. Genes that are missing stay as they are.
        """
        for gene, own in (self.importance() if importance is None else importance).items():
            order = _order(own, self._together(gene))
            for entry in self._by_gene.get(gene, []):
                entry.reorder(order)

    def readers(self, gene: str) -> list[tuple[str, int, Tensor]]:
        """Which layers read the channels that a gene chooses: a layer's name, the first of its
        input channels that are meant, and a view of the columns of its weights that read them."""
        graph, found = self.space.graph, []
        for node in graph.layers:
            start = 0
            for group in graph.segments(node.inputs[0]) if node.groups == 1 else ():
                stop = start + int(resolve(group, self.most))
                if group == gene:
                    found.append((node.name, start, self.stored(node)[:, start:stop]))
                start = stop
        return found

    def _together(self, gene: str) -> int:
        """How many channels in a row a gene keeps or leaves out together: those of a group of a
        grouped convolution."""
        steps = [
            self.most[gene] // int(resolve(node.groups, self.most))
            for node in self.space.graph.layers
            if node.channels == gene and isinstance(node.groups, Follows)
        ]
        return max(steps, default=1)

    def entries(self) -> Iterator[Entry]:
        """Where the channels that genes choose from lie in the supernet's tensors."""
        graph = self.space.graph
        for node in filter(owns, graph.nodes):
            module = self.get_submodule(node.name)
            if isinstance(module, TorchCall):
                for tensor, held in zip(module.tensors(), node.held, strict=True):
                    for dim, size in enumerate(held.shape):
                        yield from self._along(tensor, dim, size, dim == 1 and node.places > 0)
                continue
            for tensor in module.state_dict(keep_vars=True).values():
                if tensor.dim():
                    yield from self._along(tensor, 0, node.channels)
            if node.groups == 1:
                yield from self._along(self.stored(node), 1, graph.segments(node.inputs[0]), True)

    def _along(self, tensor: Tensor, dim: int, size: Value, reads: bool = False) -> Iterator[Entry]:
        start = 0
        for part in parts(size):
            count = int(resolve(part, self.most))
            gene = part.gene if isinstance(part, Follows) else part
            # what a gene only sets the number of (a squeeze of a fourth) keeps its order
            if isinstance(gene, str) and count % self.most[gene] == 0:
                yield Entry(gene, tensor, dim, start, self.most[gene], count, reads)
            start += count

    def stored(self, node: Node) -> Tensor:
        """All weights of a layer, at the largest width and kernel."""
        module = self.get_submodule(node.name)
        weight = (
            module.weight if isinstance(module, nn.Linear) else module.get_parameter("conv.weight")
        )
        return weight


@dataclass(frozen=True, eq=False)
class Entry:
    """A run of entries of a tensor's dimension that belong to the channels a gene chooses from.

    Attributes:
        gene: Its name.
        tensor, dim, start: Where it begins.
        channels: How many there are at full width.
        count: How many entries: as many per channel for all.
        reads: Whether these are weights that the channels are multiplied by.
    """

    gene: str
    tensor: Tensor
    dim: int
    start: int
    channels: int
    count: int
    reads: bool

    def norms(self) -> Tensor:
        """Sum of magnitudes per channel, ``(channels,)``."""
        part = self.tensor.detach().narrow(self.dim, self.start, self.count)
        return part.abs().transpose(0, self.dim).reshape(self.channels, -1).sum(1)

    @torch.no_grad()
    def reorder(self, order: Tensor) -> None:
        """Put the channels into another order."""
        view = self.tensor.detach().narrow(self.dim, self.start, self.count)
        each = self.count // self.channels
        index = (order[:, None] * each + torch.arange(each, device=order.device)).flatten()
        view.copy_(view.index_select(self.dim, index))


def _order(importance: Tensor, together: int) -> Tensor:
    """Channels by falling importance; runs of ``together`` channels stay together."""
    runs = importance.reshape(-1, together)
    first = torch.argsort(runs.sum(1), descending=True, stable=True)
    return (first[:, None] * together + torch.arange(together, device=first.device)).flatten()


def _matrices(name: str) -> str:
    """Path of the kernel transforms of a layer: beside it, in its block."""
    return f"{name.rpartition('.')[0]}.transforms"


def largest(space: Space) -> Candidate:
    """The candidate with the last choice everywhere."""
    return space.build(space.cardinalities - 1)


def smallest(space: Space) -> Candidate:
    """The candidate with the first choice everywhere (bits aside, after repair)."""
    genes = space.cardinalities[None] * 0
    return space.build(space.snap(genes)[0])
