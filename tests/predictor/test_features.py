import numpy as np
import pytest

from apq.hardware.pricing import price_space
from apq.predictor.features import SpaceFeatures, one_hot, width
from apq.space import PRESETS, BitChoices, is_format
from apq.space.formats import stored_bits


@pytest.fixture(params=["tiny", "schemes", *PRESETS])
def space(request, tiny_space):
    if request.param == "schemes":
        weights = ("ternary", "po2-4", "codebook-3", 4, 8)
        bits = BitChoices(weights, (4, 8), weights, (8, "mantissa-5"))
        return tiny_space.with_(bits=bits, exclude=())
    return tiny_space if request.param == "tiny" else PRESETS[request.param]()


def column(features, groups, name, values):
    start = 0
    for group, size in groups:
        if group == name:
            return values[:, start : start + size]
        start += size
    raise KeyError(name)


def test_the_one_hot_part_is_the_spaces_encoding(space):
    genes = space.sample(50, np.random.default_rng(0))
    features = SpaceFeatures(space, smooth=False)
    inputs = features.inputs(genes)
    arch = one_hot(inputs.arch_hot, width(features.arch_hot_groups))
    bits = one_hot(inputs.bits_hot, width(features.bits_hot_groups))
    assert np.array_equal(np.concatenate([arch, bits], axis=1), space.encode(genes))
    assert inputs.arch.shape == inputs.bits.shape == (50, 0)


def test_groups_name_every_column(space):
    features = SpaceFeatures(space)
    inputs = features.inputs(space.sample(5, np.random.default_rng(0)))
    assert inputs.arch.shape == (5, width(features.arch_groups))
    assert inputs.bits.shape == (5, width(features.bits_groups))


def test_counts_are_those_the_space_is_priced_with(space):
    genes = space.sample(50, np.random.default_rng(1))
    features = SpaceFeatures(space)
    inputs = features.inputs(genes)
    priced = price_space(space)
    costs = priced.costs(genes)
    macs = np.exp(column(features, features.arch_groups, "counts", inputs.arch)[:, 0])
    product = column(features, features.bits_groups, "mean bits", inputs.bits)[:, 0]
    bitops = macs * np.exp(product)
    np.testing.assert_allclose(macs / 1e6, costs["macs_m"] - priced.fixed["macs_m"], rtol=1e-4)
    np.testing.assert_allclose(
        bitops / 1e9, costs["bitops_g"] - priced.fixed["bitops_g"], rtol=1e-4
    )


def test_bits_move_only_bit_columns(space):
    rng = np.random.default_rng(2)
    genes = space.sample(50, rng)
    moved = genes.copy()
    bits = [axis.is_format for axis in space.axes]
    moved[:, bits] = space.sample(50, rng)[:, bits]
    moved = space.canonical(moved)
    a, b = (SpaceFeatures(space).inputs(g) for g in (genes, moved))
    assert np.array_equal(a.arch, b.arch)
    assert np.array_equal(a.arch_hot, b.arch_hot)
    assert not np.array_equal(a.bits, b.bits)


def test_noise_is_summed_at_every_level(space):
    genes = space.sample(50, np.random.default_rng(4))
    features = SpaceFeatures(space)
    inputs, values = features.inputs(genes), space.values(genes)
    kinds = [name for name in space.attributes if is_format(name)]
    steps = np.zeros((50, len(space.slots), len(kinds)))
    for slot in space.slots:
        for k, kind in enumerate(kinds):
            if kind not in slot.attributes:
                continue
            axis = space.axis(f"{slot.name}_{kind}")
            coarsest = min(map(stored_bits, axis.labels))
            bits = np.array([stored_bits(value) for value in values[axis.name]])
            steps[:, slot.index, k] = np.nan_to_num(2.0 ** (coarsest - bits))

    def noise(name):
        return column(features, features.bits_groups, name, inputs.bits)

    stage = np.array([slot.stage for slot in space.slots])
    by_stage = np.stack([steps[:, stage == s].sum(axis=1) for s in range(stage[-1] + 1)], axis=1)
    np.testing.assert_allclose(noise("noise")[:, 0], steps.sum(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(noise("noise by kind"), steps.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(noise("noise by slot"), steps.sum(axis=2), rtol=1e-5)
    np.testing.assert_allclose(noise("noise by stage"), by_stage.sum(axis=2), rtol=1e-5)
    both = noise("noise by stage and kind").reshape(50, len(kinds), -1)
    np.testing.assert_allclose(both, by_stage.transpose(0, 2, 1), rtol=1e-5)


def test_genes_of_skipped_slots_do_not_matter(space):
    rng = np.random.default_rng(3)
    genes = (rng.random((50, len(space.axes))) * space.cardinalities).astype(np.int16)
    a, b = (SpaceFeatures(space).inputs(g) for g in (genes, space.canonical(genes)))
    for name in ("arch", "bits", "arch_hot", "bits_hot"):
        assert np.array_equal(getattr(a, name), getattr(b, name))


def test_genes_of_the_wrong_width_are_refused(tiny_space):
    with pytest.raises(ValueError, match=r"genes must have shape \(n, 20\) in space 'tiny'"):
        SpaceFeatures(tiny_space).inputs(np.zeros((4, 7), dtype=np.int16))
