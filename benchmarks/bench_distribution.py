"""The distribution loss on a small network of 1-bit weights and activations, from random weights.

    python benchmarks/bench_distribution.py --epochs 20 --seeds 2

The smallest network of `digits` (8x8 pixels), three optimisers and three learning rates each, with
the loss (weight 2, off for the last thirteenth) and without. Stem, first block and classifier have 8
bits. Works if the mean rises and the spread over settings falls (Ding et al., CVPR 2019).
"""

import argparse

import numpy as np
import torch
from torch import nn

from apq.images import load_images
from apq.quantize import quantize_subnet
from apq.quantize.distribution import BinaryInputs
from apq.quantize.finetune import draws, one_cycle, refit_weights
from apq.space import BitChoices, load_space
from apq.supernet.evaluate import EvalImages, accuracy, normalise, recalibrate
from apq.supernet.network import Subnet
from apq.training.feed import to_tensor

OPTIMISERS = {
    "sgd": (lambda p, lr: torch.optim.SGD(p, lr, 0.9, nesterov=True), (0.01, 0.05, 0.2)),
    "adam": (torch.optim.Adam, (0.001, 0.005, 0.02)),
    "rmsprop": (torch.optim.RMSprop, (0.0005, 0.002, 0.01)),
}


def trained(space, images, data, make, lr, weight, epochs, seed):
    """Validation accuracy at the end."""
    torch.manual_seed(seed)
    candidate = space.build([0] * len(space.axes))  # the smallest, 1 bit everywhere
    net = Subnet(space, candidate)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    recalibrate(net, data.calibration)
    model = quantize_subnet(net, net.graph, data.calibration[:128], "binary")
    listener, x = BinaryInputs(model), to_tensor(images.splits["train"][0])
    y = torch.from_numpy(images.splits["train"][1])
    optimizer, batch = make(model.parameters(), lr), 64
    steps = epochs * (len(y) // batch)
    order = draws(len(y), batch, steps, torch.Generator().manual_seed(seed))
    for step, index in enumerate(order):
        if step % (len(y) // batch) == 0:
            refit_weights(model)
        for group in optimizer.param_groups:
            group["lr"] = lr * one_cycle(step / steps)
        pixels = normalise(x[index], images.mean, images.std)
        loss = nn.functional.cross_entropy(model.train()(pixels), y[index])
        spread = listener.collect()
        if step < steps * 60 / 65:
            loss = loss + weight * spread
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    recalibrate(model, data.calibration)
    return accuracy(model.eval(), data)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    told = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space("digits").with_(bits=BitChoices(*[(1, 8)] * 4), exclude=())
    images = load_images("digits", space.resolution, space.in_channels, space.classes)
    data = EvalImages.of(images, images.mean, images.std)
    every = {0.0: [], 2.0: []}
    for name, (make, rates) in OPTIMISERS.items():
        for lr in rates:
            cells = []
            for weight, found in every.items():
                scores = [
                    trained(space, images, data, make, lr, weight, told.epochs, seed)
                    for seed in range(told.seeds)
                ]
                found.append(np.mean(scores))
                cells.append(f"{np.mean(scores):.2%} ({min(scores):.2%} … {max(scores):.2%})")
            print(f"{name:<8} {lr:<7} without {cells[0]}   with {cells[1]}", flush=True)
    for weight, found in every.items():
        print(f"weight {weight}: mean {np.mean(found):.2%}, sd over settings {np.std(found):.2%}")


if __name__ == "__main__":
    main()
