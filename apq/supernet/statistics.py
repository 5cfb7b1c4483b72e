"""Measure batch-norm statistics of a supernet that was not trained here, keeping its function."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from apq.space.graph import LAYERS, Node
from apq.supernet.elastic import ConvBN
from apq.supernet.evaluate import Images, batches, in_parts
from apq.supernet.files import SupernetFile
from apq.supernet.network import run_nodes
from apq.supernet.supernet import Supernet, largest


class Moments:
    """Mean and variance of every channel of a stream of tensors, merged batch by batch without
    cancellation (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._sum = torch.zeros(0)

    def add(self, x: Tensor) -> None:
        """Take in a batch ``(n, c)`` or ``(n, c, h, w)``."""
        variance, mean = torch.var_mean(x, dim=(0, *range(2, x.dim())), correction=0)
        count, mean = x.numel() // x.shape[1], mean.double()
        if not self.count:
            self.mean, self._sum = torch.zeros_like(mean), torch.zeros_like(mean)
        step, total = mean - self.mean, self.count + count
        self._sum = self._sum + variance * count + step.square() * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Variance of each channel, ``(c,)`` float64."""
        return self._sum / self.count


@torch.no_grad()
def absorb_statistics(supernet: Supernet, images: Images, batch: int = 64) -> None:
    """Store the means and variances of the largest network's convolution outputs as batch-norm
    statistics, with gains and shifts that keep the function up to rounding (ours).

    In networks whose batch norm was folded, or that had none, the statistics are placeholders. With
    measured ones, recalibrating a subnet gives every channel the mean and deviation that it has in
    the whole network, which is bias and batch-norm correction.

    Args:
        supernet: Changed in place.
        images: Calibration images, normalised, ``(n, c, h, w)``.
        batch: Images that go through the network at once.
    """
    network = supernet.subnet(largest(supernet.space)).eval()
    given: dict[str, Moments] = {}

    def run(node: Node, *inputs: Tensor) -> Tensor:
        part = network.get_submodule(node.name) if node.op in LAYERS else None
        if not isinstance(part, ConvBN):
            return network.run(node, *inputs)
        y = part.conv(inputs[0])
        given.setdefault(node.name, Moments()).add(y)
        out: Tensor = part.act(part.bn(y))
        return out

    for part in in_parts(images, [*batches(len(images), batch)]):
        run_nodes(network.graph.nodes, part, run)
    for name, moments in given.items():
        mean, variance = moments.mean, moments.variance
        bn = supernet.get_submodule(name).get_submodule("bn")
        assert isinstance(bn, torch.nn.BatchNorm2d)
        assert bn.running_mean is not None
        assert bn.running_var is not None
        gain = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
        shift = bn.bias.double() + gain * (mean - bn.running_mean.double())
        bn.weight.copy_(gain * (variance + bn.eps).sqrt())
        bn.bias.copy_(shift)
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(variance)


def with_statistics(file: SupernetFile, images: Images) -> Supernet:
    """A supernet whose subnets may be recalibrated.

    That of a traced network on which no command has worked yet may have placeholders for
    statistics, which recalibration would take for the network's own: it is copied and gets measured
    ones (:func:`absorb_statistics`). Any other is returned as it is.

    Args:
        file: From ``from-model``, ``from-onnx`` or a training.
        images: Calibration images, normalised, ``(n, c, h, w)``.
    """
    if "traced" not in file.metadata:
        return file.network
    network = copy.deepcopy(file.network).to(images[:1].device)
    absorb_statistics(network, images)
    return network
