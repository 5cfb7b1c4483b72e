"""A subnet quantized with a candidate's formats."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apq.errors import ApqError
from apq.quantize.base import LayerBits, Scheme, layer_plan
from apq.quantize.flightnn import FlightWeights
from apq.quantize.integer import (
    IntegerLayer,
    Rounding,
    Step,
    fold_gain,
    integer_layer,
    operation_of,
    run,
    window,
    within,
)
from apq.quantize.schemes import find_scheme
from apq.quantize.uniform import Uniform, UniformActivations
from apq.space.graph import LAYERS, Graph, Node, owns
from apq.supernet.channelwise import channelwise
from apq.supernet.elastic import ACTIVATIONS, convolve, resized, stride_of
from apq.supernet.network import Network, activated, attach, combine, run_nodes

FACTORS = Rounding(1 / 255, 0, 255, 8)
"""Grid of numbers from 0 to 1 that channels are scaled by."""

_SAMPLE = 2**16
"""Activations of one layer that a range is fitted to; more change the range by well under 1 %."""


class QuantizedConv(nn.Module):
    """Rounded input, rounded weight, convolution, batch norm, activation, all in float.

    Attributes:
        inputs: Rounds the input; None: it is on its grid already.
    """

    def __init__(self, part: nn.Module, weights: Any, inputs: Any) -> None:
        super().__init__()
        self.conv: nn.Conv2d = part.conv  # type: ignore[assignment]
        self.bn: nn.BatchNorm2d = part.bn  # type: ignore[assignment]
        self.act: nn.Module = part.act  # type: ignore[assignment]
        self.weights: Any = weights
        self.inputs: Any = inputs

    @property
    def weight(self) -> Tensor:
        """Float weights that are rounded in every forward pass."""
        return self.conv.weight

    @torch.no_grad()
    def integer(self, rounding: Rounding, output: Rounding) -> IntegerLayer:
        """The layer as a device computes it, between two grids."""
        c, bn = self.conv, self.bn
        assert bn.running_mean is not None
        assert bn.running_var is not None
        gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return integer_layer(
            fold_gain(self.weights.pack(c.weight), gain), bn.bias - bn.running_mean * gain,
            rounding, output, stride=stride_of(c), padding=int(c.padding[0]), groups=c.groups,
            act=next(name for name, kind in ACTIVATIONS.items() if type(self.act) is kind),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Same shapes as the float layer's."""
        x = self.inputs(x) if self.inputs is not None else x
        c, weight = self.conv, self.weights(self.conv.weight)
        half = int(c.padding[0]) == weight.shape[-1] // 2
        if half and 1 < c.groups == c.out_channels:
            y = channelwise(x, weight, stride_of(c))
        else:
            y = convolve(x, weight, None, stride_of(c), c.groups, int(c.padding[0]))
        out: Tensor = self.act(self.bn(y))
        return out


class QuantizedLinear(nn.Module):
    """Rounded input and weight; the bias stays float."""

    def __init__(self, linear: nn.Linear, weights: Any, inputs: Any, act: str = "") -> None:
        super().__init__()
        self.linear, self.act = linear, act
        self.weights: Any = weights
        self.inputs: Any = inputs

    @property
    def weight(self) -> Tensor:
        """Float weights that are rounded in every forward pass."""
        return self.linear.weight

    @torch.no_grad()
    def integer(self, rounding: Rounding, output: Rounding | None) -> IntegerLayer:
        """The layer as a device computes it: a 1x1 convolution."""
        packed = self.weights.pack(self.linear.weight)
        packed = replace(packed, codes=packed.codes[:, :, None, None])
        held: Tensor | None = self.linear.bias
        bias = packed.scale.new_zeros(len(packed.codes)) if held is None else held.detach()
        return integer_layer(packed, bias, rounding, output, act=self.act)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in) -> (n, out)``."""
        x = self.inputs(x) if self.inputs is not None else x
        return F.linear(x, self.weights(self.linear.weight), self.linear.bias)


class ImageGrid(nn.Module):
    """The byte a device receives per pixel and channel: 256 levels from the darkest to the
    brightest value of normalised images."""

    scale: Tensor
    low: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        ends = images.amin().clamp_max(0), images.amax().clamp_min(0)
        scale = ((ends[1] - ends[0]) / 255).clamp_min(1e-6)
        self.register_buffer("scale", scale)
        self.register_buffer("low", (ends[0] / scale).round().clamp(-255, 0))

    def rounding(self) -> Rounding:
        """The grid."""
        return Rounding(float(self.scale), int(self.low), int(self.low) + 255, 8)


class QuantizedSubnet(nn.Module):
    """A subnet with quantized layers; takes normalised images, gives logits.

    In training mode it computes in float, with separate batch norm. In eval mode it computes in
    integers with batch norm folded, as devices do (:mod:`apq.quantize.integer`), without gradients.
    The two differ by isolated roundings, and by the image, which has 8 bits only in eval mode.

    A *stream*, a tensor without an activation's bounds, always has 8 bits: one grid for all tensors
    that additions join (:attr:`apq.space.graph.Graph.streams`).

    Attributes:
        subnet: The network; its layers are :class:`QuantizedConv` and :class:`QuantizedLinear`.
        graph: The network's graph, formats included.
        plan: Bits per layer, in the order they run.
        scheme: How searched layers with plain widths are quantized; fixed ones are uniform.
        image: Grid of the input.
        streams: Rounding of each stream.
        pooled: Rounding of what is averaged.
    """

    def __init__(
        self, subnet: Network, graph: Graph, scheme: Scheme, image: ImageGrid,
        streams: list[nn.Module], pooled: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__()
        self.subnet = subnet
        self.graph = graph
        self.plan = layer_plan(graph)
        self.scheme = scheme
        self.image = image
        self.streams = nn.ModuleList(streams)
        self.pooled: Any = pooled

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)``."""
        if self.training:
            return self.simulate(x)
        return run(self.integer(), resized(x, self.graph.size))

    def simulate(self, x: Tensor) -> Tensor:
        """Logits computed in float: what training sees."""
        return run_nodes(self.graph.nodes, x, self._simulate)

    def _simulate(self, node: Node, *inputs: Tensor) -> Tensor:
        if node.op == "pool" and node.inputs[0] not in self.graph.streams:
            return combine(node, self.pooled(inputs[0]))
        if owns(node):
            out: Tensor = self.subnet.get_submodule(node.name)(*inputs)
            out = activated(node, out) if node.op == "linear" else out
        else:
            out = combine(node, *inputs)
        if node.act == "hsigmoid":
            rounded = FACTORS.codes(out.detach()) * FACTORS.scale
            return out + (rounded - out).detach()  # gradients as if nothing were rounded
        stream = self.graph.streams.get(node.name)
        return out if stream is None else self.streams[stream](out)

    def integer(self) -> list[Step[IntegerLayer]]:
        """The nodes as a device computes them, in the order they run."""
        steps: list[Step[IntegerLayer]] = []
        grids: dict[str, Rounding] = {}
        for node in self.graph.nodes:
            grid, layer = self._output_grid(node), None
            if node.op in LAYERS:
                part: Any = self.subnet.get_submodule(node.name)
                here = grids[node.inputs[0]] if part.inputs is None else part.inputs.rounding()
                layer = part.integer(here, grid)
                grid = layer.output
            if grid is not None:
                grids[node.name] = grid
            held = operation_of(self.subnet, node)
            steps.append(
                Step(node.name, node.op, node.inputs, layer, grid, node.act, window(node), held)
            )
        return steps

    def _output_grid(self, node: Node) -> Rounding | None:
        """Grid of a node's output: its stream's, or the one its reader needs."""
        if node.op == "image":
            return self.image.rounding()
        if node.act == "hsigmoid" and node.op == "act":
            return FACTORS
        if node.name in self.graph.streams:
            stream: Any = self.streams[self.graph.streams[node.name]]
            return within(stream.rounding(), node.act)
        if node.act == "hsigmoid":
            return FACTORS
        readers = self.graph.readers[node.name]
        if not readers:
            return None
        if readers[0].op == "maxpool":  # which takes and gives the same integers
            return self._output_grid(readers[0])
        if readers[0].op == "pool":
            return self.pooled.rounding()  # type: ignore[no-any-return]
        part: Any = self.subnet.get_submodule(readers[0].name)
        return part.inputs.rounding()  # type: ignore[no-any-return]

    def layers(self) -> Iterator[tuple[LayerBits, QuantizedConv | QuantizedLinear]]:
        """Plan and module of every layer, in the order they run."""
        for layer in self.plan:
            part = self.subnet.get_submodule(layer.name)
            assert isinstance(part, QuantizedConv | QuantizedLinear)
            yield layer, part

    def storage_bits(self) -> dict[str, int]:
        """Bits on disk per layer: weights as their scheme stores them, and a 32-bit bias per
        output channel (batch norm folded)."""
        sizes = {}
        for layer, part in self.layers():
            if isinstance(part.weights, FlightWeights):
                stored = part.weights.storage_bits(part.weight)
            else:
                stored = rules_for(layer, self.scheme)[0].storage_bits(part.weight, layer.weight)
            sizes[layer.name] = stored + 32 * len(part.weight)
        return sizes


def rules_for(layer: LayerBits, scheme: Scheme) -> tuple[Scheme, Scheme]:
    """The schemes of one layer's weights and input: those that the candidate names, or, for plain
    widths, ``scheme``, whose settings also hold for formats of its name; fixed layers stay uniform
    whatever the searched ones do."""
    plain = scheme if layer.searched or isinstance(scheme, Uniform) else Uniform()
    weights, inputs = (
        plain if name in ("", scheme.name) else _scheme(name)
        for name in (layer.weight_scheme, layer.activation_scheme)
    )
    return weights, inputs


def quantize_subnet(
    subnet: Network,
    graph: Graph,
    calibration_images: Tensor | None,
    scheme: str | Scheme = "uniform",
) -> QuantizedSubnet:
    """Quantize a copy of a float subnet, every range fitted.

    Weight ranges come from the weights, activation ranges from what the float network does with
    the calibration images. Recalibrate batch norm afterwards, and fine-tune: low bits need it.

    Args:
        subnet: ``Subnet`` of a candidate; left as it is.
        graph: The candidate's graph (``Space.graph_of``), which says the formats; fixed layers are
            uniform in every scheme. The image itself is not rounded in training.
        calibration_images: Normalised, ``(n, c, h, w)``; a hundred do. None leaves placeholder
            ranges, for a state dict to be loaded.
        scheme: What plain widths of the searched layers mean: a scheme, or its name (see
            ``find_scheme``).

    Raises:
        ApqError: unknown scheme, bits it does not offer, or weights or images with NaN.
    """
    chosen = _scheme(scheme)
    net = copy.deepcopy(subnet).eval()
    samples = _samples(net, graph, calibration_images)
    for layer in layer_plan(graph):
        part = net.get_submodule(layer.name)
        weight_rule, input_rule = rules_for(layer, chosen)
        inner: Any = part if isinstance(part, nn.Linear) else part.conv
        try:
            weights = weight_rule.weights(inner.weight, layer.weight)
            inputs = None
            if layer.activation is not None:
                sample = samples[layer.name]
                inputs = input_rule.activations(sample, layer.activation, layer.signed)
        except ApqError as error:
            raise ApqError(f"{layer.name}: {error}") from error
        eight = isinstance(inputs, UniformActivations) and layer.activation == 8
        if layer.signed and eight and graph.by_name[layer.name].inputs[0] in graph.streams:
            inputs = None  # the stream has 8 uniform bits already
        if isinstance(part, nn.Linear):
            act = graph.by_name[layer.name].act
            attach(net, {layer.name: QuantizedLinear(part, weights, inputs, act)})
        else:
            attach(net, {layer.name: QuantizedConv(part, weights, inputs)})
    first = next(n for n in graph.nodes if n.name in samples and n.inputs[0] == "image")
    streams: list[nn.Module] = [
        UniformActivations(torch.cat(parts), 8, signed=True, narrow=False)
        for parts in _stream_samples(graph, samples)
    ]
    pools = [node for node in graph.nodes if node.op == "pool"][-1:]
    signed = not all(graph.positive(pool.inputs[0]) for pool in pools)
    pooled = UniformActivations(
        samples[pools[0].name] if pools else torch.ones(1), 8, signed=signed
    )
    return QuantizedSubnet(net, graph, chosen, ImageGrid(samples[first.name]), streams, pooled)


def _stream_samples(graph: Graph, samples: dict[str, Tensor]) -> list[list[Tensor]]:
    """Samples of every stream: what other nodes than joins read of it."""
    found: list[list[Tensor]] = [[] for _ in set(graph.streams.values())]
    for node in graph.nodes:
        for i, name in enumerate(node.inputs):
            key = f"{node.name}#{i}" if i else node.name
            if key in samples and name in graph.streams:
                found[graph.streams[name]].append(samples[key])
    return found


def _scheme(scheme: str | Scheme) -> Scheme:
    return find_scheme(scheme) if isinstance(scheme, str) else scheme


@torch.no_grad()
def _samples(net: Network, graph: Graph, images: Tensor | None) -> dict[str, Tensor]:
    """A sample of what every node but joins reads first, by name, with the extremes kept."""
    reads = [
        node.name
        for node in graph.nodes
        if node.op in (*LAYERS, "pool", "maxpool", "act", "scale", "torch")
    ]
    if images is None:
        several = [f"{node.name}#{i}" for node in graph.nodes if node.op == "torch"
                   for i in range(1, len(node.inputs))]  # fmt: skip
        return {name: torch.ones(1) for name in [*reads, *several]}
    samples: dict[str, Tensor] = {}

    def run(node: Node, *inputs: Tensor) -> Tensor:
        if node.name in reads:
            samples[node.name] = _drawn(inputs[0])
        for i, x in enumerate(inputs[1:] if node.op == "torch" else ()):
            samples[f"{node.name}#{i + 1}"] = _drawn(x)
        return net.run(node, *inputs)

    run_nodes(graph.nodes, images, run)
    return samples


def _drawn(x: Tensor) -> Tensor:
    flat = (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).reshape(-1)
    if len(flat) <= _SAMPLE:
        return flat
    seeded = torch.Generator().manual_seed(0)
    picked = flat[torch.randint(len(flat), (_SAMPLE,), generator=seeded)]
    return torch.cat([picked, flat.max()[None], flat.min()[None]])
