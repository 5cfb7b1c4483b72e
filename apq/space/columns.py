"""Candidates and tables of chosen values, to genes and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import SpaceError
from apq.space.axes import Axis
from apq.space.candidate import Candidate
from apq.space.formats import FORMATS, choice_of, code_of
from apq.space.structure import Genes, Structure


@dataclass(frozen=True)
class Written(Structure):
    """A space whose candidates are written down."""

    def build(self, row: Sequence[int] | NDArray[np.integer[Any]]) -> Candidate:
        """The candidate that one row of genes describes."""
        genes = np.asarray(row, dtype=np.int16)
        decides = self.decides(genes[None])[0]
        return Candidate(
            tuple(
                (axis.name, axis.labels[gene])
                for axis, gene, runs in zip(self.axes, genes.tolist(), decides, strict=True)
                if runs
            )
        )

    def genes(self, candidates: Sequence[Candidate]) -> Genes:
        """Canonical rows of candidates, shape ``(len(candidates), len(axes))``.

        Raises:
            SpaceError: a candidate does not belong to this space; the message names the gene.
        """
        out = np.zeros((len(candidates), len(self.axes)), dtype=np.int16)
        for i, candidate in enumerate(candidates):
            unknown = [name for name in candidate.by_name if name not in self.place]
            if unknown:
                raise SpaceError(
                    f"the candidate chooses {unknown[0]}, which space {self.name!r} does not have: "
                    "it was made for another space"
                )
            values = {
                name: code_of(choice) if self.axis(name).is_format else int(choice)
                for name, choice in candidate.choices
            }
            for name, value in values.items():
                out[i, self.place[name]] = self._index(self.axis(name), value)
            decides = self.decides(out[i : i + 1])[0]
            for axis, runs in zip(self.axes, decides, strict=True):
                if runs and axis.name not in values:
                    raise SpaceError(
                        f"the candidate lacks {axis.name}, which space {self.name!r} chooses in it"
                    )
                if not runs and axis.name in values:
                    raise SpaceError(
                        f"the candidate chooses {axis.name}, but its depths skip that block"
                    )
        return out

    def _index(self, axis: Axis, value: int) -> int:
        try:
            return axis.choices.index(value)
        except ValueError:
            raise self._refused(axis, value) from None

    def _refused(self, axis: Axis, value: float, where: str = "") -> SpaceError:
        told = f"{value:g}"
        if axis.is_format and value in range(1, len(FORMATS)):
            told = str(choice_of(int(value)))
        return SpaceError(
            f"{where}{axis.name} = {told} is not in space {self.name!r}; "
            f"allowed: {list(axis.labels)}"
        )

    def values(self, genes: Genes) -> dict[str, NDArray[Any]]:
        """Columns by axis name: the chosen values, NaN where the slot is skipped.

        An axis with named formats has text instead (``"8"``, ``"ternary"``) and None.
        """
        decides = self.decides(genes)
        columns: dict[str, NDArray[Any]] = {}
        for j, axis in enumerate(self.axes):
            if axis.named:
                column = np.array([str(label) for label in axis.labels], dtype=object)[genes[:, j]]
            else:
                column = np.array(axis.choices, dtype=np.float64)[genes[:, j]]
            if axis.slot is not None:
                column[~decides[:, j]] = None  # in floats: NaN
            columns[axis.name] = column
        return columns

    def from_values(self, columns: Mapping[str, NDArray[Any]]) -> Genes:
        """Inverse of :meth:`values`. A missing, NaN or None bit column means the highest choice.

        Raises:
            SpaceError: a column is missing or holds a value the axis does not offer.
        """
        missing = [a.name for a in self.axes if a.name not in columns and not a.is_format]
        if missing:
            raise SpaceError(
                f"columns missing for space {self.name!r}: {', '.join(missing[:6])}"
                + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
            )
        n = len(columns[self.axes[0].name])
        genes = np.zeros((n, len(self.axes)), dtype=np.int16)
        for j, axis in enumerate(self.axes):
            if j == len(self.stages) + len(self.shared):
                decides = self.decides(genes)  # depth genes are filled by now
            if axis.name not in columns:
                genes[:, j] = len(axis.choices) - 1
                continue
            given = columns[axis.name]
            column = _codes(given) if axis.named else np.asarray(given, dtype=np.float64)
            order = np.argsort(axis.choices)
            ordered = np.array(axis.choices, dtype=np.float64)[order]
            position = np.minimum(np.searchsorted(ordered, np.nan_to_num(column)), len(order) - 1)
            genes[:, j] = order[position]
            wrong = ordered[position] != column
            if axis.is_format:
                absent = np.isnan(column)
                genes[absent, j] = len(axis.choices) - 1
                wrong &= ~absent
            if axis.slot is not None:
                wrong &= decides[:, j]
            if np.any(wrong):
                i = int(np.flatnonzero(wrong)[0])
                raise self._refused(axis, column[i], f"row {i}: ")
        return self.canonical(genes)


def _codes(column: NDArray[Any]) -> NDArray[np.float64]:
    """Codes of formats as values give them, NaN where there is none.

    Raises:
        SpaceError: one is unknown.
    """
    cells = column.tolist()
    known = {v: np.nan if v is None or v != v else float(code_of(v)) for v in set(cells)}
    return np.array([known[v] for v in cells], dtype=np.float64)
