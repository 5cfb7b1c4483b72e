"""Plain torch networks as people write them, for tracing."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A basic block of ResNet."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.down: nn.Module | None = None
        if stride > 1 or before != after:
            self.down = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.down is None else self.down(x)))


class Head(nn.Module):
    """The mean over all pixels and a classifier."""

    def __init__(self, channels: int, classes: int = 10) -> None:
        super().__init__()
        self.pool, self.drop = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.2)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(torch.flatten(self.pool(x), 1)))


def resnet(channels: int = 1) -> nn.Module:
    """Three stages, the second of three blocks."""
    norm, pool = nn.BatchNorm2d(16), nn.MaxPool2d(3, 1, 1)
    stem = nn.Sequential(nn.Conv2d(channels, 16, 3, 1, 1), norm, nn.ReLU(), pool)
    blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 32, 1), Residual(32, 32, 1)]
    return nn.Sequential(stem, *blocks, Head(32))


class Inverted(nn.Module):
    """An inverted residual of MobileNetV2."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        wide = 4 * before
        self.body = nn.Sequential(
            nn.Conv2d(before, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide),
            nn.ReLU6(), nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.skips = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skips else self.body(x)


def mobilenet(channels: int = 1) -> nn.Module:
    """Two stages of inverted residuals."""
    stem = nn.Sequential(nn.Conv2d(channels, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
    blocks = [Inverted(8, 16, 1), Inverted(16, 16, 1), Inverted(16, 24, 2), Inverted(24, 24, 1)]
    last = nn.Sequential(nn.Conv2d(24, 64, 1), nn.BatchNorm2d(64, eps=1e-3), nn.ReLU6())
    return nn.Sequential(stem, *blocks, last, Head(64))


class Dense(nn.Module):
    """Layers that read all that went before, joined."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(16 + 8 * i, 8, 3, padding=1) for i in range(3))
        self.last, self.head = nn.Conv2d(40, 32, 1), Head(32)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(x))], dim=1)
        return self.head(torch.relu(self.last(x)))


def vgg(channels: int = 1) -> nn.Module:
    """A chain without batch norm, with biases."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), Head(64),
    )  # fmt: skip


class Excited(nn.Module):
    """An inverted residual of MobileNetV3, with squeeze-and-excitation by convolutions."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        wide = 3 * before
        self.expand = nn.Sequential(
            nn.Conv2d(before, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish(),
            nn.Conv2d(wide, wide, 5, stride, 2, groups=wide, bias=False), nn.BatchNorm2d(wide),
            nn.Hardswish(),
        )  # fmt: skip
        self.squeeze, self.excite = nn.Conv2d(wide, 8, 1), nn.Conv2d(8, wide, 1)
        self.project = nn.Sequential(nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after))
        self.skips = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(x)
        s = torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))
        y = self.project(y * nn.functional.hardsigmoid(self.excite(s)))
        return x + y if self.skips else y


def mobilenet_v3(channels: int = 1) -> nn.Module:
    """Three inverted residuals and a head of two linear layers."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(),
        Excited(16, 16, 1), Excited(16, 24, 2), Excited(24, 24, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 48), nn.Hardswish(),
        nn.Linear(48, 10),
    )  # fmt: skip


NETWORKS = {
    "mobilenet_v3": mobilenet_v3,
    "resnet": resnet,
    "mobilenet": mobilenet,
    "dense": Dense,
    "vgg": vgg,
}


def build(name: str, seed: int = 0) -> nn.Module:
    """A network with random weights and statistics, so that nothing is by chance the same."""
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(-0.3, 1.5)
                module.bias.normal_(0, 0.2)
    return network.eval()
