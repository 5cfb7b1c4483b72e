"""The supernet that holds every candidate's weights, and the plain subnets cut out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from apq.errors import ModelError, SpaceError
from apq.files import Document, shipped
from apq.files.headers import Header
from apq.files.reading import CostTable, Items, Text
from apq.files.tensors import load_tensors, require_tensors, save_tensors, weights_hash
from apq.space import Candidate, Space
from apq.space.graph import Follows, Graph, Node, Value, number, owns, parts, resolve, walk
from apq.space.graph import depthwise as is_depthwise
from apq.space.layer import both
from apq.space.schema import SpaceField
from apq.supernet.calls import TorchCall, run_call
from apq.supernet.depthwise import depthwise
from apq.supernet.elastic import (
    ACTIVATIONS,
    ConvBN,
    convolve,
    resized,
    shrink,
    slice_norm,
    taken,
    transforms,
)
from apq.training.ranks import ALONE
from apq.version import __version__


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
        if is_depthwise(node) and node.padding < 0:
            y = depthwise(x, weight, node.stride)
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
        weight = stored if is_depthwise(node) else self._inputs(node, stored, chosen)
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


@dataclass(frozen=True)
class SupernetFile:
    """A trained supernet as loaded from disk.

    Attributes:
        network: The supernet, in eval mode.
        mean, std: Normalisation of images on the 0..1 scale, per channel.
        hash: Hash of the weights, 16 hex digits.
        metadata: Everything the file says about its making.
    """

    network: Supernet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str
    metadata: dict[str, Any] = field(repr=False)


class RecipeTable(Document):
    """How a supernet was trained: what is read of it.

    Attributes:
        phases: Its phases in order.
    """

    what = "a recipe of apq train-supernet"

    phases: Items[Text] = ()


class SupernetHeader(Header):
    """Header of a supernet's file.

    Attributes:
        space: Space of its candidates.
        mean, std: Normalisation of images on the 0..1 scale, per channel.
        image_set, images: Name and digest of the images it was trained on.
        recipe: How it was trained.
        channels_sorted: Whether its hidden channels have been sorted.
        cost: What its training cost; that of what it started from is in those files.
    """

    what = "a supernet as apq train-supernet writes it"

    kind: Literal["supernet"]
    hash: Text
    space: SpaceField
    mean: Items[float]
    std: Items[Annotated[float, Field(gt=0)]]
    image_set: Text | None = None
    images: Text | None = None
    recipe: RecipeTable | None = None
    channels_sorted: bool | None = None
    cost: CostTable | None = None


def save_supernet(path: Path, network: Supernet, metadata: dict[str, Any]) -> None:
    """Write weights and what made them; ``metadata`` must hold ``mean`` and ``std``.

    Example:
        >>> import apq
        >>> from pathlib import Path
        >>> supernet = apq.load_supernet("digits/supernet.safetensors")
        >>> about = {"mean": supernet.mean, "std": supernet.std}
        >>> apq.save_supernet(Path("digits/copy.safetensors"), supernet.network, about)
    """
    state = dict(network.state_dict())
    made = {
        "kind": "supernet",
        "apq_version": __version__,
        "space": network.space.to_dict(),
        "fingerprint": network.space.fingerprint,
        "hash": weights_hash(state),
    }
    save_tensors(path, state, made | metadata)


def load_supernet(path: Path | str, space: Space | None = None) -> SupernetFile:
    """Load a supernet, checking it is one, whole, and of the expected space.

    Args:
        path: File written by ``apq train-supernet``.
        space: What it shall be a supernet of: the space it was trained for, or that with other
            number formats. Default: as the file says.

    Raises:
        ModelError: missing, broken, or not a supernet.
        SpaceError: its architectures are not those of ``space``.

    Example:
        >>> import apq
        >>> supernet = apq.load_supernet("digits/supernet.safetensors")
        >>> len(supernet.mean) == supernet.network.space.in_channels
        True
    """
    path = shipped(path)
    if not path.exists():
        raise ModelError(
            f"no supernet at {path}. Train one: "
            f"apq train-supernet --space NAME --images DIR --out {path}"
        )
    tensors, header = load_tensors(path, SupernetHeader)
    own = header.space
    if space is not None:
        space.require_same(own, "the command's space", str(path), formats=False)
        own = space
    require_channels(str(path), own, header.mean, header.std)
    with torch.device("meta"):  # check shapes first: a broken space could exhaust the memory
        expected = Supernet(own).state_dict()
    require_tensors(str(path), tensors, expected)
    network = Supernet(own)
    network.load_state_dict(tensors)
    network.eval()
    return SupernetFile(network, header.mean, header.std, header.hash, header.said)


def require_random_start(space: Space) -> None:
    """Raise unless a network of a space can be trained from random weights.

    Raises:
        SpaceError: some of its operations are torch's own, and nothing says how their tensors
            begin.
    """
    held = [node.name for node in space.graph.nodes if node.op == "torch" and node.held]
    if held:
        raise SpaceError(
            f"space {space.name!r} has operations of a traced network with tensors of their own "
            f"({', '.join(held[:5])}), which cannot start from random numbers: start from the "
            "traced network (train-supernet --start FILE, finetune without --from-scratch)"
        )


def require_channels(
    where: str, space: Space, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """Raise unless there is a mean and a deviation for every channel of a space's images.

    Raises:
        ModelError: there are not.
    """
    if not len(mean) == len(std) == space.in_channels:
        raise ModelError(
            f"{where} has {len(mean)} means and {len(std)} deviations of pixels; images of space "
            f"{space.name!r} have {space.in_channels} channels"
        )
