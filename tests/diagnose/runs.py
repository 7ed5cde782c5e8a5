"""Small runs with one planted fault each, and healthy ones: what the thresholds of `diagnose` are calibrated on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from everloop.data import Examples, ExamplesConfig, Parallel, Part, Text
from everloop.diagnose import Diagnosis, diagnose
from everloop.errors import TrainingError
from everloop.models import Classifier, ClassifierConfig, EncoderDecoder, LanguageModel, Model
from everloop.models.run import RunConfig
from everloop.report.opened import facts_of
from everloop.train import TrainConfig, train
from everloop.train.evaluate import pass_sizes

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "make",
    "toxic",
    "brew",
]


def prose(seed: int = 0, count: int = 4000) -> str:
    """Return sentences of a few words, in a grammar that a character model can learn."""
    chance = random.Random(seed)
    sentences = (" ".join(chance.choice(WORDS) for _ in range(chance.randint(3, 7))) for _ in range(count // 5))
    return "".join(f"{sentence.capitalize()}.\n" for sentence in sentences)


def echo(lag: int, length: int = 20_000) -> str:
    """Return random letters of which each is, nine times in ten, the one of `lag` steps before."""
    chance = random.Random(1)
    letters = [chance.choice("abcdefgh") for _ in range(lag)]
    for t in range(lag, length):
        letters.append(letters[t - lag] if chance.random() < 0.9 else chance.choice("abcdefgh"))
    return "".join(letters)


@dataclass
class Plan:
    """A run to be: its data, its model, how it is trained."""

    data: Any
    model: Model
    settings: dict[str, Any]


def language_model(cell: str = "lstm", text: str | None = None, **model: Any) -> Plan:
    torch.manual_seed(0)
    data = Text.from_string(prose() if text is None else text)
    made = LanguageModel(data.vocabulary, cell=cell, hidden=48, layers=1, embedding=24, **model)
    settings = {"steps": 200, "batch": 16, "length": 48, "lr": 5e-3, "warmup": 20, "log_every": 1, "validate": 100}
    return Plan(data, made, settings)


def cell_of(plan: Plan) -> Any:
    found: Any = plan.model
    return found.recurrent.cell


@torch.no_grad()
def exploding() -> Plan:
    plan = language_model("elman", options={"nonlinearity": "relu"})
    cell_of(plan).R.copy_(1.5 * torch.eye(48))  # Le, Jaitly and Hinton 2015 have 1.0
    plan.settings |= {"clip_norm": float("inf")}
    return plan


@torch.no_grad()
def shut() -> Plan:
    plan = language_model()
    cell_of(plan).b[48:96] = -5.0
    return plan


def shuffled() -> Plan:
    plan = language_model()
    model: Any = plan.model
    loss = model.loss

    def wrong(batch: Any, state: Any = None) -> Any:
        order = torch.randperm(batch.y.numel())
        return loss(type(batch)(batch.x, batch.y.flatten()[order].view_as(batch.y), first=batch.first), state)

    model.loss = wrong
    return plan


def frozen() -> Plan:
    plan = language_model()
    cell_of(plan).requires_grad_(False)
    return plan


def forgotten() -> Plan:
    plan = language_model()
    model: Any = plan.model
    loss = model.loss

    def without(batch: Any, state: Any = None) -> Any:
        found = loss(batch, None)
        return type(found)(found.total, found.count, None, found.sums)

    model.loss = without
    return plan


def with_settings(**settings: Any) -> Plan:
    plan = language_model()
    plan.settings |= settings
    return plan


@torch.no_grad()
def saturated() -> Plan:
    plan = language_model()
    for parameter in cell_of(plan).parameters():
        parameter.mul_(30)
    return plan


def short_window() -> Plan:
    plan = language_model(text=echo(40))
    plan.settings |= {"length": 16}
    return plan


@torch.no_grad()
def sure_head() -> Plan:
    plan = language_model()
    model: Any = plan.model
    model.head.weight.mul_(100)
    return plan


@torch.no_grad()
def dead() -> Plan:
    plan = language_model("elman", options={"nonlinearity": "relu"})
    cell_of(plan).b[:40] = -20.0
    return plan


def by_heart() -> Plan:
    torch.manual_seed(0)
    noise = random.Random(3)
    text = "".join(noise.choice("abcdefgh") for _ in range(1200))
    plan = language_model(text=text)
    data = Text.from_string(text, split=(0.6, 0.4, 0.0))
    plan.data = data
    plan.settings |= {"steps": 400, "batch": 4, "length": 32, "validate": 50, "warmup": 0}
    return plan


FAULTS: dict[str, tuple[Callable[[], Plan], str]] = {
    "recurrent gain 1.5, no clipping": (exploding, "exploding gradients"),
    "forget bias −5": (shut, "forgets at once"),
    "targets shuffled": (shuffled, "nothing learned"),
    "recurrent layer frozen": (frozen, "frozen"),
    "state not carried": (forgotten, "state not carried"),
    "rate × 30": (lambda: with_settings(lr=0.15), "rate too high"),
    "rate / 1000": (lambda: with_settings(lr=5e-6), "rate too low"),
    "weights of the cell × 30": (saturated, "saturated gates"),
    "window 16, lag 40": (short_window, "window too short"),
    "gradients clipped at 0.001": (lambda: with_settings(clip_norm=1e-3), "always clipped"),
    "head × 100": (sure_head, "first loss"),
    "biases of a ReLU network −20": (dead, "dead units"),
    "noise learned by heart": (by_heart, "overfitting"),
}


def classifier() -> Plan:
    torch.manual_seed(0)
    chance = random.Random(0)
    texts = [" ".join(chance.choice(WORDS[:7] if k % 2 else WORDS[5:]) for _ in range(12)) for k in range(400)]
    labels = ["ab"[k % 2] for k in range(400)]
    data = Examples({"train": Part(texts.__getitem__, labels, True, "made")}, ExamplesConfig(units="words"))
    model = Classifier.of(data, ClassifierConfig(hidden=32))
    return Plan(data, model, {"steps": 120, "batch": 16, "lr": 3e-3, "warmup": 20, "log_every": 1, "validate": 60})


def translator() -> Plan:
    torch.manual_seed(0)
    chance = random.Random(0)
    pairs = []
    for _ in range(600):
        words = [chance.choice(WORDS) for _ in range(chance.randint(2, 5))]
        pairs.append((" ".join(words), " ".join(words[::-1])))
    data = Parallel(pairs)
    model = EncoderDecoder(data.source, data.target, hidden=48, embedding=32)
    return Plan(data, model, {"steps": 200, "batch": 16, "lr": 3e-3, "warmup": 20, "log_every": 1, "validate": 100})


HEALTHY: dict[str, Callable[[], Plan]] = {
    "language model, LSTM": language_model,
    "language model, GRU, two layers": lambda: language_model("gru"),
    "language model, Elman, clipped": lambda: language_model("elman"),
    "language model, peepholes, orthogonal": lambda: language_model("peephole-lstm", orthogonal=True, forget_bias=1.0),
    "classifier of texts": classifier,
    "translator with attention": translator,
}


def _metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def diagnosed(plan: Plan, folder: Path) -> Diagnosis:
    """Train a run and look into it, also where it ended because a number was not finite any more."""
    with suppress(TrainingError):
        train(plan.model, plan.data, out=folder, **plan.settings)
    config = RunConfig.read(folder)
    settings = config.settings("train", TrainConfig)
    last = config.load("last")
    plan.model.load_state_dict(last.state_dict())
    facts = facts_of(config, plan.model.eval(), plan.data, settings, _metrics(folder))
    sizes = pass_sizes(plan.model, 8, settings.length)
    return diagnose(plan.model, plan.data.epoch("train", 0, seed=0, **sizes)[0], facts=facts)
