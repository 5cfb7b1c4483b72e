"""Quantization: schemes, quantized subnets, and the short fine-tuning (torch).

A scheme is one file with a class that implements :class:`apq.quantize.base.Scheme`, and one line
in :data:`apq.quantize.schemes.SCHEMES`, over which the contract tests in ``tests/quantize`` run.
"""

from apq.quantize.base import LayerBits, Packed, Scheme, layer_plan
from apq.quantize.finetune import finetune
from apq.quantize.network import QuantizedSubnet, quantize_subnet
from apq.quantize.schemes import SCHEMES, find_scheme
from apq.quantize.uniform import Uniform

__all__ = [
    "SCHEMES", "LayerBits", "Packed", "QuantizedSubnet", "Scheme", "Uniform", "find_scheme",
    "finetune",
    "layer_plan", "quantize_subnet",
]  # fmt: skip
