"""Published once-for-all weights as supernets: OFA-ProxylessNAS and OFA-MobileNetV3
(arXiv:1908.09791) and APQ's own fine-grained network (CVPR 2020), as mit-han-lab wrote them.

All are inverted residuals whose widths are leading slices and whose smaller kernels are cut out by
learned matrices, as here; so the weights only need other names. Batch norm of the two that follow
ProxylessNAS has an epsilon of 0.001, which their space says (``norm_epsilon``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from apq.errors import ModelError
from apq.files.tensors import read_tensors
from apq.space import MobileNetV2, Space
from apq.space.families import MobileNetV3
from apq.supernet.supernet import Supernet

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
"""Normalisation of these networks' images."""

EPSILON = 1e-3
"""Batch-norm epsilon of networks that follow ProxylessNAS; those of MobileNetV3 have 1e-5."""

_BLOCK = r"blocks\.(\d+)\.(?:mobile_inverted_conv|conv)\."
_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_COMMON: tuple[tuple[str, str], ...] = (
    (r"first_conv\.conv\.weight", "stem.conv.weight"),
    (rf"first_conv\.bn\.{_NORM}", r"stem.bn.\1"),
    (r"blocks\.0\.(?:mobile_inverted_conv|conv)\.depth_conv\.conv\.weight", "first.0.conv.weight"),
    (rf"blocks\.0\.(?:mobile_inverted_conv|conv)\.depth_conv\.bn\.{_NORM}", r"first.0.bn.\1"),
    (r"blocks\.0\.(?:mobile_inverted_conv|conv)\.point_linear\.conv\.weight",
     "first.1.conv.weight"),
    (rf"blocks\.0\.(?:mobile_inverted_conv|conv)\.point_linear\.bn\.{_NORM}", r"first.1.bn.\1"),
    (rf"{_BLOCK}inverted_bottleneck\.conv\.conv\.weight", r"blocks.\1.expand.conv.weight"),
    (rf"{_BLOCK}inverted_bottleneck\.bn\.bn\.{_NORM}", r"blocks.\1.expand.bn.\2"),
    (rf"{_BLOCK}depth_conv\.conv\.conv\.weight", r"blocks.\1.depthwise.conv.weight"),
    (rf"{_BLOCK}depth_conv\.bn\.bn\.{_NORM}", r"blocks.\1.depthwise.bn.\2"),
    (rf"{_BLOCK}depth_conv\.conv\.(\dto\d)_matrix", r"blocks.\1.transforms.\2"),
    (rf"{_BLOCK}point_linear\.conv\.conv\.weight", r"blocks.\1.project.conv.weight"),
    (rf"{_BLOCK}point_linear\.bn\.bn\.{_NORM}", r"blocks.\1.project.bn.\2"),
    (r"classifier\.linear\.(weight|bias)", r"classifier.\1"),
)  # fmt: skip
NAMES: dict[type, tuple[tuple[str, str], ...]] = {
    MobileNetV2: (
        *_COMMON,
        (r"feature_mix_layer\.conv\.weight", "head.conv.weight"),
        (rf"feature_mix_layer\.bn\.{_NORM}", r"head.bn.\1"),
    ),
    MobileNetV3: (
        *_COMMON,
        (rf"{_BLOCK}depth_conv\.se\.fc\.(reduce|expand)\.(weight|bias)", r"blocks.\1.se.\2.\3"),
        (r"final_expand_layer\.conv\.weight", "last.conv.weight"),
        (rf"final_expand_layer\.bn\.{_NORM}", r"last.bn.\1"),
        (r"feature_mix_layer\.conv\.weight", "feature.weight"),
    ),
}
"""Their names, as patterns, and ours, by our family; their searched blocks are counted from 1."""


def ours(name: str, kind: type) -> str | None:
    """Our name of one of their tensors in a family's networks; None if it has none."""
    for pattern, replacement in NAMES[kind]:
        found = re.fullmatch(pattern, name)
        if found:
            return re.sub(
                r"^blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) - 1}.", found.expand(replacement)
            )
    return None


def import_published(path: Path, space: Space) -> Supernet:
    """A supernet from a published checkpoint.

    Args:
        path: A safetensors file, or one of ``torch.save`` (read with ``weights_only=True``) that
            holds the weights or has them under ``state_dict``.
        space: A space of the checkpoint's sizes: ``ofa-proxyless``, ``ofa-mobilenet-v3``,
            ``apq-imagenet``, or such a space with other widths. One of inverted residuals without
            ``norm_epsilon`` gets that of these networks.

    Returns:
        The supernet, in eval mode.

    Raises:
        ModelError: the file cannot be read; or tensors are missing, of another shape, or belong to
            nothing in the space (all are listed).
    """
    kind = type(space.family)
    if kind not in NAMES:
        raise ModelError(
            f"space {space.name!r} is of another family; published weights are for the spaces "
            "ofa-proxyless, ofa-mobilenet-v3 and apq-imagenet, and others of their families"
        )
    if isinstance(space.family, MobileNetV2) and space.family.norm_epsilon is None:
        space = space.with_(norm_epsilon=EPSILON)
    found: dict[str, Tensor] = {}
    foreign: list[str] = []
    for name, tensor in _read(path).items():
        own = ours(name.removeprefix("module."), kind)
        if own is None:
            foreign.append(name)
        else:
            found[own] = tensor
    network = Supernet(space)
    expected = network.state_dict()
    for name in found.keys() & expected.keys():  # 1x1 convolutions of vectors are linear layers
        if found[name].dim() == 4 and expected[name].dim() == 2:
            found[name] = found[name].flatten(1)
    wrong = [
        f"{name} has the shape {list(found[name].shape)}, not {list(want.shape)}"
        for name, want in expected.items()
        if name in found and found[name].shape != want.shape
    ]
    missing = [name for name in expected if name not in found]
    foreign += [name for name in found if name not in expected]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:6])}" + (", …" if len(names) > 6 else "")
        for what, names in (
            ("are missing", missing), ("do not fit", wrong), ("belong to nothing in it", foreign),
        )
        if names
    ]  # fmt: skip
    if problems:
        raise ModelError(f"{path} is not of space {space.name!r}: {'; '.join(problems)}")
    network.load_state_dict(found)
    return network.eval()


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, by their names in it."""
    if path.suffix == ".safetensors":
        return read_tensors(path, "published weights")[0]
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"there is no checkpoint at {path}") from None
    except Exception as error:  # a pickle that is none, or holds more than tensors
        raise ModelError(
            f"{path} is no file of weights alone: {str(error).splitlines()[0][:150]}"
        ) from error
    data = data.get("state_dict", data) if isinstance(data, dict) else data
    if not isinstance(data, dict) or not all(isinstance(v, Tensor) for v in data.values()):
        raise ModelError(f"{path} holds no table of tensors, nor one under 'state_dict'")
    return data
