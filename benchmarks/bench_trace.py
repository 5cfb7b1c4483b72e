"""How many networks that others wrote can be traced, and whether what comes out is right.

For every network, with random weights and statistics: whether it is traced; whether the largest
subnet gives the network's numbers (to the bit, or the relative difference); whether subnets of half
and of random widths equal the original whose weights for the missing channels are set to 0; how many
groups of channels can be cut, beside those that torch-pruning prunes; blocks that can be skipped;
the share of weights whose layers have channels to cut.

    pip install --no-deps --target LIBS timm torchvision torch-pruning
    PYTHONPATH=LIBS python benchmarks/bench_trace.py [--only NAME …] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apq.errors import ApqError
from apq.supernet.supernet import largest
from apq.supernet.trace import TracedNetwork, trace

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from masked_original import candidates, gap, masked

TIMM = (
    "convnextv2_atto cspdarknet53 deit_tiny_patch16_224 dla34 dpn68 edgenext_xx_small "
    "efficientnet_lite0 efficientvit_b0 ese_vovnet19b_dw fastvit_t8 gernet_s ghostnet_100 "
    "hardcorenas_a hgnetv2_b0 hrnet_w18_small inception_next_atto lcnet_050 levit_128s "
    "mambaout_femto mixnet_s mobilenetv3_small_100 mobilenetv4_conv_small mobileone_s0 "
    "mobilevit_s nf_regnet_b1 poolformer_s12 regnetx_002 repvgg_a0 repvit_m0_9 "
    "res2net50_26w_4s resnetv2_50 rexnet_100 selecsls42b seresnet50 skresnet18 starnet_s1 "
    "tf_efficientnetv2_b0 tinynet_e "
)
TORCHVISION = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 googlenet mnasnet1_0 mobilenet_v2 "
    "mobilenet_v3_small regnet_y_400mf resnet18 resnet50 resnext50_32x4d "
    "shufflenet_v2_x1_0 squeezenet1_1 swin_t vgg11_bn vit_b_16 wide_resnet50_2 "
)
SIDE = {"levit_128s": 224, "deit_tiny_patch16_224": 224, "swin_t": 224, "vit_b_16": 224,
        "mobilevit_s": 128, "alexnet": 224}  # fmt: skip


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Builders by name, of the packages that are there."""
    # this release of torchvision asks for compiled operations when it is imported; no network does
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("_meta_registrations")
    found: dict[str, Callable[[], nn.Module]] = {}
    try:
        import timm

        for name in TIMM.split():
            found[f"timm:{name}"] = lambda n=name: timm.create_model(n)
    except ImportError as error:
        print(f"timm cannot be imported: {error}")
    try:
        from torchvision import models

        for name in TORCHVISION.split():
            extra = {"init_weights": False} if name == "googlenet" else {}
            found[f"tv:{name}"] = lambda n=name, e=extra: models.get_model(n, **e)
    except ImportError as error:
        print(f"torchvision cannot be imported: {error}")
    return found


@torch.no_grad()
def lively(network: nn.Module) -> nn.Module:
    """Random statistics, gains and shifts, so that nothing is by chance the same."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            if module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    for parameter in network.parameters():
        if not bool(parameter.any()):
            parameter.normal_(0, 0.05)
    return network.eval()


@torch.no_grad()
def right(network: nn.Module, traced: TracedNetwork, x: Tensor) -> dict[str, Any]:
    """Full width and cut widths against the network itself."""
    space, wanted = traced.space, network(x)
    found = traced.supernet(x, largest(space))
    worst: float | None = 0.0
    for candidate in candidates(space):
        oracle = masked(network, space, space.chosen(candidate))
        cut = traced.supernet.subnet(candidate).eval()(x)
        worst = None if oracle is None or worst is None else max(worst, gap(oracle(x), cut))
    return {"full": gap(wanted, found), "bit_equal": torch.equal(wanted.flatten(), found.flatten()),
            "cut": worst}  # fmt: skip


def share(traced: TracedNetwork) -> float:
    """Weights of layers with channels to cut among all."""
    count = {True: 0, False: 0}
    graph = traced.space.graph
    for node in graph.priced:
        module = traced.supernet.get_submodule(node.name)
        names = graph.genes(node) - {*(g for g, _ in node.when)}
        cut = any(name.endswith("_width") for name in names)
        count[cut] += sum(p.numel() for p in module.parameters())
    return count[True] / max(1, sum(count.values()))


def torch_prunings(network: nn.Module, x: Tensor) -> str:
    """Groups that torch-pruning finds, and whether the network runs with a quarter pruned."""
    try:
        import torch_pruning as tp
    except ImportError:
        return "not installed"
    network = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1:]
    try:
        pruner = tp.pruner.MagnitudePruner(
            network, x, tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.25,
            ignored_layers=last,
        )  # fmt: skip
        groups = len(list(pruner.DG.get_all_groups(ignored_layers=last)))
    except Exception as error:
        return f"fails: {type(error).__name__}"
    try:
        pruner.step()
        with torch.no_grad():
            network(x)
    except Exception:
        return f"{groups}, pruned one fails"
    return str(groups)


def one(name: str, build: Callable[[], nn.Module], beside: bool) -> dict[str, Any]:
    """All figures of one network."""
    torch.manual_seed(0)
    network = lively(build())
    side = SIDE.get(name.split(":")[1], 96)
    side = 256 if "mobilevit" in name else side
    x = torch.randn(2, 3, side, side)
    start = time.perf_counter()
    try:
        traced = trace(network, x, name.split(":")[1], sort=False)
    except ApqError as error:
        return {"name": name, "error": str(error)[:300]}
    seconds = time.perf_counter() - start
    space = traced.space
    groups = sum(axis.attribute.endswith("_width") for axis in space.axes)
    skips = sum(len(stage.depth) - 1 for stage in space.stages)
    return {
        "name": name, "groups": groups, "skips": skips, "share": round(share(traced), 3),
        **right(network, traced, x), "seconds": round(seconds, 1), "kept": len(traced.kept),
        "why": sorted({reason.split(", module")[0] for _, reason in traced.kept})[:6],
        "torch_pruning": torch_prunings(network, x) if beside else "",
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--only", nargs="*", default=[])
    ask.add_argument("--json")
    ask.add_argument("--beside", action="store_true", help="torch-pruning in the same run")
    said = ask.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    print("| network | groups | skips | share | full width | cut widths | torch-pruning | s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, build in networks().items():
        if said.only and not any(part in name for part in said.only):
            continue
        try:
            row = one(name, build, said.beside)
        except Exception as error:
            row = {"name": name, "error": f"!! {type(error).__name__}: {error}"[:300]}
        rows.append(row)
        if "error" in row:
            print(f"| {name} | {row['error']} |", flush=True)
        else:
            full = "bit-equal" if row["bit_equal"] else f"{row['full']:.1e}"
            cut = "n/c" if row["cut"] is None else f"{row['cut']:.1e}"
            print(f"| {name} | {row['groups']} | {row['skips']} | {row['share']:.2f} | {full} | "
                  f"{cut} | {row['torch_pruning']} | {row['seconds']} |", flush=True)  # fmt: skip
    done = [r for r in rows if "error" not in r]
    print(
        f"{len(done)} of {len(rows)} traced; {sum(r['bit_equal'] for r in done)} bit-equal, "
        f"{sum(r['full'] <= 1e-5 for r in done)} within 1e-5 at full width; "
        f"{sum(r['cut'] is not None and r['cut'] <= 1e-5 for r in done)} cut ones equal the masked "
        f"original within 1e-5; {sum(r['cut'] is not None and r['cut'] > 1e-5 for r in done)} do not"
    )
    if said.json:
        with open(said.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
