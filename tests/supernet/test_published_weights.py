"""Published once-for-all weights, against what the projects they come from answer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from apq.cli import app
from apq.errors import ModelError
from apq.space import PRESETS, Candidate, MobileNetV2, Space, Stage
from apq.space.families import MobileNetV3, V3Stage
from apq.space.families.base import divisible
from apq.space.layer import macs, to_array
from apq.supernet import load_supernet
from apq.supernet.published import import_published, ours

FILES = {
    "ofa": ("ofa/ofa_proxyless_w035", (3, 4, 6), 0, 448),
    "apq": ("apq/apq_proxyless_w035", (4, 6), 8, 1280),
    "v3": ("ofa/ofa_mbv3_w025", (3, 4, 6), 0, 320),
}


def space_of(name: str) -> Space:
    """The network of a reference file: width 0.35, ten classes, 64 pixels."""
    _, expand, step, head = FILES[name]
    if name == "v3":
        kinds = (
            ("relu", False),
            ("relu", True),
            ("hswish", False),
            ("hswish", True),
            ("hswish", True),
        )
        sizes = zip((8, 16, 24, 32, 40), (2, 2, 2, 1, 2), kinds, strict=True)
        stages = tuple(V3Stage(c, s, (2, 3, 4), (3, 5, 7), expand, *kind) for c, s, kind in sizes)
        return Space(MobileNetV3(name, 64, 10, stages, 3, 8, 2, 8, 240, head))
    strides, channels = (2, 2, 2, 1, 2, 1), (8, 16, 32, 32, 64, 112)
    depths = [(2, 3, 4)] * 5 + [(1,)]
    stages = tuple(
        Stage(c, s, d, (3, 5, 7), expand, step)
        for c, s, d in zip(channels, strides, depths, strict=True)
    )
    return Space(MobileNetV2(name, 64, 10, stages, 3, 16, 2, 8, head))


def candidate_of(space: Space, case: dict) -> Candidate:
    """A reference's setting as a candidate."""
    setting = case["setting"]
    depths = [min(d, max(stage.depth)) for d, stage in zip(setting["d"], space.stages, strict=True)]
    chosen = {f"depth_{s}": d for s, d in enumerate(depths)}
    for slot in space.slots:
        if slot.position >= depths[slot.stage]:
            continue
        before = space.graph.in_channels(space.block(slot)[0])
        chosen[f"{slot.name}_kernel"] = setting["ks"][slot.index]
        chosen[f"{slot.name}_width"] = divisible(round(before * setting["e"][slot.index]))
        chosen |= {f"{slot.name}_{n}_bits": 8 for n in ("pw_w", "pw_a", "dw_w", "dw_a")}
    return Candidate.of(chosen)


@pytest.mark.parametrize("name", FILES)
def test_every_golden_subnet_answers_alike(name, shared):
    path = shared / "reference" / f"{FILES[name][0]}.safetensors"
    cases = json.loads(path.with_name(path.stem + "_golden.json").read_text())["subnets"]
    space = space_of(name)
    network = import_published(path, space)
    x = torch.from_numpy(np.load(shared / "reference/ofa/inputs.npz")["x"])
    assert len(cases) >= 20
    for case in cases:
        candidate = candidate_of(space, case)
        space.genes([candidate])
        wanted = torch.tensor(case["logits"])
        with torch.no_grad():
            inside = network(x, candidate)
            subnet = network.subnet(candidate).eval()
            alone = subnet(x)
        torch.testing.assert_close(inside, wanted, rtol=0, atol=1e-4)
        torch.testing.assert_close(alone, wanted, rtol=0, atol=1e-4)
        layers = to_array(list(space.layers(candidate)))
        assert int(macs(layers).sum()) == case["macs"]
        assert sum(p.numel() for p in subnet.parameters()) == case["params"]


def fake(space: Space) -> dict[str, torch.Tensor]:
    """A checkpoint with their names and made-up weights."""
    from apq.supernet.network import Supernet

    state = Supernet(space).state_dict()
    theirs = {}
    for name, tensor in state.items():
        if name.startswith("blocks."):
            _, index, part, *rest = name.split(".")
            head = f"blocks.{int(index) + 1}.mobile_inverted_conv"
            if part == "transforms":
                theirs[f"{head}.depth_conv.conv.{rest[0]}_matrix"] = tensor
                continue
            layer = {"expand": "inverted_bottleneck", "depthwise": "depth_conv",
                     "project": "point_linear"}[part]  # fmt: skip
            theirs[f"{head}.{layer}.{rest[0]}.{rest[0]}.{rest[1]}"] = tensor
        else:
            for a, b in (("stem", "first_conv"), ("head", "feature_mix_layer"),
                         ("classifier", "classifier.linear"),
                         ("first.0", "blocks.0.conv.depth_conv"),
                         ("first.1", "blocks.0.conv.point_linear")):  # fmt: skip
                if name.startswith(a):
                    theirs[b + name.removeprefix(a)] = tensor
    return {k: v.clone() for k, v in theirs.items()}


def test_our_names_cover_a_whole_network_in_either_spelling():
    space = space_of("ofa")
    theirs = fake(space)
    assert len({ours(name, MobileNetV2) for name in theirs} - {None}) == len(theirs)
    assert (
        ours("blocks.3.conv.depth_conv.conv.7to5_matrix", MobileNetV3) == "blocks.2.transforms.7to5"
    )
    assert ours("blocks.3.depth_conv.conv.weight", MobileNetV2) is None


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_the_command_writes_a_supernet_that_loads(tmp_path, suffix):
    space = space_of("ofa")
    path, toml, out = (tmp_path / n for n in (f"w.{suffix}", "s.toml", "out/net.safetensors"))
    weights = fake(space)
    if suffix == "pth":
        torch.save({"state_dict": weights}, path)
    else:
        save_file(weights, path)
    from apq.space.describe import to_toml

    toml.write_text(to_toml(space.to_dict()))
    words = ["import-ofa", str(path), "--space", str(toml), "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    loaded = load_supernet(out, space)
    assert loaded.metadata["imported"] == path.name
    assert torch.equal(loaded.network.state_dict()["head.conv.weight"],
                       weights["feature_mix_layer.conv.weight"])  # fmt: skip


def test_keys_that_do_not_fit_are_listed(tmp_path):
    space = space_of("ofa")
    weights = fake(space)
    del weights["first_conv.conv.weight"]
    weights["classifier.linear.weight"] = torch.zeros(7, 3)
    weights["surprise"] = torch.zeros(1)
    path = tmp_path / "w.safetensors"
    save_file(weights, path)
    with pytest.raises(ModelError) as error:
        import_published(path, space)
    for part in ("1 are missing: stem.conv.weight", "1 belong to nothing in it: surprise",
                 "classifier.weight has the shape [7, 3], not [10, 448]"):  # fmt: skip
        assert part in str(error.value)
    with pytest.raises(ModelError, match="of another family"):
        import_published(path, PRESETS["cifar10-chain"]())


def test_files_of_more_than_weights_are_never_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("unpickled",))

    path = tmp_path / "w.pth"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(ModelError, match="no file of weights alone"):
        import_published(path, space_of("ofa"))
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="holds no table of tensors"):
        import_published(path, space_of("ofa"))
    with pytest.raises(ModelError, match="there is no checkpoint"):
        import_published(tmp_path / "absent.pth", space_of("ofa"))


def test_the_published_space_is_that_of_the_paper():
    space = PRESETS["ofa-proxyless"]()
    assert len(space.slots) == 21
    assert space.axis("b00_width").choices == (48, 64, 96)
    assert space.axis("b20_width").choices == (576, 768, 1152)
    architectures = (9**2 + 9**3 + 9**4) ** 5 * 9
    assert space.restrict("bits=8").count() == architectures
