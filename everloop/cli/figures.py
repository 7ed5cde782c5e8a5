"""What one should know of data before training, and the figures of a trained model, in words."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import Any

from rich.text import Text as Line

from everloop.cli.options import note
from everloop.decode.writer import unknown_symbols
from everloop.models import Model, Score
from everloop.train import Run, evaluate


def print_notes(data: Any, batch: int, split: str = "") -> None:
    """Print sizes, unknown symbols, padding and malformed lines on standard error; of one split if it is named."""
    title = repr(data)  # which training shows anyway
    for line in data.notes(batch):
        if (split if line == title else line.startswith(split)) or "malformed" in line:
            note(line)
    first = split or data.splits[0]
    if first in data.splits and (text := data.first(first)):
        note(f"{first} begins with {text}")


def report(model: Model, data: Any, run: Run) -> Iterator[Line]:
    """Yield the score on the test split, and what to do next."""
    if not run.interrupted and "test" in data.splits:
        yield Line(f"test: {score_line(evaluate(model, data, 'test'), model)}")
    if run.path:
        yield Line(f"use it: everloop predict {quote(str(run.path))} FILE", "dim")


def score_line(score: Score, model: Model) -> str:
    """Return a score in words: its figures by name, then the loss, and of how many targets."""
    return f"{score} per {model.target}, {score.count:,} {model.target}{'' if score.count == 1 else 's'}"


def note_unknown(model: Model, text: str) -> None:
    """Tell on standard error which symbols of a prompt the model does not know."""
    if missing := unknown_symbols(model, text):
        note(f"unknown to the model: {', '.join(map(repr, dict.fromkeys(missing)))}")
