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
        """``(n, in, h, w) -> (n, out, h', w')``."""
        a, weight = self.about, self.get_buffer("weight")
        bias = self.get_buffer("bias").view(1, -1, 1, 1)
        y = nn.functional.conv2d(x, weight, None, a["stride"], a["padding"], 1, a["groups"])
        if not a["bits"]:
            y = y.add_(bias)
            return y.clamp_(0, 6) if a["relu6"] else y
        scale, out = self.get_buffer("scale").view(1, -1, 1, 1), a["output"]
        y = y.mul_(scale).add_(bias) if a["table"] else y.add_(bias).mul_(scale)
        return y.round_().clamp_(out["low"], out["high"]) if out else y


class Network(nn.Module):
    """The layers in a row; shortcuts add a block's input to its output."""

    def __init__(self, abouts: list[dict[str, Any]], tensors: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(a, t) for a, t in zip(abouts, tensors, strict=True))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Normalised images ``(n, channels, height, width)`` to logits ``(n, classes)``."""
        grid: Any = None
        kept = x
        for layer in self.layers:
            about: Any = layer.about
            here = about["input"]
            if about["name"] == "classifier" and here:
                total = x.sum(dim=(2, 3), keepdim=True)
                factor = torch.tensor(grid["scale"]) / (
                    torch.tensor(here["scale"]) * x[0, 0].numel()
                )
                x = total.mul_(factor).round_().clamp_(here["low"], here["high"])
            elif about["name"] == "classifier":
                x = x.mean(dim=(2, 3), keepdim=True)
            elif about["name"].endswith(".expand"):
                kept = x
            if here and not grid:
                x = to_grid(x, here)
            elif about["regrid"]:
                x = to_grid(x * torch.tensor(grid["scale"]), here)
            x, grid = layer(x), about["output"] or grid
            if about["shortcut"]:
                x = x + kept
                x = x.clamp_(grid["low"], grid["high"]) if grid else x
        return x.flatten(1)


def load(path: str | Path) -> tuple[Network, dict[str, Any]]:
    """The network in a file, and what the file says about it."""
    with safe_open(str(path), framework="pt") as file:
        about = {key: json.loads(value) for key, value in file.metadata().items()}
        tensors: list[dict[str, Tensor]] = [{} for _ in about["layers"]]
        for key in file.keys():  # noqa: SIM118
            index, _, part = key.partition(".")
            tensors[int(index)][part] = file.get_tensor(key)
    return Network(about["layers"], tensors).eval(), about
