"""A linear-chain conditional random field: tags are scored together, with what may follow what."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everloop.data.batching.batch import sequence_mask


class LinearChainCRF(nn.Module):
    """The probability of a whole sequence of tags, given a score for each tag at each step.

    Lafferty, McCallum and Pereira, "Conditional random fields", ICML 2001. The score of a sequence is the sum of its
    steps' scores, of transitions [from, to], of its first tag and of its last.

    Args:
        tags: K, how many tags there are.
    """

    def __init__(self, tags: int) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.empty(tags, tags).uniform_(-0.1, 0.1))
        self.begin = nn.Parameter(torch.empty(tags).uniform_(-0.1, 0.1))
        self.end = nn.Parameter(torch.empty(tags).uniform_(-0.1, 0.1))

    def forward(self, scores: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Return the negative log-probability [B] of tags [T, B], for scores [T, B, K] and lengths [B] from 1."""
        return self.partition(scores, lengths) - self.score(scores, tags, lengths)

    def score(self, scores: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Return the score [B] of sequences of tags [T, B]."""
        mask = sequence_mask(lengths, len(scores))
        own = scores.gather(-1, tags[..., None])[..., 0]
        between = self.transitions[tags[:-1], tags[1:]]
        last = tags.gather(0, (lengths - 1)[None])[0]
        total = torch.where(mask, own, 0).sum(0) + torch.where(mask[1:], between, 0).sum(0)
        return total + self.begin[tags[0]] + self.end[last]

    def partition(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Return the logarithm [B] of the sum over all sequences of tags: the forward algorithm."""
        mask, alpha = sequence_mask(lengths, len(scores)), self.begin + scores[0]
        for t in range(1, len(scores)):
            after = torch.logsumexp(alpha[:, :, None] + self.transitions, 1) + scores[t]
            alpha = torch.where(mask[t, :, None], after, alpha)
        return torch.logsumexp(alpha + self.end, -1)

    def marginals(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Return the probability [T, B, K] of each tag at each step, over all sequences of tags; 0 at padding.

        They are the gradient of the partition function, so the backward pass is the backward algorithm.
        """
        with torch.inference_mode(False), torch.enable_grad():
            scores = scores.detach().clone().requires_grad_()
            (marginals,) = torch.autograd.grad(self.partition(scores, lengths.clone()).sum(), scores)
        return marginals

    @torch.no_grad()
    def decode(self, scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return (the most likely tags [T, B], their score [B]): the Viterbi algorithm. Padding has tag 0."""
        mask, best = sequence_mask(lengths, len(scores)), self.begin + scores[0]
        origins = []
        for t in range(1, len(scores)):
            highest, origin = (best[:, :, None] + self.transitions).max(1)
            best = torch.where(mask[t, :, None], highest + scores[t], best)
            # a sequence that has ended keeps its tag, so that all are followed back from the last step
            origins.append(torch.where(mask[t, :, None], origin, torch.arange(best.shape[1], device=scores.device)))
        score, tag = (best + self.end).max(-1)
        path = [tag]
        for origin in reversed(origins):
            path.append(origin.gather(1, path[-1][:, None])[:, 0])
        tags = torch.stack(path[::-1])
        return tags * mask, score
