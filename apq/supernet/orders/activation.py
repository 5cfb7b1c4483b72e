"""Importance by a channel's contribution to the layers that read it."""

from __future__ import annotations

import torch
from torch import Tensor

from apq.space.graph import LAYERS, Node
from apq.supernet.network import run_nodes
from apq.supernet.orders.measured import Measured
from apq.supernet.statistics import Moments
from apq.supernet.supernet import Supernet, largest


@torch.no_grad()
def activation(supernet: Supernet, measured: Measured) -> dict[str, Tensor]:
    """The standard deviation of a channel's output times the norm of the weights that read it.

    Summed over the readers. As Wanda (Sun et al., ICLR 2024, arXiv:2306.11695) but with the
    deviation in place of the norm (ours): correcting the statistics compensates for a pruned
    channel's mean, so only its variation is lost.

    Args:
        supernet: The supernet.
        measured: Images; labels are ignored.

    Returns:
        Importance ``(channels,)`` by gene.
    """
    network = supernet.subnet(largest(supernet.space)).eval()
    readers = {gene: supernet.readers(gene) for gene in supernet.widths}
    handed: dict[str, Moments] = {}

    def run(node: Node, *inputs: Tensor) -> Tensor:
        if node.op in LAYERS:
            handed.setdefault(node.name, Moments()).add(inputs[0])
        return network.run(node, *inputs)

    for images, _ in measured.parts():
        run_nodes(network.graph.nodes, images, run)
    return {
        gene: torch.stack(
            [
                handed[name].variance[start : start + weight.shape[1]].sqrt()
                * weight.double().transpose(0, 1).flatten(1).norm(dim=1)
                for name, start, weight in views
            ]
        ).sum(0)
        for gene, views in readers.items()
        if views
    }
