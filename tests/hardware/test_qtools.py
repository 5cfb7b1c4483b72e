"""Two whole networks in four memories, as QTools prices them: quantized, int8 and fp32."""

import json
from dataclasses import dataclass

import pytest

from apq.hardware.horowitz import Horowitz, Operand, add_pj, mac, move_pj, multiply_pj
from apq.space import Layer
from apq.space.formats import code_of
from apq.space.layer import macs, out_side, to_array, weight_count


@dataclass(frozen=True)
class Node:
    """A layer of the two networks.

    ``does``: ``mac`` with its geometry, ``norm`` (power-of-two scale), ``act`` or ``view``.
    ``number`` is the type of a mac's weights or an act's outputs when quantized; without one the
    layer stays at the reference type.
    """

    name: str
    does: str
    elements: int = 0
    layer: Layer | None = None
    number: Operand | None = None
    bias_bits: int = 0


def dense(name, inputs, outputs, number=None, bias_bits=8):
    return Node(name, "mac", outputs, Layer("linear", inputs, outputs, 1, 1), number, bias_bits)


def conv(name, layer, number):
    pixels = int(out_side(layer.height, layer.stride)) ** 2
    return Node(name, "mac", pixels * layer.out_channels, layer, number)


def fixed(bits, signed=True):
    return Operand("fixed", bits, signed)


NETWORKS = {
    "hybrid_mlp": [
        dense("d0", 784, 300),
        Node("d0_act", "act", 300),
        dense("d1", 300, 100, fixed(4), bias_bits=4),
        Node("d1_qr4", "act", 100, number=fixed(4, signed=False)),
        dense("d2", 100, 10, fixed(4), bias_bits=4),
        Node("softmax", "act", 10),
    ],
    "mixed_conv": [
        conv("c0", Layer("conv", 3, 8, 16, 16, kernel=3), fixed(8)),
        Node("b0", "norm", 2048),
        Node("a0", "act", 2048, number=fixed(4, signed=False)),
        conv("dw1", Layer("conv", 8, 8, 16, 16, kernel=3, stride=2, groups=8), fixed(6)),
        Node("a1", "act", 512, number=fixed(4, signed=False)),
        conv("pw1", Layer("conv", 8, 16, 8, 8), Operand("ternary", 2)),
        Node("a2", "act", 1024, number=fixed(3, signed=False)),
        conv("c2", Layer("conv", 16, 16, 8, 8, kernel=3, stride=2), Operand("po2", 4, True, 0)),
        Node("a3", "act", 256, number=Operand("binary", 1)),
        conv("c3", Layer("conv", 16, 32, 4, 4, kernel=3), Operand("binary", 1)),
        Node("a4", "act", 512, number=fixed(8, signed=False)),
        Node("flat", "view", 512),
        dense("fc", 512, 10, fixed(8)),
    ],
}
"""Types follow from the sizes and operation energies that QTools reports; each of them is used in
four memory configurations."""

NORM_BITS = (6, 5, 5, 6)
"""Scale, shift, mean, variance of a quantized normalisation, powers of two."""


@pytest.fixture(scope="module")
def runs(shared):
    text = (shared / "reference/quantization/qtools_energy.json").read_text()
    return json.loads(text)["models"]


def energies(run):
    """Per layer: inputs, outputs, parameters and op_cost in pJ, and operations."""
    real = run["reference_internal"] == "fp32"
    narrow = Operand("float", 32) if real else fixed(8)
    wide = Operand("float", 32) if real else fixed(32)
    nodes = NETWORKS[run["model"]]

    def move(sizes, place):
        smallest, staged = run["min_sram_size"], run["rd_wr_on_io"]
        return sum(float(move_pj(n, place, "qtools-compat", smallest, staged)) for n in sizes)

    now, elements = fixed(8), {"hybrid_mlp": 784, "mixed_conv": 16 * 16 * 3}[run["model"]]
    for i, node in enumerate(nodes):
        given, before = now, elements
        reference = run["for_reference"] or node.number is None
        elements = node.elements
        vectors: list[int] = []
        operations, op_pj = elements, 0.0
        if node.does == "mac":
            row = to_array([node.layer])
            weight = narrow if reference else node.number
            fan_in = node.layer.in_channels // node.layer.groups * node.layer.kernel**2
            each = mac(weight, given, fan_in, bias=node.bias_bits > 0)
            vectors = [int(weight_count(row)[0]) * weight.bits]
            if node.bias_bits:
                vectors.append(
                    node.layer.out_channels * (narrow.bits if reference else node.bias_bits)
                )
            operations = int(macs(row)[0])
            if reference and not real:  # accumulated in 32 bits whatever the products need
                op_pj, now = operations * (each.multiply_pj + float(add_pj(32))), wide
            else:
                op_pj, now = operations * each.total_pj, fixed(each.accumulator_bits)
            now = wide if reference else now
        elif node.does == "norm" and run["for_reference"]:  # scale/deviation, times the input
            channels = nodes[i - 1].layer.out_channels
            op_pj, now = operations * 2 * (3.7 if real else float(multiply_pj(32))), wide
            vectors = [channels * narrow.bits] * 4
        elif node.does == "norm":  # difference of two exponents, then a shift
            channels = nodes[i - 1].layer.out_channels
            shift = mac(Operand("po2", max(NORM_BITS) + 1), given, 1, bias=True)
            op_pj = operations * (float(add_pj(max(NORM_BITS) + 1)) + shift.multiply_pj)
            now = fixed(shift.accumulator_bits)
            vectors = [channels * bits for bits in NORM_BITS]
        elif node.does == "act":
            now = wide if reference else node.number
        at_edge = "dram" if run["rd_wr_on_io"] else "sram"
        inside = run["activations_on_memory"]
        yield (
            node,
            {
                "inputs": move([before * given.bits], at_edge if i == 0 else inside),
                "outputs": move([elements * now.bits], at_edge if i == len(nodes) - 1 else inside),
                "parameters": move(vectors, run["weights_on_memory"]),
                "op_cost": op_pj,
            },
            operations,
        )


def test_there_is_every_run(runs):
    kinds = {(m["model"], m["config"], m["reference_internal"], m["for_reference"]) for m in runs}
    assert len(kinds) == len(runs) == 24


@pytest.mark.parametrize("index", range(24))
def test_energies_and_operations_of_a_whole_network(runs, index):
    """Every figure to the two decimals QTools prints, both totals to the last picojoule."""
    run = runs[index]
    total = everything = 0.0
    names = []
    for node, pj, operations in energies(run):
        told = run["layers"][node.name]
        names.append(node.name)
        assert operations == run["ops"][node.name], node.name
        for part, value in pj.items():
            assert value == pytest.approx(told[part], rel=1e-6, abs=0.00501), (node.name, part)
        if node.does == "act":
            counted = pj["outputs"]
        elif node.does == "norm":
            counted = pj["parameters"]
        else:
            counted = pj["inputs"] + pj["parameters"] + pj["op_cost"]
        assert counted == pytest.approx(told["counted"], rel=1e-6, abs=0.0151), node.name
        total += counted
        everything += sum(pj.values())
    assert names == list(run["layers"])
    assert int(total) == run["total"]
    assert int(everything) == run["total_cost_all"]


PRICED = (
    ("dw1", 6, 4, "fixed"),
    ("pw1", 2, 4, "ternary"),
    ("pw1", code_of("ternary"), 4, "fixed"),
    ("d2", 4, 4, "fixed"),
)
"""Layers whose types the cost model has: weight and activation format, kind of plain weights."""


@pytest.mark.parametrize(("name", "weight_bits", "activation_bits", "kind"), PRICED)
def test_the_cost_model_prices_qtools_layers(runs, name, weight_bits, activation_bits, kind):
    """The same layers through the interface that a search uses."""
    (node,) = (n for nodes in NETWORKS.values() for n in nodes if n.name == name)
    row = to_array([node.layer])
    row["weight_bits"], row["activation_bits"] = weight_bits, activation_bits
    quantized = [m for m in runs if name in m["layers"] and not m["for_reference"]]
    assert len(quantized) == 4
    for run in quantized:
        model = Horowitz(
            weight_kind=kind,
            weights_in=run["weights_on_memory"],
            activations_in=run["activations_on_memory"],
            bias_bits=node.bias_bits,
            memory="qtools-compat",
            min_sram_bits=run["min_sram_size"],
            staged=run["rd_wr_on_io"],
            count_outputs=False,
        )
        energy_pj = model.price(row)["energy_mj"][0] * 1e9
        assert energy_pj == pytest.approx(run["layers"][name]["counted"], rel=1e-6, abs=0.0151)
