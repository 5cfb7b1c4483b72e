"""Importance orders of channels: which channels of a group are kept first.

An order is a function from a supernet and calibration images to the importance of every channel
that a gene chooses. Sorting by importance does not change the largest network's function.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from apq.errors import choose
from apq.supernet.orders.activation import activation
from apq.supernet.orders.l1 import l1
from apq.supernet.orders.legr import legr
from apq.supernet.orders.measured import Measured
from apq.supernet.orders.taylor import taylor
from apq.supernet.supernet import Supernet

Order = Callable[[Supernet, Measured], dict[str, Tensor]]

ORDERS: dict[str, Order] = {
    "l1": l1,
    "activation": activation,
    "taylor": taylor,
    "legr": legr,
}
"""Orders by name; each maps a supernet and images to importance ``(channels,)`` by gene."""


def sort_channels(supernet: Supernet, order: str, measured: Measured) -> None:
    """Sort the channels of every group, the most important first.

    The largest network computes the same function afterwards, to rounding; prefixes hold what
    matters most. A supernet is sorted once, before its subnets are trained or measured.

    Args:
        supernet: Sorted in place.
        order: A name of :data:`ORDERS`.
        measured: Calibration images.

    Raises:
        ApqError: there is no such order.
    """
    importance = ORDERS[choose(order, ORDERS, "order")](supernet, measured)
    supernet.sort_channels(importance)


__all__ = ["ORDERS", "Measured", "Order", "sort_channels"]
