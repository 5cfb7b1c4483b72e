"""Fitting an ensemble: full passes over shuffled rows, Adam, stop where held-out rows get worse."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq.predictor.model import Ensemble
from apq.training import OnProgress


def folds(groups: NDArray[np.int64], members: int, seed: int) -> NDArray[np.bool_]:
    """Which rows each member leaves out for its own early stopping, shape ``(members, n)``.

    Rows of one group (one architecture with several bit policies) stay together. Every row is
    left out by exactly one of at least five parts; with fewer members the other parts are unused.
    """
    rng = np.random.default_rng(seed)
    names, index = np.unique(groups, return_inverse=True)
    parts = max(members, 5)
    part = rng.permutation(len(names)) % parts
    held: NDArray[np.bool_] = part[index] == np.arange(members)[:, None]
    return held


def fit(
    network: Ensemble,
    arch: Tensor,
    bits: Tensor | None,
    target: Tensor,
    held: NDArray[np.bool_],
    *,
    epochs: int,
    batch: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    rank_weight: float = 0.0,
    checks: int = 20,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> None:
    """Train all members in place; each ends with the weights that were best on its held-out rows.

    The loss is the mean squared error of the standardised target (the paper's loss, optimiser and
    schedule are not published) plus ``rank_weight`` times a hinge on the differences of
    neighbouring rows of a batch: a pair in the wrong order, or nearer than half its true
    distance, costs (ours).

    Args:
        network: Changed in place.
        arch: Architecture inputs, ``(n, a)``.
        bits: Bit inputs, ``(n, b)``; None for an fp32 predictor.
        target: Standardised accuracies, ``(n,)``.
        held: Rows a member does not train on, ``(e, n)``.
        epochs: Passes over the training rows.
        batch: Rows per step and member.
        learning_rate: Highest rate of a one-cycle schedule.
        weight_decay: Decoupled, as in AdamW.
        rank_weight: Weight of the ranking term; 0 leaves it out.
        checks: How often held-out rows are looked at.
        seed: Random seed of the order of the rows.
        on_progress: Called with epochs done, all epochs and the held-out error.
    """
    generator = torch.Generator().manual_seed(seed)
    train_rows = [torch.from_numpy(np.flatnonzero(~h)) for h in held]
    length = min(len(rows) for rows in train_rows)
    batch = min(batch, length)
    steps = max(length // batch, 1)
    params = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * steps, pct_start=0.2, cycle_momentum=False
    )
    held_rows, held_weight = _held_rows(held)
    best = torch.full((network.members,), float("inf"))
    kept = [p.detach().clone() for p in params]
    every = max(epochs // checks, 1)
    for epoch in range(epochs):
        order = torch.stack(
            [rows[torch.randperm(len(rows), generator=generator)][:length] for rows in train_rows]
        )
        for step in range(steps):
            rows = order[:, step * batch : (step + 1) * batch]
            out = network(arch[rows], None if bits is None else bits[rows])
            truth = target[rows]
            # summed over members: each has its own weights, so each sees its own mean loss
            loss = (out - truth).square().mean(dim=1).sum()
            if rank_weight:
                loss = loss + rank_weight * _ranking(out, truth).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        if (epoch + 1) % every == 0 or epoch + 1 == epochs:
            error = _held_error(network, arch, bits, target, held_rows, held_weight)
            better = error <= best
            best = torch.where(better, error, best)
            with torch.no_grad():
                for keep, p in zip(kept, params, strict=True):
                    keep[better] = p[better]
            if on_progress is not None:
                on_progress(epoch + 1, epochs, {"held-out rmse/sd": float(error.mean().sqrt())})
    with torch.no_grad():
        for keep, p in zip(kept, params, strict=True):
            p.copy_(keep)


def _ranking(out: Tensor, truth: Tensor) -> Tensor:
    """Mean hinge per member over pairs of neighbours in the shuffled batch, ``(e,)``."""
    gap = truth - truth.roll(1, dims=1)
    wide = out - out.roll(1, dims=1)
    return torch.relu(gap.abs() / 2 - gap.sign() * wide).mean(dim=1)


@torch.no_grad()
def answers(network: Ensemble, arch: Tensor, bits: Tensor | None) -> Tensor:
    """Standardised answers of all members to all rows, ``(e, n)``."""
    parts = []
    for start in range(0, len(arch), 4096):
        rows = (x if x is None else x[start : start + 4096] for x in (arch, bits))
        own = (x if x is None else x.broadcast_to(network.members, *x.shape) for x in rows)
        parts.append(network(*own))
    return torch.cat(parts, dim=1)


def _held_rows(held: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Rows each member leaves out, padded to one length with weight 0, both ``(e, m)``."""
    longest = max(int(held.sum(axis=1).max()), 1)
    rows = np.zeros((len(held), longest), dtype=np.int64)
    weight = np.zeros((len(held), longest), dtype=np.float32)
    for member, left_out in enumerate(held):
        index = np.flatnonzero(left_out)
        rows[member, : len(index)] = index
        weight[member, : len(index)] = 1.0 / max(len(index), 1)
    return torch.from_numpy(rows), torch.from_numpy(weight)


@torch.no_grad()
def _held_error(
    network: Ensemble, arch: Tensor, bits: Tensor | None, target: Tensor, rows: Tensor,
    weight: Tensor,
) -> Tensor:  # fmt: skip
    """Mean squared error of each member on the rows it left out, ``(e,)``."""
    out = network(arch[rows], None if bits is None else bits[rows])
    error: Tensor = ((out - target[rows]).square() * weight).sum(dim=1)
    return error
