"""Published once-for-all weights, against what the projects they come from answer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from commands import figures
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from apq.cli import app
from apq.errors import ModelError
from apq.samples import table_columns
from apq.space import PRESETS, Candidate, MobileNetV2, Space, Stage
from apq.space.families import MobileNetV3, V3Stage
from apq.space.families.base import divisible
from apq.space.layer import macs, to_array
from apq.space.presets import SCALED
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
    epsilon = 1e-3 if name == "ofa" else None  # which importing fills in
    return Space(MobileNetV2(name, 64, 10, stages, 3, 16, 2, 8, head, norm_epsilon=epsilon))


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
    network = import_published(path, space_of(name))
    space = network.space
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
        counted = table_columns(space, space.genes([candidate]), "fp32")
        assert (counted["macs"], counted["params"]) == ([case["macs"]], [case["params"]])


@pytest.mark.parametrize("name", FILES)
def test_recalibrated_subnets_answer_alike(name, shared):
    """With statistics of other images the epsilon of batch norm counts."""
    path = shared / "reference" / f"{FILES[name][0]}.safetensors"
    cases = json.loads(path.with_name(path.stem + "_golden.json").read_text())["subnets"]
    cases = [case for case in cases if "logits_after_bn_calibration" in case]
    network = import_published(path, space_of(name))
    arrays = np.load(shared / "reference/ofa/inputs.npz")
    x, *batches = (torch.from_numpy(arrays[key]) for key in ("x", "calib0", "calib1"))
    assert len(cases) == 6
    for case in cases:
        subnet = network.subnet(candidate_of(network.space, case))
        with torch.no_grad():
            calibrate_as_they_do(subnet, batches)
            wanted = torch.tensor(case["logits_after_bn_calibration"])
            torch.testing.assert_close(subnet(x), wanted, rtol=0, atol=2e-4)


def calibrate_as_they_do(net: nn.Module, batches: list[torch.Tensor]) -> None:
    """Means over batches, by their size, of means and biased variances within them."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    seen: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {m: [] for m in norms}

    def note(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), unbiased=False)
        seen[norm].append((mean, variance))

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    net.train()
    for batch in batches:
        net(batch)
    net.eval()
    for hook in hooks:
        hook.remove()
    shares = torch.tensor([float(len(batch)) for batch in batches])
    for norm, found in seen.items():
        means, variances = (torch.stack(part) for part in zip(*found, strict=True))
        norm.running_mean.copy_((shares[:, None] * means).sum(0) / shares.sum())
        norm.running_var.copy_((shares[:, None] * variances).sum(0) / shares.sum())


def fake(space: Space) -> dict[str, torch.Tensor]:
    """A checkpoint with their names and made-up weights."""
    from apq.supernet.supernet import Supernet

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
    told = figures("import-ofa", path, "--space", toml, "--out", out)
    assert told == {"supernet": out.as_posix(), "fingerprint": space.fingerprint}
    loaded = load_supernet(out, space)
    assert all(m.eps == 1e-3 for m in loaded.network.modules() if isinstance(m, nn.BatchNorm2d))
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
    assert space.axis("resolution").choices == (128, 160, 192, 224)
    architectures = 4 * (9**2 + 9**3 + 9**4) ** 5 * 9
    assert space.restrict("bits=8").count() == architectures


def test_a_presets_channels_are_multiplied_as_published():
    shapes = {
        ("ofa-proxyless", 1.3): (40, 24, 32, 416, 1664),
        ("ofa-proxyless", 0.35): (16, 8, 8, 112, 448),
        ("ofa-mobilenet-v3", 1.2): (24, 24, 32, 192, 1152),
        ("ofa-mobilenet-v3", 0.25): (8, 8, 8, 40, 240),
        ("apq-imagenet", 0.35): (16, 8, 8, 112, 1280),
    }  # fmt: skip
    for (name, factor), channels in shapes.items():
        family = SCALED[name](factor).family
        last = family.head_channels if isinstance(family, MobileNetV2) else family.last_channels
        ends = family.stages[0].channels, family.stages[-1].channels
        assert (family.stem_channels, family.first_channels, *ends, last) == channels
    for name, make in SCALED.items():
        assert make(1.0) == PRESETS[name]()


def test_only_presets_are_multiplied(tmp_path):
    words = ["import-ofa", "w.pth", "--space", "mine.toml", "--width-mult", "1.3"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "--width-mult is for the presets" in result.output
