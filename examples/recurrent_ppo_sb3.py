"""Recurrent PPO of sb3-contrib with an LSTM that resets inside a sequence: no loop over steps for new episodes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from torch import Tensor

import everloop


class EverloopPolicy(RecurrentActorCriticPolicy):  # type: ignore[misc, unused-ignore]
    """The policy of sb3-contrib, whose layers are swapped for Everloop's and told where episodes start."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        everloop.accelerate(self)
        # the optimiser was made for the weights of the layers that are gone
        settings: Any = self.optimizer.defaults
        self.optimizer: Any = self.optimizer_class(self.parameters(), **settings)

    @staticmethod
    def _process_sequence(features: Tensor, states: Any, starts: Tensor, lstm: everloop.LSTM) -> tuple[Tensor, Any]:
        """Return the outputs of all steps, sequence after sequence, and the last states."""
        sequences = states[0].shape[1]
        x = features.reshape(sequences, -1, lstm.input_size).transpose(0, 1)
        y, states = lstm(x, states, reset=starts.reshape(sequences, -1).transpose(0, 1))
        return y.transpose(0, 1).flatten(0, 1), states


class Recall(gymnasium.Env):  # type: ignore[misc, unused-ignore]
    """The first observation of an episode says which action is right at its end; those between say nothing."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return the first observation."""
        super().reset(seed=seed)
        self.left, self.right = 4, int(self.np_random.integers(2))
        return np.array([2 * self.right - 1, 1], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return what follows an action; the last one counts."""
        self.left -= 1
        reward = float(int(action) == self.right) if self.left == 0 else 0.0
        return np.zeros(2, np.float32), reward, self.left == 0, False, {}


def main(steps: int = 20_000, hidden: int = 32) -> None:
    """Learn to remember."""
    rollout = min(steps, 512)
    agent = RecurrentPPO(
        EverloopPolicy, Recall(), n_steps=rollout, batch_size=rollout, learning_rate=3e-3, seed=1, device="cpu",
        policy_kwargs={"lstm_hidden_size": hidden, "net_arch": []},
    )  # fmt: skip
    agent.learn(steps)
    rewards = [info["r"] for info in agent.ep_info_buffer or []]
    print(f"reward of the last {len(rewards)} episodes: {np.mean(rewards) if rewards else 0:.2f} of 1")
    print(f"finished {agent.num_timesteps} steps")


if __name__ == "__main__":
    main()
