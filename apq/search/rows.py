"""Duplicate rows of arrays, by hash, and non-dominated rows."""

from __future__ import annotations

from functools import lru_cache

import moocore
import numpy as np
from numpy.typing import NDArray

from apq.space import Genes


@lru_cache(maxsize=16)
def _weights(axes: int) -> NDArray[np.uint64]:
    rng = np.random.default_rng(0)
    return rng.integers(2**63, size=axes, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def row_keys(genes: Genes) -> NDArray[np.uint64]:
    """A 64-bit hash per row, ``(n,)``; equal rows have equal keys."""
    keys: NDArray[np.uint64] = (genes.astype(np.uint64) + np.uint64(1)) @ _weights(genes.shape[1])
    return keys


def first_of_each(keys: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Indices of the first occurrence of each key, ascending."""
    first: NDArray[np.intp] = np.unique(keys, return_index=True)[1]
    return np.sort(first)


def distinct(genes: Genes) -> Genes:
    """The rows without duplicates, in order of first occurrence."""
    kept: Genes = genes[first_of_each(row_keys(genes))]
    return kept


def nondominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of the non-dominated rows of ``(n, objectives)`` (minimised), ``(n,)``; of equal rows
    only the first. By moocore's dimension sweep, O(n log n) up to three objectives."""
    if values.shape[1] == 1:
        keep = np.zeros(len(values), dtype=bool)
        keep[values[:, 0].argmin()] = True
        return keep
    mask: NDArray[np.bool_] = np.asarray(moocore.is_nondominated(values))
    return mask
