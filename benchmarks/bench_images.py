"""Photographs that memory does not hold: memory of training and evaluation, and loading speed.

    python benchmarks/bench_images.py
    python benchmarks/bench_images.py --count 50000 --odd 2000 --torchvision /tmp/libs

Makes JPEGs of textures in three classes, and odd kinds of pictures, in a temporary folder. Then, each
in a process of its own: trains a small network for a few steps and measures it on all validation and
test images (peak memory); loads batches as training does, in turn with torchvision's ImageFolder and
a DataLoader with as many workers (images/s), beside training steps on one core.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, CLASSES, BATCH = 224, 3, 32
ODD = ("grey", "CMYK", "clear", "turned", "deep", "palette", "webp", "truncated", "empty", "text")


def textures(count: int, side: int) -> list[np.ndarray]:
    """Smooth noise with detail, ``(side + 64, side + 64, 3)`` each, so that JPEGs are as heavy as
    photographs."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((side + 64, side + 64), Image.Resampling.BICUBIC))
        noise = rng.normal(0, 12, smooth.shape)
        found.append(np.clip(smooth + noise, 0, 255).astype(np.uint8))
    return found


def encoded(image: Image.Image, kind: str = "JPEG", **how: object) -> bytes:
    """A picture's file."""
    data = io.BytesIO()
    image.save(data, kind, **how)
    return data.getvalue()


def odd(image: Image.Image, kind: str) -> tuple[str, bytes]:
    """Suffix and file of an odd kind."""
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        return ".jpg", encoded(image, exif=exif)
    if kind == "deep":
        return ".png", encoded(
            Image.fromarray(np.asarray(image.convert("L")).astype("u2") << 8), "PNG"
        )
    made: dict[str, Callable[[], tuple[str, bytes]]] = {
        "grey": lambda: (".jpg", encoded(image.convert("L"))),
        "CMYK": lambda: (".jpg", encoded(image.convert("CMYK"))),
        "clear": lambda: (".png", encoded(image.convert("RGBA"), "PNG", compress_level=1)),
        "palette": lambda: (".png", encoded(image.convert("P"), "PNG", transparency=0)),
        "webp": lambda: (".webp", encoded(image, "WEBP")),
        "truncated": lambda: (".jpg", encoded(image)[:-500]),
        "empty": lambda: (".jpg", b""),
        "text": lambda: (".jpg", b"no picture"),
    }
    return made[kind]()


def generate(folder: Path, count: int, strange: int, side: int) -> int:
    """Write the set; returns its bytes."""
    rng = np.random.default_rng(1)
    base, size = textures(60, side), 0
    for i in range(count + strange):
        label = i % CLASSES
        x, y = rng.integers(0, 64, 2)
        texture = base[int(rng.integers(0, len(base) // CLASSES)) * CLASSES + label]
        image = Image.fromarray(texture[y : y + side, x : x + side])
        suffix, data = (".jpg", encoded(image, quality=85))
        if i >= count:
            suffix, data = odd(image, ODD[i % len(ODD)])
        path = folder / f"class{label}" / f"{i:06d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        size += len(data)
    return size


def space():
    """A small MobileNet for 224 pixels."""
    from apq.space import MobileNetV2, Space, Stage

    stages = tuple(Stage(c, 2, (1,), (3,), (1, 2), 8) for c in (16, 24, 32))
    return Space(MobileNetV2("photos", SIDE, CLASSES, stages, 3, 8, 2, 8, 64))


def train(folder: Path, steps: int) -> dict[str, object]:
    """Train for some steps and measure on validation and test images; what that took."""
    import torch

    from apq.images import load_images
    from apq.supernet import smallest
    from apq.supernet.evaluate import EvalImages, measure
    from apq.supernet.training import Recipe
    from apq.supernet.training import train as train_supernet

    torch.set_num_threads(1)
    began = time.perf_counter()
    images = load_images(str(folder), SIDE, 3, CLASSES)
    loaded = time.perf_counter()
    share = steps * BATCH / len(images.splits["train"][1])
    network, made = train_supernet(space(), images, Recipe(epochs=share, batch=BATCH))
    trained = time.perf_counter()
    test = EvalImages.of(images, images.mean, images.std, "test")
    score, _ = measure(network.subnet(smallest(network.space)), test)
    return {
        "told": images.describe(), "open_s": loaded - began, "train_s": trained - loaded,
        "test_s": time.perf_counter() - trained, "test_images": len(test.labels),
        "validation": made["validation_accuracy"], "test": score, "steps": made["steps"],
    }  # fmt: skip


def load(folder: Path, count: int) -> dict[str, object]:
    """Images a second as training gets them."""
    import torch

    from apq.images import load_images
    from apq.training.feed import Feed
    from apq.workers import default_workers

    images = load_images(str(folder), SIDE, 3, CLASSES)
    feed = Feed(images.splits["train"], BATCH, torch.device("cpu"))

    def batches() -> Iterator[int]:
        for step in range(feed.per_epoch):
            yield len(feed.at(step, 0)[0])

    return {"rate": rate(batches(), count), "workers": default_workers()}


def load_torchvision(folder: Path, count: int) -> dict[str, object]:
    """Images a second of ImageFolder and DataLoader, and as many workers as we use."""
    import torch

    # builds for GPUs cannot load their operators beside PyTorch for CPUs; images need none of them
    for name in ("_meta_registrations", "_autograd_registrations"):
        sys.modules[f"torchvision.{name}"] = types.ModuleType(name)
    import torchvision
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    from apq.workers import default_workers

    torch.set_num_threads(1)
    steps = v2.Compose([v2.Resize((SIDE, SIDE)), v2.PILToTensor()])
    readable = {str(path) for path in folder.glob("*/*") if usable(path)}
    data = ImageFolder(str(folder), steps, is_valid_file=readable.__contains__)
    loader = torch.utils.data.DataLoader(
        data, BATCH, shuffle=True, num_workers=default_workers(), drop_last=True
    )
    found = rate((len(x) for x, _ in loader), count)
    return {"rate": found, "version": torchvision.__version__}


def usable(path: Path) -> bool:
    """Whether ImageFolder does not stumble over a picture."""
    from apq.images.inspect import inspect

    return not inspect(path.read_bytes())[0]


def rate(batches: Iterator[int], count: int) -> float:
    """Images a second, after a few batches."""
    for _ in islice(batches, 8):
        pass
    began, seen = time.perf_counter(), 0
    for size in batches:
        seen += size
        if seen >= count:
            break
    return seen / (time.perf_counter() - began)


def compute(_: Path, count: int) -> dict[str, object]:
    """Training images a second on one core, nothing to load: forward and backward pass."""
    import torch
    import torch.nn.functional as F

    from apq.supernet import Supernet, largest
    from apq.supernet.memory import keep_memory

    torch.set_num_threads(1)
    keep_memory()
    network = Supernet(space()).to(memory_format=torch.channels_last)
    x = torch.randn(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    y = torch.randint(0, CLASSES, (BATCH,))

    def steps() -> Iterator[int]:
        while True:
            F.cross_entropy(network(x, largest(network.space)), y).backward()
            yield BATCH

    return {"rate": rate(steps(), min(count, 640))}


PARTS = {"train": train, "load": load, "torchvision": load_torchvision, "compute": compute}


def child(part: str, folder: Path, count: int, libraries: str = "") -> dict[str, object]:
    """Run a part in a process of its own; what it says, and its peak memory in MB."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    paths = [p for p in (os.environ.get("PYTHONPATH", ""), libraries) if p]
    done = subprocess.run(
        [*command, "--steps", str(count)], check=False, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    if done.returncode:
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def memory() -> dict[str, float]:
    """Peak resident MB of this process, and of a worker as long as it has lived."""
    from apq.workers import ahead, default_workers

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"own_mb": own, "worker_mb": next(ahead(highest, [()], default_workers(), 1))}


def highest() -> float:
    """Peak resident MB of this process alone: its ru_maxrss begins with that of who started it."""
    told = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    found = [line.split()[1] for line in told.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--odd", type=int, default=2_000)
    parser.add_argument("--pixels", type=int, default=SIDE, help="side of the pictures")
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    parser.add_argument("--load", type=int, default=4_000, help="images to load")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--torchvision", default="", help="folder that has it, if not installed")
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.part:
        found = PARTS[options.part](options.folder, options.steps)
        print(json.dumps(found | memory()))
        return
    with tempfile.TemporaryDirectory(prefix="apq-bench-") as place:
        folder = Path(place)
        began = time.perf_counter()
        size = generate(folder, options.count, options.odd, options.pixels)
        took = time.perf_counter() - began
        print(
            f"{options.count:,} + {options.odd:,} pictures, {size / 2**20:.0f} MiB, made in {took:.0f} s"
        )
        speeds(folder, options)
        peak(folder, options.steps)


def speeds(folder: Path, options: argparse.Namespace) -> None:
    """Loading, beside torchvision and training."""
    rates: dict[str, list[float]] = {"load": [], "torchvision": [], "compute": []}
    for _ in range(options.rounds):
        for part, seen in rates.items():
            found = child(part, folder, options.load, options.torchvision)
            seen += [float(found["rate"])] if found else []
    if not rates["torchvision"]:
        print("torchvision is not installed: nothing to compare with")
    best = {part: max(seen) for part, seen in rates.items() if seen}
    for part, value in best.items():
        print(f"{part:<12} {value:6.0f} images/s   {best['load'] / value:.2f}x")


def peak(folder: Path, steps: int) -> None:
    """Memory of training and evaluation."""
    found = child("train", folder, steps)
    print(found.pop("told", "training failed"))
    for name, value in found.items():
        print(f"{name:<12} {value:.3f}" if isinstance(value, float) else f"{name:<12} {value}")


if __name__ == "__main__":
    main()
