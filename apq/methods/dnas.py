"""DNAS: number formats of a given network by Gumbel-softmax (arXiv 1812.00090)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apq.methods.book import Book, reference_network
from apq.methods.relaxed import (
    Price,
    expected_costs,
    gumbel,
    gumbel_softmax,
    keep_best,
    learn,
    open_logits,
    soft_accuracy,
)
from apq.search.sequential import chosen, steps_of

BETA, GAMMA, HOT, COOLING, EPOCHS, PER_EPOCH = 0.1, 0.9, 5.0, 0.025, 90, 5
"""Of the cost's factor, of the temperature, and how long."""


def temperature(epoch: int) -> float:
    """T = 5 · exp(-0.025 · epoch)."""
    return HOT * math.exp(-COOLING * epoch)


def cost_factor(share: Tensor) -> Tensor:
    """C = beta · (log cost)^gamma, of the cost as a multiple of the limit's e-th part, so that
    the logarithm is 1 at the limit (ours: the paper's unit is not known)."""
    return BETA * (1 + share.clamp(min=0.05).log()).clamp(min=1e-3).pow(GAMMA)


def dnas(book: Book) -> None:
    """Formats of the reference network by the loss CE · C; networks drawn from the distribution
    are scored and the best is kept.

    The predictor stands for the cross-entropy. The product alone aims at no limit: a price of what
    is over it is added.
    """
    problem = book.problem
    row = reference_network(problem)
    architecture, widths, _ = steps_of(problem.space)
    space = chosen(problem.space, row[0], (*architecture, *widths))
    assert space is not None  # the reference network is one of the space
    problem = book.narrow(space)
    generator = torch.Generator().manual_seed(book.seed)
    accuracy = soft_accuracy(book, book.most // 2)
    over = expected_costs(problem.searched, dict(problem.limits))
    closed = open_logits(space)
    free = torch.zeros_like(closed, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=0.05)
    price = Price()
    for epoch in range(min(EPOCHS, 1 + book.most // PER_EPOCH)):
        for _ in range(PER_EPOCH):
            logits = closed + free
            noise = gumbel(tuple(logits.shape), generator)
            soft = gumbel_softmax(logits, temperature(epoch), noise)
            much = over(soft)
            loss = nnsoftplus(-accuracy(soft)) * cost_factor(1 + much) + price.loss(much)
            learn(book, optimizer, loss)
        if epoch % 30 == 29:
            keep_best(book, (closed + free).detach(), book.left // 4, generator)
    keep_best(book, (closed + free).detach(), book.left, generator)


def nnsoftplus(x: Tensor) -> Tensor:
    """A positive loss of a standardised accuracy, as cross-entropy is positive."""
    return torch.nn.functional.softplus(x)
