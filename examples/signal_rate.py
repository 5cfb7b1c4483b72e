"""A network that reads a rate off signals, from trained weights to a small one: one dimension, no
classes.

    python examples/signal_rate.py [FOLDER] [--quick]

Makes noisy waves of two sensors, trains a small convolutional network to tell how often they go up
and down, traces it, trains all its subnets, measures some, predicts and prices the others, and
searches. The score is how near the rate is. One-dimensional convolutions stay operations of torch:
their channels are cut, and they are priced, but they are not quantized; so the search is in fp32.
Takes a quarter of a minute on one core; files lie in FOLDER (runs/signal).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import apq

LENGTH, SENSORS = 64, 2
PARTS = {"train": (0, 640), "calibration": (0, 200), "validation": (640, 840), "test": (840, 1040)}


def record(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Signals ``(n, 2, 64)`` and how many waves each has, from 2 to 8, ``(n,)``."""
    waves = rng.uniform(2, 8, count)
    turns = waves[:, None] * np.linspace(0, 1, LENGTH) + rng.uniform(0, 1, (count, 1))
    lag = rng.uniform(0.1, 0.4, (count, 1))
    both = np.stack([np.sin(2 * np.pi * turns), np.sin(2 * np.pi * (turns - lag))], axis=1)
    noisy = rng.uniform(0.5, 1.5, (count, SENSORS, 1)) * both + rng.normal(0, 0.3, both.shape)
    return noisy.astype(np.float32), waves.astype(np.float32)


def loss(outputs: Tensor, waves: Tensor) -> Tensor:
    """Squared error, ``(n,)``."""
    return (outputs[:, 0] - waves).square()


def nearness(outputs: Tensor, waves: Tensor) -> Tensor:
    """1 less the relative error, at least 0, ``(n,)``."""
    return (1 - (outputs[:, 0] - waves).abs() / waves).clamp(0, 1)


def louder(signals: Tensor, waves: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Signals of a batch at another volume; their rate stays."""
    return signals * float(rng.uniform(0.8, 1.2)), waves


def trained(task: apq.Task) -> nn.Module:
    """What somebody brings: a network trained by a loop of their own."""
    network = nn.Sequential(
        nn.Conv1d(SENSORS, 16, 7, 2, padding=3), nn.ReLU(),
        nn.Conv1d(16, 32, 5, 2, padding=2), nn.ReLU(),
        nn.Conv1d(32, 32, 5, 2, padding=2), nn.ReLU(),
        nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 1),
    )  # fmt: skip
    signals, waves = map(torch.from_numpy, task.images.splits["train"])
    optimiser = torch.optim.Adam(network.parameters(), lr=0.005)
    for _ in range(20):
        for pick in torch.randperm(len(waves)).view(-1, 64):
            optimiser.zero_grad()
            torch.autograd.backward(loss(network(signals[pick]), waves[pick]).mean())
            optimiser.step()
    return network.eval()


def main(folder: Path, quick: bool = False) -> dict[str, float]:
    """Run the chain; ``quick`` trains and measures too little to be accurate. Gives the scores that
    are printed."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    signals, waves = record(1040, np.random.default_rng(0))
    splits = {name: (signals[a:b], waves[a:b]) for name, (a, b) in PARTS.items()}
    task = apq.Task("rate of waves", splits, loss, nearness, change=louder)

    # The network as a space, and as the supernet whose largest subnet it is.
    traced = apq.trace(trained(task), torch.zeros(2, SENSORS, LENGTH), "signal", smallest=0.5)
    space = traced.space
    start = traced.save(folder / "traced.safetensors")
    recipe = apq.SupernetRecipe(epochs=5 if quick else 15, batch=64, lr=0.003)
    supernet = apq.train_supernet(
        space, task, folder / "supernet.safetensors", recipe, start_from=[start]
    )

    # Scores of some subnets, and a prediction for all others.
    apq.collect_samples(supernet, task, folder / "fp32", 20 if quick else 40)
    predictor = apq.train_predictor(apq.read_samples(folder / "fp32"), compare=False)

    # The best one with half of the multiplications, then trained alone.
    priced = apq.price_space(space)
    low, high = priced.reach("macs_m")
    limits = {"macs_m": low + 0.4 * (high - low)}
    found = apq.search_front(priced, predictor.predict, limits, candidates=200 if quick else 2000)
    tuning = apq.FinetuneRecipe("fp32", epochs=2 if quick else 5, batch=64, lr=0.002)
    _, report = apq.finetune(found, supernet, task, folder / "model.safetensors", tuning)

    scores = {
        "supernet": supernet.metadata["validation_accuracy"]["largest"],
        "predicted": found.accuracy, "cut": report.before, "measured": report.after,
        "test": report.test,
    }  # fmt: skip
    print(f"{space.count():.3g} candidates of {len(space.axes)} genes; chosen: {found.candidate}")
    print(f"multiplications: {found.costs['macs_m']:.4f} of {high:.4f} M")
    for name, score in scores.items():
        print(f"nearness, {name:10}{score:.3f}")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A network for signals made smaller.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/signal"))
    parser.add_argument("--quick", action="store_true", help="seconds, and not accurate")
    given = parser.parse_args()
    main(given.folder, given.quick)
