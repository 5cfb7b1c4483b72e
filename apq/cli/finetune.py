"""``apq finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apq.cli.common import images_for, live_line, next_step, out, print_json
from apq.cli.options import AsJson, Augment, Balance, Device, Images, OtherImages, Seed
from apq.files.places import RUN, SUPERNET, home

if TYPE_CHECKING:
    from apq.deploy.finetune import FinetuneReport
    from apq.deploy.model import Model


def finetune(
    candidate: Annotated[
        Path, typer.Option(help="best.json of a search, or a JSON file with a candidate.")
    ] = RUN / "best.json",
    supernet: Annotated[
        Path | None,
        typer.Option(
            help="Supernet to start from; its largest subnet teaches (default: "
            "data/SPACE/supernet.safetensors)."
        ),
    ] = None,
    images: Images = None,
    other_images: OtherImages = False,
    other_supernet: Annotated[
        bool,
        typer.Option(
            "--other-supernet", help="Use this supernet although the search is about another."
        ),
    ] = False,
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Model file; default: beside the candidate.")
    ] = None,
    scheme: Annotated[
        str,
        typer.Option(
            help="Scheme of plain widths; several by bits, as in 1=binary,2=ternary; flightnn@0.03 "
            "with how strongly it saves powers of two; or fp32 (baseline)."
        ),
    ] = "uniform",
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the training images.")] = 10,
    batch: Annotated[int, typer.Option(min=2, help="Images per step.")] = 128,
    lr: Annotated[float, typer.Option(min=1e-7, help="Peak learning rate.")] = 0.005,
    augment: Augment = "shift",
    balance: Balance = False,
    distil: Annotated[bool, typer.Option(help="Learn from the largest subnet as well.")] = True,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from random weights, for comparison.")
    ] = False,
    corrected: Annotated[
        bool | None,
        typer.Option(
            help="Start from weights refitted after cutting (default: as the predictor's samples)."
        ),
    ] = None,
    fixed_weight_bits: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=8,
            help="Weight bits of stem, first block, head and classifier; default: as the space says.",
        ),
    ] = None,
    distribution: Annotated[
        float,
        typer.Option(
            "--distribution-loss",
            min=0,
            help="Weight of the loss that spreads what is rounded to 1 bit (published: 2).",
        ),
    ] = 0.0,
    lut: Annotated[
        str | None,
        typer.Option(
            help="Table or cost model: price the tuned network, flightnn by the powers it kept."
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: AsJson = False,
) -> None:
    """Train the winner under its bits, then measure it once on the test images.

    Interrupt it at any time: the same command continues from the checkpoint beside --out.

    Examples:

      apq finetune --candidate runs/search/best.json --supernet data/mine/supernet.safetensors --images photos/ --out runs/search/model.safetensors

      apq finetune --candidate runs/search/best.json --images photos/ --scheme fp32 --out runs/search/float.safetensors

      apq finetune --candidate runs/search/best.json --images photos/ --augment photo --balance

      apq finetune --candidate runs/search/best.json --images photos/ --scheme flightnn@0.03 --lut horowitz
    """
    from apq.deploy.finetune import FinetuneRecipe, finetune_candidate
    from apq.deploy.model import read_candidate
    from apq.deploy.terms import price_tuned
    from apq.hardware import load_cost_model
    from apq.images import require_same_images
    from apq.supernet import load_supernet

    device_model = None if lut is None else load_cost_model(lut)
    chosen = read_candidate(candidate)
    weights = supernet or home(chosen.space or "cifar10") / SUPERNET
    loaded = load_supernet(weights)
    found = images_for(images, loaded.network.space, loaded.metadata, str(weights), other_images)
    if not other_images:
        require_same_images(chosen.images, found, str(candidate))
    path = out_path or candidate.with_name("model.safetensors")
    recipe = FinetuneRecipe(
        scheme, epochs, batch, lr, distil=distil, from_scratch=from_scratch, corrected=corrected,
        distribution=distribution, fixed_weight_bits=fixed_weight_bits, seed=seed, augment=augment, balance=balance,
    )  # fmt: skip
    with live_line("fine-tune") as report:
        model, result = finetune_candidate(
            chosen, loaded, found, path, recipe, other_supernet=other_supernet, on_progress=report,
            device=device,
        )  # fmt: skip
    priced = {} if device_model is None else price_tuned(model, device_model)
    _tell(path, model, result, priced, loaded.hash, json)
    next_step(f"apq export --model {path} --format onnx")


def _tell(
    path: Path, model: Model, result: FinetuneReport, priced: dict[str, float], tuned_from: str,
    json: bool,
) -> None:  # fmt: skip
    """Print what came out."""
    from dataclasses import asdict

    from apq.cost import told
    from apq.deploy.model import size_bytes
    from apq.deploy.terms import terms_by_layer

    searched_on = model.metadata.get("searched_on")
    terms = [sum(counts) for counts in zip(*terms_by_layer(model).values(), strict=True)]
    if json:
        made = {
            "size_bytes": size_bytes(model.network), "terms": terms, "priced": priced,
            "searched_on": searched_on,
        }  # fmt: skip
        print_json({"out": path.as_posix()} | made | asdict(result))
        return
    if result.predicted is not None:
        spread = f" ± {result.predicted_spread:.2%}" if result.predicted_spread else ""
        out.print(f"predicted by the search    validation {result.predicted:.2%}{spread}")
    out.print(f"quantized, not yet tuned   validation {result.before:.2%}")
    out.print(f"tuned (epoch {result.best_epoch:>3})          validation {result.after:.2%}")
    out.print(f"tuned (epoch {result.best_epoch:>3})          test       {result.test:.2%}")
    weakest = sorted(result.classes.items(), key=lambda pair: pair[1])[:5]
    scores = ", ".join(f"{name} {score:.0%}" for name, score in weakest)
    out.print(f"weakest classes            test       {scores}")
    if terms:
        counts = ", ".join(f"{count:,} with {k}" for k, count in enumerate(terms))
        out.print(f"filters by powers of two: {counts}; {size_bytes(model.network):,} bytes")
    if priced:
        out.print("priced: " + ", ".join(f"{k} {value:.4g}" for k, value in priced.items()))
    if searched_on:
        out.print(f"searched on the supernet {searched_on}, tuned from {tuned_from}")
    out.print(f"wrote {path} in {told(result.cost)}")
