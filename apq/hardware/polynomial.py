"""Polynomial surrogates of an accelerator's simulator, in its knobs.

QAPPA, QADAM and QUIDAM (Inci et al., arXiv:2205.08648, 2205.13045, 2206.15463) fit polynomials to
some synthesised designs and sweep all others with them; the degree is chosen by cross-validation.
Here they are fitted to a simulator. One least-squares problem has every layer of a space as a
right-hand side, so the whole table of a new design is one small matrix product.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq.errors import ApqError
from apq.hardware.designs import Designs, LayerPrices
from apq.hardware.lut import needed_layers, widened_prices
from apq.space import Space

Floats = NDArray[np.float64]
DEGREES = (1, 2, 3, 4)


@dataclass(frozen=True, eq=False)
class Polynomial:
    """Logarithms of prices as polynomials in the logarithms of knobs.

    Attributes:
        degree: The largest, chosen by cross-validation.
        errors: By degree the cross-validated root mean square of the logarithms' error.
        middle, width: Centre and scale of the features, ``(knobs,)``.
        coefficients: ``(monomials, layers)``.
    """

    degree: int
    errors: Mapping[int, float]
    middle: Floats
    width: Floats
    coefficients: Floats

    def prices(self, features: Floats) -> Floats:
        """From features ``(designs, knobs)`` to prices ``(designs, layers)``."""
        found: Floats = np.exp(
            monomials((features - self.middle) / self.width, self.degree) @ self.coefficients
        )
        return found


def monomials(x: Floats, degree: int) -> Floats:
    """All products of at most ``degree`` features, ``(n, monomials)``; the first is 1."""
    columns = [np.ones(len(x))]
    for d in range(1, degree + 1):
        for which in itertools.combinations_with_replacement(range(x.shape[1]), d):
            columns.append(np.prod(x[:, list(which)], axis=1))
    return np.stack(columns, axis=1)


def fit_polynomial(features: Floats, prices: Floats, seed: int = 0, folds: int = 5) -> Polynomial:
    """Fit prices of all layers at once.

    Args:
        features: Logarithms of knobs, ``(n, knobs)``.
        prices: Above 0, ``(n, layers)``.
        seed: Random seed of the folds.
        folds: Number of folds of the cross-validation that chooses among :data:`DEGREES`.

    Raises:
        ApqError: there are too few designs for a line.
    """
    middle, width = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    x, y = (features - middle) / width, np.log(prices)
    part = np.random.default_rng(seed).permutation(len(x)) % folds
    errors: dict[int, float] = {}
    for degree in DEGREES:
        terms = monomials(x, degree)
        if terms.shape[1] > (1 - 1 / folds) * len(x):
            break
        off = [
            terms[part == k] @ _solve(terms[part != k], y[part != k]) - y[part == k]
            for k in range(folds)
        ]
        errors[degree] = float(np.sqrt(np.mean(np.concatenate(off) ** 2)))
    if not errors:
        raise ApqError(f"{len(x)} designs are too few to fit {x.shape[1]} knobs; give more")
    best = min(errors, key=lambda degree: errors[degree])
    return Polynomial(best, errors, middle, width, _solve(monomials(x, best), y))


def _solve(terms: Floats, y: Floats) -> Floats:
    return np.asarray(np.linalg.lstsq(terms, y, rcond=None)[0], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Polynomials for every type of processing element and metric, fitted for one space.

    Attributes:
        space: The space whose layers are priced.
        designs: The knobs; others between their smallest and largest choices are priced too.
        fits: By type of PE and metric.
    """

    space: Space
    designs: Designs
    fits: Mapping[tuple[Any, str], Polynomial]

    def layer_prices(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
        """Per metric prices of every layer that the space needs, ``(designs, layers)``.

        Args:
            rows: The knobs of each design.
        """
        first = next(iter(self.designs.knobs))
        kinds = np.array([row[first] for row in rows])
        x = features_of(rows, self.designs)
        out: dict[str, Floats] = {}
        for (kind, metric), fit in self.fits.items():
            here = kinds == kind
            if not here.any():
                continue
            table = out.setdefault(metric, np.empty((len(rows), fit.coefficients.shape[1])))
            table[here] = fit.prices(x[here])
        return out

    def table(self) -> LayerPrices:
        """Costs of every layer on all designs, for
        :func:`apq.search.codesign.price_designs`."""
        rows = [self.designs.values(i) for i in range(len(self.designs))]
        layers = needed_layers(self.space, self.designs.models[0])
        return LayerPrices(layers, self.layer_prices(rows))


def features_of(rows: Sequence[Mapping[str, Any]], designs: Designs) -> Floats:
    """Logarithms of all knobs but the first, ``(designs, knobs)``."""
    names = list(designs.knobs)[1:]
    values = np.array([[row[name] for name in names] for row in rows], dtype=np.float64)
    logarithms: Floats = np.log2(values)
    return logarithms


def fit_surrogate(space: Space, designs: Designs, count: int = 200, seed: int = 0) -> Surrogate:
    """Simulate ``count`` random designs of every type of processing element, and fit them.

    Args:
        space: The space whose layers are priced.
        designs: The knobs; the first is the type of PE.
        count: Designs simulated per type.
        seed: Random seed of the designs.

    Raises:
        ApqError: a type of PE cannot run a layer of the space, or there are too few designs.
    """
    (first, kinds), *_ = designs.knobs.items()
    fits: dict[tuple[Any, str], Polynomial] = {}
    for number, kind in enumerate(kinds):
        rng = np.random.default_rng([seed, number])
        rows = random_designs(designs.narrowed({first: [kind]}), count, rng)
        for metric, prices in simulate_rows(space, designs, rows).items():
            if np.isnan(prices).any():
                raise ApqError(f"{kind} elements cannot run every layer of space {space.name!r}")
            fits[kind, metric] = fit_polynomial(features_of(rows, designs), prices, seed)
    return Surrogate(space, designs, fits)


def random_designs(designs: Designs, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Knobs of random designs: whole numbers between the smallest and largest choice of each, even
    in their logarithms; texts from the choices."""
    columns = []
    for menu in designs.knobs.values():
        if isinstance(menu[0], str):
            columns.append([str(menu[i]) for i in rng.integers(len(menu), size=count)])
        else:
            low, high = np.log(min(menu)), np.log(max(menu))
            columns.append(np.rint(np.exp(rng.uniform(low, high, count))).astype(int).tolist())
    return [dict(zip(designs.knobs, row, strict=True)) for row in zip(*columns, strict=True)]


def simulate_rows(
    space: Space, designs: Designs, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Floats]:
    """Per metric the simulator's prices of every layer that the space needs, ``(designs,
    layers)``."""
    layers = needed_layers(space, designs.models[0])
    found = [widened_prices(designs.build(**row), layers)[0] for row in rows]
    return {metric: np.stack([p[metric] for p in found]) for metric in found[0]}
