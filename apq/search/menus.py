"""Filter each block's choices by capacity per cost on a device, before the search.

HURRICANE (arXiv:1910.11609) ranks the operators of every layer by MACs and parameters per latency
on the device, and searches among the best few. Its exact score is not published. Ours is the
geometric mean of MACs and parameters over cost. Number formats do not change the capacity; among
equally fast ones the one with more bits is kept. A gene's choices are ranked by their mean over
the block's other choices, since each gene is filtered separately.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError, choose
from apq.hardware.pricing import PricedSpace
from apq.space import Space, is_format

Floats = NDArray[np.float64]


def worth(priced: PricedSpace, metric: str = "latency_ms") -> dict[str, Floats]:
    """Capacity per cost of every choice of a block.

    Args:
        priced: A space on a device.
        metric: The cost, by its name in ``priced``.

    Returns:
        For each gene of a block, by name, one figure per choice, higher is better: the mean of
        log(sqrt(MACs x parameters) / cost) over the block's other choices. NaN where the choice is
        not permitted.

    Raises:
        ApqError: the space is not priced by this metric.
    """
    choose(metric, priced.metrics, "cost")
    found: dict[str, Floats] = {}
    for f, factor in enumerate(priced.space.factors):
        if factor.slot is None:
            continue
        cost = np.maximum(priced.tables[metric][f], 1e-12)
        formats = tuple(d for d, i in enumerate(factor.axes) if priced.space.axes[i].is_format)
        size = priced.tables["size_mb"][f].max(axis=formats, keepdims=True)  # as parameters
        able = np.maximum(priced.tables["macs_m"][f] * size, 1e-24)
        score = np.where(priced.permitted[f], np.log(able) / 2 - np.log(cost), 0)
        for dim, i in enumerate(factor.axes):
            if priced.space.axes[i].slot != factor.slot:
                continue
            others = tuple(d for d in range(score.ndim) if d != dim)
            many = priced.permitted[f].sum(axis=others)
            total = score.sum(axis=others)
            found[priced.space.axes[i].name] = np.where(
                many > 0, total / np.maximum(many, 1), np.nan
            )
    return found


def keep_paying(
    priced: PricedSpace,
    metric: str = "latency_ms",
    keep: int = 2,
    genes: Sequence[str] = (),
) -> Space:
    """The space in which every block keeps only the choices with most capacity per cost.

    Args:
        priced: A space on a device.
        metric: The cost, by its name in ``priced``.
        keep: Number of choices that a gene keeps; a gene with no more than that keeps all.
        genes: Attributes that are filtered, as in ``("kernel", "pw_w_bits")``; default: kernels
            and number formats. Widths and depths stay free, to meet budgets.

    Returns:
        A restriction of the space; its fingerprint, and so its supernet, samples and predictor, are
        the same.

    Raises:
        ApqError: the space is not priced by this metric, or no block has such a gene.
        SpaceError: exclusions leave a block nothing to choose.

    Example:
        >>> import apq
        >>> space = apq.load_space("digits")
        >>> table = apq.build_table(space, apq.load_cost_model("bitfusion-apq"))
        >>> kept = keep_paying(apq.price_space(space, table), keep=1)
        >>> kept.count() < space.count() and kept.fingerprint == space.fingerprint
        True
    """
    if keep < 1:
        raise ApqError(f"every gene keeps at least 1 choice, not {keep}")
    space = priced.space
    own = dict.fromkeys(a for slot in space.slots for a in slot.attributes)
    for name in genes:
        choose(name, own, "gene of a block")
    wanted = set(genes) or {a for a in own if a == "kernel" or is_format(a)}
    kept: dict[int, list[int]] = {}
    for name, figures in worth(priced, metric).items():
        i = space.place[name]
        if space.axes[i].attribute in wanted:
            best = sorted(space.allowed[i], key=lambda c: (-round(float(figures[c]), 9), -c))
            kept[i] = sorted(best[:keep])
    return space.narrowed(kept, f"what pays on {metric}")
