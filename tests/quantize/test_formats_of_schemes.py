"""Number formats and the schemes behind them say the same; a candidate's formats pick schemes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mobilenet import block_genes, blocks_of

from apq.quantize import SCHEMES, find_scheme, layer_plan, quantize_subnet
from apq.space import FORMATS, PRESETS, BitChoices
from apq.space.formats import WIDEST, choice_of
from apq.space.layer import size_bits, to_array
from apq.supernet import Subnet

MADE_BY = {(f.scheme, f.bits): choice_of(code) for code, f in enumerate(FORMATS)}
NAMED = FORMATS[WIDEST + 1 :]


def test_every_scheme_can_be_offered_at_every_width():
    offered = {(f.scheme, f.bits) for f in NAMED}
    assert offered == {(n, bits) for n, make in SCHEMES.items() for bits in make().weight_bits}


@pytest.mark.parametrize("of", NAMED, ids=lambda f: f.name)
def test_a_format_is_what_its_scheme_makes(of):
    scheme = find_scheme(of.scheme)
    weight = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    assert of.operand == scheme.operand
    table = scheme.weights(weight, of.bits).pack(weight).table
    assert of.table == (0 if table is None else len(table))
    assert scheme.storage_bits(weight, of.bits) - weight.numel() * of.bits - 32 * of.table in (
        32 * 4, 32  # a scale per channel, or one
    )  # fmt: skip
    if of.activations:
        assert of.bits in scheme.activation_bits
    levels = scheme.weights(weight, of.bits).levels()[0].double()
    unit = levels.abs()[levels.abs() > 1e-9].min()
    whole = (levels / unit).round()
    fits = torch.allclose(levels / unit, whole, atol=1e-3)
    if not of.integer_bits:
        assert not fits
        return
    assert fits
    half = 2 ** (of.integer_bits - 1)  # two's complement, and no bit to spare
    assert whole.min() >= -half
    assert half // 2 <= whole.max() <= half - 1


def named_candidate():
    """A candidate of the digits space with every kind of weight, and its space."""
    weights = ("binary", "modified-binary", "ternary", "po2-4", "flightnn-8", "codebook-3",
               "mantissa-5", 4)  # fmt: skip
    bits = BitChoices(weights, (8, "mantissa-6"), weights, (4, 8))
    space = PRESETS["digits"]().with_(bits=bits)
    genes = (space.cardinalities - 1)[None].copy()
    blocks = block_genes(space, genes)
    blocks[0, :, 2] = np.arange(len(space.slots)) % len(weights)
    blocks[0, :, 4] = (np.arange(len(space.slots)) + 3) % len(weights)
    blocks[0, :, 3] = np.arange(len(space.slots)) % 2
    return space, space.build(space.canonical(genes)[0])


def test_a_candidates_formats_pick_the_scheme_of_every_layer_and_its_size():
    space, candidate = named_candidate()
    blocks = blocks_of(candidate)
    used = {b[name] for b in blocks for name in ("pw_w_bits", "dw_w_bits")}
    assert used == set(space.family.bits.pw_w)
    torch.manual_seed(0)
    images = torch.randn(16, 1, 8, 8)
    subnet = Subnet(space, candidate)
    model = quantize_subnet(subnet, subnet.graph, images, "haq")
    for layer, part in model.layers():
        if not layer.searched:
            assert (layer.weight_scheme, layer.activation_scheme) == ("", "")
            continue
        _, number, name = layer.name.split(".")
        block = blocks[int(number)]
        wanted = block["dw_w_bits" if name == "depthwise" else "pw_w_bits"]
        scheme = find_scheme(layer.weight_scheme or "haq")
        assert wanted == MADE_BY[layer.weight_scheme, layer.weight]
        alone = scheme.weights(part.weight.detach(), layer.weight)
        assert torch.equal(part.weights(part.weight), alone(part.weight)), layer
    by_layer = model.storage_bits()
    promised = size_bits(to_array(list(space.layers(candidate)))).tolist()
    kept = [n for n, layer in enumerate(model.plan) if layer.weight_scheme]
    assert len(kept) >= 10
    names = [layer.name for layer in model.plan]
    assert [by_layer[names[n]] for n in kept] == [promised[n] for n in kept]


def test_plain_widths_mean_what_the_scheme_asked_for_says():
    space, candidate = named_candidate()
    plan = layer_plan(space.graph_of(candidate))
    assert {layer.weight_scheme for layer in plan if layer.searched} == {
        "", "binary", "modified-binary", "ternary", "exponent", "flightnn", "codebook", "mantissa"
    }  # fmt: skip
    assert {layer.activation_scheme for layer in plan} == {"", "mantissa"}
    widths = space.with_(bits=BitChoices())
    plain = layer_plan(widths.graph_of(widths.build(widths.cardinalities - 1)))
    assert {(x.weight_scheme, x.activation_scheme) for x in plain} == {("", "")}
    assert choice_of(plain[3].weight) == 8
