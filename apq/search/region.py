"""Limits of a search, and the space that ``--fix`` leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError, SpaceError
from apq.hardware.pricing import PricedSpace
from apq.search.best import read_candidate
from apq.space import Space
from apq.space.restrictions import split

SLACK = 1e-12
"""A cost may exceed its limit by this share: the rounding error of sums is smaller, and no table
has as many digits."""


def within(
    costs: Mapping[str, NDArray[np.float64]], limits: Mapping[str, float]
) -> NDArray[np.bool_] | np.bool_:
    """Which candidates keep every limit, ``(n,)``.

    Args:
        costs: Costs, including all limited ones, each ``(n,)``.
        limits: Largest value per cost.
    """
    ok: NDArray[np.bool_] | np.bool_ = np.True_
    for metric, limit in limits.items():
        ok = ok & (costs[metric] <= limit * (1 + SLACK))
    return ok


def fixed(priced: PricedSpace, fix: Sequence[str] = ()) -> PricedSpace:
    """A priced space restricted by ``--fix`` texts.

    Texts are those of :meth:`apq.space.Space.restrict`; also, ``architecture=FILE`` and
    ``bits=FILE`` fix the architecture or the bits to those of a ``best.json``.

    Raises:
        ApqError: a text is malformed, or names an axis or a value that the space does not have.
    """
    space = priced.space
    for text in fix:
        name, value = split(text)
        if name in ("architecture", "bits") and value.endswith(".json"):
            space = _as_in(space, name, Path(value))
        else:
            space = space.restrict(text)
    return priced.within(space)


def _as_in(space: Space, part: str, path: Path) -> Space:
    """The space with the architecture or the bits of the candidate in a file."""
    try:
        return space.keep(read_candidate(path).candidate, part)
    except SpaceError as error:
        raise ApqError(f"--fix {part}={path}: {error}") from error


def rounded_up(value: float) -> str:
    """A number with four digits, rounded up so that the printed limit can be met."""
    if value <= 0:
        return f"{value:g}"
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    text = f"{math.ceil(value / unit) * unit:.4g}"
    shorter = f"{value:.4g}"
    return shorter if value <= float(shorter) * (1 + SLACK) else text
