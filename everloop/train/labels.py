"""Which labels a model gets right, and which it takes for which: precision, recall and F1 of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everloop.errors import OptionError
from everloop.models.modes import evaluating
from everloop.train.evaluate import Data


@dataclass(frozen=True)
class Label:
    """How a label fares. precision: None if the model never gives it; recall: None if it never occurs.

    support: how often it occurs.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float
    support: int


@dataclass(frozen=True)
class Labels:
    """How all labels fare, and the worst confusions: (label, what it was taken for, how often).

    `macro` is the mean over the labels that occur or are given, `weighted` that by support; where something has no
    value it counts as 0.
    """

    labels: tuple[Label, ...]
    macro: Label
    weighted: Label
    confusions: tuple[tuple[str, str, int], ...]

    @classmethod
    def of(cls, names: Sequence[str], wanted: Tensor, guessed: Tensor, worst: int = 10) -> Labels:
        """Return the figures for label numbers [N], or for truth values [N, K] where any number of labels holds."""
        count, confused = len(names), list[tuple[str, str, int]]()
        if wanted.dim() == 2:
            right = (wanted & guessed).sum(0)
            support, given = wanted.sum(0), guessed.sum(0)
        else:
            pairs = torch.bincount(wanted * count + guessed, minlength=count * count).view(count, count)
            right, support, given = pairs.diagonal(), pairs.sum(1), pairs.sum(0)
            wrong = pairs - pairs.diagonal().diag()
            for place in wrong.flatten().argsort(descending=True, stable=True)[:worst].tolist():
                a, b = divmod(place, count)
                if wrong[a, b]:
                    confused.append((names[a], names[b], int(wrong[a, b])))
        counts = zip(names, right.tolist(), given.tolist(), support.tolist(), strict=True)
        rows = [_label(*numbers) for numbers in counts]
        macro = _mean("macro", rows, [float(bool(row.support) or row.precision is not None) for row in rows])
        weighted = _mean("weighted", rows, [float(row.support) for row in rows])
        return cls(tuple(rows), macro, weighted, tuple(confused))

    def __str__(self) -> str:
        rows = (*self.labels, self.macro, self.weighted)
        figures = [(r.name, _figure(r.precision), _figure(r.recall), _figure(r.f1), f"{r.support:,}") for r in rows]
        table = [("label", "precision", "recall", "f1", "support"), *figures]
        width = max(len(row[0]) for row in table)
        lines = [f"{name:<{width}}  {a:>9}  {b:>6}  {c:>6}  {d:>7}" for name, a, b, c, d in table]
        lines.insert(len(lines) - 2, "")
        if self.confusions:
            lines += ["", "most often taken for another:"]
            lines += [f"  {a} for {b}: {count:,}" for a, b, count in self.confusions]
        return "\n".join(lines)


@dataclass(frozen=True)
class Confusion:
    """How often each label was taken for each. counts: [K, K], a row for each true label; names: of the labels."""

    names: tuple[str, ...]
    counts: Tensor

    def most(self, count: int) -> Confusion:
        """Return the most frequent labels, in their order; the others are one row and one column together."""
        if len(self.names) <= count:
            return self
        frequent = (self.counts.sum(0) + self.counts.sum(1)).argsort(descending=True, stable=True)[: count - 1]
        kept = sorted(frequent.tolist())
        group = torch.full((len(self.names),), len(kept))
        group[kept] = torch.arange(len(kept))
        joined = torch.zeros(count, count, dtype=self.counts.dtype)
        joined.index_put_((group[:, None], group[None]), self.counts, accumulate=True)
        return Confusion((*(self.names[i] for i in kept), f"{len(self.names) - len(kept)} others"), joined)


def label_metrics(model: Any, data: Data, split: str = "test", *, batch: int = 64) -> Labels:
    """Return precision, recall and F1 of each label that a classifier or a tagger gives to a split of the data."""
    return Labels.of(model.labels.symbols, *_predicted(model, data, split, batch, None))


def confusion(model: Any, data: Data, split: str = "test", *, batch: int = 64, batches: int | None = None) -> Confusion:
    """Return which labels a classifier or a tagger takes for which in a split of the data, or its first `batches`.

    Raises:
        OptionError: any number of labels holds at a step, so that none is taken for another.
    """
    names = tuple(model.labels.symbols)
    wanted, guessed = _predicted(model, data, split, batch, batches)
    if wanted.dim() == 2:
        raise OptionError("several labels hold at once here, so that none is taken for another")
    counts = torch.bincount(wanted * len(names) + guessed, minlength=len(names) ** 2)
    return Confusion(names, counts.view(len(names), len(names)))


def _predicted(model: Any, data: Data, split: str, batch: int, most: int | None) -> tuple[Tensor, Tensor]:
    """Return (true labels, given labels) of a split, or of its first batches."""
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        batches = data.epoch(split, 0, batch=batch, seed=0)
        some = range(len(batches) if most is None else min(most, len(batches)))
        pairs = [tuple(t.cpu() for t in model.predictions(batches[i].to(device))) for i in some]
    wanted, guessed = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return wanted, guessed


def _mean(name: str, rows: Sequence[Label], weights: Sequence[float]) -> Label:
    whole = sum(weights) or 1.0
    figures = ([row.precision or 0.0 for row in rows], [row.recall or 0.0 for row in rows], [row.f1 for row in rows])
    means = [sum(w * f for w, f in zip(weights, some, strict=True)) / whole for some in figures]
    return Label(name, means[0], means[1], means[2], sum(row.support for row in rows))


def _label(name: str, right: int, given: int, there: int) -> Label:
    precision, recall = right / given if given else None, right / there if there else None
    return Label(name, precision, recall, 2 * right / max(given + there, 1), there)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
