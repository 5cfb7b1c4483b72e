"""Equal rows of genes, by hash."""

from __future__ import annotations

from functools import lru_cache

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
    """Where each key occurs first, ascending."""
    first: NDArray[np.intp] = np.unique(keys, return_index=True)[1]
    return np.sort(first)


def distinct(genes: Genes) -> Genes:
    """The rows, each once, in order of first occurrence."""
    kept: Genes = genes[first_of_each(row_keys(genes))]
    return kept
