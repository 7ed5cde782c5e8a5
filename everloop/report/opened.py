"""A run folder opened: its settings, its model, its data, its metrics, and a few sequences to look at."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from everloop.diagnose import TrainingFacts
from everloop.diagnose import training as of_training
from everloop.errors import DataError
from everloop.models.kind import Kind
from everloop.models.model import Model
from everloop.models.run import LAST, RunConfig
from everloop.models.weights import read_tensors
from everloop.train import TrainConfig
from everloop.train.evaluate import pass_sizes
from everloop.train.folder import HISTORY, METRICS, metrics_of, read_lines
from everloop.train.optimiser import optimiser

SEEN = 20  # batches that are looked at for what their targets are, and windows for what a carried state is worth
STREAM = 300  # steps of a stream that Lyapunov exponents are taken over
STREAMS = 8  # beside each other in these windows


@dataclass(frozen=True)
class Opened:
    """A run with its kind and its trained model. What is missing of it is told when it is asked for."""

    run: RunConfig
    kind: Kind
    model: Model

    @cached_property
    def train(self) -> TrainConfig:
        """How it was trained. Raises RunError if that is lost."""
        return self.run.settings("train", TrainConfig)

    @cached_property
    def data_config(self) -> Any:
        """Which data it was trained with. Raises RunError if that is lost."""
        return self.run.settings("data", self.kind.data_config)

    @cached_property
    def data(self) -> Any:
        """The data that it was trained with. Raises DataError if it is gone."""
        return self.kind.dataset(self.data_config, self.model.config, self.model)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of its metrics; none where they are lost. Raises RunError where a line but the last is no JSON."""
        return metrics_of(self.run.folder / METRICS)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """What each process that trained it wrote of itself, as `metrics`."""
        return read_lines(self.run.folder / HISTORY)

    def read(self, file: Path | None, labels: Path | None = None) -> tuple[Any, str]:
        """Return (data, split) to look at: a file, or else what was held out of training, if anything was.

        Args:
            file: in a format that `everloop evaluate` takes; None: the data of the run.
            labels: a second file, with the labels of images or with translations.

        Raises:
            DataError: the file is missing or is no data for such a model, or the data of the run is gone.
        """
        if file is not None:
            if not file.exists():
                raise DataError(f"{file}: no such file or folder")
            return self.kind.evaluation_dataset(self.model, self.data_config, file, labels), "test"
        return self.data, next(name for name in ("test", "valid", "train") if name in self.data.splits)

    def batch(self, data: Any, split: str, sequences: int, number: int = 0, length: int | None = None) -> Any:
        """Return one batch of a split, on the device of the model.

        Args:
            data: from `read`.
            split: its name.
            sequences: how many are in a batch.
            number: which batch.
            length: the most steps of a stream.

        Raises:
            DataError: there are not so many batches.
        """
        batches = self._epoch(data, split, sequences, length)
        if not 0 <= number < len(batches):
            raise DataError(f"there is no sequence {number} in the {split} split; expected 0 to {len(batches) - 1}")
        return batches[number].to(next(self.model.parameters()).device)

    def stream(self, data: Any, split: str, sequences: int) -> list[Any]:
        """Return the first batch of a split and, of streams, those that follow it, for `STREAM` steps in all.

        Raises:
            DataError: there is no batch.
        """
        first = self.batch(data, split, sequences)
        if not self.model.streams:
            return [first]
        batches, device = self._epoch(data, split, sequences), next(self.model.parameters()).device
        count = min(math.ceil(STREAM / self.window), len(batches))
        return [first, *(batches[number].to(device) for number in range(1, count))]

    def _epoch(self, data: Any, split: str, sequences: int, length: int | None = None) -> Any:
        window = self.train.length if length is None or not self.model.streams else min(length, self.window)
        sizes = pass_sizes(self.model, min(sequences, self.train.batch), window)
        return data.epoch(split, 0, seed=self.train.seed, **sizes)

    @property
    def window(self) -> int:
        """Steps of a window of a stream."""
        return int(pass_sizes(self.model, 1, self.train.length)["length"])

    def noted(self) -> TrainingFacts:
        """Return what training noted in its metrics, which needs no data."""
        return noted(self.metrics, self.train.clip_norm)

    def facts(self) -> TrainingFacts:
        """Return what is known of the training; the model has its weights. Raises DataError if the data is gone."""
        return facts_of(self.run, self.model, self.data, self.train, self.metrics)


def noted(metrics: Sequence[dict[str, Any]], clip_norm: float) -> TrainingFacts:
    """Return what the lines of metrics of a run say."""
    found = of_training.read_metrics(metrics)
    return TrainingFacts(found["losses"], found["valid"], found["norms"], clip_norm)


def facts_of(
    run: RunConfig, model: Model, data: Any, train: TrainConfig, metrics: Sequence[dict[str, Any]]
) -> TrainingFacts:
    """Return what is known of the training of a run; `model` has its weights."""
    moments = _moments(run, model, train)
    sizes = pass_sizes(model, train.batch, train.length)
    batches = data.epoch("train", 0, seed=train.seed, **sizes)
    seen = [batches[i].to(next(model.parameters()).device) for i in range(min(SEEN, len(batches)))]
    window = sizes.get("length")
    return replace(
        noted(metrics, train.clip_norm),
        ratios=of_training.update_ratios(model, moments, train.lr, train.betas) if moments else {},
        frozen=of_training.frozen_parameters(model, moments) if moments else (),
        chance=of_training.chance_loss(model),
        entropy=of_training.target_entropy(seen),
        carries=of_training.carries_state(model, seen[0]),
        carried=_carried(model, data, train),
        returning=of_training.returning(seen, window) if window else None,
        window=window,
    )


def _carried(model: Model, data: Any, train: TrainConfig) -> of_training.CarriedState | None:
    """Return what the carried state is worth, on what was held out of training if that is long enough."""
    if not model.streams:
        return None
    sizes, device = pass_sizes(model, min(STREAMS, train.batch), train.length), next(model.parameters()).device
    for split in ("valid", "train"):
        windows = data.epoch(split, 0, seed=train.seed, **sizes) if split in data.splits else ()
        seen = [windows[i].to(device) for i in range(min(SEEN, len(windows)))]
        if found := of_training.carried_state(model, seen, split):
            return found
    return None


def _moments(run: RunConfig, model: Model, train: TrainConfig) -> dict[str, dict[str, Tensor]]:
    """Return the moments of AdamW by parameter, from the last checkpoint; those that were not trained have none.

    Another optimiser has other memories, of which nothing is said.
    """
    if train.optimiser != "adamw":
        return {}
    tensors, _ = read_tensors(run.folder / LAST)
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser/"):
            _, number, key = name.split("/")
            states.setdefault(int(number), {})[key] = tensor
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = [p for group in optimiser(model, train).param_groups for p in group["params"]]
    found: dict[str, dict[str, Tensor]] = {}
    place = 0
    for parameter in order:
        if place not in states and place < max(states, default=0):
            place += 1  # it had no gradient
        elif place in states and states[place]["exp_avg"].shape == parameter.shape:
            found[names[parameter]] = states[place]
            place += 1
        # else it was no parameter of the optimiser: those behind it have moved up
    return found


def open_run(
    run: str | os.PathLike[str], weights: Literal["best", "last"] = "best", *, trust_code: bool = False
) -> Opened:
    """Return a run folder opened; arguments and errors are those of `everloop.models.load`."""
    config = RunConfig.read(run)
    kind = config.find(trust_code=trust_code)
    return Opened(config, kind, config.load(weights, trust_code=trust_code, kind=kind))
