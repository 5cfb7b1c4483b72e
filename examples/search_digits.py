"""The whole chain as a library, on scikit-learn's 8x8 digits, as README's commands do it.

    python examples/search_digits.py [FOLDER] [--quick]

Trains, collects, transfers, prices, searches, fine-tunes, exports and verifies, and prints what was
predicted beside what was measured. All files lie in FOLDER (runs/example); an interrupted run goes
on where it ended.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import apq


def main(folder: Path, quick: bool) -> None:
    """Run the chain; ``quick`` trains and measures too little to be accurate."""
    torch.set_num_threads(1)  # on 8x8 images threads wait for each other longer than they work
    space = apq.load_space("digits")
    images = apq.load_images("digits", space.resolution, space.in_channels, space.classes)
    print(f"{space.name}: {space.count():.3g} candidates of {len(space.axes)} genes")

    # One set of weights for all candidates.
    path = folder / "supernet.safetensors"
    if not path.exists():
        training = apq.SupernetRecipe(epochs=1 if quick else 40, batch=64)
        apq.train_supernet(space, images, path, training)
    supernet = apq.load_supernet(path, space)

    # Accuracies of some: many in fp32, few quantized and briefly fine-tuned.
    fp32, quantized = (30, 20) if quick else (300, 80)
    how = apq.Quantization(finetune_steps=3 if quick else 20, lr=0.02)
    apq.collect_samples(supernet, images, folder / "fp32", fp32)
    apq.collect_samples(supernet, images, folder / "quantized", quantized, how)

    # Accuracies of all others, learnt on fp32 samples and transferred to quantized ones.
    samples = [apq.read_samples(folder / kind) for kind in ("fp32", "quantized")]
    predictor = apq.train_predictor(*samples, compare=False)
    predictor.save(folder / "predictor.safetensors")

    # What every layer costs on a device, here a simulated one, and the search within a limit.
    apq.build_table(space, apq.load_cost_model("bitfusion-apq")).write(folder / "lut.csv")
    priced = apq.price_space(space, apq.read_lut(folder / "lut.csv"))
    low, high = priced.reach("latency_ms")
    limits = {"latency_ms": low + 0.2 * (high - low)}
    found = apq.search_front(priced, predictor.predict, limits, candidates=500 if quick else 10_000)
    print(f"{len(found.front)} networks on the front within {limits['latency_ms']:.4f} ms; chosen:")
    print(f"  {found.candidate}")

    # The chosen network, trained under its bits, as a file that onnxruntime runs.
    tuning = apq.FinetuneRecipe(epochs=1 if quick else 15, batch=64, lr=0.02)
    model, tuned = apq.finetune(found, supernet, images, folder / "model.safetensors", tuning)
    written = apq.export(model, folder / "model.onnx")
    checked = apq.verify(model, written.path, images)

    print(f"{'':12}{'predicted':>16}  measured")
    print(f"{'accuracy':12}{found.accuracy:>9.1%} ± {found.spread:.1%}", end="  ")
    print(f"{tuned.after:.1%} on validation images, {checked.accuracy:.1%} on test images")
    here = checked.latency_ms[1] if checked.latency_ms else float("nan")
    print(f"{'latency, ms':12}{found.costs['latency_ms']:>16.4f}", end="  ")
    print(f"{here:.4f} on this machine, which the table is not about")
    print(f"{'size, kB':12}{1000 * found.costs['size_mb']:>16.1f}", end="  ")
    print(f"{written.weight_bytes / 1000:.1f} of weights in {written.path}")
    print(f"{checked.agreement:.0%} of {checked.images} test images in the class torch says")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The whole chain on 8x8 digits.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/example"))
    parser.add_argument("--quick", action="store_true", help="seconds, and not accurate")
    given = parser.parse_args()
    main(given.folder, given.quick)
