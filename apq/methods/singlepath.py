"""Single-Path NAS: thresholds that switch parts of a superkernel on (arXiv 1904.02877)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from apq.methods.book import Book
from apq.methods.relaxed import Price, expected_costs, keep_best, learn, soft_accuracy
from apq.space import Space

STEPS, WARM, KEEP, RATE = 600, 5 / 8, 0.6, 0.03
"""Updates at most; the part of them without a price and with gates dropped; the share of gates
kept then (the release's 6,255 of 10,008 steps and 0.6); learning rate."""


class Step(torch.autograd.Function):
    """1 where x >= 0, else 0; gradients are the sigmoid's (equation 5 of the paper)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The step."""
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Times sigmoid'(x)."""
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grads[0] * s * (1 - s)


def nested(gates: Tensor, allowed: tuple[int, ...], choices: int) -> Tensor:
    """Choices ``(c,)`` from gates of one gene: each switches on what the next larger choice adds,
    and only if all before are on. One-hot if gates are 0 or 1."""
    on = torch.cat([gates.new_ones(1), gates.cumprod(dim=0)])
    parts = on - torch.cat([on[1:], gates.new_zeros(1)])
    return torch.zeros(choices).index_add(0, torch.tensor(allowed), parts)


def chosen_by(space: Space, gates: list[Tensor]) -> Tensor:
    """Choices of all genes, ``(a, c)``, from the gates of each."""
    width = int(space.cardinalities.max())
    rows = [nested(g, a, width) for g, a in zip(gates, space.allowed, strict=True)]
    return torch.stack(rows)


def singlepath(book: Book) -> None:
    """Kernels, widths and depths at 8 bits as nested gates with thresholds, trained by
    loss = -accuracy + lambda · log(runtime); runtime is the table's, exact when gates are 0 or 1.

    Without weights to compare with thresholds, a gate's margin is a parameter of its own. The
    prediction stands for the cross-entropy; lambda rises while the limit is not kept.

    Raises:
        ApqError: no network of 8 bits keeps the limits.
    """
    problem = book.at_eight_bits()
    space = problem.space
    generator = torch.Generator().manual_seed(book.seed)
    accuracy = soft_accuracy(book, int(0.6 * book.most))
    over = expected_costs(problem.searched, dict(problem.limits))
    margins = [torch.zeros(len(a) - 1, requires_grad=True) for a in space.allowed]
    optimizer = torch.optim.Adam([m for m in margins if len(m)], lr=RATE)
    steps = min(STEPS, book.most)
    price, every = Price(0.2, 0.1), max(1, steps // 40)
    for step in range(steps):
        gates: list[Tensor] = [Step.apply(m) for m in margins]  # type: ignore[no-untyped-call]
        if step < WARM * steps:
            gates = [g * (torch.rand(g.shape, generator=generator) < KEEP) for g in gates]
        soft = chosen_by(space, gates)
        loss = -accuracy(soft)
        if step >= WARM * steps:
            much = over(soft)
            price.loss(much)
            loss = loss + price.value * (1 + much).clamp(min=1e-3).log()
            if step % every == 0:
                book.score(book.repaired(soft.detach().argmax(dim=1)[None].numpy().astype("int16")))
        learn(book, optimizer, loss)
    hard: list[Tensor] = [Step.apply(m.detach()) for m in margins]  # type: ignore[no-untyped-call]
    found = chosen_by(space, hard)
    near = (found + 0.02 / found.shape[1]).log()
    shut = torch.ones_like(found, dtype=torch.bool)
    for i, allowed in enumerate(space.allowed):
        shut[i, list(allowed)] = False
    keep_best(book, near.masked_fill(shut, -torch.inf), book.left, generator)
