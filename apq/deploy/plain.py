"""Load a network exported by ``apq export --format torch``. Needs torch and safetensors only.

    from model import load            # this file, beside model.safetensors
    network, about = load("model.safetensors")
    logits = network(images)          # (n, channels, height, width), normalised by about["mean"],
                                      # about["std"] per channel on the 0..1 scale

Weights are stored as packed integers of 1 to 8 bits. The network computes in integers, so its
logits do not depend on batch size, threads or memory format. Inference only.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn


def unpack(data: Tensor, bits: int, shape: list[int]) -> Tensor:
    """Unsigned integers of ``bits`` bits from a byte stream, low bits first, as float32."""
    count = torch.Size(shape).numel()
    planes = (data[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    digits = planes.reshape(-1)[: count * bits].reshape(count, bits).float()
    return (digits * 2.0 ** torch.arange(bits)).sum(dim=1).reshape(shape)


def to_grid(x: Tensor, grid: dict[str, Any]) -> Tensor:
    """Real numbers as integers ``low .. high`` of a grid; 1 bit with a sign: -1 or 1."""
    if grid["bits"] == 1 and grid["low"] < 0:
        return torch.where(x >= 0, 1.0, -1.0)
    return x.div(torch.tensor(grid["scale"])).round_().clamp_(grid["low"], grid["high"])


def activated(x: Tensor, act: str) -> Tensor:
    """Real numbers behind an activation, if any."""
    if act in ("hswish", "hsigmoid"):
        factor = (x + 3.0).clamp(0.0, 6.0)
        return (x * factor if act == "hswish" else factor) / 6.0
    return x.clamp(0, 6) if act == "relu6" else x.relu() if act == "relu" else x


class Layer(nn.Module):
    """Convolution, one multiplication per channel, bias, activation; in integers: from one grid to
    the next."""

    def __init__(self, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.about = about
        weight = tensors["weight"]
        if about["bits"]:
            weight = unpack(weight, about["bits"], about["shape"])
            weight = tensors["table"][weight.long()] if "table" in tensors else weight
            weight = weight * about["step"] + about["offset"]
        self.register_buffer("weight", weight)
        self.register_buffer("scale", tensors.get("scale"))
        self.register_buffer("bias", tensors["bias"].float())

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in, h, w) -> (n, out, h', w')``, between integers of grids."""
        a, weight = self.about, self.get_buffer("weight")
        bias = self.get_buffer("bias").view(1, -1, 1, 1)
        y = nn.functional.conv2d(x, weight, None, a["stride"], a["padding"], 1, a["groups"])
        if not a["bits"]:
            return activated(y.add_(bias), a["act"])
        scale, out = self.get_buffer("scale").view(1, -1, 1, 1), a["grid"]
        y = y.mul_(scale).add_(bias) if a["table"] else y.add_(bias).mul_(scale)
        return y.round_().clamp_(out["low"], out["high"]) if out else y


def holds(grid: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the other grid's integers mean the same on this one."""
    signs = [g["bits"] == 1 and g["low"] < 0 for g in (grid, other)]
    same = grid["scale"] == other["scale"] and signs[0] == signs[1]
    return bool(same and grid["low"] <= other["low"] and other["high"] <= grid["high"])


def regrid(x: Tensor, grid: dict[str, Any] | None, to: dict[str, Any] | None) -> Tensor:
    """Integers of one grid as integers of another."""
    if not grid or not to or holds(to, grid):
        return x
    return to_grid(x * torch.tensor(grid["scale"]), to)


class Network(nn.Module):
    """The nodes in the order they run, each with the names of what it reads."""

    def __init__(self, nodes: list[dict[str, Any]], tensors: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.nodes = nodes
        self.layers = nn.ModuleDict(
            {str(i): Layer(a, t) for i, (a, t) in enumerate(zip(nodes, tensors, strict=True)) if t}
        )

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Normalised images ``(n, channels, height, width)`` to logits ``(n, classes)``."""
        values: dict[str, Tensor] = {}
        grids = {node["name"]: node["grid"] for node in self.nodes}
        for i, node in enumerate(self.nodes):
            inputs = [values[name] for name in node["inputs"]]
            here, to = [grids[name] for name in node["inputs"]], node["grid"]
            if node["op"] == "image":
                x = to_grid(x, to) if to else x
            elif node["op"] == "pool":
                x = pool(inputs[0], here[0], to)
            elif node["op"] == "maxpool":
                kernel, stride = node["window"]
                pad = kernel // 2 if kernel % 2 else 0
                x = nn.functional.max_pool2d(regrid(inputs[0], here[0], to), kernel, stride, pad)
            elif node["op"] == "act":
                x = inputs[0] * torch.tensor(here[0]["scale"]) if to else inputs[0]
                x = activated(x, node["act"])
                x = to_grid(x, to) if to else x
            elif node["op"] == "scale":
                x = inputs[0] * inputs[1]
                if to:
                    a, b, c = (torch.tensor(g["scale"]) for g in (*here, to))
                    x = x.mul_(a * b / c).round_().clamp_(to["low"], to["high"])
            elif node["op"] in ("add", "concat"):
                # what is joined has one step, so integers are added or copied as they are
                x = torch.cat(inputs, 1) if node["op"] == "concat" else sum(inputs[1:], inputs[0])
                x = x.clamp_(to["low"], to["high"]) if to else activated(x, node["act"])
            else:
                x = self.layers[str(i)](regrid(inputs[0], here[0], node["input"]))
            values[node["name"]] = x
        return x.flatten(1)


def pool(x: Tensor, grid: dict[str, Any] | None, to: dict[str, Any] | None) -> Tensor:
    """Mean over height and width, ``(n, c, 1, 1)``; among integers an exact sum and one product."""
    if not grid or not to:
        return x.mean(dim=(2, 3), keepdim=True)
    factor = torch.tensor(grid["scale"]) / (torch.tensor(to["scale"]) * x[0, 0].numel())
    return x.sum(dim=(2, 3), keepdim=True).mul_(factor).round_().clamp_(to["low"], to["high"])


def load(path: str | Path) -> tuple[Network, dict[str, Any]]:
    """The network in a file, and what the file says about it."""
    with safe_open(str(path), framework="pt") as file:
        about = {key: json.loads(value) for key, value in file.metadata().items()}
        tensors: list[dict[str, Tensor]] = [{} for _ in about["nodes"]]
        for key in file.keys():  # noqa: SIM118
            index, _, part = key.partition(".")
            tensors[int(index)][part] = file.get_tensor(key)
    return Network(about["nodes"], tensors).eval(), about
