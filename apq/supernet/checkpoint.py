"""An interrupted training as a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from apq.cost import Cost
from apq.errors import ModelError
from apq.files.headers import Header
from apq.files.reading import CostTable, Count
from apq.supernet.network import Supernet
from apq.supernet.tensors import load_tensors, require_tensors, save_tensors


class CheckpointHeader(Header):
    """What the checkpoint of a supernet's training says, its identity aside.

    Attributes:
        step: Steps done.
        cost: What they cost.
    """

    what = "a checkpoint of apq train-supernet"
    remedy = "Delete it to start over."

    kind: Literal["supernet checkpoint"]
    step: Count
    cost: CostTable


def save_checkpoint(
    path: Path,
    network: Supernet,
    optimiser: torch.optim.SGD,
    average: dict[str, Tensor],
    identity: dict[str, Any],
    step: int,
    cost: Cost,
) -> None:
    """Write weights, their running average, momentum, the step reached and the cost so far.

    ``identity`` is what decides the training; a checkpoint is of no use to another.
    """
    tensors = {f"model.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    for name, parameter in network.named_parameters():
        buffer = optimiser.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{name}"] = buffer
    kind = {"kind": "supernet checkpoint", "step": step, "cost": dict(cost)}
    save_tensors(path, tensors, kind | identity)


def load_checkpoint(
    path: Path,
    network: Supernet,
    optimiser: torch.optim.SGD,
    average: dict[str, Tensor],
    identity: dict[str, Any],
) -> tuple[int, Cost]:
    """Fill network, optimiser and average; returns the steps done and their cost.

    Raises:
        ModelError: the file is damaged or of another training.
    """
    tensors, header = load_tensors(path, CheckpointHeader)
    for key, value in identity.items():
        if header.said.get(key) != value:
            raise ModelError(
                f"{path} is the checkpoint of another training: its {key} is "
                f"{header.said.get(key)}, "
                f"this command's is {value}. Use the same options, or delete it to start over."
            )
    weights, averages = _under("model.", tensors), _under("average.", tensors)
    momentum, parameters = _under("momentum.", tensors), dict(network.named_parameters())
    require_tensors(f"{path} (model)", weights, network.state_dict())
    require_tensors(f"{path} (average)", averages, parameters if averages else {})
    moving = {name: p for name, p in parameters.items() if name in momentum}
    require_tensors(f"{path} (momentum)", momentum, moving)
    network.load_state_dict(weights)
    average.update(averages)
    for name, parameter in parameters.items():
        buffer = momentum.get(name)
        if buffer is not None:
            optimiser.state[parameter]["momentum_buffer"] = buffer.to(
                memory_format=torch.channels_last if buffer.dim() == 4 else torch.preserve_format
            )
    return header.step, header.cost.model_dump()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
