"""The elastic network, its subnets, and the layers that are priced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from apq.errors import ModelError, SpaceError
from apq.space import PRESETS, Layer
from apq.supernet import Subnet, Supernet, largest, load_supernet, save_supernet, smallest
from apq.supernet.elastic import pixelwise, resized

SPACES = {name: make() for name, make in PRESETS.items()}


def lively(network: Supernet, seed: int = 0) -> Supernet:
    """Weights, statistics and kernel transforms away from their neutral start."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        for name, parameter in network.named_parameters():
            if "transforms" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_a_subnet_computes_what_the_supernet_does(name):
    space = SPACES[name]
    network = lively(Supernet(space))
    x = torch.randn(2, space.in_channels, space.resolution, space.resolution)
    rows = space.sample(12, np.random.default_rng(0))
    with torch.no_grad():
        for candidate in [largest(space), smallest(space), *map(space.build, rows)]:
            torch.testing.assert_close(
                network.subnet(candidate)(x), network(x, candidate), atol=1e-5, rtol=0
            )


def test_sorting_channels_keeps_the_largest_and_orders_the_rest():
    space = SPACES["digits"]
    network = lively(Supernet(space))
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        before, small = network(x, largest(space)), network(x, smallest(space))
        network.sort_channels()
        torch.testing.assert_close(network(x, largest(space)), before, atol=1e-5, rtol=0)
        assert not torch.allclose(network(x, smallest(space)), small, atol=1e-3)
    for slot in space.slots:
        weight = network.get_parameter(f"blocks.{slot.index}.project.conv.weight")
        norms = weight.abs().sum((0, 2, 3))
        assert bool((norms[:-1] >= norms[1:]).all())


def test_smaller_kernels_go_through_the_chain_of_learned_transforms():
    space = SPACES["cifar10"]
    network = lively(Supernet(space))
    block = network.get_submodule("blocks.0")
    node = space.graph.by_name["blocks.0.depthwise"]
    full = block.depthwise.conv.weight.detach()
    m75, m53 = block.transforms["7to5"].detach(), block.transforms["5to3"].detach()
    five = (full[:, 0, 1:6, 1:6].reshape(-1, 25) @ m75.T).reshape(-1, 5, 5)
    three = (five[:, 1:4, 1:4].reshape(-1, 9) @ m53.T).reshape(-1, 3, 3)

    def cut(kernel: int, width: int) -> torch.Tensor:
        resolved = replace(node, kernel=kernel, channels=width, groups=width)
        return network.weight(resolved, {node.channels: width})

    with torch.no_grad():
        torch.testing.assert_close(cut(7, 96), full)
        torch.testing.assert_close(cut(5, 40)[:, 0], five[:40])
        torch.testing.assert_close(cut(3, 96)[:, 0], three)


def layers_that_run(net: nn.Module, x: torch.Tensor) -> list[tuple[int, ...]]:
    """Shapes of every convolution and linear layer, in the order torch runs them."""
    seen: list[tuple[int, ...]] = []

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        if isinstance(module, nn.Linear):
            seen.append((module.in_features, module.out_features, 1, 1, 1, 1, 1))
        elif isinstance(module, nn.Conv2d):
            _, c, h, w = inputs[0].shape
            k, s = module.kernel_size[0], module.stride[0]
            assert module.padding == (k // 2, k // 2)
            seen.append((c, module.out_channels, h, w, k, s, module.groups))

    handles = [m.register_forward_hook(hook) for m in net.modules()]
    net.eval()(x)
    for handle in handles:
        handle.remove()
    return seen


def shape(layer: Layer) -> tuple[int, ...]:
    return (layer.in_channels, layer.out_channels, layer.height, layer.width,
            layer.kernel, layer.stride, layer.groups)  # fmt: skip


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_layers_priced_are_the_layers_run(space):
    count = 2 if space.resolution > 64 else 8
    x = torch.zeros(1, space.in_channels, space.resolution, space.resolution)
    for row in space.sample(count, np.random.default_rng(5)):
        candidate = space.build(row)
        with torch.no_grad():
            run = layers_that_run(Subnet(space, candidate), x)
        assert run == [shape(layer) for layer in space.layers(candidate)]


def test_counted_params_and_macs_are_those_of_torch():
    from apq.samples import table_columns

    space = SPACES["cifar10"]
    genes = space.sample(5, np.random.default_rng(2))
    columns = table_columns(space, genes, "fp32")
    for row, params in zip(genes, columns["params"], strict=True):
        net = Subnet(space, space.build(row))
        assert params == sum(p.numel() for p in net.parameters())


def test_files_are_checked(tmp_path):
    space = SPACES["digits"]
    network = lively(Supernet(space))
    path = tmp_path / "supernet.safetensors"
    save_supernet(path, network, {"mean": (0.5,), "std": (0.25,)})
    loaded = load_supernet(path, space)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded.network(x, largest(space)), network(x, largest(space)))
    with pytest.raises(SpaceError, match="resolution"):
        load_supernet(path, SPACES["cifar10"])
    with pytest.raises(ModelError, match="apq train-supernet"):
        load_supernet(tmp_path / "none.safetensors")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_supernet(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    network = lively(Supernet(SPACES["digits"]))
    path = tmp_path / "supernet.safetensors"
    save_supernet(path, network, {"mean": (0.5,), "std": (0.25,)})
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(len(data) // 2, len(data), 20):
        flipped = data.copy()
        flipped[place] ^= 1 << int(place) % 8
        path.write_bytes(flipped)
        with pytest.raises(ModelError, match="is damaged: its weights have the hash"):
            load_supernet(path)


def test_images_are_resized_to_what_a_candidate_chooses():
    from small_families import SMALL

    space = SMALL["resolutions"]
    network, most = lively(Supernet(space)), largest(space)
    x = torch.randn(4, 1, 12, 12)
    seen = {}
    for side in space.axis("resolution").choices:
        candidate = most.with_(resolution=side)
        subnet = network.subnet(candidate)
        with torch.no_grad():
            small = resized(x, side)
            seen[side] = network(x, candidate)
            torch.testing.assert_close(seen[side], subnet(x), atol=1e-5, rtol=0)
            torch.testing.assert_close(seen[side], network(small, candidate), atol=1e-5, rtol=0)
            piecewise = nn.Sequential(*subnet.pieces())
            torch.testing.assert_close(piecewise(x), subnet(x), atol=1e-5, rtol=0)
            run = layers_that_run(subnet, x)
        assert run == [shape(layer) for layer in space.layers(candidate)]
    assert not torch.allclose(seen[6], seen[12], atol=1e-2)


def test_resizing_is_that_of_pillow():
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)
    for side in (24, 18, 12, 7, 31):
        image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
        ours = resized(torch.from_numpy(pixels)[None, None], side)[0, 0].numpy()
        assert np.abs(ours.astype(int) - np.asarray(image)).max() <= 1


@pytest.mark.parametrize("biased", [False, True])
def test_single_pixels_as_a_product_are_a_convolution(biased: bool) -> None:
    """What CUDA computes in place of cuDNN, forward and backward."""
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, 1, 1, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64) if biased else None
    ours, theirs = pixelwise(x, weight, bias), F.conv2d(x, weight, bias)
    torch.testing.assert_close(ours, theirs)
    for mine, its in zip(
        torch.autograd.grad(ours.square().sum(), [x, weight]),
        torch.autograd.grad(theirs.square().sum(), [x, weight]),
        strict=True,
    ):
        torch.testing.assert_close(mine, its)
