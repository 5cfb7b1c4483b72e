"""A space made differentiable: a distribution over every gene, expected costs, soft accuracy.

Shape letters: a axes, c most choices of one, n rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from apq.hardware.pricing import PricedSpace
from apq.methods.book import Book
from apq.search.surrogate import features
from apq.space import Genes, Space

Soft = Callable[[Tensor], Tensor]
"""From choices ``(a, c)``, one-hot or soft, to a number."""


def open_logits(space: Space) -> Tensor:
    """Zeros for permitted choices and -inf for all others, ``(a, c)``: the uniform distribution."""
    logits = torch.full((len(space.axes), int(space.cardinalities.max())), -torch.inf)
    for i, allowed in enumerate(space.allowed):
        logits[i, list(allowed)] = 0.0
    return logits


def gumbel_softmax(logits: Tensor, temperature: float, noise: Tensor) -> Tensor:
    """Soft samples ``(a, c)``: softmax of (logits + noise) / temperature (Jang et al., 2017,
    equation 2). ``noise`` is Gumbel, :func:`gumbel`."""
    return torch.softmax((logits + noise) / temperature, dim=-1)


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise."""
    uniform = torch.rand(shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    return -(-uniform.log()).log()


def draw(logits: Tensor, count: int, generator: torch.Generator) -> Genes:
    """Hard samples ``(n, a)`` of the distribution."""
    picks = torch.multinomial(torch.softmax(logits, dim=-1), count, True, generator=generator)
    rows: Genes = picks.T.numpy().astype(np.int16)
    return rows


def one_hot(genes: Genes, choices: int) -> Tensor:
    """Rows as choices, ``(n, a, c)``."""
    return nn.functional.one_hot(torch.from_numpy(genes.astype(np.int64)), choices).float()


def runs(space: Space, chosen: Tensor) -> Tensor:
    """Probability that each slot runs, ``(slots,)``."""
    found = []
    for slot in space.slots:
        deeper = [g for g, d in enumerate(space.stages[slot.stage].depth) if d > slot.position]
        found.append(chosen[slot.stage, deeper].sum())
    return torch.stack(found) if found else chosen.new_zeros(0)


def expected_cost(priced: PricedSpace, metric: str) -> Soft:
    """The expectation of an additive cost when every gene is drawn on its own: exact, and at
    one-hot choices the table's own sum. Excluded combinations count as the dearest of their
    factor."""
    space = priced.space
    tables = []
    for table in priced.tables[metric]:
        dearest = np.nanmax(table) if np.isfinite(table).any() else 0.0
        tables.append(torch.from_numpy(np.where(np.isnan(table), dearest, table)).float())
    fixed = priced.fixed[metric]

    def cost(chosen: Tensor) -> Tensor:
        there, total = runs(space, chosen), chosen.new_tensor(fixed)
        for factor, table in zip(space.factors, tables, strict=True):
            for axis in reversed(factor.axes):
                table = table @ chosen[axis, : table.shape[-1]]
            total = total + (table if factor.slot is None else there[factor.slot] * table)
        return total

    return cost


def expected_costs(priced: PricedSpace, limits: dict[str, float]) -> Soft:
    """Largest share that an additive cost takes of its limit, minus 1: above 0 one is exceeded."""
    parts = {m: expected_cost(priced, m) for m in limits if m != "peak_memory_kb"}

    def over(chosen: Tensor) -> Tensor:
        shares = [cost(chosen) / limits[m] - 1 for m, cost in parts.items()]
        return torch.stack(shares).max() if shares else chosen.sum() * 0

    return over


def soft_code(space: Space, chosen: Tensor) -> Tensor:
    """What :func:`apq.search.surrogate.features` gives for hard rows, of soft choices: ``(f,)``."""
    there = runs(space, chosen)
    parts = [chosen[s, : len(stage.depth)] for s, stage in enumerate(space.stages)]
    for i in space.encoded:
        axis = space.axes[i]
        part = chosen[i, : len(axis.choices)]
        parts.append(part if axis.slot is None else there[axis.slot] * part)
    return torch.cat([*parts, chosen.new_ones(1)])


def soft_accuracy(book: Book, calls: int, hidden: int = 96, epochs: int = 60) -> Soft:
    """The predictor as a function with gradients: a small MLP on the one-hot code, fitted to its
    answers for rows from cheap to rich (ours; any predictor may be behind it).

    Leaves ``soft_error`` in the notes: its mean error on a tenth of them, held out, in units of
    the answers' deviation.

    Args:
        book: Scores the rows.
        calls: How many.
        hidden, epochs: Of the MLP.

    Returns:
        Accuracy in deviations from the mean answer.
    """
    problem, space = book.problem, book.problem.space
    half = calls // 2
    rows = [problem.space.sample(calls - half, book.rng), problem.spread_sample(half, book.rng)]
    genes = np.concatenate(rows)[book.rng.permutation(calls)]
    answers = torch.from_numpy(book.score(genes)).float()
    x = torch.from_numpy(features(space, genes[: len(answers)]))
    y = (answers - answers.mean()) / answers.std().clamp(min=1e-9)
    generator = torch.Generator().manual_seed(book.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(book.seed)
        net = nn.Sequential(
            nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 1),
        )  # fmt: skip
    held, batch = max(1, len(x) // 10), 64
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    steps = epochs * -(-(len(x) - held) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = held + torch.randperm(len(x) - held, generator=generator)
        for part in torch.split(order, batch):
            learn(book, optimizer, (net(x[part])[:, 0] - y[part]).square().mean())
            schedule.step()
    net.requires_grad_(False)
    book.notes["soft_error"] = float((net(x[:held])[:, 0] - y[:held]).abs().mean())
    return lambda chosen: net(soft_code(space, chosen))[0]


def learn(book: Book, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One update, counted."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    book.steps += 1


class Price:
    """A multiplier that rises while an expected cost is over its limit, and falls below it: dual
    ascent (ours), instead of trying several fixed weights of the cost.

    Args:
        value: To start from.
        rate: How fast it moves.
    """

    def __init__(self, value: float = 1.0, rate: float = 0.3) -> None:
        self.value, self.rate = value, rate

    def loss(self, over: Tensor) -> Tensor:
        """What to add to the loss for a cost that is ``over`` its limit, a share."""
        self.value = min(1e3, max(0.0, self.value + self.rate * float(over.detach())))
        return self.value * over


def keep_best(book: Book, logits: Tensor, count: int, generator: torch.Generator) -> None:
    """Score the mode of the distribution and ``count`` rows drawn from it, pulled within the limits
    where they are over them."""
    mode: Genes = logits.argmax(dim=1)[None].numpy().astype(np.int16)
    rows = np.concatenate([mode, draw(logits, max(0, count - 1), generator)])
    book.score(np.unique(book.repaired(rows), axis=0))
