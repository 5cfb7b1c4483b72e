"""The schemes, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from apq.errors import ApqError, choose
from apq.quantize.base import Scheme, require_bits
from apq.quantize.codebook import Codebook
from apq.quantize.flightnn import FlightNN
from apq.quantize.levels import (
    Levels,
    binary_scheme,
    exponent_scheme,
    mantissa_scheme,
    modified_binary_scheme,
    ternary_scheme,
)
from apq.quantize.mixed import Mixed
from apq.quantize.uniform import Uniform

SCHEMES: dict[str, Callable[[], Scheme]] = {
    "uniform": Uniform,
    "uniform-lsq": lambda: Uniform(activation_rule="lsq", learn_weight_step=True),
    "haq": lambda: Uniform(weight_range="kl", activation_rule="pact-kl"),
    "codebook": Codebook,
    "binary": binary_scheme,
    "modified-binary": modified_binary_scheme,
    "ternary": ternary_scheme,
    "exponent": exponent_scheme,
    "mantissa": mantissa_scheme,
    "flightnn": FlightNN,
}


def find_scheme(text: str) -> Scheme:
    """A scheme by name, or several by bitwidth: ``1=binary,2=ternary`` (others uniform), or
    ``haq,2=ternary`` to say what the others are. Schemes of few levels take a rule for their
    scales: ``ternary@po2`` for powers of two, ``ternary@-3`` for a constant 2^-3. FLightNN takes
    the strength with which filters are pushed to one power of two: ``flightnn@0.03``.

    Raises:
        ApqError: a name is unknown, or a scheme does not offer the bits or scales it is given.
    """
    rest, by_bits = "uniform", []
    for part in text.split(","):
        bits, equals, name = part.partition("=")
        if not equals:
            rest = part
            continue
        scheme = _one(name)
        if not bits.isdecimal():
            raise ApqError(
                f"scheme {part!r}: before the = stands a number of bits, as in 2=ternary"
            )
        require_bits(scheme, int(bits), scheme.weight_bits, "weights")
        by_bits.append((int(bits), scheme))
    chosen = _one(rest)
    return Mixed(tuple(by_bits), chosen) if by_bits else chosen


def _one(text: str) -> Scheme:
    """A scheme from ``name``, ``name@scale`` or ``flightnn@strength``."""
    name, at, scale = text.partition("@")
    scheme = SCHEMES[choose(name, SCHEMES, "scheme")]()
    if not at:
        return scheme
    if isinstance(scheme, FlightNN):
        return replace(scheme, strengths=(scheme.strengths[0], _strength(scale)))
    if not isinstance(scheme, Levels):
        known = [other for other, make in SCHEMES.items() if isinstance(make(), Levels)]
        raise ApqError(
            f"scheme {name!r} has no rule for scales; these have: {', '.join(known)}; flightnn has "
            "a strength, as in flightnn@0.03"
        )
    constant = scale.removeprefix("-").isdecimal()
    return replace(scheme, scale=int(scale) if constant else scale)


def _strength(text: str) -> float:
    """A group-lasso factor as typed."""
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not 0 <= strength < math.inf:
        raise ApqError(f"flightnn@{text}: the strength must be a number, 0 or above, e.g. 0.03")
    return strength
