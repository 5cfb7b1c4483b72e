"""Measure many subnets of one supernet, computing shared leading pieces once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import cache
from itertools import takewhile

import torch
from torch import Tensor, nn

from apq.runtime.folded import fold as fold_steps
from apq.runtime.session import fast
from apq.space.graph import Graph, number, owns
from apq.supernet.evaluate import EvalImages, answers, batches, estimate, fold, recalibrate
from apq.supernet.network import Subnet

KEPT = 3
"""Most pieces whose outputs, activations of all images, are kept."""


Choices = tuple[tuple[tuple[str, int, int], ...], ...]


def choices(graph: Graph) -> Choices:
    """The choices that define each piece of a candidate's float network: its layers, their channels
    and kernels."""
    return tuple(
        tuple((n.name, number(n.channels), number(n.kernel)) for n in piece if owns(n))
        for piece in graph.pieces
    )


class SharedStart:
    """Accuracy of extracted fp32 subnets after recalibration, as
    :func:`apq.supernet.evaluate.measure` but faster.

    Outputs of the pieces that a subnet shares with the next one are kept (unless the images are too
    many to be kept in memory), so calibration and evaluation images pass through them once. Measure
    subnets in an order that keeps equal beginnings together; all take images of the size of
    ``data``. The remaining pieces run in onnxruntime if it is installed and the images are on the
    CPU.
    """

    def __init__(self, data: EvalImages) -> None:
        self._data = data
        self._kept: list[tuple[Hashable, EvalImages]] = []

    def measure(self, subnet: Subnet, following: Choices = ()) -> tuple[float, float]:
        """Accuracy and loss of a subnet.

        Args:
            subnet: As cut out of the supernet.
            following: :func:`choices` of the subnet that is measured next.
        """
        device = self._data.images.device
        subnet = subnet.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        parts, own = subnet.pieces(), choices(subnet.graph)
        known = _common([key for key, _ in self._kept], own)
        del self._kept[known:]
        for key, part in list(zip(own, parts, strict=True))[known : _common(own, following)]:
            seen = self._seen
            if not (isinstance(seen.calibration, Tensor) and isinstance(seen.images, Tensor)):
                break
            calibration = recalibrate(part, seen.calibration)
            images = _answers(fold(part), seen.images)
            self._kept.append((key, replace(seen, calibration=calibration, images=images)))
        done, seen = len(self._kept), self._seen
        rest = nn.Sequential(*parts[done:])
        recalibrate(rest, seen.calibration)
        steps = fold_steps(subnet.eval())[sum(len(part.graph.nodes) for part in parts[:done]) :]
        folded = cache(lambda: fold(rest))  # only where onnxruntime does not run
        return estimate(fast(steps, lambda x: folded()(x)), seen)

    @property
    def _seen(self) -> EvalImages:
        return self._kept[-1][1] if self._kept else self._data


def _common(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Number of equal leading pieces of two subnets, at most KEPT."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(a[:KEPT], b, strict=False))
    return sum(1 for _ in alike)


def answers_alone(subnet: Subnet, data: EvalImages) -> tuple[Tensor, Tensor]:
    """What :func:`apq.supernet.evaluate.answers` gives for one subnet, recalibrated before."""
    device = data.images.device
    subnet = subnet.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    recalibrate(subnet, data.calibration)
    return answers(fast(fold_steps(subnet.eval()), subnet), data)


@torch.inference_mode()
def _answers(net: nn.Module, images: Tensor, batch: int = 250) -> Tensor:
    return torch.cat([net(images[part]) for part in batches(len(images), batch)])
