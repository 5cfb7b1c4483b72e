"""What a sample costs and how good it is: parts of the work, the floor, and the bias of short cuts.

    python benchmarks/bench_collect.py --supernet data/cifar10/supernet.safetensors --images CIFAR

One thread. The floor is the multiply-accumulates of all forward passes at the rate of a large matrix
product on the same machine in the same run. Also prints the ends and the uniform subnets of the
supernet on validation and, with --test, on the test images (which select nothing).

--parts 40 judges, on 40 candidates, measuring on a part of the images: the first m, m drawn as
`apq collect --validation-images` draws them, and stopping when the confidence interval decides,
against the largest subnet's answers as a control variate. The last is why apq does not stop early:
a number of images that differs between candidates changes their order.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from apq.images import load_images
from apq.plan import plan
from apq.runtime.shared import SharedStart, answers_alone, choices
from apq.space import Candidate, Space
from apq.supernet import largest, load_supernet, smallest
from apq.supernet.drawn import REFERENCES, draw
from apq.supernet.evaluate import EvalImages, accuracy, fold, measure, recalibrate
from apq.supernet.memory import keep_memory


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def matrix_rate(size: int = 1536) -> float:
    """Multiply-accumulates per CPU second."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    return max(size**3 / seconds(lambda: a @ b)[0] for _ in range(5))


def macs_of(space: Space, candidate: Candidate) -> int:
    from apq.space.layer import macs, to_array

    return int(macs(to_array(list(space.layers(candidate)))).sum())


def uniform(space: Space) -> dict[str, Candidate]:
    """Subnets that are largest in all but one respect."""
    top = space.cardinalities - 1
    found = {"largest": largest(space), "smallest": smallest(space)}
    for attribute in ("kernel", "depth", "width"):
        own = np.array([a.attribute == attribute for a in space.axes])
        for level in range(3):
            row = np.where(own, np.round(top * level / 2), top).astype(np.int16)
            found[f"{attribute} {level / 2:g}"] = space.build(space.canonical(row[None])[0])
    return found


def right(network: Any, candidate: Candidate, data: EvalImages) -> np.ndarray:
    """Which validation images a recalibrated subnet gets right, ``(images,)``."""
    found: np.ndarray = answers_alone(network.subnet(candidate), data)[0].numpy()
    return found


def stop_early(
    own: np.ndarray, shared: np.ndarray, doubt: float, least: int = 500, step: int = 250
) -> tuple[float, int]:
    """Accuracy and images used when looking stops as soon as its standard error is below ``doubt``.

    ``shared`` is what a reference gets right on all images; its known accuracy corrects for easy or
    hard first images (a control variate with the least squares factor of the images seen).
    """
    for seen in range(least, len(own) + 1, step):
        a, b = own[:seen], shared[:seen]
        factor = np.cov(a, b)[0, 1] / max(b.var(ddof=1), 1e-9)
        rest = (a - factor * b).std(ddof=2)
        error = rest * np.sqrt((1 / seen) * (1 - seen / len(own)))
        if error <= doubt:
            break
    return float(a.mean() + factor * (shared.mean() - b.mean())), seen


def parts_of_the_images(network: Any, data: EvalImages, count: int) -> None:
    """Accuracy from a part of the images against all, for the same candidates."""
    space = network.space
    known = np.mean(
        [right(network, space.build(r), data) for r in plan(space, REFERENCES, 0, False)], axis=0
    )
    shared = right(network, largest(space), data)
    own = np.stack([right(network, space.build(r), data) for r in plan(space, count, 5, False)])
    truth = own.mean(axis=1)
    print(f"accuracy of {count} candidates against all {own.shape[1]} images, in points")

    def line(name: str, images: float, found: np.ndarray) -> None:
        """``found``: one row per draw, one column per candidate."""
        error = 100 * (found - truth)
        tau = np.mean([kendalltau(row, truth)[0] for row in found])
        print(
            f"  {name:<22}{images:>5.0f} images  bias {error.mean():+.2f} (draws "
            f"{error.mean(axis=1).std():.2f})  scatter {error.std(axis=1).mean():.2f}  "
            f"Kendall tau {tau:.3f}"
        )

    for m in (500, 1000, 1500, 2000, 3000):
        draws = [draw(known, 1 - known, m, np.random.default_rng(seed)) for seed in range(20)]
        line("first m", m, own[None, :, :m].mean(axis=2))
        line("drawn", m, np.stack([own[:, d.index] @ d.weights + d.shift[0] for d in draws]))
    for doubt in (0.0075, 0.005, 0.0035):
        stopped = [stop_early(row, shared, doubt) for row in own]
        found = np.array([[a for a, _ in stopped]])
        line(f"until error is {doubt:.2%}", float(np.mean([m for _, m in stopped])), found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supernet", type=Path, default=Path("data/cifar10/supernet.safetensors"))
    parser.add_argument("--images", required=True)
    parser.add_argument("--count", type=int, default=24, help="candidates that are measured")
    parser.add_argument("--test", action="store_true", help="also the test images")
    parser.add_argument("--parts", type=int, help="only parts of the images, so many candidates")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    supernet = load_supernet(options.supernet)
    network, space = supernet.network, supernet.network.space
    images = load_images(options.images, space.resolution, space.in_channels, space.classes)
    whole = EvalImages.of(images, supernet.mean, supernet.std, calibration=2000)
    if options.parts:
        one = EvalImages.of(images, supernet.mean, supernet.std)
        parts_of_the_images(network, one, options.parts)
        return

    splits = {"validation": whole}
    if options.test:
        splits["test"] = EvalImages.of(images, supernet.mean, supernet.std, "test", None, 2000)
    print("subnet         MMACs  " + "  ".join(splits))
    for name, candidate in uniform(space).items():
        scores = [measure(network.subnet(candidate), data)[0] for data in splits.values()]
        print(
            f"{name:<13}{macs_of(space, candidate) / 1e6:7.1f}  "
            + "  ".join(f"{s:10.2%}" for s in scores)
        )

    rows = plan(space, options.count, 0, quantized=False)
    candidates = sorted(
        [space.build(row) for row in rows], key=lambda c: choices(space.graph_of(c))
    )
    data = EvalImages.of(images, supernet.mean, supernet.std, limit=2000)
    work = sum(macs_of(space, c) for c in candidates) * (len(data.labels) + len(data.calibration))
    floor = work / matrix_rate()
    spent = dict.fromkeys(("cut out", "recalibrate", "fold", "forward"), 0.0)
    for candidate in candidates:
        s, net = seconds(
            lambda c=candidate: network.subnet(c).to(memory_format=torch.channels_last)
        )
        spent["cut out"] += s
        spent["recalibrate"] += seconds(lambda n=net: recalibrate(n, data.calibration))[0]
        s, folded = seconds(lambda n=net: fold(n))
        spent["fold"] += s
        spent["forward"] += seconds(lambda n=folded: accuracy(n, data))[0]
    shared, total = SharedStart(data), 0.0
    for c, following in zip(candidates, [*candidates[1:], None], strict=True):
        after = choices(space.graph_of(following)) if following else ()
        total += seconds(lambda c=c, a=after: shared.measure(network.subnet(c), a))[0]
    alone, n = sum(spent.values()), len(candidates)
    print(
        f"\nper sample, CPU seconds on one thread ({len(data.labels)} images, "
        f"{len(data.calibration)} for batch norm; {n} candidates)"
    )
    for name, value in spent.items():
        print(f"  {name:<12} {value / n:.3f}  {value / alone:5.1%}")
    print(f"  together     {alone / n:.3f}  {60 * n / alone:.0f} samples/min")
    print(
        f"  as collected {total / n:.3f}  {60 * n / total:.0f} samples/min, "
        f"{alone / total:.2f}x: shared starts (chunks of 100 share more than {n}), onnxruntime"
    )
    print(f"  floor        {floor / n:.3f}  the same multiply-accumulates as matrix products")

    print("\nshort cuts against all validation images and 2,000 for batch norm")
    truth = np.array([measure(network.subnet(c), whole)[0] for c in candidates])
    for count, calibration in ((500, 1000), (1000, 1000), (2000, 500), (2000, 1000), (5000, 1000)):
        data = EvalImages.of(
            images, supernet.mean, supernet.std, limit=count, calibration=calibration
        )
        found = np.array([measure(network.subnet(c), data)[0] for c in candidates])
        error = found - truth
        print(
            f"  {len(data.labels):>5} images, {calibration:>5} for batch norm: mean error {error.mean():+.2%}, "
            f"scatter {error.std():.2%}, Kendall tau {kendalltau(found, truth)[0]:.3f}"
        )


if __name__ == "__main__":
    main()
