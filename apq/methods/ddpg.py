"""Deep deterministic policy gradient, as HAQ and AMC use it (arXiv 1509.02971)."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]


class Agent:
    """An actor and a critic with targets, a buffer, and noise that fades.

    Two hidden layers, learning rates 1e-4 and 1e-3, tau 0.01, gamma 1, reward minus a moving
    average: the numbers of HAQ's release.

    Args:
        states: Length of a state.
        seed: Decides weights, noise and batches.
        hidden: Width of the hidden layers (the releases: 300; 64 learns as well here, faster).
        warm: Episodes of uniform actions.
        sigma, decay: Deviation of the noise and its factor per later episode.
        size: Of the buffer.
    """

    def __init__(
        self, states: int, seed: int, hidden: int = 64, warm: int = 20, sigma: float = 0.5,
        decay: float = 0.99, size: int = 2048, batch: int = 64,
    ) -> None:  # fmt: skip
        self.rng = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = _mlp(states, hidden, nn.Sigmoid())
            self.critic = _mlp(states + 1, hidden, nn.Identity())
        self.actor_target, self.critic_target = map(copy.deepcopy, (self.actor, self.critic))
        self._actor_step = torch.optim.Adam(self.actor.parameters(), lr=1e-4 * 300 / hidden)
        self._critic_step = torch.optim.Adam(self.critic.parameters(), lr=1e-3)
        self.warm, self.sigma, self.decay, self.batch, self.size = warm, sigma, decay, batch, size
        self.memory: list[tuple[Floats, float, float, Floats, bool]] = []
        self.episode, self.average = 0, 0.0

    def act(self, state: Floats) -> float:
        """An action in 0 … 1: uniform at first, then the actor's with truncated normal noise."""
        if self.episode < self.warm:
            return float(self.rng.random())
        with torch.no_grad():
            mean = float(self.actor(torch.from_numpy(state).float())[0])
        deviation = self.sigma * self.decay ** (self.episode - self.warm)
        for _ in range(50):
            action = self.rng.normal(mean, deviation)
            if 0 <= action <= 1:
                return float(action)
        return float(np.clip(mean, 0, 1))

    def finish(self, states: list[Floats], actions: list[float], reward: float) -> int:
        """End an episode: its reward goes to every step; learn once per two steps.

        Returns:
            Updates made.
        """
        self.average = reward if self.episode == 0 else 0.5 * self.average + 0.5 * reward
        for i, (state, action) in enumerate(zip(states, actions, strict=True)):
            last = i + 1 == len(states)
            after = states[i] if last else states[i + 1]
            self.memory.append((state, action, reward, after, last))
        self.memory = self.memory[-self.size :]
        updates = max(1, len(states) // 4) if self.episode >= self.warm else 0
        for _ in range(updates):
            self._learn()
        self.episode += 1
        return updates

    def _learn(self) -> None:
        picks = self.rng.integers(len(self.memory), size=self.batch)
        rows = [self.memory[i] for i in picks]
        state, after = (torch.tensor(np.array([r[k] for r in rows])).float() for k in (0, 3))
        action, reward = (torch.tensor([[r[k]] for r in rows]).float() for k in (1, 2))
        going = torch.tensor([[not r[4]] for r in rows]).float()
        with torch.no_grad():
            later = self.critic_target(torch.cat([after, self.actor_target(after)], dim=1))
            goal = (reward - self.average) + going * later
        loss = (self.critic(torch.cat([state, action], dim=1)) - goal).square().mean()
        _update(self._critic_step, loss)
        value = self.critic(torch.cat([state, self.actor(state)], dim=1)).mean()
        _update(self._actor_step, -value)
        for own, target in (
            (self.actor, self.actor_target), (self.critic, self.critic_target)
        ):  # fmt: skip
            for p, t in zip(own.parameters(), target.parameters(), strict=True):
                t.data.mul_(0.99).add_(p.data, alpha=0.01)


def _mlp(inputs: int, hidden: int, last: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, 1), last,
    )  # fmt: skip


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
