"""Whole trainings: `everloop.train` beside the loop and model of `plain_torch.py`, in turns, and where their time goes.

Both read the same batches and have the same sizes, dropouts, fused AdamW, clipping and a running average.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.plain_torch import MODELS, plain_train
from benchmarks.timing import PAUSE, STATISTICS, machine, statistic_option, table
from everloop.data.lazy import Mapped
from everloop.data.settings import from_table, read_toml
from everloop.models import Model
from everloop.train import TrainConfig, train
from everloop.train.evaluate import Data

RECIPES = Path(__file__).parents[1] / "recipes"
PARTS = ("reading data", "forward", "backward", "clipping and optimiser", "rest")


@dataclass(frozen=True)
class Peers:
    """What is trained: our model, the same in plain PyTorch, and their data."""

    ours: Model
    plain: Any
    data: Data
    config: TrainConfig

    @classmethod
    def of(cls, ours: Model, data: Data, config: TrainConfig) -> Peers:
        """Return a model of ours and its peer."""
        return cls(ours, MODELS[ours.kind](ours), data, config)


@dataclass
class Clock:
    """Seconds of the parts of a training, and of the whole."""

    now: Callable[[], float] = time.perf_counter
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    whole: float = 0.0
    last: float = 0.0  # when the last part ended

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same and counts its time."""

        def counted(*args: Any, **options: Any) -> Any:
            begin = self.now()
            result = call(*args, **options)
            self.last = self.now()
            self.parts[part] += self.last - begin
            return result

        return counted

    def after_backward(self, *_: object) -> None:
        """Count what has passed since the backward pass: clipping, and the optimiser, which has just ended."""
        self.parts["clipping and optimiser"] += self.now() - self.last

    def run(self, training: Callable[[], object]) -> None:
        """Time a training; what no part has is the rest."""
        backward = self.timed("backward", torch.autograd.backward)
        handle = register_optimizer_step_post_hook(self.after_backward)
        begin = self.now()
        with mock.patch.object(torch.autograd, "backward", backward):
            training()
        self.whole = self.now() - begin
        handle.remove()
        self.parts["rest"] = self.whole - sum(self.parts.values())


class Timed:
    """The training split of some data, which tells a clock how long its batches take to be read."""

    splits = ("train",)

    def __init__(self, data: Data, clock: Clock) -> None:
        self.data, self.clock, self.fingerprint = data, clock, data.fingerprint

    def epoch(self, split: str, number: int, **sizes: Any) -> Sequence[Any]:
        """Return the batches of a pass."""
        batches = self.clock.timed("reading data", self.data.epoch)(split, number, **sizes)
        return Mapped(range(len(batches)), self.clock.timed("reading data", batches.__getitem__))


def compare(
    peers: Peers, rounds: int, statistic: str, now: Callable[[], float] = time.perf_counter
) -> dict[str, Clock]:
    """Return the clock of both trainings, in turns: that of the best of all rounds, or of the middle one."""
    clocks: dict[str, list[Clock]] = {"everloop": [], "PyTorch": []}

    def ours() -> None:
        clock = Clock(now)
        forward = clock.timed("forward", peers.ours.loss)
        with mock.patch.object(peers.ours, "loss", forward):
            clock.run(lambda: train(peers.ours, Timed(peers.data, clock), peers.config))
        clocks["everloop"].append(clock)

    def plain() -> None:
        clock = Clock(now)
        forward, sizes = clock.timed("forward", peers.plain.loss), {"batch": peers.config.batch}
        with mock.patch.object(peers.plain, "loss", forward):
            clock.run(lambda: plain_train(peers.plain, Timed(peers.data, clock), peers.config, sizes))
        clocks["PyTorch"].append(clock)

    for _ in range(1 + rounds):  # the first compiles and draws memory, and does not count
        for training in (ours, plain):
            time.sleep(PAUSE)
            training()
    found = {}
    for name, (_, *taken) in clocks.items():
        usual = STATISTICS[statistic]([clock.whole for clock in taken])
        found[name] = min(taken, key=lambda clock, usual=usual: abs(clock.whole - usual))  # type: ignore[misc]
    return found


def main(description: str | None, peers: Callable[[], Peers], steps: int) -> None:
    """Print the machine, the times of an update and where they go."""
    parser = argparse.ArgumentParser(description=description)
    statistic_option(parser)
    parser.add_argument("--steps", type=int, default=steps, help="updates of a turn")
    parser.add_argument("--processor", action="store_true", help="seconds of the processor; for a busy one, one thread")
    options = parser.parse_args()
    made = peers()
    made = replace(made, config=replace(made.config, steps=options.steps))
    now = time.process_time if options.processor else time.perf_counter
    found = compare(made, options.rounds, options.statistic, now)
    print(
        f"{machine()}; {options.statistic} of {options.rounds} rounds of {options.steps} updates"
        f"{', seconds of the processor' * options.processor}\n"
    )
    lines: list[list[object]] = []
    for part in (*PARTS, "all"):
        line: list[object] = [part]
        for clock in found.values():
            spent = clock.parts.get(part, clock.whole)
            line += [1e3 * spent / options.steps, f"{spent / clock.whole:.1%}"]
        lines.append(line)
    print(table(["part", "everloop, ms an update", "share", "PyTorch, ms an update", "share"], lines))
    print(f"\n{found['PyTorch'].whole / found['everloop'].whole:.2f} times as fast")


def settings(recipe: str, model: type[Any], **changed: Any) -> tuple[Any, TrainConfig]:
    """Return (the settings of the model, those of training) of a recipe, some of the model changed."""
    tables = read_toml(RECIPES / f"{recipe}.toml")
    table_of_model = {name: value for name, value in tables["model"].items() if name != "kind"}
    config = from_table(model, {**table_of_model, **changed}, recipe)
    return config, from_table(TrainConfig, {**tables["train"], "best_metric": "loss", "log_every": 10}, recipe)


def sentences(count: int, words: Sequence[str], deciles: Sequence[int], seed: int = 0) -> list[list[str]]:
    """Return sentences of lengths between deciles, of words as frequent as one over their rank (Zipf)."""
    source, weights = random.Random(seed), [*accumulate(1 / rank for rank in range(1, len(words) + 1))]
    return [source.choices(words, cum_weights=weights, k=length) for length in drawn(count, deciles, source)]


def drawn(count: int, deciles: Sequence[int], source: random.Random) -> list[int]:
    """Return whole numbers whose deciles, the smallest and the largest among them, are those given."""

    def one() -> int:
        place = source.uniform(0, len(deciles) - 1)
        low = int(place)
        return round(deciles[low] + (place - low) * (deciles[low + 1] - deciles[low]))

    return [one() for _ in range(count)]
