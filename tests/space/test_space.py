"""Genes, candidates, repair, encoding, fingerprints."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mobilenet import ATTRIBUTES, block_genes

from apq.errors import SpaceError
from apq.search.best import read_candidate
from apq.space import PRESETS, Candidate, Space, load_space

SPACES = {name: make() for name, make in PRESETS.items()}


def random_genes(space: Space, seed: int, count: int = 64) -> np.ndarray:
    """Genes in range, but neither canonical nor free of excluded combinations."""
    rng = np.random.default_rng(seed)
    return (rng.random((count, len(space.axes))) * space.cardinalities).astype(np.int16)


def reference_specs(folder) -> tuple[pd.DataFrame, np.ndarray]:
    """The priced candidates of the APQ project, as rows and as genes of our preset."""
    parts = [pd.read_parquet(folder / f"apq_specs_{n}.parquet") for n in ("1000", "corners")]
    specs = pd.concat(parts, ignore_index=True)
    space = SPACES["apq-imagenet"]
    columns = {
        f"depth_{s}": np.array([min(d[s], max(stage.depth)) for d in specs.d], float)
        for s, stage in enumerate(space.stages)
    }
    names = ("ks", "mid_channels", "pw_w_bits", "pw_a_bits", "dw_w_bits", "dw_a_bits")
    for i in range(len(space.slots)):
        for ours, theirs in zip(ATTRIBUTES, names, strict=True):
            columns[f"b{i:02d}_{ours}"] = np.array([v[i] for v in specs[theirs]], float)
    return specs, space.from_values(columns)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_candidates_and_genes_are_two_forms_of_one_thing(space, seed):
    genes = space.canonical(space.snap(random_genes(space, seed, 16)))
    candidates = [space.build(row) for row in genes]
    assert np.array_equal(space.genes(candidates), genes)
    assert np.array_equal(space.from_values(space.values(genes)), genes)
    assert [
        Candidate.from_dict(json.loads(json.dumps(c.to_dict()))) for c in candidates
    ] == candidates
    assert len(set(candidates)) == len(np.unique(genes, axis=0))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_repair_and_canonical_are_idempotent_and_leave_the_valid_alone(space, seed):
    raw = random_genes(space, seed)
    mended = space.snap(raw)
    assert space.is_valid(mended).all()
    assert np.array_equal(space.snap(mended), mended)
    good = space.is_valid(raw)
    assert np.array_equal(space.canonical(mended)[good], space.canonical(raw)[good])
    once = space.canonical(mended)
    assert np.array_equal(space.canonical(once), once)


def test_repair_changes_one_gene_of_a_forbidden_block():
    space = SPACES["apq-imagenet"]
    raw = random_genes(space, 0, 500)
    mended = space.snap(raw, canonical=False)
    before, after = block_genes(space, raw), block_genes(space, mended)
    changed = (before != after).sum(axis=2)
    assert changed.max() == 1
    assert changed.sum() > 0


def test_samples_are_valid_and_reach_every_choice():
    for space in SPACES.values():
        genes = space.sample(6000, np.random.default_rng(0))
        assert space.is_valid(genes).all()
        assert np.array_equal(space.canonical(genes), genes)
        for j, size in enumerate(space.cardinalities):
            assert len(np.unique(genes[:, j])) == size, space.axes[j].name


def test_a_small_space_is_counted_and_listed_alike(tiny_space):
    genes = tiny_space.every_candidate()
    assert len(genes) == tiny_space.count() == len({tiny_space.build(g) for g in genes})
    drawn = {tiny_space.build(g) for g in tiny_space.sample(500, np.random.default_rng(1))}
    assert drawn <= {tiny_space.build(g) for g in genes}


def test_apq_space_has_the_papers_size():
    space = SPACES["apq-imagenet"]
    assert len(space.slots) == 21
    assert (space.architecture_dims, space.encoding_dims, len(space.axes)) == (520, 772, 132)


def test_encoding_equals_the_published_one(shared):
    specs, genes = reference_specs(shared / "reference/apq")
    space = SPACES["apq-imagenet"]
    code = space.encode(genes)
    assert code.shape == (1036, 772)
    assert space.is_valid(genes).all()
    for row, hot in zip(code, specs.hot_indices, strict=True):
        assert np.array_equal(np.flatnonzero(row), np.sort(hot))


def test_geometry_gives_the_published_costs(shared):
    """Every layer must be found in the published table under its own key."""
    specs, genes = reference_specs(shared / "reference/apq")
    table = json.loads((shared / "reference/apq/bitfusion_b1_lut.json").read_text())
    space = SPACES["apq-imagenet"]
    for row, ms, mj in zip(genes, specs.latency_ms, specs.energy_mj, strict=True):
        keys = [
            f"({x.in_channels}, {x.out_channels}, {x.height}, {x.kernel}, {x.stride}, "
            f"{x.kernel // 2}, {x.groups})-W{x.weight_bits}A{x.activation_bits}"
            for x in space.layers(space.build(row))[3:-2]
        ]
        for figure, unit in ((ms, "latency"), (mj, "energy")):
            assert sum(table[k][unit] for k in ["head", "tail", *keys]) == pytest.approx(
                figure, rel=1e-12
            )


def test_no_candidates_have_an_empty_encoding():
    space = PRESETS["digits"]()
    none = space.sample(5, np.random.default_rng(0))[:0]
    assert space.encode(none).shape == (0, space.encoding_dims)


def test_encoding_moves_with_bits_alone_and_is_zero_for_skipped_blocks():
    space = SPACES["cifar10"]
    genes = space.sample(200, np.random.default_rng(3))
    flipped = genes.copy()
    column = next(j for j, a in enumerate(space.axes) if a.name == "b00_dw_a_bits")
    flipped[:, column] = (flipped[:, column] + 1) % 3
    difference = np.flatnonzero((space.encode(genes) != space.encode(flipped)).any(axis=0))
    assert difference.min() >= space.architecture_dims
    per_slot = space.encode(genes).sum(axis=1)
    assert np.array_equal(per_slot, 6 * space.active(genes).sum(axis=1))


def test_fingerprint_follows_content_not_name():
    space = SPACES["digits"]
    data = space.to_dict()
    assert Space.from_dict(data) == space
    assert Space.from_dict(data | {"name": "other"}).fingerprint == space.fingerprint
    assert Space.from_dict(data | {"head_channels": 72}).fingerprint != space.fingerprint
    other = Space.from_dict(data | {"head_channels": 72})
    with pytest.raises(SpaceError) as error:
        space.require_same(other, "mine", "theirs")
    lines = [line.split() for line in str(error.value).splitlines()]
    assert ["head_channels", "64", "72"] in lines
    assert not any("stem_channels" in line for line in lines)


def test_a_toml_file_is_a_space_and_its_errors_help(tmp_path):
    path = tmp_path / "mine.toml"
    text = """
name = "mine"
resolution = 16
classes = 4
stem_channels = 8
first_channels = 8
head_channels = 32

[bits]
pw_w = [2, 8]
pw_a = [8]
dw_w = [8]
dw_a = [4, 8]

[[stages]]
channels = 16
stride = 2
depth = [1, 2]
kernel = [3, 5]
expand = [2, 4]
width_step = 8

[[exclude]]
kernel = 5
dw_a_bits = 4
"""
    path.write_text(text)
    space = load_space(str(path))
    assert space.slots[1].choices[1] == (32, 40, 48, 56, 64)
    assert space.slots[0].choices[1] == (16, 24, 32)
    cases = {
        text.replace("resolution = 16", "resolutoin = 16"): "Did you mean 'resolution'?",
        text.replace("classes = 4\n", ""): "lacks classes",
        text.replace("classes = 4", 'classes = "4"'): "whole number",
        text.replace("kernel = [3, 5]", "kernel = [2, 5]"): "odd",
        text.replace("stride = 2", "stride = -2"): "1..8",
        text.replace("kernel = 5\ndw_a_bits = 4", "kernal = 5"): "Did you mean 'kernel'?",
        text.replace("kernel = 5\ndw_a_bits = 4", "pw_a_bits = 8"): "leaves nothing to choose",
        text + "[[[": "not valid TOML",
    }
    for broken, part in cases.items():
        path.write_text(broken)
        with pytest.raises(SpaceError) as error:
            load_space(str(path))
        assert part in str(error.value)
        assert str(path) in str(error.value)


def test_unknown_names_and_foreign_candidates_are_refused_with_what_exists():
    with pytest.raises(Exception, match=r"Did you mean 'cifar10'\?.*digits"):
        load_space("cifar1O")
    with pytest.raises(SpaceError, match=r"cannot read gone\.toml"):
        load_space("gone.toml")
    space = SPACES["digits"]
    some = space.build(space.sample(1, np.random.default_rng(0))[0])
    with pytest.raises(SpaceError, match=r"b00_kernel = 9 is not in space 'digits'.*\[3, 5\]"):
        space.genes([some.with_(b00_kernel=9)])
    with pytest.raises(SpaceError, match="chooses b77_kernel, which space 'digits' does not have"):
        space.genes([some.with_(b77_kernel=3)])
    with pytest.raises(SpaceError, match="lacks b00_kernel"):
        space.genes([Candidate.of({k: v for k, v in some.choices if k != "b00_kernel"})])
    shallow = space.build(space.cardinalities * 0)
    with pytest.raises(SpaceError, match="chooses b01_kernel, but its depths skip that block"):
        space.genes([shallow.with_(b01_kernel=3)])
    with pytest.raises(SpaceError, match="depth_1"):
        space.from_values({"depth_0": np.array([1.0])})


def test_candidates_are_read_from_files(tiny_space, tmp_path):
    candidate = tiny_space.build(tiny_space.sample(1, np.random.default_rng(0))[0])
    path = tmp_path / "best.json"
    for data in (candidate.to_dict(), {"candidate": candidate.to_dict(), "limits": {"macs_m": 3}}):
        text = json.dumps(data)
        path.write_text(text, encoding="utf-8-sig")
        found = read_candidate(path)
        assert (found.candidate, found.said) == (candidate, json.loads(text))
    broken = {
        "": "Expecting value",
        "[1]": "it is .1., must be a table",
        "{}": "it lacks candidate",
        '{"candidate": {"stages": []}}': "older version",
        '{"candidate": null}': "candidate is 'None', must be a table",
    }
    for text, message in broken.items():
        path.write_text(text)
        with pytest.raises(SpaceError, match=message):
            read_candidate(path)
    with pytest.raises(SpaceError, match="apq search"):
        read_candidate(tmp_path / "absent.json")
    with pytest.raises(SpaceError, match="cannot read"):
        read_candidate(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expand": (0.05, 2.0)}, r"expand x 8 input channels = 0\.4 … 16 .*at least 1"),
        ({"expand": (1.0, float("inf"))}, "expand.*finite"),
        ({"expand": (1.0, float("nan"))}, "expand.*finite"),
        ({"expand": (1.0, 1e9)}, "at most 65536 hidden channels"),
        ({"expand": (1.0, 8000.0), "width_step": 1}, "63993 widths must be at most 4096"),
        ({"kernel": (3, 10**6 + 1)}, "odd sizes up to 31"),
        ({"depth": (1, 10**6)}, "at most 64"),
        ({"channels": 10**9}, r"1\.\.65536"),
    ],
)
def test_what_would_eat_the_machine_is_refused_by_counting(tiny_space, change, message):
    first, *others = tiny_space.family.stages
    stages = (replace(first, **change), *others)
    with pytest.raises(SpaceError, match=message):
        tiny_space.with_(stages=stages)
    with pytest.raises(SpaceError, match="stages = 1000000 must be at most 64"):
        tiny_space.with_(stages=(first,) * 10**6)
