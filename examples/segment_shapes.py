"""A network that labels pixels, from trained weights to a small one.

    python examples/segment_shapes.py [FOLDER] [--quick]

Draws discs and squares on noise, trains a small segmentation network on them as anybody would,
traces it, trains all its subnets, measures some, predicts and prices the others, searches, and
fine-tunes the chosen one under its bits. The score is mean IoU. Takes half a minute on one core;
files lie in FOLDER (runs/shapes).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import apq

SIDE, CLASSES = 16, 3  # background, square, disc
PARTS = {"train": (0, 320), "calibration": (0, 160), "validation": (320, 480), "test": (480, 640)}


def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Grey images ``(n, 16, 16, 1)`` of one shape each, and the class of every pixel."""
    down, right = np.mgrid[:SIDE, :SIDE]
    images = np.empty((count, SIDE, SIDE, 1), dtype=np.uint8)
    masks = np.zeros((count, SIDE, SIDE), dtype=np.int64)
    for image, mask in zip(images, masks, strict=True):
        middle, radius = rng.uniform(4, SIDE - 4, 2), rng.uniform(2.5, 4.5)
        y, x = abs(down - middle[0]), abs(right - middle[1])
        disc = bool(rng.integers(2))
        inside = np.hypot(x, y) < radius if disc else np.maximum(x, y) < 0.8 * radius
        mask[inside] = 2 if disc else 1
        image[..., 0] = np.clip(rng.normal(90, 20, inside.shape) + 80 * inside, 0, 255)
    return images, masks


def loss(outputs: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy in nats, the mean over an image's pixels, ``(n,)``."""
    return F.cross_entropy(outputs, masks, reduction="none").mean(dim=(1, 2))


def mean_iou(outputs: Tensor, masks: Tensor) -> Tensor:
    """Pixels found of a class over pixels that are found or true, the mean over the classes that an
    image has or is said to have, ``(n,)``."""
    found = F.one_hot(outputs.argmax(1), CLASSES).flatten(1, 2).bool()
    true = F.one_hot(masks, CLASSES).flatten(1, 2).bool()
    both, either = (found & true).sum(1), (found | true).sum(1)
    return (both / either.clamp_min(1)).sum(1) / (either > 0).sum(1)


def likelier(outputs: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of every pixel's class probabilities from a teacher's, in nats."""
    own, wanted = F.log_softmax(outputs, 1), F.log_softmax(teacher, 1)
    return F.kl_div(own, wanted, reduction="none", log_target=True).sum(1).mean()


def mirror(images: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Images and masks of a batch, mirrored or not."""
    return (images.flip(3), masks.flip(2)) if rng.random() < 0.5 else (images, masks)


class Segmenter(nn.Module):
    """Two convolutions, two at half the size, and a head on both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = layer(1, 16), layer(16, 32, stride=2)
        self.low, self.joined = layer(32, 32), layer(48, 16)
        self.head = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 1, h, w) -> (n, 3, h, w)``."""
        fine = self.first(x)
        coarse = F.interpolate(self.low(self.down(fine)), scale_factor=2.0)
        out: Tensor = self.head(self.joined(torch.cat([fine, coarse], dim=1)))
        return out


def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution with batch norm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def trained(task: apq.Task) -> nn.Module:
    """What somebody brings: a network trained by a loop of their own."""
    network, (images, masks) = Segmenter(), task.images.splits["train"]
    (mean,), (std,) = task.normalisation
    x = (torch.from_numpy(images[:]).permute(0, 3, 1, 2) / 255 - mean) / std
    y = torch.from_numpy(masks)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.005)
    for _ in range(8):
        for pick in torch.randperm(len(y)).view(-1, 32):
            optimiser.zero_grad()
            torch.autograd.backward(loss(network(x[pick]), y[pick]).mean())
            optimiser.step()
    return network.eval()


def main(folder: Path, quick: bool = False) -> dict[str, float]:
    """Run the chain; ``quick`` trains and measures too little to be accurate. Gives the scores that
    are printed."""
    torch.set_num_threads(1)  # on 16x16 images threads wait for each other longer than they work
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    images, masks = draw(640, np.random.default_rng(0))
    splits = {name: (images[a:b], masks[a:b]) for name, (a, b) in PARTS.items()}
    task = apq.Task("shapes, mean IoU", splits, loss, mean_iou, likelier, mirror)

    # The network as a space, and as the supernet whose largest subnet it is.
    traced = apq.trace(trained(task), torch.zeros(2, 1, SIDE, SIDE), "shapes")
    space = traced.space
    start = traced.save(folder / "traced.safetensors", *task.normalisation)
    recipe = apq.SupernetRecipe(epochs=2 if quick else 6, batch=32, lr=0.03)
    supernet = apq.train_supernet(
        space, task, folder / "supernet.safetensors", recipe, start_from=[start]
    )

    # Scores of some subnets, and a prediction for all others.
    fp32, quantized = (20, 10) if quick else (60, 24)
    how = apq.Quantization(finetune_steps=1 if quick else 5, batch=32)
    apq.collect_samples(supernet, task, folder / "fp32", fp32)
    apq.collect_samples(supernet, task, folder / "quantized", quantized, how)
    samples = [apq.read_samples(folder / kind) for kind in ("fp32", "quantized")]
    predictor = apq.train_predictor(*samples, compare=False)

    # The best one that does a quarter of the work, then trained under its bits.
    priced = apq.price_space(space)
    low, high = priced.reach("bitops_g")
    limits = {"bitops_g": low + 0.25 * (high - low)}
    found = apq.search_front(priced, predictor.predict, limits, candidates=200 if quick else 2000)
    tuning = apq.FinetuneRecipe(epochs=1 if quick else 4, batch=32, lr=0.01)
    _, report = apq.finetune(found, supernet, task, folder / "model.safetensors", tuning)

    scores = {
        "supernet": supernet.metadata["validation_accuracy"]["largest"],
        "predicted": found.accuracy, "measured": report.after, "test": report.test,
    }  # fmt: skip
    print(f"{space.count():.3g} candidates of {len(space.axes)} genes; chosen: {found.candidate}")
    print(f"bit operations: {found.costs['bitops_g']:.3f} of {high:.3f} G")
    for name, score in scores.items():
        print(f"mean IoU, {name:10}{score:.3f}")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A segmentation network made smaller.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/shapes"))
    parser.add_argument("--quick", action="store_true", help="seconds, and not accurate")
    given = parser.parse_args()
    main(given.folder, given.quick)
