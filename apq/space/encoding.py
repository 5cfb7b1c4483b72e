"""The one-hot code of candidates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apq.space.axes import is_format
from apq.space.structure import Genes, Structure


@dataclass(frozen=True)
class Encoded(Structure):
    """A space whose candidates are encoded."""

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """The attributes besides depth, in the order of the encoding: architecture, then number
        formats, each in order of first occurrence in the graph."""
        names = dict.fromkeys(axis.attribute for axis in self.axes if not axis.is_depth)
        return tuple(sorted(names, key=is_format))

    @cached_property
    def encoded(self) -> tuple[int, ...]:
        """Indices of the axes in the order of the encoding: attribute by attribute."""
        order = {name: i for i, name in enumerate(self.attributes)}
        places = (i for i, axis in enumerate(self.axes) if not axis.is_depth)
        return tuple(sorted(places, key=lambda i: order[self.axes[i].attribute]))

    @cached_property
    def architecture_dims(self) -> int:
        """Columns of the encoding that describe the architecture; bit columns follow."""
        kept = (a for a in self.axes if not (a.is_format or a.is_depth))
        return sum(len(axis.choices) for axis in kept)

    @cached_property
    def encoding_dims(self) -> int:
        """Columns of the whole encoding."""
        return sum(len(self.axes[i].choices) for i in self.encoded)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First column of every axis in the encoding."""
        offsets = np.zeros(len(self.axes), dtype=np.int64)
        total = 0
        for i in self.encoded:
            offsets[i] = total
            total += len(self.axes[i].choices)
        return offsets

    def hot_columns(self, genes: Genes) -> NDArray[np.int64]:
        """Columns of the encoding that are 1, shape as ``genes``; -1 for depths and where a slot is
        skipped."""
        columns: NDArray[np.int64] = self.starts + genes
        columns[~self.decides(genes)] = -1
        columns[:, : len(self.stages)] = -1
        return columns

    def encode(self, genes: Genes) -> NDArray[np.float32]:
        """One-hot code of APQ (CVPR 2020, section 3.2), shape ``(n, encoding_dims)``.

        Grouped by attribute: kernels of all slots, widths of all slots, then the four bit
        attributes. A skipped block is all zeros; depth has no columns of its own.
        """
        out = np.zeros((len(genes), self.encoding_dims + 1), dtype=np.float32)
        np.put_along_axis(out, self.hot_columns(genes), 1.0, axis=1)  # -1 is the spare last column
        return out[:, :-1]
