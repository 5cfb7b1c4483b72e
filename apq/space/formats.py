"""Number formats of weights and activations, as stored and as multiplied.

A space's bit axes offer formats: plain widths (``8``, whose scheme is chosen when a network is
quantized) and schemes by name (``"ternary"``, ``"po2-4"``). Users and files see the integer or the
name. Arrays hold *codes*, indices into :data:`FORMATS`; a plain width is its own code. Properties
of a format are looked up in arrays of :data:`FORMATS`' length, so that no code downstream tests
for kinds of formats.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apq.errors import SpaceError

Choice = int | str
"""A format in its readable form: a plain width, or a name."""

WIDEST = 32


@dataclass(frozen=True)
class Format:
    """One number format.

    Attributes:
        name: Name in a space file; a plain width in digits.
        bits: Bits stored per value.
        operand: Operand of a multiplier: ``"fixed"`` (integers times a step), ``"po2"`` (powers of
            two), ``"ternary"``, ``"binary"`` (-1, 1), ``"binary01"`` (0, 1) or ``"float"``.
        scheme: Name of the scheme that quantizes to it; empty for a plain width.
        integer_bits: Width of the two's complement integers that hold all levels, in units of the
            smallest; 0: the levels are not integers.
        shifts: Number of shifted copies of the other operand in a product; 0: it is a multiply.
        table: Values of the table that the stored bits index, 32 bits each, one table per layer; 0:
            the bits are the number.
        activations: Whether activations may have it.
    """

    name: str
    bits: int
    operand: str = "fixed"
    scheme: str = ""
    integer_bits: int = 0
    shifts: int = 0
    table: int = 0
    activations: bool = False


def _plain() -> list[Format]:
    """Plain widths, each at the index of its bits; the first one means no format."""
    widths = range(1, WIDEST + 1)
    return [
        Format("-", 0),
        *(Format(str(b), b, integer_bits=b, activations=True) for b in widths),
    ]


def _named(
    family: str,
    scheme: str,
    operand: str,
    widths: Mapping[int, tuple[int, int, int]],
    *,
    activations: bool = False,
) -> list[Format]:
    """The formats of a scheme; ``widths``: by stored bits, integer bits, shifts, table."""
    return [
        Format(f"{family}-{b}" if len(widths) > 1 else family, b, operand, scheme, *numbers,
               activations=activations)
        for b, numbers in widths.items()
    ]  # fmt: skip


_UNIFORM = {b: (b, 0, 0) for b in range(2, 9)}

FORMATS: tuple[Format, ...] = (
    *_plain(),
    *_named("binary", "binary", "binary", {1: (2, 1, 0)}),
    *_named("modified-binary", "modified-binary", "binary01", {1: (2, 1, 0)}),
    *_named("ternary", "ternary", "ternary", {2: (2, 1, 0)}),
    # zero, and 2^(b-1) - 1 powers of either sign
    *_named("po2", "exponent", "po2", {b: (2 ** (b - 1), 1, 2**b - 1) for b in range(2, 6)}),
    *_named("flightnn", "flightnn", "po2", {4: (8, 1, 15), 8: (9, 2, 79)}),
    *_named("codebook", "codebook", "float", {b: (0, 0, 2**b) for b in range(1, 9)}),
    *_named("mantissa", "mantissa", "fixed", _UNIFORM, activations=True),
    *_named("uniform", "uniform", "fixed", _UNIFORM, activations=True),
    *_named("uniform-lsq", "uniform-lsq", "fixed", _UNIFORM, activations=True),
    *_named("haq", "haq", "fixed", _UNIFORM, activations=True),
)
"""Every format; its index is its code. Stored searches hold codes, so new formats are appended."""

_CODES = {f.name: code for code, f in enumerate(FORMATS) if f.bits}

BITS: NDArray[np.int64] = np.array([f.bits for f in FORMATS])
"""Stored bits by code."""

TABLE_BITS: NDArray[np.int64] = np.array([32 * f.table for f in FORMATS])
"""Stored bits of a layer's table by code."""

INTEGER_BITS: NDArray[np.int64] = np.array([f.integer_bits for f in FORMATS])
"""Width of the integers that hold the values, by code; 0: none does."""

SHIFTS: NDArray[np.int64] = np.array([f.shifts for f in FORMATS])
"""Number of shifts in a product, by code; 0: it is a multiply."""

AS_PRICED: NDArray[np.int64] = np.array(
    [f.bits if f.operand == "fixed" else code for code, f in enumerate(FORMATS)]
)
"""Code used for pricing, by code: uniform formats of equal width cost the same."""

RUNTIME_BITS: NDArray[np.int64] = np.where([f.table > 0 for f in FORMATS], WIDEST, INTEGER_BITS)
"""Width at which runtimes multiply exported weights, by code; codebook values are floats."""


def code_of(choice: Choice) -> int:
    """The code of a plain width (an int, or its digits) or a name.

    Raises:
        SpaceError: there is no such format; says which there are.
    """
    if isinstance(choice, int | np.integer) and not isinstance(choice, bool):
        if 1 <= choice <= WIDEST:
            return int(choice)
    elif isinstance(choice, str) and choice in _CODES:
        return _CODES[choice]
    near = difflib.get_close_matches(str(choice), _CODES, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near and isinstance(choice, str) else ""
    raise SpaceError(f"unknown number format {choice!r}.{hint} Allowed: {allowed()}.")


def choice_of(code: int | np.integer) -> Choice:
    """The readable form of a format: plain widths as ints, others by name."""
    return int(code) if code <= WIDEST else FORMATS[code].name


def stored_bits(choice: Choice | float | None) -> float:
    """Stored bits of a format in a table's column, NaN for none, for plots."""
    if isinstance(choice, str):
        return float(BITS[code_of(choice)])
    return np.nan if choice is None else float(choice)


def in_words(code: int | np.integer) -> str:
    """A format in a layer's short form: ``8``, ``(ternary)``."""
    return str(code) if code <= WIDEST else f"({FORMATS[code].name})"


def ordered(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """Formats by stored bits; among equals a plain width comes last.

    Raises:
        SpaceError: one is unknown.
    """
    codes = sorted(map(code_of, choices), key=lambda code: (BITS[code], code <= WIDEST, code))
    return tuple(map(choice_of, codes))


def allowed(*, activations: bool = False) -> str:
    """The formats there are (for activations), for messages."""
    families: dict[str, list[str]] = {}
    for f in FORMATS[WIDEST + 1 :]:
        if f.activations or not activations:
            families.setdefault(f.scheme, []).append(f.name)
    names = [n[0] if len(n) == 1 else f"{n[0]} … {n[-1]}" for n in families.values()]
    return f"widths from 1 to {WIDEST}, {', '.join(names)}"
