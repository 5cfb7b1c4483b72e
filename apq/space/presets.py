"""Presets: one function per named space, with its numbers written out."""

from __future__ import annotations

from collections.abc import Callable

from apq.space.base import Space
from apq.space.families import (
    BitChoices,
    Chain,
    ChainLayer,
    MobileNetV2,
    MobileNetV3,
    ResNet,
    ResNetStage,
    Stage,
    V3Stage,
)
from apq.space.families.base import divisible
from apq.space.families.mobilenet_v3 import Act


def digits() -> Space:
    """scikit-learn's 8x8 digits: three small stages, trained in seconds on a laptop."""

    def stage(channels: int, stride: int) -> Stage:
        return Stage(channels, stride, depth=(1, 2), kernel=(3, 5), expand=(1, 4), width_step=8)

    return Space(
        MobileNetV2(
            name="digits",
            resolution=8,
            in_channels=1,
            classes=10,
            stem_channels=8,
            first_channels=8,
            head_channels=64,
            stages=(stage(8, 1), stage(16, 2), stage(24, 2)),
            bits=BitChoices((2, 4, 8), (2, 4, 8), (2, 4, 8), (2, 4, 8)),
        )
    )


def cifar10() -> Space:
    """CIFAR-10 at 32 px: three stages of two or three blocks, the paper's choices per block.

    The last stage keeps 8x8 pixels: at 4x4, accuracy saturated about one percentage point lower.
    """

    def stage(channels: int, stride: int) -> Stage:
        return Stage(channels, stride, depth=(2, 3), kernel=(3, 5, 7), expand=(4, 6), width_step=8)

    return Space(
        MobileNetV2(
            name="cifar10",
            resolution=32,
            classes=10,
            stem_channels=16,
            stem_stride=1,
            first_channels=16,
            head_channels=320,
            stages=(stage(24, 2), stage(40, 2), stage(80, 1)),
        )
    )


def cifar10_low_bits() -> Space:
    """The architectures of ``cifar10`` with 2 and 3 bits as choices, where bits matter more.

    Its supernet and fp32 samples are those of ``cifar10``.
    """
    bits = (2, 3, 4, 6, 8)
    return cifar10().with_(name="cifar10-low-bits", bits=BitChoices(bits, bits, bits, bits))


def _proxyless(stage: Callable[..., Stage]) -> tuple[Stage, ...]:
    """The six stages of ProxylessNAS: channels and strides; the last has one block."""
    sizes = ((24, 2), (40, 2), (80, 2), (96, 1), (192, 2))
    return (*(stage(*size) for size in sizes), stage(320, 1, depth=(1,)))


def apq_imagenet(width_mult: float = 1.0) -> Space:
    """The space of APQ (CVPR 2020, section 3 and its released code): 21 block slots, 772 columns.

    A 7x7 kernel with 4-bit depthwise activations has no price in the paper's table, so it is
    excluded here as it is there.

    Args:
        width_mult: Factor of all channels but the last convolution's.
    """

    def wide(channels: int) -> int:
        return divisible(channels * width_mult)

    def stage(channels: int, stride: int, depth: tuple[int, ...] = (2, 3, 4)) -> Stage:
        return Stage(wide(channels), stride, depth, kernel=(3, 5, 7), expand=(4, 6), width_step=8)

    return Space(
        MobileNetV2(
            name="apq-imagenet",
            resolution=224,
            classes=1000,
            stem_channels=wide(32),
            stem_stride=2,
            first_channels=wide(16),
            head_channels=1280,
            stages=_proxyless(stage),
            exclude=({"kernel": 7, "dw_a_bits": 4},),
        )
    )


OFA_SIDES = (128, 160, 192, 224)
"""Image sizes to choose from; Once-for-All's networks were trained at 128 to 224 pixels."""


def ofa_proxyless(width_mult: float = 1.0) -> Space:
    """Once-for-All ProxylessNAS (arXiv:1908.09791): 21 slots, three expansions, four resolutions.

    Args:
        width_mult: Factor of all channels; weights are published for 1.3.
    """

    def wide(channels: int) -> int:
        return divisible(channels * width_mult)

    def stage(channels: int, stride: int, depth: tuple[int, ...] = (2, 3, 4)) -> Stage:
        return Stage(wide(channels), stride, depth, (3, 5, 7), expand=(3, 4, 6), width_step=0)

    return Space(
        MobileNetV2(
            name="ofa-proxyless",
            resolution=OFA_SIDES,
            classes=1000,
            stem_channels=wide(32),
            stem_stride=2,
            first_channels=wide(16),
            head_channels=wide(1280),
            stages=_proxyless(stage),
            norm_epsilon=1e-3,
        )
    )


def ofa_mobilenet_v3(width_mult: float = 1.0) -> Space:
    """Once-for-All MobileNetV3 (arXiv:1908.09791): 20 slots, three expansions, four resolutions.

    Args:
        width_mult: Factor of all channels; weights are published for 1.0 and 1.2.
    """

    def wide(channels: int) -> int:
        return divisible(channels * width_mult)

    def stage(channels: int, stride: int, act: Act, excite: bool) -> V3Stage:
        return V3Stage(wide(channels), stride, (2, 3, 4), (3, 5, 7), (3, 4, 6), act, excite)

    return Space(
        MobileNetV3(
            name="ofa-mobilenet-v3",
            resolution=OFA_SIDES,
            classes=1000,
            stem_channels=wide(16),
            first_channels=wide(16),
            last_channels=wide(960),
            feature_channels=wide(1280),
            stages=(
                stage(24, 2, "relu", excite=False),
                stage(40, 2, "relu", excite=True),
                stage(80, 2, "hswish", excite=False),
                stage(112, 1, "hswish", excite=True),
                stage(160, 2, "hswish", excite=True),
            ),
        )
    )


def cifar10_resnet() -> Space:
    """CIFAR-10 at 32 px: ResNet-18's four stages of basic blocks, a quarter as wide; the last two
    stages choose their channels too."""

    def stage(channels: tuple[int, ...], stride: int) -> ResNetStage:
        most = max(channels)
        return ResNetStage(channels, stride, (1, 2), width=(most // 2, 3 * most // 4, most))

    stages = (stage((16,), 1), stage((32,), 2), stage((48, 64), 2), stage((96, 128), 2))
    return Space(ResNet("cifar10-resnet", resolution=32, classes=10, stages=stages))


def cifar10_chain() -> Space:
    """CIFAR-10 at 32 px: three convolutions of up to 16, 32 and 64 channels, twice each."""

    def layer(most: int, stride: int) -> ChainLayer:
        return ChainLayer(tuple(most * k // 4 for k in (2, 3, 4)), (3, 5), stride)

    layers = tuple(layer(m, s) for m in (16, 32, 64) for s in (1, 2))
    return Space(Chain("cifar10-chain", resolution=32, classes=10, layers=layers))


PRESETS: dict[str, Callable[[], Space]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar10-low-bits": cifar10_low_bits,
    "apq-imagenet": apq_imagenet,
    "ofa-proxyless": ofa_proxyless,
    "ofa-mobilenet-v3": ofa_mobilenet_v3,
    "cifar10-resnet": cifar10_resnet,
    "cifar10-chain": cifar10_chain,
}

SCALED: dict[str, Callable[[float], Space]] = {
    "apq-imagenet": apq_imagenet,
    "ofa-proxyless": ofa_proxyless,
    "ofa-mobilenet-v3": ofa_mobilenet_v3,
}
"""Presets that take a width multiplier."""
