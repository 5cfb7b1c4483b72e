"""A small network whose embeddings are looked up among those of a large one that stays.

    python examples/compatible_queries.py [FOLDER] [--quick]

A gallery of digits was embedded by a large network and is not embedded again; a device embeds
queries by a smaller network, and looks for the nearest embedding in the gallery. What counts is not
that network's accuracy but how compatible it is: the share of queries whose nearest neighbour in
the gallery is of their class (CMP-NAS, Duggal et al., CVPR 2021, arXiv:2105.03322). It is trained
through the large network's classifier, which is held fixed (Shen et al., CVPR 2020,
arXiv:2003.11942). Takes 10 seconds of one core; files lie in FOLDER (runs/queries).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import apq

DIMENSIONS = 16


def embedder(width: int) -> nn.Sequential:
    """Digits ``(n, 1, 8, 8)`` to embeddings ``(n, 16)``."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, width, 1), (width, 2 * width, 2), (2 * width,) * 2 + (1,)):
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, DIMENSIONS)
    return nn.Sequential(*layers, *head)


def train(network: nn.Module, classifier: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    """Cross-entropy of what a classifier says of the embeddings."""
    parameters = [*network.parameters(), *classifier.parameters()]
    optimiser = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=0.003)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(y))
        for start in range(0, len(y) - 63, 64):
            pick = order[start : start + 64]
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(classifier(network(x[pick])), y[pick]))
            optimiser.step()
    network.eval()


def judged(
    gallery: Tensor, labels: Tensor, head: nn.Module
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Loss and score of embeddings that are to go with a gallery.

    Args:
        gallery: Embeddings that are there, of length 1, ``(m, 16)``.
        labels: Their classes, ``(m,)``.
        head: The gallery network's classifier.
    """

    def loss(embeddings: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(head(embeddings), wanted, reduction="none")

    def found(embeddings: Tensor, wanted: Tensor) -> Tensor:
        nearest = (F.normalize(embeddings) @ gallery.T).argmax(1)
        return (labels[nearest] == wanted).float()

    return loss, found


def main(folder: Path, quick: bool = False) -> dict[str, float]:
    """Run the chain; gives the scores it prints."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    digits = apq.load_images("digits", 8, 1, 10)

    def split(name: str) -> tuple[Tensor, Tensor]:
        pixels, labels = digits.splits[name]
        x = torch.from_numpy(np.moveaxis(pixels[:], 3, 1) / 255).float()
        return (x - digits.mean[0]) / digits.std[0], torch.from_numpy(labels)

    # The large network and its gallery, which stay; and a small one by itself, for comparison.
    x, y = split("train")
    large, head, alone = embedder(32), nn.Linear(DIMENSIONS, 10), embedder(16)
    train(large, head, x, y, 6)
    train(alone, nn.Linear(DIMENSIONS, 10), x, y, 6)
    head.requires_grad_(False)
    with torch.no_grad():
        gallery = F.normalize(large(x))
    queries = embedder(16)
    train(queries, head, x, y, 6)

    task = apq.Task("compatible with the gallery", digits, *judged(gallery, y, head))
    held, wanted = split("validation")
    with torch.no_grad():
        by_itself = float(task.score(alone(held), wanted).mean())

    # Queries' network as a supernet; its subnets learn through the fixed classifier, too.
    traced = apq.trace(queries, x[:2], "queries")
    start = traced.save(folder / "traced.safetensors", *task.normalisation)
    recipe = apq.SupernetRecipe(epochs=2 if quick else 8, batch=64, lr=0.02)
    out = folder / "supernet.safetensors"
    supernet = apq.train_supernet(traced.space, task, out, recipe, start_from=[start])
    apq.collect_samples(supernet, task, folder / "fp32", 20 if quick else 60)
    predictor = apq.train_predictor(apq.read_samples(folder / "fp32"), compare=False)

    priced = apq.price_space(traced.space)
    low, high = priced.reach("macs_m")
    limits = {"macs_m": low + 0.3 * (high - low)}
    found = apq.search_front(priced, predictor.predict, limits, candidates=200 if quick else 2000)
    tuning = apq.FinetuneRecipe("fp32", epochs=1 if quick else 4, batch=64, lr=0.01)
    _, report = apq.finetune(found, supernet, task, folder / "model.safetensors", tuning)

    scores = {
        "trained alone": by_itself, "supernet": supernet.metadata["validation_accuracy"]["largest"],
        "predicted": found.accuracy, "measured": report.after, "test": report.test,
    }  # fmt: skip
    print(f"multiplications: {found.costs['macs_m']:.3f} of {high:.3f} M; {found.candidate}")
    for name, score in scores.items():
        print(f"queries answered by their class, {name:14}{score:.3f}")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Embeddings compatible with a fixed gallery.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/queries"))
    parser.add_argument("--quick", action="store_true", help="seconds, and not accurate")
    given = parser.parse_args()
    main(given.folder, given.quick)
