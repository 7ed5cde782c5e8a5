"""Recurrent PPO in one file, in CleanRL's form: the loop over steps of its agent is one call with resets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

import everloop

STEPS, ENVS, LENGTH = 32, 16, 4  # of a rollout, side by side, of an episode


class Agent(nn.Module):
    """An LSTM under a policy and a value."""

    def __init__(self, observed: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.lstm = everloop.LSTM(observed, hidden)
        self.actor, self.critic = nn.Linear(hidden, actions), nn.Linear(hidden, 1)

    def forward(self, x: Tensor, state: Any, done: Tensor) -> tuple[Categorical, Tensor, Any]:
        """Return (policy, value [T, B], state); x: [T, B, I]; done [T, B]: whether an episode starts at a step."""
        y, state = self.lstm(x, state, reset=done)
        return Categorical(logits=self.actor(y)), self.critic(y).squeeze(-1), state


class Recall:
    """Environments side by side: what is seen at first is the right action at the end."""

    def __init__(self) -> None:
        self.right, self.at = torch.randint(2, (ENVS,)), 0

    def observe(self) -> tuple[Tensor, Tensor]:
        """Return (observations [B, 2], whether an episode starts [B])."""
        first = torch.full((ENVS,), self.at == 0)
        return torch.stack([(2.0 * self.right - 1) * first, 1.0 * first], -1), 1.0 * first

    def act(self, action: Tensor) -> Tensor:
        """Return the rewards [B]."""
        self.at += 1
        if self.at < LENGTH:
            return torch.zeros(ENVS)
        reward, self.right, self.at = (action == self.right).float(), torch.randint(2, (ENVS,)), 0
        return reward


@torch.no_grad()
def rollout(agent: Agent, env: Recall, state: Any) -> tuple[dict[str, Tensor], Any]:
    """Return what happened in STEPS steps, [T, B] each, and the state behind them."""
    kept: dict[str, list[Tensor]] = {name: [] for name in ("x", "done", "action", "logp", "value", "reward")}
    for _ in range(STEPS):
        x, done = env.observe()
        policy, value, state = agent(x[None], state, done[None])
        action = policy.sample()[0]
        row = {"x": x, "done": done, "action": action, "logp": policy.log_prob(action)[0], "value": value[0]}
        for name, found in {**row, "reward": env.act(action)}.items():
            kept[name].append(found)
    return {name: torch.stack(rows) for name, rows in kept.items()}, state


def advantages(some: dict[str, Tensor], gamma: float = 0.99, decay: float = 0.95) -> Tensor:
    """Return generalised advantages [T, B]; the rollout ends with an episode.

    Schulman et al., "High-dimensional continuous control using generalized advantage estimation", ICLR 2016.
    """
    last, found = torch.zeros(ENVS), []
    after = torch.cat([some["value"][1:], torch.zeros(1, ENVS)])
    goes_on = torch.cat([1 - some["done"][1:], torch.zeros(1, ENVS)])
    for t in reversed(range(STEPS)):
        error = some["reward"][t] + gamma * after[t] * goes_on[t] - some["value"][t]
        last = error + gamma * decay * goes_on[t] * last
        found.append(last)
    return torch.stack(found[::-1])


def main(steps: int = 60, hidden: int = 32) -> None:
    """Learn to remember; a step is a rollout and four updates."""
    agent, env = Agent(2, 2, hidden), Recall()
    adam, state, reward = torch.optim.Adam(agent.parameters(), 3e-3), None, 0.0
    for _ in range(steps):
        before = state
        some, state = rollout(agent, env, state)
        gain = advantages(some)
        target, gain = gain + some["value"], (gain - gain.mean()) / (gain.std() + 1e-8)
        for _ in range(4):
            policy, value, _ = agent(some["x"], before, some["done"])  # CleanRL loops over the steps here
            ratio = (policy.log_prob(some["action"]) - some["logp"]).exp()
            loss = -torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
            loss = loss + 0.5 * (value - target).square().mean() - 0.01 * policy.entropy().mean()
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            adam.step()
        reward = float(some["reward"].sum() / (STEPS // LENGTH * ENVS))
    print(f"reward of the last episodes: {reward:.2f} of 1")
    print(f"finished {steps} steps")


if __name__ == "__main__":
    main()
