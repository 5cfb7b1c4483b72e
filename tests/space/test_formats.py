"""Number formats on bit axes: names, order, round trips, and what existing spaces keep."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mobilenet import blocks_of

from apq.errors import SpaceError
from apq.search.best import read_candidate
from apq.space import FORMATS, PRESETS, BitChoices, Candidate, Space
from apq.space.files import load_space
from apq.space.formats import BITS, WIDEST, choice_of, code_of
from apq.space.layer import bitops, macs, size_bits, to_array, weight_count

DATA = Path(__file__).parents[2] / "data"
CODES = range(1, len(FORMATS))
ACTIVATIONS = [code for code in CODES if FORMATS[code].activations]


def choices(codes) -> st.SearchStrategy[list[int | str]]:
    """A bit axis: one to four different formats in any order, widths as digits now and then."""
    listed = st.lists(st.sampled_from(list(codes)), min_size=1, max_size=4, unique=True)
    return listed.map(lambda codes: [choice_of(c) for c in codes])


@st.composite
def named_spaces(draw) -> Space:
    """A small space whose axes offer what the strategy likes."""
    bits = BitChoices(*(tuple(draw(choices(of))) for of in (CODES, ACTIVATIONS) * 2))
    return PRESETS["digits"]().with_(name="drawn", bits=bits)


@settings(max_examples=40, deadline=None)
@given(space=named_spaces(), seed=st.integers(0, 2**32 - 1))
def test_candidates_of_any_formats_survive_every_form(space, seed):
    genes = space.sample(8, np.random.default_rng(seed))
    candidates = [space.build(row) for row in genes]
    texts = [json.dumps(c.to_dict()) for c in candidates]
    assert [Candidate.from_dict(json.loads(text)) for text in texts] == candidates
    assert np.array_equal(space.genes(candidates), genes)
    frame = pd.DataFrame(space.values(genes))
    columns = {name: frame[name].to_numpy() for name in frame}
    assert np.array_equal(space.from_values(columns), genes)
    assert np.array_equal(space.encode(genes).sum(axis=1), 6 * space.active(genes).sum(axis=1))
    again = Space.from_dict(json.loads(json.dumps(space.to_dict())))
    assert (again, again.fingerprint) == (space, space.fingerprint)


@settings(max_examples=20, deadline=None)
@given(space=named_spaces(), seed=st.integers(0, 2**32 - 1))
def test_counts_use_stored_bits(space, seed):
    candidate = space.build(space.sample(1, np.random.default_rng(seed))[0])
    layers = to_array(list(space.layers(candidate)))
    formats = [
        (FORMATS[code_of(w)], FORMATS[code_of(a)])
        for b in blocks_of(candidate)
        for kind in ("pw", "dw", "pw")
        for w, a in [(b[f"{kind}_w_bits"], b[f"{kind}_a_bits"])]
    ]
    rows = layers[3:-2]
    by_hand = [int(n) * w.bits * a.bits for n, (w, a) in zip(macs(rows), formats, strict=True)]
    assert bitops(rows).tolist() == by_hand
    weights = zip(weight_count(rows), rows["out_channels"], formats, strict=True)
    tables = {f"codebook-{b}": 32 * 2**b for b in range(1, 9)}
    tables |= {f"po2-{b}": 32 * (2**b - 1) for b in range(2, 6)}
    tables |= {"flightnn-4": 32 * 15, "flightnn-8": 32 * 79}
    assert size_bits(rows).tolist() == [
        int(n) * w.bits + tables.get(w.name, 0) + 64 * int(out) for n, out, (w, _) in weights
    ]


@pytest.mark.parametrize("code", CODES, ids=lambda code: FORMATS[code].name)
def test_every_format_has_one_name_and_one_code(code):
    choice = choice_of(code)
    assert code_of(choice) == code_of(str(choice)) == code
    assert isinstance(choice, int) == (code <= WIDEST)
    assert len({f.name for f in FORMATS}) == len(FORMATS)


def test_what_is_no_format_is_refused_with_the_nearest():
    for wrong, part in {
        "ternery": "Did you mean 'ternary'", "po2-7": "po2-2 … po2-5", 33: "widths from 1 to 32",
        0: "unknown number format 0", True: "unknown", 4.0: "unknown", "-": "unknown",
    }.items():  # fmt: skip
        with pytest.raises(SpaceError) as error:
            code_of(wrong)
        assert part in str(error.value)


TOML = """
name = "mine"
resolution = 8
classes = 4

[bits]
pw_w = [4, 8, "ternary", "po2-4"]
pw_a = ["8", 4]
dw_w = ["binary", 8]
dw_a = ["mantissa-5", 8]

[[stages]]
channels = 16
stride = 2
depth = [1, 2]
kernel = [3, 5]
expand = [2, 4]

[[exclude]]
kernel = 5
pw_w_bits = "ternary"
"""


def test_a_toml_file_offers_schemes_beside_widths_in_any_order(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    space = load_space(str(path))
    assert space.family.bits == BitChoices(
        ("ternary", "po2-4", 4, 8), (4, 8), ("binary", 8), ("mantissa-5", 8)
    )
    assert [space.axes[i].named for i in range(1, 7)] == [False, False, True, False, True, True]
    path.write_text(TOML.replace('[4, 8, "ternary", "po2-4"]', '["po2-4", "ternary", 8, "4"]'))
    assert load_space(str(path)).fingerprint == space.fingerprint
    genes = space.sample(400, np.random.default_rng(0))
    blocks = [b for row in genes for b in blocks_of(space.build(row))]
    assert {b["pw_w_bits"] for b in blocks if b["kernel"] == 5} == {"po2-4", 4, 8}
    assert {b["pw_w_bits"] for b in blocks if b["kernel"] == 3} == {"ternary", "po2-4", 4, 8}
    named = next(b for b in blocks if b["dw_w_bits"] == "binary" and b["pw_w_bits"] == "ternary")
    told = str(Candidate.of({f"b00_{name}": choice for name, choice in named.items()}))
    assert told.startswith(f"b00 k3 w{named['width']} bternary/{named['pw_a_bits']}/binary/")


def test_errors_of_a_file_name_the_field_and_what_it_may_be(tmp_path):
    path = tmp_path / "mine.toml"
    for old, new, parts in (
        ('"ternary", "po2-4"', '"ternery"', ["bits.pw_w[2]", "Did you mean 'ternary'"]),
        ('pw_a = ["8", 4]', "pw_a = [8.5]", ["bits.pw_a[0]", "8.5"]),
        ('pw_a = ["8", 4]', 'pw_a = ["po2-4"]', ["bits.pw_a", "is one of weights", "mantissa-2"]),
        ('"ternary", "po2-4"', '"4"', ["bits.pw_w", "distinct"]),
        ('pw_w_bits = "ternary"', 'pw_w_bits = "tern"', ["exclude[0].pw_w_bits", "'ternary'"]),
    ):
        path.write_text(TOML.replace(old, new))
        with pytest.raises(SpaceError) as error:
            load_space(str(path))
        for part in (str(path), *parts):
            assert part in str(error.value)
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"depth_0": 1, "b00_pw_w_bits": "ternery"}))
    with pytest.raises(SpaceError, match="b00_pw_w_bits: unknown number format 'ternery'"):
        read_candidate(path)


def test_values_outside_an_axis_are_refused_by_name():
    space = Space.from_dict(PRESETS["digits"]().to_dict() | {"bits": {"pw_w": [8, "ternary"]}})
    candidate = space.build(space.sample(1, np.random.default_rng(0))[0])
    other = candidate.with_(b00_pw_w_bits="binary")
    with pytest.raises(SpaceError, match=r"b00_pw_w_bits = binary .* \['ternary', 8\]"):
        space.genes([other])
    columns = space.values(space.sample(3, np.random.default_rng(0)))
    columns["b00_pw_w_bits"] = np.array(["8", "4", "8"], dtype=object)
    with pytest.raises(SpaceError, match="row 1: b00_pw_w_bits = 4 is not"):
        space.from_values(columns)
    del columns["b00_pw_w_bits"]  # absent: the highest, which is the plain width
    assert {space.build(g)["b00_pw_w_bits"] for g in space.from_values(columns)} == {8}


PINNED = {
    "digits": ("9b1bfbdd19cb6dd2", "4a539e6de3f0"),
    "cifar10": ("8ef34205e4456648", "6a146718715f"),
    "apq-imagenet": ("f0bf33a305fb1579", "89a22b5c9e5d"),
}
"""Fingerprint, and hash of the encodings of fifty candidates, before axes had names."""


@pytest.mark.parametrize("name", PINNED)
def test_spaces_of_widths_keep_fingerprint_encoding_and_columns(name):
    space = PRESETS[name]()
    genes = space.sample(50, np.random.default_rng(0))
    code = hashlib.sha256(space.encode(genes).tobytes()).hexdigest()[:12]
    assert (space.fingerprint, code) == PINNED[name]
    assert not any(axis.named for axis in space.axes)
    assert {column.dtype for column in space.values(genes).values()} == {np.dtype(np.float64)}
    bits = [axis.choices for axis in space.axes if axis.is_format]
    assert all(BITS[list(c)].tolist() == list(c) for c in bits)


@pytest.mark.parametrize("part", ["fp32", "quantized"])
def test_shipped_samples_are_read_as_ever(part):
    from apq.samples import read_samples, schema

    samples = read_samples(DATA / "cifar10" / part, load_space("cifar10"))
    assert samples.space.fingerprint == PINNED["cifar10"][0]
    columns = pd.read_parquet(DATA / "cifar10" / part)
    assert list(columns.columns) == schema(samples.space).names
    known = samples.space.values(samples.genes)
    for axis in samples.space.axes:
        stored = columns[axis.name].to_numpy(np.float64)
        there = ~np.isnan(stored)
        assert np.array_equal(known[axis.name][there], stored[there])
