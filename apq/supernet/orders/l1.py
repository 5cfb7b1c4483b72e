"""The L1 norm of the weights that read a channel."""

from __future__ import annotations

from torch import Tensor

from apq.supernet.orders.measured import Measured
from apq.supernet.supernet import Supernet


def l1(supernet: Supernet, measured: Measured) -> dict[str, Tensor]:
    """The sum of the magnitudes of all weights that read a channel (OFA, arXiv:1908.09791; APQ
    section 3.1). Looks at no images.

    Args:
        supernet: The supernet.
        measured: Not looked at.

    Returns:
        Importance ``(channels,)`` by gene.
    """
    return supernet.importance()
