"""ProxylessNAS: binary gates on paths, expected latency from the table (arXiv 1812.00332)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from apq.methods.book import Book
from apq.methods.relaxed import Price, expected_costs, keep_best, learn, open_logits, soft_accuracy

RATE, STEPS = 0.02, 400
"""Learning rate of the logits (Adam with beta1 = 0, as published) and updates at most."""


class BinaryGates(torch.autograd.Function):
    """One path per row of logits is on; gradients pass as the paper's equation 4.

    Forward: one-hot samples ``g`` of softmax(logits), ``(a, c)``. Backward: from dL/dg_j to
    dL/dalpha_i = sum_j dL/dg_j · p_j · (delta_ij - p_i).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, uniform: Tensor) -> Tensor:
        """Sample by ``uniform``, ``(a, 1)`` in 0 … 1."""
        p = torch.softmax(logits, dim=-1)
        ctx.save_for_backward(p)
        pick = (p.cumsum(dim=-1) < uniform * (1 - 1e-6)).sum(dim=-1).clamp(max=p.shape[1] - 1)
        return torch.nn.functional.one_hot(pick, p.shape[1]).to(p.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gate's gradient."""
        (p,) = ctx.saved_tensors
        return p * (grads[0] - (grads[0] * p).sum(dim=-1, keepdim=True)), None


def proxylessnas(book: Book) -> None:
    """Kernels, depths and widths at 8 bits: loss = -accuracy + lambda · (E[latency] - ref) / ref.

    Lambda rises while the limit is not kept. The mode of the distribution is the answer; rows drawn
    from it are scored too.

    Raises:
        ApqError: no network of 8 bits keeps the limits.
    """
    problem = book.at_eight_bits()
    space = problem.space
    generator = torch.Generator().manual_seed(book.seed)
    accuracy = soft_accuracy(book, int(0.6 * book.most))
    over = expected_costs(problem.searched, dict(problem.limits))
    closed = open_logits(space)
    free = torch.zeros_like(closed, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=RATE, betas=(0.0, 0.999))
    price = Price()
    for _ in range(min(STEPS, book.most)):
        logits = closed + free
        uniform = torch.rand((len(logits), 1), generator=generator)
        gates: Tensor = BinaryGates.apply(logits, uniform)  # type: ignore[no-untyped-call]
        loss = -accuracy(gates) + price.loss(over(torch.softmax(logits, dim=-1)))
        learn(book, optimizer, loss)
    keep_best(book, (closed + free).detach(), book.left, generator)
