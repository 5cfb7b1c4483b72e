"""Calibration images and channel gates for measuring importance orders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from apq.space.graph import LAYERS, Node
from apq.supernet.evaluate import Images, batches, in_parts
from apq.supernet.network import Network, run_nodes

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps a network's output and the labels to the mean loss, a scalar."""


@dataclass(frozen=True)
class Measured:
    """Calibration images of an order.

    Attributes:
        images: Normalised, ``(n, c, h, w)``.
        labels: Their labels, ``(n, …)``.
        loss: Loss of a batch; the mean cross-entropy of classes unless it is another task.
        batch: Images that go through the network at once.
    """

    images: Images
    labels: Tensor
    loss: Loss = F.cross_entropy
    batch: int = 64

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, batch by batch."""
        parts = [*batches(len(self.labels), self.batch)]
        for part, images in zip(parts, in_parts(self.images, parts), strict=True):
            yield images, self.labels[part]


def gates(network: Network, x: Tensor, of: Mapping[str, Tensor]) -> Tensor:
    """Run a network whose channels are multiplied by gates.

    Args:
        network: A subnet.
        x: Images ``(n, c, h, w)``.
        of: Gates ``(n, channels)`` by the name of the layer whose output they multiply, after its
            activation. Zeros do what cutting the channels does.

    Returns:
        What the network gives.
    """

    def run(node: Node, *inputs: Tensor) -> Tensor:
        out = network.run(node, *inputs)
        if node.op not in LAYERS or node.name not in of:
            return out
        gate = of[node.name]
        return out * (gate if out.dim() == 2 else gate[:, :, None, None])

    return run_nodes(network.graph.nodes, x, run)
