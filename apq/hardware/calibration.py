"""Calibrate a table against measured networks: error of its sums, and an affine correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apq.errors import SpaceError, TableError
from apq.hardware.columns import read_columns
from apq.hardware.lut import LookupTable
from apq.hardware.pricing import price_space
from apq.space import Genes, Space

Floats = NDArray[np.float64]

LIMIT = 0.10
"""Largest error on a held-out network at which a table is still trusted."""


@dataclass(frozen=True)
class Agreement:
    """Predicted against measured costs: relative errors as fractions, and rank correlation."""

    networks: int
    median: float
    p90: float
    worst: float
    spearman: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.networks} networks: median error {self.median:.1%}, p90 {self.p90:.1%}, "
            f"worst {self.worst:.1%}, Spearman {self.spearman:.3f}"
        )


def agreement(predicted: Floats, measured: Floats) -> Agreement:
    """Compare costs of the same networks, each of shape (n,)."""
    from scipy.stats import spearmanr

    error = np.abs(predicted / measured - 1)
    constant = np.ptp(predicted) == 0 or np.ptp(measured) == 0
    rank = float("nan") if constant else float(spearmanr(predicted, measured).statistic)
    return Agreement(
        len(error),
        float(np.median(error)),
        float(np.quantile(error, 0.9)),
        float(error.max()),
        rank,
    )


def read_networks(path: Path, space: Space) -> tuple[Genes, Floats]:
    """Measured whole networks: genes and latency in ms.

    The file (CSV or Parquet) has a column per axis of the space, empty where a block is skipped,
    and ``latency_ms``; bit columns may be absent.

    Raises:
        TableError, SpaceError: the file is malformed or of another space.
    """
    if not path.is_file():
        raise TableError(f"no file at {path}; `apq lut measure` writes networks.csv in its folder")
    _, columns = read_columns(path)
    if "latency_ms" not in columns:
        raise TableError(f"{path} has no column latency_ms; it has {', '.join(columns)}")
    latency = np.array([_number(cell) for cell in columns.pop("latency_ms")])
    values = {
        axis.name: np.array([_text(cell) if axis.named else _number(cell) for cell in cells])
        for axis in space.axes
        if (cells := columns.get(axis.name))
    }
    bad = np.flatnonzero(~(np.isfinite(latency) & (latency > 0)))
    if len(bad):
        raise TableError(f"{path}, row {bad[0] + 1}: latency_ms must be positive and finite")
    try:
        return space.from_values(values), latency
    except SpaceError as error:
        raise SpaceError(f"{path}, {error}") from error


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _text(cell: str) -> str | None:
    return None if cell in ("", "None") else cell


def affine_fit(predicted: Floats, measured: Floats) -> tuple[float, float]:
    """(constant, slope) with the least relative squared error."""
    rows = np.stack([np.ones_like(predicted), predicted], axis=1) / measured[:, None]
    (constant, slope), *_ = np.linalg.lstsq(rows, np.ones_like(measured), rcond=None)
    return float(constant), float(slope)


@dataclass(frozen=True)
class Calibration:
    """A corrected table and its errors on held-out networks."""

    table: LookupTable
    constant_ms: float
    slope: float
    before: Agreement
    after: Agreement


def calibrate(
    table: LookupTable,
    space: Space,
    genes: Genes,
    measured_ms: Floats,
    fit_on: int = 10,
    seed: int = 0,
    limit: float = LIMIT,
    force: bool = False,
) -> Calibration:
    """Fit ``measured = constant + slope x sum of rows`` and put it into the table.

    Args:
        table: With ``latency_ms``.
        space: The networks' space.
        genes: Measured networks, shape (n, axes).
        measured_ms: Their latency, shape (n,).
        fit_on: Networks used for the fit, drawn with ``seed``; the others give the reported error.
            With fewer than five others, every network is predicted from the rest instead.
        seed: Random seed of the draw.
        limit: A table whose worst held-out error is larger is refused ...
        force: ... unless forced.

    Returns:
        The new table (rows scaled, the constant as overhead, the margin in its header) and both
        agreements on the held-out networks.

    Raises:
        TableError: fewer than 4 networks, a falling fit, or an error above ``limit``.
    """
    if len(genes) < 4:
        raise TableError(f"calibration needs at least 4 measured networks, got {len(genes)}")
    sums = price_space(space, table).costs(genes, ["latency_ms"])["latency_ms"]
    order = np.random.default_rng(seed).permutation(len(sums))
    chosen, rest = order[:fit_on], order[fit_on:]
    constant, slope = affine_fit(sums[chosen], measured_ms[chosen])
    predicted = constant + slope * sums
    how = f"fitted on {len(chosen)} networks, checked on {len(rest)}"
    if len(rest) < 5:
        constant, slope = affine_fit(sums, measured_ms)
        predicted = _leave_one_out(sums, measured_ms)
        rest = order
        how = f"fitted on {len(order)} networks, checked by leaving one out"
    if slope <= 0:
        raise TableError(
            f"{table.path or table.name}: measured latency falls as the table's sums grow "
            f"(slope {slope:.3g}); these networks were not measured on this device"
        )
    after = agreement(predicted[rest], measured_ms[rest])
    if after.worst > limit and not force:
        raise TableError(
            f"{table.path or table.name} is refused: {after}; allowed worst "
            f"{100 * limit:g}%. Check that table and networks are of one device, measure more "
            "rounds on a quiet machine, or accept it with --force."
        )
    header = {
        "calibration": how,
        "calibration_fit": f"{constant:.6g} ms + {slope:.6g} x sum of rows",
        "calibration_margin": f"{after.worst:.4f}",
        "calibration_check": str(after),
    }
    old = dict(table.overhead)
    corrected = replace(
        table,
        prices={**table.prices, "latency_ms": table.prices["latency_ms"] * slope},
        overhead={**old, "latency_ms": constant + slope * old.get("latency_ms", 0.0)},
        header={**table.header, **header},
    )
    before = agreement(sums[rest], measured_ms[rest])
    return Calibration(corrected, constant, slope, before, after)


def _leave_one_out(sums: Floats, measured: Floats) -> Floats:
    out = np.empty_like(sums)
    for i in range(len(sums)):
        keep = np.arange(len(sums)) != i
        constant, slope = affine_fit(sums[keep], measured[keep])
        out[i] = constant + slope * sums[i]
    return out


def networks_columns(
    space: Space, genes: Genes, latency_ms: Sequence[float]
) -> dict[str, list[str]]:
    """Columns of the file that :func:`read_networks` reads, as text."""
    columns = {
        name: ["" if v is None or v != v else v if isinstance(v, str) else f"{v:g}" for v in values]
        for name, values in space.values(genes).items()
    }
    return columns | {"latency_ms": [f"{v:.8g}" for v in latency_ms]}
