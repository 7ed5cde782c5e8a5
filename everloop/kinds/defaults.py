"""Sizes of a model and of its training that fit the data, for what a user leaves open."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import nn

from everloop.layers import Recurrent
from everloop.models import Model
from everloop.models.kind import Kind
from everloop.train import TrainConfig
from everloop.train.evaluate import pass_sizes

PASSES = 25  # over the training split: by then small models stop improving on what was held out
STEPS = (200, 3_000)
WORK = 3e13  # operations of a run, at most: ten minutes of one core that does 50 billion in a second
BATCHES = 40  # in a pass, at least, where the batch can be made smaller for it
BATCH = (8, 64)
WINDOWS_IN_BATCH = 32  # at most: a window of a stream is long
HIDDEN = (64, 512)
WINDOWS = ((200_000, 128), (0, 64))  # steps of a window of a stream, from so many time steps on
LARGE = 5_000_000  # time steps from which nothing that small data needs is done
DROPOUT = 0.2
FEW = 50_000  # texts of words with one label each, below which a model learns their rare words by heart
FEW_DROPOUT, FEW_WORD_DROPOUT = 0.5, 0.3
PATIENCE = 5  # validations without improvement
VALIDATIONS, APART = 15, 10  # of a run, and steps between them at least


@dataclass(frozen=True)
class Fit:
    """Settings that fit the data. chosen: those that were left open, as options."""

    model: Any
    train: TrainConfig
    chosen: dict[str, int | float] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in self.chosen.items())


def fitted(data: Any, kind: Kind, model: Any, train: TrainConfig, given: Collection[str]) -> Fit:
    """Return settings that fit the size of the training split; what is given stays.

    Units grow with the square root of the time steps, up to the usual size of the kind; a second layer and no dropout
    are for large data; much dropout is for few texts of words. A batch leaves a pass enough updates, and training is
    some passes, fewer where validation stops improving or where they are the work of more than minutes; where its
    length is given it has that length.

    Args:
        data: the Dataset that the model is trained on.
        kind: its kind.
        model: its settings.
        train: those of training.
        given: the names of settings that stay as they are.
    """
    count, usual = data.time_steps("train"), type(model)()
    names = {each.name for each in fields(model)}
    shape = _open({"hidden", "layers", "dropout", "word_dropout"} & names, given)
    units = getattr(getattr(data, "tokenizer", None), "units", None)  # not every kind of data has one
    is_few = "pooling" in names and units == "words" and len(data["train"]) < FEW
    found: dict[str, int | float] = {}
    if "hidden" in shape:
        largest = min(HIDDEN[1], usual.hidden)
        found["hidden"] = _clamped(32 * round(math.sqrt(count) / 64), (min(HIDDEN[0], largest), largest))
    if "layers" in shape and count < LARGE and usual.layers > 1:
        found["layers"] = 1
    if "dropout" in shape and count < LARGE and usual.dropout == 0:
        found["dropout"] = FEW_DROPOUT if is_few else DROPOUT
    if "word_dropout" in shape and is_few:
        found["word_dropout"] = FEW_WORD_DROPOUT
    times = _open(
        ("batch", "length", "steps", "validate", "early_stop"), {*given, *(["steps"] if train.epochs else [])}
    )
    length, streams = train.length, kind.model.streams
    if streams and "length" in times:
        length = found["length"] = next(size for least, size in WINDOWS if count >= least)
    if "batch" in times:
        items = max(1, count // (length or 1) if streams else len(data["train"]))
        largest = WINDOWS_IN_BATCH if streams else BATCH[1]
        found["batch"] = _clamped(2 ** int(math.log2(max(1, items // BATCHES))), (min(BATCH[0], items), largest))
    inside = {name: found[name] for name in shape if name in found}
    shaped = replace(model, **inside)
    chosen = train.replace({name: value for name, value in found.items() if name in ("batch", "length")})
    sizes = pass_sizes(kind.model, chosen.batch, chosen.length, chosen.length_jitter)
    batches = len(data.epoch("train", 0, seed=train.seed, **sizes))
    steps = round(train.epochs * batches / chosen.accumulate) if train.epochs else train.steps
    if "steps" in times:
        passes = min(PASSES, WORK / max(1, count * _work(kind.create_model, data, shaped)))
        steps = found["steps"] = _clamped(int(passes * batches / chosen.accumulate), STEPS)
    if "validate" in times:
        found["validate"] = max(APART, steps // VALIDATIONS)
    if {"early_stop", "steps"} <= {*times} and "valid" in data.splits and not train.average_after:
        found["early_stop"] = PATIENCE
    outside = {name: value for name, value in found.items() if name not in inside}
    return Fit(shaped, train.replace(outside), found)


def _work(create: Callable[[Any, Any], Model], data: Any, shape: Any) -> float:
    """Return the operations that training takes at a time step: two for each weight forward, and four backward.

    Of an encoder and a decoder each sees a half of the time steps. A weight of a convolution counts once.
    """
    with torch.random.fork_rng(devices=()):  # so that the model of the run begins with the weights it would have
        model = create(data, shape)
    parts = [part for part in model.modules() if not isinstance(part, nn.Embedding)]  # whose rows are looked up
    weights = {id(p): p.numel() for part in parts for p in part.parameters(recurse=False) if p.dim() > 1}
    strands = len(model.outline().strands) if any(isinstance(part, Recurrent) for part in parts) else 1
    return 6 * sum(weights.values()) / strands


def _open(names: Collection[str], given: Collection[str]) -> list[str]:
    return [name for name in names if name not in given]


def _clamped(value: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(bounds[1], value))
