"""What a sample costs and how good it is: parts of the work, the floor, and the bias of short cuts.

    python benchmarks/bench_collect.py --supernet data/cifar10/supernet.safetensors --images CIFAR

One thread. The floor is the multiply-accumulates of all forward passes at the rate of a large matrix
product on the same machine in the same run. Also prints the ends and the uniform subnets of the
supernet on validation and, with --test, on the test images (which select nothing).

--early 40 judges stopping the validation when its confidence interval decides, against the largest
subnet's answers as a control variate. Measured on the CIFAR-10 supernet of 24 epochs: no better
than the first m images at equal cost, so apq collect does not offer it. Means of 40 candidates:

    standard error 0.50 %   2212 images  bias +0.02 %  scatter 0.37 %  Kendall tau .747
      first m               2212 images  bias +0.16 %  scatter 0.32 %  Kendall tau .775
    standard error 0.35 %   3100 images  bias +0.12 %  scatter 0.24 %  Kendall tau .809
      first m               3100 images  bias +0.23 %  scatter 0.21 %  Kendall tau .850
    standard error 0.25 %   3844 images  bias +0.07 %  scatter 0.16 %  Kendall tau .871
      first m               3844 images  bias +0.04 %  scatter 0.18 %  Kendall tau .845

The bias of the first m is the same for nearly all candidates, so it does not change their order; a
number of images that differs between candidates does.
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

from apq.collect import plan
from apq.images import load_images
from apq.runtime.shared import SharedStart, choices
from apq.space import Candidate, Space
from apq.supernet import largest, load_supernet, smallest
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
    net = network.subnet(candidate).to(memory_format=torch.channels_last)
    recalibrate(net, data.calibration)
    folded = fold(net)
    with torch.inference_mode():
        parts = [folded(part).argmax(1) for part in data.images.split(250)]
    return (torch.cat(parts) == data.labels).numpy().astype(np.float64)


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


def early_stopping(network: Any, data: EvalImages, count: int) -> None:
    """Stopping when the confidence interval decides, beside the first m images at equal cost."""
    space = network.space
    shared = right(network, largest(space), data)
    rows = plan(space, count, 5, quantized=False)
    own = np.stack([right(network, space.build(row), data) for row in rows])
    truth = own.mean(axis=1)
    print(f"stopping early, {count} candidates; images used, and against all {own.shape[1]}:")

    def line(name: str, images: float, found: np.ndarray) -> None:
        error = found - truth
        print(
            f"  {name:<26}{images:>6.0f} images  bias {error.mean():+.3%} ± "
            f"{error.std(ddof=1) / np.sqrt(count):.3%}  scatter {error.std(ddof=1):.3%}  "
            f"Kendall tau {kendalltau(found, truth)[0]:.3f}"
        )

    for doubt in (0.0075, 0.005, 0.0035, 0.0025):
        stopped = [stop_early(row, shared, doubt) for row in own]
        images = float(np.mean([m for _, m in stopped]))
        line(f"standard error {doubt:.2%}", images, np.array([a for a, _ in stopped]))
        m = round(images)
        plain = own[:, :m].mean(axis=1)
        line("  first m", m, plain)
        line("  first m less reference", m, plain - shared[:m].mean() + shared.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supernet", type=Path, default=Path("data/cifar10/supernet.safetensors"))
    parser.add_argument("--images", required=True)
    parser.add_argument("--count", type=int, default=24, help="candidates that are measured")
    parser.add_argument("--test", action="store_true", help="also the test images")
    parser.add_argument("--early", type=int, help="only early stopping, with so many candidates")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    supernet = load_supernet(options.supernet)
    network, space = supernet.network, supernet.network.space
    images = load_images(options.images, space.resolution, space.in_channels, space.classes)
    whole = EvalImages.of(images, supernet.mean, supernet.std, calibration=2000)
    if options.early:
        one = EvalImages.of(images, supernet.mean, supernet.std)
        early_stopping(network, one, options.early)
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
    candidates = sorted([space.build(row) for row in rows], key=choices)
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
        spent["forward"] += seconds(lambda n=folded: accuracy(n, data.images, data.labels))[0]
    shared, total = SharedStart(data), 0.0
    for c, following in zip(candidates, [*candidates[1:], None], strict=True):
        after = choices(following) if following else ()
        total += seconds(lambda c=c, a=after: shared.measure(network.subnet(c), choices(c), a))[0]
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
