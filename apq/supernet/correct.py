"""Correct subnets of a trained network without training, by refitting layers to their new inputs.

After channels are pruned or blocks skipped, every later layer is refitted by least squares to
reproduce its output in the whole network (AMC, He et al., ECCV 2018; channel pruning, He et al.,
ICCV 2017), in execution order, each on its actual input. Batch-norm statistics are then measured on
the refitted layers. :class:`Corrector` does so for many candidates.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apq.errors import ModelError
from apq.space import Candidate
from apq.space.graph import LAYERS, Graph, Node, channelwise, number
from apq.space.layer import both
from apq.supernet.elastic import ConvBN, stride_of, taken
from apq.supernet.evaluate import Images
from apq.supernet.network import Network, Subnet, run_nodes
from apq.supernet.statistics import Moments, absorb_statistics
from apq.supernet.supernet import Supernet, largest

CORRECTION_IMAGES = 128
"""Number of calibration images for refits."""
RIDGE = 0.03
"""Ridge penalty towards the original weights, in units of a layer's mean squared input."""
MOST_PLACES = 8192
"""Output pixels of a layer that a refit uses, over all images."""
MOST_INPUTS = 4096
"""Inputs of one output pixel up to which a layer is refitted: the work grows with their cube."""

Places = tuple[Tensor, Tensor, Tensor]
"""Images, rows and columns of output pixels, ``(m,)`` each."""


@dataclass(frozen=True)
class Original:
    """Outputs of the whole network on calibration images, at some pixels of every layer's output.

    Attributes:
        images: The images, normalised, ``(n, c, h, w)``.
        places: Which pixels, by layer; of linear layers all images.
        outputs: The layer's outputs there before batch norm and activation, ``(m, channels)``.
    """

    images: Tensor
    places: dict[str, Places] = field(repr=False)
    outputs: dict[str, Tensor] = field(repr=False)


@torch.no_grad()
def measure_original(supernet: Supernet, images: Tensor) -> Original:
    """Run the whole network once, for :func:`corrected`.

    Args:
        supernet: Its largest subnet is the network.
        images: Calibration images, normalised, ``(n, c, h, w)``; a hundred do.
    """
    network = supernet.subnet(largest(supernet.space)).to(images.device).eval()
    generator = torch.Generator().manual_seed(0)
    places: dict[str, Places] = {}
    outputs: dict[str, Tensor] = {}

    def run(node: Node, *inputs: Tensor) -> Tensor:
        if node.op not in LAYERS:
            return network.run(node, *inputs)
        part = network.get_submodule(node.name)
        if isinstance(part, nn.Linear):
            outputs[node.name] = part(inputs[0])
            return network.run(node, *inputs)
        assert isinstance(part, ConvBN)
        y = part.conv(inputs[0])
        n, _, h, w = y.shape
        wanted = max(2048, 4 * part.conv.weight[0].numel())
        each = min(h * w, max(1, min(wanted, MOST_PLACES) // n))
        pixel = torch.rand(n, h * w, generator=generator).argsort(1)[:, :each].reshape(-1)
        image = torch.arange(n).repeat_interleave(each)
        at = (image, pixel // w, pixel % w)
        places[node.name], outputs[node.name] = at, y[at[0], :, at[1], at[2]]
        out: Tensor = part.act(part.bn(y))
        return out

    run_nodes(network.graph.nodes, images, run)
    return Original(images, places, outputs)


@torch.no_grad()
def corrected(supernet: Supernet, candidate: Candidate, original: Original) -> Subnet:
    """A candidate's own network, with weights refitted to do what the whole network does.

    Args:
        supernet: Sorted, with true statistics (:mod:`apq.supernet.statistics`).
        candidate: Which; its formats are not looked at.
        original: From :func:`measure_original`.

    Returns:
        The subnet, in eval mode, with statistics measured on the original's images.
    """
    subnet = supernet.subnet(candidate).to(original.images.device).eval()
    whole = supernet.space.graph.filled(supernet.most)
    chosen, differs = supernet.space.chosen(candidate), set[str]()

    def run(node: Node, *inputs: Tensor) -> Tensor:
        if _other(node, subnet.graph, whole, differs):
            differs.add(node.name)
            if node.op in LAYERS:
                kept = supernet.kept(supernet.space.graph.by_name[node.name].channels, chosen)
                wanted = taken(original.outputs[node.name], 1, kept)
                return _refitted(node, subnet, inputs[0], wanted, original)
        return subnet.run(node, *inputs)

    run_nodes(subnet.graph.nodes, original.images, run)
    return subnet


class Corrector:
    """Corrected subnets of one supernet. The whole network is measured once, and the last
    architecture is cached, since formats do not change it.

    Args:
        supernet: With sorted channels; it is left as it is.
        images: Calibration images, normalised, ``(n, c, h, w)``; the first
            :data:`CORRECTION_IMAGES` are used.

    Raises:
        ModelError: the space chooses among image sizes, so that outputs cannot be compared.
    """

    def __init__(self, supernet: Supernet, images: Images) -> None:
        space, seen = supernet.space, images[:CORRECTION_IMAGES]
        if isinstance(space.graph.nodes[0].side, str):
            raise ModelError(
                f"space {space.name!r} chooses the size of images; subnets are corrected towards "
                "the whole network only where all see the same ones"
            )
        self._supernet = copy.deepcopy(supernet).to(seen.device)
        absorb_statistics(self._supernet, seen)
        self._original = measure_original(self._supernet, seen)
        self._last: tuple[tuple[object, ...], Subnet] | None = None

    def subnet(self, candidate: Candidate) -> Subnet:
        """A candidate's own corrected network, in eval mode."""
        found = Subnet(self._supernet.space, candidate)
        shape = tuple((n.name, n.inputs, n.channels, n.kernel) for n in found.graph.nodes)
        if self._last is None or self._last[0] != shape:
            self._last = shape, corrected(self._supernet, candidate, self._original)
        found.load_state_dict(self._last[1].state_dict())
        return found.to(self._original.images.device).eval()


def _other(node: Node, graph: Graph, whole: Graph, differs: set[str]) -> bool:
    """Whether a node's output is not that of the whole network."""
    if node.op == "image":
        return False
    first = whole.by_name[node.name]
    read = node.inputs != first.inputs or any(name in differs for name in node.inputs)
    if node.op not in LAYERS or channelwise(node):
        return read or node.kernel != first.kernel
    fewer = number(graph.in_channels(node)) < number(whole.in_channels(first))
    return read or fewer or node.kernel != first.kernel


def _refitted(node: Node, subnet: Network, x: Tensor, wanted: Tensor, original: Original) -> Tensor:
    """Fit a layer anew, so that it gives what is wanted at the original's places, and run it."""
    part = subnet.get_submodule(node.name)
    if isinstance(part, nn.Linear):
        weight = _fit(x, wanted, part.weight)
        part.weight.copy_(weight)
        if part.bias is not None:
            part.bias.copy_(wanted.mean(0) - weight @ x.mean(0))
        return subnet.run(node, x)
    assert isinstance(part, ConvBN)
    conv = part.conv
    single = channelwise(node)
    if (single or conv.groups == 1) and conv.weight[0].numel() <= MOST_INPUTS:
        seen = _patches(x, conv, original.places[node.name])
        if single:
            fitted = torch.vmap(_fit)(
                seen.transpose(0, 1).flatten(2), wanted.t()[:, :, None], conv.weight.flatten(2)
            )
        else:
            fitted = _fit(seen.flatten(1), wanted, conv.weight.flatten(1))
        conv.weight.copy_(fitted.reshape(conv.weight.shape))
    y = conv(x)
    moments = Moments()
    moments.add(y)
    bn = part.bn
    assert bn.running_mean is not None
    assert bn.running_var is not None
    bn.running_mean.copy_(moments.mean)
    bn.running_var.copy_(moments.variance)
    out: Tensor = part.act(bn(y))
    return out


def _patches(x: Tensor, conv: nn.Conv2d, places: Places) -> Tensor:
    """Input patches of some output pixels of a convolution, ``(m, channels, k, k)``."""
    kernel, moves = int(conv.kernel_size[0]), both(stride_of(conv))
    rows, columns = (int(edge) for edge in conv.padding)
    padded = F.pad(x, (columns, columns, rows, rows))
    windows = padded.unfold(2, kernel, moves[0]).unfold(3, kernel, moves[1])
    return windows[places[0], :, places[1], places[2]]


def _fit(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Weights ``(out, in)`` that take ``x (m, in)`` to ``y (m, out)`` but for a constant: least
    squares, pulled towards ``weight``."""
    x, y, start = x.double(), y.double(), weight.double()
    x, y = x - x.mean(0), y - y.mean(0)
    square = x.t() @ x
    scale = square.diagonal().mean() * RIDGE + 1e-12
    square = square + scale * torch.eye(len(square), dtype=torch.float64, device=x.device)
    step = torch.linalg.solve(square, x.t() @ (y - x @ start.t()))
    out: Tensor = (start + step.t()).to(weight.dtype)
    return out
