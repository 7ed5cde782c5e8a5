"""The gradients of matrices where states are of very different size: what does not belong to a sum never enters it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.cell import Cell, H, I, param, state
from everloop.layers import Recurrent

T, B, N = 20, 12, 5


class Follower(Cell):
    """A state that is nearly its input, of any size."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return x @ self.W.T + h @ self.R.T


@pytest.mark.parametrize("size", [1e4, 1e6, float("inf")])
@pytest.mark.parametrize("way", ["last step, batch first", "first step, reversed, batch first", "before resets"])
def test_large_states_that_no_step_reads(way: str, size: float) -> None:
    """The state of the last step of a sequence, or of one before a reset, multiplies nothing."""
    torch.manual_seed(2)
    layer = Recurrent(Follower(N, N), batch_first="batch first" in way, bidirectional="reversed" in way)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            p.copy_(torch.eye(N) if name.endswith("W") else 1e-3 * torch.randn(N, N))
    x = torch.randn(T, B, N)
    options: dict[str, Any] = {}
    if way == "before resets":
        reset = torch.zeros(T, B, dtype=torch.bool)
        reset[7, ::3] = True
        x[6, ::3] = size
        options["reset"] = reset
    else:
        x[0 if "reversed" in way else -1] = size
    x = x.transpose(0, 1).contiguous() if layer.batch_first else x
    weight = torch.randn(x.shape[0], x.shape[1], layer.output_size)
    found = []
    for dtype in (torch.float32, torch.float64):
        layer.to(dtype).zero_grad()
        y, _ = layer(x.to(dtype), **options)
        y.backward(weight.to(dtype))
        names = [n for n, _ in layer.named_parameters() if n.endswith("R")]
        keep = [n for n in names if "reversed" not in way or "back" in n]
        found.append([layer.get_parameter(n).grad for n in keep])
    for small, exact in zip(*found, strict=True):
        assert exact.isfinite().all()
        torch.testing.assert_close(small.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))
