"""An interrupted training as a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apq.errors import ModelError
from apq.supernet.network import Supernet, load_tensors, save_tensors


def save_checkpoint(
    path: Path,
    network: Supernet,
    optimiser: torch.optim.SGD,
    average: dict[str, Tensor],
    identity: dict[str, Any],
    step: int,
    seconds: float,
) -> None:
    """Write weights, their running average, momentum, the step reached and the seconds spent.

    ``identity`` is what decides the training; a checkpoint is of no use to another.
    """
    tensors = {f"model.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    for name, parameter in network.named_parameters():
        buffer = optimiser.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{name}"] = buffer
    kind = {"kind": "supernet checkpoint", "step": step, "seconds": seconds}
    save_tensors(path, tensors, kind | identity)


def load_checkpoint(
    path: Path,
    network: Supernet,
    optimiser: torch.optim.SGD,
    average: dict[str, Tensor],
    identity: dict[str, Any],
) -> tuple[int, float]:
    """Fill network, optimiser and average; returns the steps done and the seconds spent.

    Raises:
        ModelError: the file is damaged or of another training.
    """
    tensors, metadata = load_tensors(path, "supernet checkpoint")
    for key, value in identity.items():
        if metadata.get(key) != value:
            raise ModelError(
                f"{path} is the checkpoint of another training: its {key} is {metadata.get(key)}, "
                f"this command's is {value}. Use the same options, or delete it to start over."
            )
    network.load_state_dict(_under("model.", tensors))
    average.update(_under("average.", tensors))
    for name, parameter in network.named_parameters():
        buffer = tensors.get(f"momentum.{name}")
        if buffer is not None:
            optimiser.state[parameter]["momentum_buffer"] = buffer.to(
                memory_format=torch.channels_last if buffer.dim() == 4 else torch.preserve_format
            )
    return int(metadata["step"]), float(metadata["seconds"])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
