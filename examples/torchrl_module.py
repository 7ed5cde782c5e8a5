"""TorchRL's LSTMModule around a layer of Everloop, with episodes that start inside a sequence."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torchrl.modules import LSTMModule, set_recurrent_mode

import everloop


def main(steps: int = 100, hidden: int = 16) -> None:
    """Learn to say how many steps ago an episode started."""
    layer = everloop.LSTM(1, hidden, batch_first=True)
    module = LSTMModule(lstm=layer, in_keys=["x", "h", "c"], out_keys=["y", ("next", "h"), ("next", "c")])
    head = torch.nn.Linear(hidden, 1)
    adam, loss = torch.optim.Adam([*layer.parameters(), *head.parameters()], 1e-2), torch.zeros(())
    for _ in range(steps):
        starts = torch.rand(8, 20, 1) < 0.2
        starts[:, 0] = True
        age = torch.zeros(8, 20, 1)
        for t in range(1, 20):
            age[:, t] = (age[:, t - 1] + 1) * ~starts[:, t]
        zeros = torch.zeros(8, 20, 1, hidden)
        batch = TensorDict({"x": torch.ones(8, 20, 1), "is_init": starts, "h": zeros, "c": zeros}, [8, 20])
        with set_recurrent_mode("recurrent"):
            y = module(batch)["y"]
        loss = (head(y) - age / 10).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    print(f"error {float(loss.detach()):.4f}")
    print(f"finished {steps} steps")


if __name__ == "__main__":
    main()
