"""The README's commands exist with the options it uses, and its space file loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from apq.cli import app
from apq.space import load_space

TEXT = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```(?:sh|console)\n(.*?)```", TEXT, flags=re.DOTALL))
LINES = re.findall(r"^(?:\$ \.venv/bin/)?(apq [a-z].*)$", BLOCKS, flags=re.MULTILINE)


@pytest.mark.parametrize("line", LINES)
def test_commands_exist_with_their_options(line):
    command = get_command(app)
    words = line.split("#")[0].split()[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    used = {w for w in words if w.startswith("--")}
    assert used <= known, used - known


def test_lines_were_found():
    assert len(LINES) >= 8


def test_the_space_file_loads(tmp_path):
    whole, resnet, bits = re.findall(r"```toml\n(.*?)```", TEXT, flags=re.DOTALL)
    path = tmp_path / "mine.toml"
    path.write_text(whole)
    space = load_space(str(path))
    assert space.slots[1].choices[1] == tuple(range(96, 200, 8))
    path.write_text(resnet)
    assert load_space(str(path)).axis("channels_1").choices == (24, 32)
    path.write_text(re.sub(r"\[bits\].*?\n\n", lambda _: bits + "\n", whole, flags=re.DOTALL))
    assert load_space(str(path)).family.bits.pw_w == ("ternary", "po2-4", 4, 8)


def test_shipped_data_belongs_together():
    """Supernet, samples, predictor and table are of one space, samples of that supernet."""
    from apq.hardware.lut import LookupTable
    from apq.hardware.pricing import price_space
    from apq.predictor import load_predictor
    from apq.samples import read_samples
    from apq.supernet import load_supernet

    root = Path(__file__).parents[1]
    space = load_space("cifar10")
    supernet = load_supernet(root / "data/cifar10/supernet.safetensors", space)
    seen = {}
    for kind, least in (("fp32", 5000), ("quantized", 500), ("test", 200)):
        samples = read_samples(root / "data/cifar10" / kind, space)
        assert samples.supernet == supernet.hash
        seen[kind] = {row.tobytes() for row in samples.genes}
        assert len(seen[kind]) == len(samples) >= least
        assert set(samples.precision) == {"fp32" if kind == "fp32" else "quantized"}
    assert not seen["test"] & seen["quantized"]
    load_predictor(root / "data/cifar10/predictor.safetensors", space)
    priced = price_space(space, LookupTable.read(root / "lut/bitfusion-apq-cifar10.csv"))
    assert {"latency_ms", "energy_mj"} <= set(priced.metrics)
