"""``apq space``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apq.cli.common import next_step, out, print_json
from apq.cli.options import AsJson, SpaceName

if TYPE_CHECKING:
    from apq.space import Space
    from apq.supernet.trace import TracedNetwork

app = typer.Typer(no_args_is_help=True, help="Show a search space, or make one from a network.")


Out = Annotated[Path, typer.Option("--out", help="Space file to write (TOML).")]
Weights = Annotated[Path | None, typer.Option(help="Supernet to write; default: beside --out.")]
Mean = Annotated[str, typer.Option(help="Mean of pixels from 0 to 1, per channel.")]
Std = Annotated[str, typer.Option(help="Standard deviation of pixels, per channel.")]
Smallest = Annotated[
    float, typer.Option(min=0.05, max=1.0, help="Share of channels that is always kept.")
]
Leave = Annotated[
    list[str] | None,
    typer.Option("--keep", "--leave", help="Layers not to cut, as in 'layer4.*'; repeatable."),
]
Least = Annotated[int, typer.Option("--min-width", min=1, help="Fewest channels of any group.")]
Multiple = Annotated[
    int, typer.Option("--round-to", min=0, help="Channels are multiples of it; 0: mostly of 8.")
]
Share = Annotated[
    str,
    typer.Option("--bits", help="Number formats are chosen per-layer, per-block or per-stage."),
]


@app.command("from-model")
def from_model(
    model: Annotated[str, typer.Argument(help="MODULE:FUNCTION; called, it gives the network.")],
    size: Annotated[
        str,
        typer.Option(
            "--input", help="Size of an image, as in 3x32x32, or of a signal, as in 2x400."
        ),
    ] = "3x32x32",
    out_path: Out = Path("mine.toml"),
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    smallest: Smallest = 0.25,
    leave: Leave = None,
    least: Least = 1,
    multiple: Multiple = 0,
    share: Share = "per-block",
    json: AsJson = False,
) -> None:
    """Make a space and a supernet of your own trained network: its widths, residual branches and
    bits can be chosen, and its largest subnet is the network itself.

    Layers that cannot be pruned safely keep their full width, and are listed with the reason and
    their source line. The function is imported and called, so run only code you trust.

    Examples:

      apq space from-model models.mine:build --input 3x32x32 --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26

      apq space from-model models.mine:build --keep 'layer4.*' --smallest 0.5 --out small.toml
    """
    import torch

    from apq.supernet.trace import load_function, normalisation, read_size, trace

    shape = read_size(size)
    about = normalisation(mean, std, shape[0])
    traced = trace(
        load_function(model)(), torch.rand(2, *shape), out_path.stem, None, smallest, leave or (),
        least=least, multiple=multiple, share=share,
    )  # fmt: skip
    _write(traced, out_path, weights, {**about, "source": model}, json)


@app.command("from-onnx")
def from_onnx(
    file: Annotated[Path, typer.Argument(help="ONNX file with real weights; never run.")],
    size: Annotated[
        str, typer.Option("--input", help="Size of an image, if the file leaves it open: 3x48x192.")
    ] = "",
    out_path: Out = Path("mine.toml"),
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    smallest: Smallest = 0.25,
    leave: Leave = None,
    least: Least = 1,
    multiple: Multiple = 0,
    share: Share = "per-block",
    json: AsJson = False,
) -> None:
    """Make a space and a supernet of a trained network that is an ONNX file, as from-model does of
    a torch network. What it gives is compared with onnxruntime.

    A last softmax is left out. An operator that is not read is named with its node; so is every
    layer that keeps its full width. Needs the extra onnx of apq-nas.

    Examples:

      apq space from-onnx page.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225

      apq space from-onnx lines.onnx --input 3x48x192 --bits per-stage --out lines.toml
    """
    import torch

    from apq.supernet.imported import difference, read_onnx
    from apq.supernet.trace import normalisation, read_size, trace

    network = read_onnx(file, read_size(size) if size else ())
    about, gap = normalisation(mean, std, network.shape[0]), difference(network, file)
    traced = trace(
        network, torch.zeros(2, *network.shape), out_path.stem, None, smallest, leave or (),
        least=least, multiple=multiple, share=share,
    )  # fmt: skip
    traced = replace(traced, notes=network.notes + traced.notes)
    _write(traced, out_path, weights, {**about, "source": file.name}, json, difference=gap)


def _write(
    traced: TracedNetwork, out_path: Path, weights: Path | None, about: dict[str, Any], json: bool,
    **extra: float | None,
) -> None:  # fmt: skip
    """The space and the supernet of a traced network, and words about what stays as it is."""
    from apq.files import whole
    from apq.space.describe import to_toml

    said = [f"stays as it is: {layer} ({why})" for layer, why in traced.kept]
    said += [f"{layer}: {what}" for layer, what in traced.notes]
    said += [f"no table prices {m:.4g} M multiplications: {at}" for at, m in traced.unpriced]
    with whole(out_path) as path:
        text = "".join(f"# {line}\n" for line in said) + to_toml(traced.space.to_dict())
        path.write_text(text, encoding="utf-8")
    kept = weights or out_path.with_suffix(".safetensors")
    traced.save(kept, **about)
    if json:
        told: dict[str, Any] = {"fixed": dict(traced.kept), "notes": dict(traced.notes)}
        told |= {"unpriced_macs_m": dict(traced.unpriced)}
        told |= extra
        print_json({"space": str(out_path), "supernet": str(kept), **told})
        return
    _tell(traced.space)
    for name, number in extra.items():
        compared = "not compared" if number is None else f"{number:.1e} of the largest number"
        out.print(f"  {name} from onnxruntime: {compared}")
    for line in said:
        out.print(f"  {line}", soft_wrap=True)
    out.print(f"wrote {out_path} and {kept}")
    next_step(
        f"apq train-supernet --space {out_path} --start {kept} --images photos/ --order taylor "
        "--out data/mine/supernet.safetensors   (--epochs 0: without training)"
    )


@app.command("show")
def show(
    space: Annotated[str, typer.Argument(help="A preset's name or a TOML file.")] = "cifar10",
    nodes: Annotated[bool, typer.Option("--nodes", help="List the network's nodes too.")] = False,
    copy: Annotated[
        Path | None, typer.Option("--out", help="Write it as the TOML file that --space reads.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Say what a space offers: genes, choices, how many candidates, the smallest and the largest.

    Examples:

      apq space show cifar10-resnet --nodes

      apq space show cifar10 --out mine.toml   # a space of one's own begins as a copy
    """
    from apq.files import whole
    from apq.space import load_space
    from apq.space.describe import ends, nodes_in_words, space_file

    found = load_space(space)
    about = found.to_dict()
    if copy is not None:
        with whole(copy) as path:
            path.write_text(space_file(found), encoding="utf-8")
    if json:
        genes = {axis.name: list(axis.labels) for axis in found.axes}
        told = {"candidates": found.count(), "genes": genes, **ends(found)}
        print_json({"space": about, "fingerprint": found.fingerprint, **told})
        return
    _tell(found)
    if nodes:
        for node, words, inputs, when in nodes_in_words(found):
            ran = f"  if {when}" if when else ""
            out.print(f"  {node}: {words} <- {inputs or 'images'}{ran}", soft_wrap=True)
    if copy is not None:
        out.print(f"wrote {copy}")
    next_step(f"apq train-supernet --space {copy or space} --images photos/")


@app.command("filter")
def filter_(
    lut: Annotated[str, typer.Option(help="Table or cost model of the device.")],
    space: SpaceName = "cifar10",
    metric: Annotated[str, typer.Option(help="The cost by which choices are ranked.")] = (
        "latency_ms"
    ),
    keep: Annotated[int, typer.Option(min=1, help="Number of choices that a gene keeps.")] = 2,
    gene: Annotated[
        list[str] | None,
        typer.Option(help="Attribute to filter, repeatable (default: kernels and formats)."),
    ] = None,
    out_path: Annotated[Path, typer.Option("--out", help="Space file to write (TOML).")] = Path(
        "filtered.toml"
    ),
    json: AsJson = False,
) -> None:
    """Keep, block by block, the kernels and formats that are most efficient on a device (HURRICANE).

    A choice is ranked by its multiplications and parameters relative to its cost; among formats of
    equal cost the one with more bits is kept. The file is a restriction of the space: every command
    takes it, with the supernet, samples and predictor of the whole space.

    Examples:

      apq space filter --lut lut/bitfusion-apq-cifar10.csv --out filtered.toml

      apq space filter --space cifar10 --lut row-stationary --metric energy_mj --keep 1 --gene kernel
    """
    from apq.files import whole
    from apq.hardware import load_cost_model, price_space
    from apq.search.menus import keep_paying
    from apq.space import load_space
    from apq.space.describe import genes_in_words, space_file

    whole_space = load_space(space)
    priced = price_space(whole_space, load_cost_model(lut))
    kept = keep_paying(priced, metric, keep, gene or ())
    with whole(out_path) as path:
        path.write_text(f"# what pays on {lut}\n{space_file(kept)}", encoding="utf-8")
    if json:
        menus = {
            a.name: [a.labels[c] for c in m] for a, m in zip(kept.axes, kept.allowed, strict=True)
        }
        print_json({"space": str(out_path), "candidates": kept.count(), "genes": menus})
        return
    for name, words in genes_in_words(kept):
        out.print(f"  {name}: {words}", soft_wrap=True)
    out.print(
        f"{kept.count():.4g} of {whole_space.count():.4g} candidates are left; wrote {out_path}"
    )
    next_step(f"apq search --space {out_path} --lut {lut} --latency-ms ...")


def _tell(space: Space) -> None:
    """Genes, exclusions, how many candidates, and how large they are."""
    from apq.space.describe import ends, genes_in_words
    from apq.space.layer import both

    kind = space.to_dict().get("family", "mobilenet_v2")
    side = "x".join(map(str, (*both(space.image_size), space.in_channels)))
    out.print(f"{space.name}: family {kind}, images {side}, {space.classes} classes")
    for name, words in genes_in_words(space):
        out.print(f"  {name}: {words}", soft_wrap=True)
    for rule in space.exclude:
        out.print(f"  never together: {', '.join(f'{k} {v}' for k, v in rule.items())}")
    out.print(f"{space.count():.4g} candidates of {len(space.axes)} genes")
    for name, size in ends(space).items():
        out.print(f"  {name}: {size['macs_m']:.4g} M MACs, {size['weights_k']:.4g} k weights")
