"""How tensors are quantized: schemes, quantized subnets, and the short fine-tuning (torch).

A scheme is one file with a class of the shape of :class:`apq.quantize.base.Scheme`, and one line
in :data:`SCHEMES`; the contract tests in ``tests/quantize`` meet it there.
"""

from __future__ import annotations

from collections.abc import Callable

from apq.quantize.base import LayerBits, Packed, Scheme, layer_plan
from apq.quantize.codebook import Codebook
from apq.quantize.finetune import finetune
from apq.quantize.flightnn import FlightNN
from apq.quantize.levels import (
    binary_scheme,
    exponent_scheme,
    mantissa_scheme,
    modified_binary_scheme,
    ternary_scheme,
)
from apq.quantize.network import QuantizedSubnet, quantize_subnet
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

__all__ = [
    "SCHEMES", "LayerBits", "Packed", "QuantizedSubnet", "Scheme", "Uniform", "finetune",
    "layer_plan", "quantize_subnet",
]  # fmt: skip
