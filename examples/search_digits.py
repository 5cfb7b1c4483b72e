"""The whole chain as a library, on scikit-learn's 8x8 digits.

Trains, collects, transfers, prices, searches, fine-tunes, exports and verifies:

    python examples/search_digits.py [FOLDER] [--quick]

Everything it makes lies in FOLDER (runs/example); a second run goes on where the first one ended.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import apq


def main(folder: Path, quick: bool) -> None:
    """Run the chain; ``quick`` trains and measures too little to be accurate."""
    folder.mkdir(parents=True, exist_ok=True)
    space = apq.load_space("digits").with_(name="digits-example")
    images = apq.load_images("digits", space.resolution, space.in_channels, space.classes)
    print(f"{space.name}: {space.count():.3g} candidates of {len(space.axes)} genes")

    weights = folder / "supernet.safetensors"
    if not weights.exists():
        recipe = apq.SupernetRecipe(epochs=1 if quick else 20)
        apq.save_supernet(weights, *apq.train_supernet(space, images, recipe))
    supernet = apq.load_supernet(weights, space)

    few, more = (30, 20) if quick else (600, 120)
    steps = apq.Quantization("uniform", finetune_steps=3 if quick else 20)
    apq.collect_samples(supernet, images, folder / "fp32", few)
    apq.collect_samples(supernet, images, folder / "quantized", more, steps)
    samples = [apq.read_samples(folder / kind) for kind in ("fp32", "quantized")]
    predictor = apq.train_predictor(*samples, compare=False)

    table = apq.build_table(space, apq.load_cost_model("bit-serial"))
    priced = apq.price_space(space, table)
    low, high = priced.reach("latency_ms")
    budget = low + 0.3 * (high - low)
    problem = apq.Problem(
        priced, predictor.predict, ("accuracy", "latency_ms"), {"latency_ms": budget}
    )
    result = apq.search_front(problem, candidates=500 if quick else 20_000)
    front, chosen = result.front, result.front.candidate(result.chosen)
    print(f"{len(front)} networks on the front within {budget:.4g} ms; chosen:\n  {chosen}")

    recipe = apq.FinetuneRecipe(epochs=1 if quick else 10)
    model, report = apq.finetune(chosen, supernet, images, folder / "model.safetensors", recipe)
    print(f"predicted {front.accuracy[result.chosen]:.1%}, validation {report.after:.1%}, ", end="")
    print(f"test {report.test:.1%}")
    made = apq.export(model, folder / "model.onnx")
    checked = apq.verify(model, made.path, images)
    print(
        f"{made.path}: {made.file_bytes:,} bytes, {checked.agreement:.0%} of the test images alike"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/example"))
    parser.add_argument("--quick", action="store_true", help="seconds, and not accurate")
    given = parser.parse_args()
    main(given.folder, given.quick)
