"""How much the loss would change without a channel, to first order."""

from __future__ import annotations

import torch
from torch import Tensor

from apq.supernet.orders.measured import Measured, gates
from apq.supernet.supernet import Supernet, largest


def taylor(supernet: Supernet, measured: Measured) -> dict[str, Tensor]:
    """The mean over images of the squared change of the loss when a channel is cut, to first order.

    Molchanov et al. (CVPR 2019, arXiv:1906.10771, eq. 8) with a gate of 1 on every channel of a
    group, the same wherever the group's layers give it; per image as in Fisher pruning (Theis et
    al., arXiv:1801.05787).

    Args:
        supernet: The supernet.
        measured: Images, labels and the loss.

    Returns:
        Importance ``(channels,)`` by gene.
    """
    network = supernet.subnet(largest(supernet.space)).eval().requires_grad_(False)
    found = {gene: torch.zeros(size).double() for gene, size in supernet.widths.items()}
    for images, labels in measured.parts():
        with torch.enable_grad():
            own = {
                g: images.new_ones(len(images), n).requires_grad_()
                for g, n in supernet.widths.items()
            }
            of = {
                node.name: own[node.channels]
                for node in supernet.space.graph.layers
                if isinstance(node.channels, str)
            }
            loss = measured.loss(gates(network, images, of), labels) * len(images)
            slopes = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
        for gene, slope in zip(own, slopes, strict=True):
            if slope is not None:
                found[gene] += slope.square().sum(0).double().cpu()
    return {gene: total / len(measured.labels) for gene, total in found.items()}
