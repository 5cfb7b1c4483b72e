"""Would a quantization-aware supernet spare every sample its fine-tune?

    python benchmarks/bench_quantized_supernet.py --supernet FILE --images digits --epochs 80

A trained supernet is trained further with bits sampled too: in every step the largest float network
learns from the labels, and one random candidate, quantized as when it is measured, from the labels
and the largest one's answers. Then the same candidates are measured from both supernets, with and
without a short fine-tune, beside a long one (the truth to rank by, mean over seeds). CPU seconds,
one thread.

On digits (30 candidates, 800 steps of truth, one seed, 97.1 % ± 0.8 %) samples cost a quarter and are
far closer to the truth, but rank it no better, so apq has no such option:

    trained with bits sampled: 94 CPU s
    float supernet      0 steps: accuracy 67.14%, Kendall tau 0.488, 0.17 CPU s a sample
    float supernet     20 steps: accuracy 79.36%, Kendall tau 0.559, 0.61 CPU s a sample
    bits sampled too    0 steps: accuracy 95.13%, Kendall tau 0.439, 0.16 CPU s a sample
    bits sampled too   20 steps: accuracy 95.33%, Kendall tau 0.356, 0.63 CPU s a sample
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import Tensor
from torch.func import functional_call

from apq.accuracy import Quantization, measure_quantized
from apq.images import ImageSet, load_images
from apq.quantize import quantize_subnet
from apq.space import Candidate
from apq.supernet import Supernet, SupernetFile, largest, load_supernet
from apq.supernet.augment import augment
from apq.supernet.evaluate import EvalImages, normalise, recalibrate
from apq.supernet.memory import keep_memory
from apq.supernet.task import classification
from apq.training.feed import to_tensor


def quantized_logits(network: Supernet, x: Tensor, candidate: Candidate) -> Tensor:
    """Logits at the candidate's bits, ranges fitted to the batch; gradients reach the supernet."""
    plain = network.subnet(candidate)
    recalibrate(plain, x)
    model = quantize_subnet(plain, plain.graph, x[:64]).train()
    names = {name.replace(".linear.", "."): name for name, _ in model.named_parameters()}
    live = {
        names[f"subnet.{name}"]: value
        for name, value in network.slices(candidate).items()
        if f"subnet.{name}" in names
    }
    logits: Tensor = functional_call(model, live, (x,))
    return logits


def train_on(told: SupernetFile, images: ImageSet, epochs: float, lr: float) -> SupernetFile:
    """The supernet after so many epochs with random bits."""
    network = copy.deepcopy(told.network).to(memory_format=torch.channels_last)
    network.train()
    space, batch = network.space, 128
    optimiser = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, nesterov=True)
    pixels, numbers = images.splits["train"]
    data, labels = to_tensor(pixels), torch.from_numpy(numbers)
    steps = round(epochs * max(1, len(labels) // batch))
    for step in range(steps):
        rng = np.random.default_rng(step)
        pick = torch.from_numpy(rng.permutation(len(labels))[:batch])
        x = normalise(augment(data[pick], images.flip, rng), told.mean, told.std)
        for group in optimiser.param_groups:
            group["lr"] = lr * 0.5 * (1 + np.cos(np.pi * step / steps))
        optimiser.zero_grad()
        teacher = network(x, largest(space))
        (F.cross_entropy(teacher, labels[pick]) / 2).backward()
        logits = quantized_logits(network, x, space.build(space.sample(1, rng)[0]))
        loss = F.cross_entropy(logits, labels[pick])
        loss = loss + F.cross_entropy(logits, teacher.detach().softmax(1))
        (loss / 2).backward()
        optimiser.step()
    return replace(told, network=network.eval())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supernet", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--epochs", type=float, default=80)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--long", type=int, default=800, help="steps of the long fine-tune")
    parser.add_argument("--seeds", type=int, default=2, help="of the long fine-tune")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    before = load_supernet(options.supernet)
    space = before.network.space
    images = load_images(options.images, space.resolution, space.in_channels, space.classes)
    began = time.process_time()
    after = train_on(before, images, options.epochs, options.lr)
    print(f"trained with bits sampled: {time.process_time() - began:.0f} CPU s", flush=True)
    data = EvalImages.of(images, before.mean, before.std)
    candidates = [space.build(row) for row in space.sample(options.count, np.random.default_rng(5))]

    def measured(supernet: SupernetFile, seed: int = 0, **how: Any) -> tuple[Any, float]:
        began = time.process_time()
        found = [
            measure_quantized(
                supernet.network.subnet(c), data,
                classification(images), (supernet.mean, supernet.std),
                Quantization(**how), seed,
            )[0]
            for c in candidates
        ]  # fmt: skip
        return np.array(found), (time.process_time() - began) / len(candidates)

    long: dict[str, Any] = {"finetune_steps": options.long, "lr": 0.02}
    truth = np.mean([measured(before, seed, **long)[0] for seed in range(options.seeds)], axis=0)
    print(f"long fine-tune: accuracy {truth.mean():.2%}, spread {truth.std():.2%}", flush=True)
    for name, supernet, steps in (
        ("float supernet", before, 0), ("float supernet", before, 20),
        ("bits sampled too", after, 0), ("bits sampled too", after, 20),
    ):  # fmt: skip
        found, seconds = measured(supernet, finetune_steps=steps)
        tau = kendalltau(found, truth).statistic
        print(
            f"{name:<17} {steps:>3} steps: accuracy {found.mean():.2%}, Kendall tau {tau:.3f}, "
            f"{seconds:.2f} CPU s a sample",
            flush=True,
        )


if __name__ == "__main__":
    main()
