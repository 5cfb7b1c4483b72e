"""``apq space show``."""

from __future__ import annotations

import pytest
from commands import figures
from typer.testing import CliRunner

from apq.cli import app
from apq.space import PRESETS, load_space


def shown(*words: str) -> str:
    result = CliRunner().invoke(app, ["space", "show", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", PRESETS)
def test_a_space_printed_as_toml_is_the_space(name, tmp_path):
    path = tmp_path / "copy.toml"
    shown(name, "--out", str(path))
    assert load_space(str(path)) == PRESETS[name]()


def test_genes_nodes_and_sizes_are_said_in_words():
    text = shown("cifar10-resnet", "--nodes")
    assert "family resnet, images 32x32x3, 10 classes" in text
    assert "channels_2: 48, 64" in text
    assert "b00, b01: kernel 3; width 8, 12, 16; w_bits 4, 6, 8; a_bits 4, 6, 8" in text
    assert "blocks.1.conv1: conv kernel b01_kernel b01_width relu <- blocks.0.add" in text
    assert "if depth_0 in [2]" in text
    text = shown("apq-imagenet")
    assert "b01, b02, b03, b04: kernel 3, 5, 7; width 96 … 144 in steps of 8" in text
    assert "never together: kernel 7, dw_a_bits 4" in text


def test_json_holds_every_gene():
    told = figures("space", "show", "cifar10-chain")
    space = load_space("cifar10-chain")
    assert told["candidates"] == space.count()
    assert [*told["genes"]] == [axis.name for axis in space.axes]
    assert told["largest"]["macs_m"] == pytest.approx(12.69824)
