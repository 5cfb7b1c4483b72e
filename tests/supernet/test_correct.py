"""Weights refitted after cutting: closer to the whole network, untouched where nothing is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import NETWORKS, Head, build
from torch import nn

from apq.supernet.correct import corrected, measure_original
from apq.supernet.evaluate import recalibrate
from apq.supernet.statistics import absorb_statistics
from apq.supernet.supernet import largest
from apq.supernet.trace import trace


def unpadded() -> nn.Module:
    """Convolutions that see no pixel beyond the edge."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.Conv2d(32, 32, (3, 3), 2, (1, 1)), nn.ReLU(), Head(32),
    )  # fmt: skip


@pytest.mark.parametrize("name", [*NETWORKS, "unpadded"])
def test_corrected_subnets_are_closer_to_the_whole_network(name):
    images = torch.randn(160, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    seen, held = images[:96], images[96:]
    network = unpadded().eval() if name == "unpadded" else build(name)
    supernet = trace(network, torch.zeros(2, 1, 8, 8)).supernet
    absorb_statistics(supernet, seen)
    space, original = supernet.space, measure_original(supernet, seen)
    with torch.no_grad():
        whole = supernet.subnet(largest(space)).eval()(held)
        same = corrected(supernet, largest(space), original)(held)
    torch.testing.assert_close(same, whole, rtol=1e-4, atol=1e-5)
    errors = []
    for row in space.sample(4, np.random.default_rng(0)):
        candidate = space.build(row)
        plain = supernet.subnet(candidate)
        recalibrate(plain, seen)
        with torch.no_grad():
            found = corrected(supernet, candidate, original)(held)
            errors.append([float((net - whole).norm()) for net in (plain(held), found)])
    recalibrated, refitted = np.mean(errors, axis=0)
    assert refitted < 0.9 * recalibrated
