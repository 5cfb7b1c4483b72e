"""Operation and memory energies against QTools, and what Horowitz published."""

import json
import math
import re

import numpy as np
import pytest

from apq.hardware.horowitz import Horowitz, Operand, add_pj, mac, move_pj, multiply_pj, sram_pj
from apq.space import Layer
from apq.space.layer import to_array


@pytest.fixture(scope="module")
def qtools(shared):
    return json.loads((shared / "reference/quantization/qtools_energy.json").read_text())


def operand(text):
    """A QKeras quantizer's number type."""
    if text in ("fp16", "fp32"):
        return Operand("float", int(text[2:]))
    if text == "binary(use_01)":
        return Operand("bit", 1, signed=False)
    if text in ("ternary", "binary"):
        return Operand(text, 2 if text == "ternary" else 1)
    numbers = [int(n) for n in re.findall(r"\d+", text.split("(")[1])]
    if "po2" in text:
        top = int(math.log2(numbers[1])) if len(numbers) > 1 else None
        return Operand("po2", numbers[0], "relu" not in text, top)
    return Operand("fixed", numbers[0], "relu" not in text)


def test_every_multiply_accumulate_of_qtools(qtools):
    rows = qtools["mac_table_kernel_3x3x64_no_bias"]
    assert len(rows) == 132
    for row in rows:
        got = mac(operand(row["weight"]), operand(row["input"]), 3 * 3 * 64)
        assert got.circuit == row["mode"], row
        assert got.gate_factor == row["gate_factor"], row
        assert got.gate_bits == pytest.approx(row["gate_bits"], rel=1e-12), row
        assert got.accumulator_bits == row["acc_bits"], row
        assert got.multiply_pj == pytest.approx(row["mul_pJ"], rel=1e-6), row
        assert got.total_pj == pytest.approx(row["mac_pJ"], rel=1e-6), row


def test_every_memory_access_of_qtools(qtools):
    rows = qtools["memory"]
    assert len(rows) == 48
    for row in rows:
        bits = math.prod(row["shape"]) * row["bits"]
        got = move_pj(bits, row["mode"], "qtools-compat", row["min_sram_size"], row["rd_wr_on_io"])
        assert float(got) == pytest.approx(row["read_pJ"], rel=1e-6), row


def test_horowitz_published_figures():
    assert float(multiply_pj(8)) == pytest.approx(0.2, rel=1e-6)
    assert float(multiply_pj(32)) == pytest.approx(3.1, rel=1e-6)
    assert float(add_pj(32)) == pytest.approx(0.1)
    for kilobytes, pj in ((8, 10), (32, 20), (1024, 100)):  # per 64-bit access
        bits = kilobytes * 1024 * 8
        assert float(sram_pj(bits)) / bits * 64 == pytest.approx(pj)


def test_qtools_sram_is_64_times_below_the_physical_one():
    for kilobytes in (8, 32, 1024):
        bits = kilobytes * 1024 * 8
        ratio = float(sram_pj(bits)) / float(sram_pj(bits, "qtools-compat"))
        assert ratio == pytest.approx(64, rel=1e-3)


def test_cheaper_number_types_cost_less():
    layer = to_array([Layer("conv", 32, 64, 16, 16, weight_bits=4, activation_bits=8)])
    kinds = ("float", "fixed", "po2", "ternary", "binary")
    energies = []
    for kind in kinds:
        bits = 16 if kind == "float" else 4
        row = layer.copy()
        row["weight_bits"] = bits
        energies.append(Horowitz(weight_kind=kind, weights_in="fixed").price(row)["energy_mj"][0])
    assert energies == sorted(energies, reverse=True)


def test_energy_adds_up_by_hand():
    layer = to_array([Layer("conv", 16, 32, 8, 8, weight_bits=8, activation_bits=8)])
    model = Horowitz(weights_in="dram", activations_in="fixed", staged=False)
    accumulator = 7 + 8 + 1 + 5  # product of signed and unsigned 8 bits, 16 summands and a bias
    by_hand = 8 * 8 * 16 * 32 * (0.2 + 0.003125 * accumulator) + (16 * 32 * 8 + 32 * 32) * 20.3125
    np.testing.assert_allclose(model.price(layer)["energy_mj"], by_hand / 1e9, rtol=1e-8)
