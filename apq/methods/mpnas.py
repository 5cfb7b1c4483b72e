"""MP-NAS: gradients for the accuracy, the score function for a black box of costs (ICCAD 2019)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from apq.hardware.pricing import PricedSpace
from apq.methods.book import Book
from apq.methods.relaxed import (
    Price,
    draw,
    gumbel,
    gumbel_softmax,
    keep_best,
    learn,
    open_logits,
    soft_accuracy,
)
from apq.space import Genes

STEPS, BATCH, RATE, HOT, COLD = 400, 32, 0.05, 5.0, 0.3
"""Updates at most (and no more than predictor calls), rows per estimate of the cost's gradient,
learning rate of the logits, temperatures."""


def log_probability(logits: Tensor, genes: Genes) -> Tensor:
    """Log-probability of rows ``(n, a)`` under independent genes, ``(n,)``."""
    picks = torch.from_numpy(genes.astype(np.int64))
    log = torch.log_softmax(logits, dim=-1)
    return log.gather(1, picks.T).sum(dim=0)


def score_function(logits: Tensor, genes: Genes, values: Tensor, baseline: float) -> Tensor:
    """A number whose gradient is that of the expected value, estimated from drawn rows: the mean
    of (value - baseline) · log probability (REINFORCE; Williams, 1992). The baseline changes no
    expectation, only the variance (added here; MP-NAS's slides have none)."""
    return ((values - baseline) * log_probability(logits, genes)).mean()


def overrun(priced: PricedSpace, limits: Mapping[str, float], genes: Genes) -> Tensor:
    """By how much the drawn networks exceed their tightest limit, a share, ``(n,)``."""
    costs = priced.costs(priced.space.snap(genes), limits)
    shares = [cost / limits[m] - 1 for m, cost in costs.items()]
    found = np.max(shares, axis=0) if shares else np.zeros(len(genes))
    return torch.from_numpy(found).float()


def mpnas(book: Book) -> None:
    """Gumbel-softmax through the predictor, REINFORCE on the table, all genes at once.

    The loss is -accuracy + weight · max(mean cost - limit, 0). The weight rises while the limit is
    not kept, where the paper tries two fixed ones.
    """
    problem = book.problem
    generator = torch.Generator().manual_seed(book.seed)
    accuracy = soft_accuracy(book, int(0.6 * book.most))
    closed = open_logits(problem.space)
    free = torch.zeros_like(closed, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=RATE)
    price, baseline, steps = Price(), 0.0, min(STEPS, book.most)
    for step in range(steps):
        logits = closed + free
        heat = HOT * (COLD / HOT) ** (step / steps)
        soft = gumbel_softmax(logits, heat, gumbel(tuple(logits.shape), generator))
        genes = draw(logits.detach(), BATCH, generator)
        over = overrun(problem.searched, problem.limits, genes)
        loss = -accuracy(soft)
        weight = price.loss(over.mean()) if step else over.mean() * 0
        if float(over.mean()) > 0 and float(weight) > 0:
            loss = loss + price.value * score_function(logits, genes, over, baseline)
        baseline = 0.9 * baseline + 0.1 * float(over.mean())
        learn(book, optimizer, loss)
    keep_best(book, (closed + free).detach(), book.left, generator)
