"""The CRF against the sum and the maximum over all sequences of tags."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from everloop.models.crf import LinearChainCRF


def brute(crf: LinearChainCRF, scores: Tensor, length: int, row: int) -> dict[tuple[int, ...], Tensor]:
    """Return the score of every sequence of tags of one row, summed term by term."""
    found = {}
    for tags in product(range(scores.shape[-1]), repeat=length):
        total = crf.begin[tags[0]] + crf.end[tags[-1]]
        for t in range(length):
            total = total + scores[t, row, tags[t]]
        for t in range(1, length):
            total = total + crf.transitions[tags[t - 1], tags[t]]
        found[tags] = total
    return found


@pytest.mark.parametrize("lengths", [[1], [2], [7], [4, 1, 5, 2], [5, 5]])
def test_partition_score_and_viterbi(lengths: list[int]) -> None:
    crf = LinearChainCRF(3).double()
    for weight in crf.parameters():
        torch.nn.init.normal_(weight)
    scores = torch.randn(max(lengths), len(lengths), 3, dtype=torch.float64)
    tags = torch.randint(3, scores.shape[:2])
    ends = torch.tensor(lengths)
    surprise, (best, highest) = crf(scores, tags, ends), crf.decode(scores, ends)
    for row, length in enumerate(lengths):
        every = brute(crf, scores, length, row)
        whole = torch.logsumexp(torch.stack(list(every.values())), 0)
        wanted = tuple(tags[:length, row].tolist())
        torch.testing.assert_close(surprise[row], whole - every[wanted], rtol=1e-12, atol=1e-12)
        winner = max(every, key=lambda k: float(every[k].detach()))
        assert tuple(best[:length, row].tolist()) == winner
        torch.testing.assert_close(highest[row], every[winner].detach(), rtol=1e-12, atol=1e-12)
        assert best[length:, row].sum() == 0


def test_probabilities_add_up_to_one() -> None:
    crf = LinearChainCRF(2).double()
    scores = torch.randn(4, 1, 2, dtype=torch.float64)
    every = torch.tensor(list(product(range(2), repeat=4))).T
    surprise = crf(scores.expand(4, 16, 2), every, torch.full((16,), 4))
    assert float(surprise.detach().neg().exp().sum()) == pytest.approx(1, rel=1e-12)


def test_padding_has_no_say_and_gets_no_gradient() -> None:
    crf = LinearChainCRF(3).double()
    scores = torch.randn(4, 2, 3, dtype=torch.float64)
    lengths, tags = torch.tensor([2, 4]), torch.randint(3, (4, 2))
    spoiled = scores.clone()
    spoiled[2:, 0] = 1e6
    other = tags.clone()
    other[2:, 0] = (tags[2:, 0] + 1) % 3
    assert crf(scores, tags, lengths).equal(crf(spoiled, other, lengths))
    assert crf.decode(scores, lengths)[0].equal(crf.decode(spoiled, lengths)[0])
    spoiled.requires_grad_()
    (gradient,) = torch.autograd.grad(crf(spoiled, tags, lengths).sum(), spoiled)
    assert gradient[2:, 0].abs().sum() == 0
    assert torch.isfinite(gradient).all()


def test_gradients() -> None:
    crf = LinearChainCRF(3).double()
    scores = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    lengths, tags = torch.tensor([2, 4]), torch.randint(3, (4, 2))
    assert torch.autograd.gradcheck(lambda s, *w: crf(s, tags, lengths), (scores, *crf.parameters()))


def test_marginals_are_sums_over_sequences() -> None:
    crf, lengths = LinearChainCRF(3).double(), [4, 1, 3]
    for weight in crf.parameters():
        torch.nn.init.normal_(weight)
    with torch.inference_mode():  # as where answers are written
        scores = torch.randn(4, 3, 3, dtype=torch.float64)
        found = crf.marginals(scores, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        every = brute(crf, scores.clone(), length, row)
        whole = torch.logsumexp(torch.stack(list(every.values())), 0)
        wanted = torch.zeros(4, 3, dtype=torch.float64)
        for tags, score in every.items():
            for t, tag in enumerate(tags):
                wanted[t, tag] += float((score - whole).exp().detach())
        torch.testing.assert_close(found[:, row], wanted, rtol=1e-12, atol=1e-12)
