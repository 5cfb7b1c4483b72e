"""Choices that pay on a device, and files of spaces that keep only those."""

from __future__ import annotations

import numpy as np
import pytest
from commands import figures, run

from apq.errors import ApqError, SpaceError
from apq.hardware import load_cost_model, price_space
from apq.search.menus import keep_paying, worth
from apq.space import load_space
from apq.space.describe import space_file


@pytest.fixture(scope="module")
def digits():
    return load_space("digits")


@pytest.fixture(scope="module")
def slow_bits(digits):
    return price_space(digits, load_cost_model("bit-serial"))


@pytest.fixture(scope="module")
def no_bits(digits):
    return price_space(digits, load_cost_model("row-stationary"))


def test_worth_is_the_mean_capability_per_cost(no_bits):
    factor = no_bits.space.factors[0]
    dim = factor.axes.index(no_bits.space.place["b00_kernel"])
    cost = np.moveaxis(no_bits.tables["latency_ms"][0], dim, 0)
    macs = np.moveaxis(no_bits.tables["macs_m"][0], dim, 0)
    # parameters: the size at 8 bits everywhere
    size = np.moveaxis(no_bits.tables["size_mb"][0], dim, 0)[..., -1:, -1:, -1:, -1:]
    for k, figure in enumerate(worth(no_bits)["b00_kernel"]):
        by_hand = np.log(np.sqrt(macs[k] * size[k]) / cost[k]).mean()
        assert figure == pytest.approx(by_hand)


def test_formats_that_save_nothing_do_not_pay(slow_bits, no_bits):
    slow, even = (keep_paying(p, keep=1) for p in (slow_bits, no_bits))
    for slot in slow.slots:
        i = slow.place[f"{slot.name}_pw_w_bits"]
        assert [slow.axes[i].labels[c] for c in slow.allowed[i]] == [2]
        assert [even.axes[i].labels[c] for c in even.allowed[i]] == [8]
        assert even.allowed[even.place[f"{slot.name}_width"]] == digits_menu(slot, even)


def digits_menu(slot, space):
    return tuple(range(len(space.axis(f"{slot.name}_width").choices)))


def test_only_asked_genes_are_filtered_and_menus_keep_their_size(no_bits):
    kept = keep_paying(no_bits, keep=2, genes=["pw_a_bits"])
    changed = {a.attribute for a, free in zip(kept.axes, kept.free, strict=True) if not free}
    assert changed == {"pw_a_bits"}
    assert {len(m) for a, m in zip(kept.axes, kept.allowed, strict=True) if a.attribute in changed}
    with pytest.raises(ApqError, match=r"unknown gene of a block 'kernels'.*'kernel'"):
        keep_paying(no_bits, genes=["kernels"])
    with pytest.raises(ApqError, match="at least 1 choice"):
        keep_paying(no_bits, keep=0)


def test_a_file_holds_the_restriction(no_bits, tmp_path):
    kept = keep_paying(no_bits, keep=1)
    path = tmp_path / "kept.toml"
    path.write_text(space_file(kept), encoding="utf-8")
    again = load_space(str(path))
    assert again == kept
    assert again.fingerprint == no_bits.space.fingerprint  # its artefacts serve


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('restrict = "bits=8"', r"restrict must be a list of at most \d+ texts"),
        ("restrict = [8]", "restrict must be a list"),
        ('restrict = ["bits"]', r"restrict 'bits' is not NAME=VALUE"),
        ('restrict = ["kernel=4"]', r"kept.toml.*b00_kernel cannot be 4; allowed: 3, 5"),
        ('restrict = ["kernel=3", "b00_kernel=5"]', "contradicts an earlier one"),
    ],
)
def test_a_wrong_restriction_is_refused(line, words, digits, tmp_path):
    path = tmp_path / "kept.toml"
    path.write_text(f"{line}\n{space_file(digits)}", encoding="utf-8")
    with pytest.raises(SpaceError, match=words):
        load_space(str(path))


def test_the_command_writes_a_space_that_others_take(tmp_path):
    path = tmp_path / "kept.toml"
    words = ["--space", "digits", "--lut", "row-stationary", "--keep", 1, "--out", path]
    told = figures("space", "filter", *words)
    assert set(map(tuple, told["genes"].values())) >= {(8,)}
    assert "pw_w_bits 8" in run("space", "filter", *words)
    assert figures("space", "show", path)["candidates"] == told["candidates"]
    copy = tmp_path / "copy.toml"
    run("space", "show", path, "--out", copy)
    assert load_space(str(copy)) == load_space(str(path))
