"""The loop every training goes through, and the checkpoint it continues from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from apq.cost import Stopwatch
from apq.errors import ModelError
from apq.files.headers import Header
from apq.files.reading import CostTable, Count, Fraction, Items, Named
from apq.files.tensors import load_tensors, require_tensors, save_tensors
from apq.training.devices import describe
from apq.training.ranks import ALONE, Ranks

OnProgress = Callable[[int, int, Mapping[str, float]], None]

RANGES = (".scale", ".step", ".clip")
"""Endings of the names of learned ranges of quantizers, which weight decay must not shrink."""


def sgd(model: nn.Module, lr: float, weight_decay: float = 0.0) -> torch.optim.SGD:
    """SGD with Nesterov momentum 0.9; decay only on weights of convolutions and linear layers.

    Batch norm, biases, learned ranges and kernel transforms are not decayed.

    Args:
        model: What to train.
        lr: Learning rate to begin with.
        weight_decay: Factor of the weights' own gradient.
    """
    decayed: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        plain = parameter.dim() <= 1 or "transforms" in name or name.endswith(RANGES)
        (rest if plain else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


class CheckpointHeader(Header):
    """What the checkpoint of a training says.

    Attributes:
        identity: What decides the training; a checkpoint is of no use to another.
        step: Steps done.
        scores: What it has measured so far, by :attr:`Training.scores`.
        cost: So far.
    """

    what = "a checkpoint of a training"
    remedy = "Delete it to start over."

    kind: Literal["checkpoint"]
    identity: Named[Any]
    step: Count
    scores: Items[Fraction]
    cost: CostTable


class Training:
    """A training under way: what must survive a kill, and the loop over its steps.

    Args:
        model: What to train, on the device it is trained on.
        optimiser: Of its parameters.
        path: File to save progress in; if it exists, the training continues from it. None: none.
        identity: What decides the training, as JSON would say it.
        kept: Names of further sets of tensors to keep, each with tensors of the names, shapes and
            types it may hold (a running average, the best weights so far).
        scale: Whether to scale losses, which gradients in float16 need.
        ranks: The processes that train it together. Each adds the gradients of its part of a
            batch; the first writes the checkpoint, and all continue from it.

    Attributes:
        step: Steps done.
        scores: Accuracies measured so far, fractions, in order; the user of the loop appends.
        kept: The further sets of tensors.

    Raises:
        ModelError: the checkpoint is damaged, or of another training; or the processes see
            different ones, or other images.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        path: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        kept: Mapping[str, Mapping[str, Tensor]] | None = None,
        scale: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.optimiser, self.path = model, optimiser, path
        self.identity = json.loads(json.dumps(identity or {}))  # as it will be read back
        self.step, self.ranks = 0, ranks
        self.scores: list[float] = []
        self._allowed = kept or {}
        self.kept: dict[str, dict[str, Tensor]] = {name: {} for name in self._allowed}
        self.device = next(model.parameters()).device
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=scale)
        self._watch = Stopwatch(None, describe(self.device), ranks.count)
        if path is not None and path.exists():
            self._load(path)
        if not ranks.agree(json.dumps([self.step, self.identity]), self.device):
            raise ModelError(
                f"the processes of this training see different checkpoints at {path}, images or "
                "options. Files have to lie in a folder that all machines share."
            )
        ranks.take_first(*model.state_dict().values())

    def cost(self) -> dict[str, Any]:
        """The cost so far, over all parts of an interrupted training."""
        return self._watch.cost()

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def run(
        self,
        total: int,
        rate: Callable[[int], float],
        step: Callable[[int], float],
        after: Callable[[int], bool] | None = None,
        tell: Callable[[int, float], None] | None = None,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        """Go on until ``total`` steps are done.

        Args:
            total: Steps in all.
            rate: Learning rate of a step, counted from 0.
            step: Computes a step's gradients by :meth:`backward` and returns its loss.
            after: Called with the steps done; whether to save at once.
            tell: Called with the steps done and the last loss, when they can be saved.
            checkpoint_seconds: How often to save otherwise.

        Raises:
            ModelError: a loss is not finite, or the checkpoint cannot be written.
        """
        saved = time.monotonic()
        while self.step < total:
            for group in self.optimiser.param_groups:
                group["lr"] = rate(self.step)
            self.optimiser.zero_grad()
            loss = step(self.step)
            if not math.isfinite(loss):
                raise ModelError(
                    f"training diverged at step {self.step} (loss {loss}). Lower the learning rate "
                    f"(--lr); at this step it was {rate(self.step):.3g}."
                )
            self.ranks.sum_gradients(self.model)
            self._scaler.step(self.optimiser)
            self._scaler.update()
            self.step += 1
            due = after is not None and after(self.step)
            if due or time.monotonic() - saved > checkpoint_seconds:
                self.save()
                saved = time.monotonic()
            if tell is not None:
                tell(self.step, loss)

    def save(self) -> None:
        """Write the checkpoint, if there is to be one, and this is the process that does."""
        if self.path is None or not self.ranks.first:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for kind, kept in self.kept.items():
            tensors |= {f"{kind}.{k}": v for k, v in kept.items()}
        for name, parameter in self.model.named_parameters():
            momentum = self.optimiser.state.get(parameter, {}).get("momentum_buffer")
            if momentum is None:
                momentum = torch.zeros_like(parameter)
            tensors[f"momentum.{name}"] = (
                momentum  # as good as none, and what is missing is noticed
            )
        said = {
            "kind": "checkpoint", "identity": self.identity, "step": self.step,
            "scores": self.scores, "cost": self.cost(),
        }  # fmt: skip
        save_tensors(self.path, tensors, said)

    def _load(self, path: Path) -> None:
        tensors, header = load_tensors(path, CheckpointHeader)
        for key in self.identity | header.identity:
            theirs, mine = header.identity.get(key), self.identity.get(key)
            if theirs != mine:
                raise ModelError(
                    f"{path} is the checkpoint of another training: its {key} is {theirs}, this "
                    f"one's is {mine}. Use the same options, another --out, or delete it to start "
                    "over."
                )
        sets: dict[str, dict[str, Tensor]] = {"model": {}, "momentum": {}, **self.kept}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            sets.setdefault(kind, {})[name] = value.to(self.device)
        parameters = dict(self.model.named_parameters())
        expected: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(), "momentum": parameters
        }  # fmt: skip
        expected |= {kind: like for kind, like in self._allowed.items() if sets[kind]}
        for kind, found in sets.items():
            require_tensors(f"{path} ({kind})", found, expected.get(kind, {}))
        self.model.load_state_dict(sets["model"])
        self.kept = {kind: sets[kind] for kind in self._allowed}
        for name, momentum in sets["momentum"].items():
            buffer = torch.empty_like(parameters[name]).copy_(momentum)  # in its memory format
            self.optimiser.state[parameters[name]]["momentum_buffer"] = buffer
        self.step, self.scores = header.step, list(header.scores)
        self._watch = Stopwatch(header.cost.model_dump(), describe(self.device), self.ranks.count)
