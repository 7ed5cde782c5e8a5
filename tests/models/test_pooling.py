"""Pooling: by hand, padding left out, empty sequences."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from everloop import cells
from everloop.errors import OptionError
from everloop.layers import Recurrent
from everloop.models.pooling import Pooling, PoolingMethod

WAYS = get_args(PoolingMethod)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_is_ignored(way: PoolingMethod, bidirectional: bool) -> None:
    pool = Pooling(way, 4, bidirectional=bidirectional).double()
    y = torch.randn(6, 3, 4, dtype=torch.float64)
    lengths = torch.tensor([6, 2, 0])
    spoiled = y.clone()
    spoiled[2:, 1], spoiled[:, 2] = 1e9, float("inf") if way in ("mean", "max") else -1e9
    together = pool(spoiled, lengths)
    for b, length in enumerate([6, 2]):
        alone = pool(y[:length, b : b + 1], torch.tensor([length]))
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-12, atol=1e-12)
    assert together[2].tolist() == [0, 0, 0, 0]


def test_by_hand() -> None:
    y = torch.tensor([[1.0, -5], [3, -7], [9, 9]])[:, None]
    lengths = torch.tensor([2])
    assert Pooling("last", 2)(y, lengths).tolist() == [[3, -7]]
    assert Pooling("last", 2, bidirectional=True)(y, lengths).tolist() == [[3, -5]]
    assert Pooling("mean", 2)(y, lengths).tolist() == [[2, -6]]
    assert Pooling("max", 2)(y, lengths).tolist() == [[3, -5]]


def test_the_last_step_is_the_final_state() -> None:
    layer = Recurrent(cells.GRU(3, 4), bidirectional=True)
    lengths = torch.tensor([5, 2, 3])
    y, (ahead, back) = layer(torch.randn(5, 3, 3), lengths=lengths)
    torch.testing.assert_close(Pooling("last", 8, bidirectional=True)(y, lengths), torch.cat([*ahead, *back], -1))


def test_attention_weights() -> None:
    pool = Pooling("attention", 4)
    y, lengths = torch.randn(5, 2, 4), torch.tensor([5, 3])
    weights = pool.weights(y, lengths)
    torch.testing.assert_close(weights.sum(0), torch.ones(2))
    assert weights[3:, 1].abs().sum() == 0
    assert weights[:, 0].std() > 0
    by_hand = torch.stack([(weights[:, b, None] * y[:, b]).sum(0) for b in range(2)])
    torch.testing.assert_close(pool(y, lengths), by_hand)


def test_an_unknown_way() -> None:
    with pytest.raises(OptionError, match="unknown pooling 'men'; did you mean 'mean'"):
        Pooling("men", 4)  # type: ignore[arg-type]


def test_the_gradient_of_the_largest_is_that_of_amax() -> None:
    """Equal values share it, behind the end and in an empty sequence it is zero."""
    lengths = torch.tensor([5, 3, 0, 1])
    y = torch.randint(-2, 3, (5, 4, 7)).double()  # many are equal, and 0, as padding is
    y[torch.arange(5)[:, None] >= lengths] = 0
    grad = torch.randn(4, 7).double()
    ours, theirs = (y.clone().requires_grad_() for _ in range(2))
    Pooling("max", 7)(ours, lengths).backward(grad)
    largest = [theirs[:n, b].amax(0) if n else torch.zeros(7).double() for b, n in enumerate(lengths)]
    torch.autograd.backward(torch.stack(largest), grad)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)
    x = torch.randn(5, 4, 7, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradgradcheck(lambda y: Pooling("max", 7)(y, lengths), x)
    mapped = torch.func.vmap(torch.func.grad(lambda y: Pooling("max", 7)(y, lengths).sum()))(torch.randn(2, 5, 4, 7))
    assert mapped.sum(1).count_nonzero() == 2 * 3 * 7


@pytest.mark.parametrize("value", [-torch.inf, torch.nan])
def test_padding_gets_no_gradient_of_the_largest(value: float) -> None:
    y = torch.randn(4, 2, 3)
    y[0, 0] = value
    y.requires_grad_()
    Pooling("max", 3)(y, torch.tensor([1, 4])).sum().backward()
    assert y.grad is not None
    assert not y.grad[1:, 0].any()
    assert y.grad[:, 1].sum() == 3
