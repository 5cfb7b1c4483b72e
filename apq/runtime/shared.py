"""Measure many subnets of one supernet: what they have in common is done once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor, nn

from apq.runtime.folded import fold as fold_steps
from apq.runtime.session import fast
from apq.supernet.evaluate import EvalImages, accuracy, batches, fold, recalibrate
from apq.supernet.network import Subnet


class SharedStart:
    """Accuracy of extracted fp32 subnets after recalibration, as
    :func:`apq.supernet.evaluate.measure` but faster.

    The answers of the layers before the second block are kept, and used again while the next
    subnet begins with the same ones: measure subnets in an order that keeps equal starts together.
    What follows them runs in onnxruntime where that is installed.
    """

    def __init__(self, data: EvalImages) -> None:
        self._data = data
        self._start: Hashable = None
        self._seen = data

    def measure(self, subnet: Subnet, start: Hashable) -> tuple[float, float]:
        """Accuracy and loss of a subnet; ``start`` names its first block's choices."""
        subnet = subnet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        before, after = subnet.halves()
        if self._start is None or start != self._start:
            calibration = recalibrate(before, self._data.calibration)
            images = _answers(fold(before), self._data.images)
            self._seen = replace(self._data, calibration=calibration, images=images)
            self._start = start
        recalibrate(after, self._seen.calibration)
        steps = fold_steps(subnet.eval())
        rest = next(i for i, step in enumerate(steps) if step.name in ("blocks.1.expand", "head"))
        return accuracy(fast(steps[rest:], fold(after)), self._seen.images, self._seen.labels)


@torch.inference_mode()
def _answers(net: nn.Module, images: Tensor, batch: int = 250) -> Tensor:
    return torch.cat([net(images[part]) for part in batches(len(images), batch)])
