r"""A ResNet-20 for CIFAR-10 as a plain torch script has it, which knows nothing of apq.

    python benchmarks/own_resnet.py --images CIFAR --epochs 6 --out runs/own/resnet20.pt

``CIFAR`` holds ``train.parquet`` and ``test.parquet`` in the Hugging Face layout. The first
convolution has stride 2, so that an epoch takes one CPU core two minutes. Interrupted, the same
command goes on. ``apq space from-model own_resnet:build`` calls :func:`build`, which reads the
weights that ``APQ_OWN_RESNET`` names.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """A basic residual block (He et al., CVPR 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.down: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.down = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, before, h, w) -> (n, after, h / stride, w / stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.down(x))


class ResNet(nn.Module):
    """Three stages of ``depth`` blocks each; 3 make ResNet-20."""

    def __init__(self, depth: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16] * depth + [32] * depth + [64] * depth
        pairs = zip([16, *widths], widths, strict=False)
        self.blocks = nn.Sequential(*(Block(a, b, 1 + (a < b)) for a, b in pairs))
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 3, h, w) -> (n, classes)``."""
        return self.fc(self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


def build() -> nn.Module:
    """The trained network, in eval mode."""
    network = ResNet()
    state = torch.load(os.environ["APQ_OWN_RESNET"], weights_only=True)
    network.load_state_dict(state.get("model", state))
    return network.eval()


def train(out: Path, images: str, epochs: int, lr: float = 0.2, batch: int = 128) -> None:
    """Train on the training split of :func:`apq.images.load_images`: SGD, one cycle, shifted and
    mirrored images. A checkpoint is written after every epoch."""
    from apq.images import load_images
    from apq.supernet.augment import augment
    from apq.supernet.evaluate import EvalImages, accuracy, normalise

    found = load_images(images, 32, 3, 10)
    data, labels = (torch.from_numpy(part) for part in found.splits["train"])
    data = data.permute(0, 3, 1, 2)
    torch.manual_seed(0)
    network = ResNet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        network.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    first, steps = 0, len(labels) // batch
    if out.exists():
        state = torch.load(out, weights_only=True)
        network.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["epochs"]
    out.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(first, epochs):
        network.train()
        rng = np.random.default_rng(epoch)
        order = torch.from_numpy(rng.permutation(len(labels)))
        for step in range(steps):
            done = (epoch * steps + step) / (epochs * steps)
            rate = done / 0.2 if done < 0.2 else (1 + math.cos(math.pi * (done - 0.2) / 0.8)) / 2
            for group in optimiser.param_groups:
                group["lr"] = lr * rate
            pick = order[step * batch : (step + 1) * batch]
            x = normalise(augment(data[pick], True, rng), found.mean, found.std)
            optimiser.zero_grad()
            F.cross_entropy(network(x), labels[pick], label_smoothing=0.05).backward()
            optimiser.step()
        score = accuracy(network.eval(), EvalImages.of(found, found.mean, found.std))[0]
        torch.save(
            {"model": network.state_dict(), "optimiser": optimiser.state_dict(),
             "epochs": epoch + 1}, out,
        )  # fmt: skip
        print(f"epoch {epoch + 1}: validation accuracy {score:.2%}", flush=True)
    print("normalisation:", ",".join(map(str, found.mean)), ",".join(map(str, found.std)))


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("runs/own/resnet20.pt"))
    options = parser.parse_args()
    train(options.out, options.images, options.epochs)


if __name__ == "__main__":
    main()
