"""The loss of a model on a split of the data, without learning from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from everloop.errors import DataError, OptionError
from everloop.models.loss import Score
from everloop.models.model import Model, detach
from everloop.models.modes import evaluating
from everloop.train.ranks import ALONE, Ranks


class Data(Protocol):
    """What the training loop reads: splits by name, and the batches of one pass over a split.

    `epoch` depends on its arguments alone, and batch i can be had without those before it; that is what lets a run
    resume in the middle of a pass. That of a stream takes `length` too, the number of time steps in a batch, and where
    it is to vary in training `jitter`; the batches say by their `scale` what the learning rate is multiplied by.
    """

    @property
    def splits(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str: ...

    def epoch(self, split: str, number: int, *, batch: int, seed: int) -> Sequence[Any]: ...


LENGTH = 256


def window_length(model: Model | type[Model], length: int | None) -> int:
    """Return the time steps in a batch of a stream.

    Raises:
        OptionError: a length is given for a model that reads whole sequences, where it would do nothing.
    """
    if length is not None and not model.streams:
        raise OptionError(
            f"length is {length}, which is for streams of text; a {model.kind} reads whole sequences: leave it out"
        )
    return LENGTH if length is None else length


def pass_sizes(model: Model | type[Model], batch: int, length: int | None, jitter: int = 0) -> dict[str, int]:
    """Return the sizes that `Data.epoch` is given: sequences in a batch and, for a stream, the steps of a window.

    Raises:
        OptionError: steps are given for a model that reads whole sequences.
    """
    steps = window_length(model, length)
    if jitter and not model.streams:
        raise OptionError(f"length_jitter is {jitter}, which is for streams of text; leave it out for a {model.kind}")
    varied = {"jitter": jitter} if jitter else {}
    return {"batch": batch, "length": steps, **varied} if model.streams else {"batch": batch}


def evaluate(
    model: Model,
    data: Data,
    split: str = "valid",
    *,
    batch: int = 64,
    length: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> Score:
    """Return the score of a model on a split of the data, "valid" unless said otherwise.

    `length` is as in TrainConfig. `stop` is called before each batch; once it returns True the score is that of the
    batches so far. `ranks` are processes that share each batch, and all call this.

    Raises:
        DataError: the data has no such split.
        OptionError: a length is given for a model that reads whole sequences.
    """
    sizes = pass_sizes(model, batch, length)
    if split not in data.splits:
        raise DataError(f"the data has no {split} split; it has: {', '.join(data.splits) or 'none'}")
    device = next(model.parameters()).device
    nats, count, sums = 0.0, 0, dict[str, list[float]]()
    state = None
    with torch.no_grad(), evaluating(model):
        for part in data.epoch(split, 0, seed=0, **sizes):
            if stop():
                break
            loss = ranks.loss(model, part, None if part.first else state, device)
            state = detach(loss.state)
            nats, count = nats + float(loss.total), count + loss.count
            for name, (value, of) in loss.sums.items():
                total = sums.setdefault(name, [0.0, 0.0])
                total[0] += float(value)
                total[1] += of
    nats, targets, *added = ranks.sum(nats, count, *(number for total in sums.values() for number in total))
    means = {name: value / max(of, 1) for name, value, of in zip(sums, added[::2], added[1::2], strict=True)}
    return Score(nats, int(targets), means, model.measure, model.symbols)


def merit(score: Score, metric: str) -> float:
    """Return the figure by which weights are chosen, the better the larger."""
    return -score.loss if metric == "loss" else score.means[metric]
