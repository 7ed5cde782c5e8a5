"""What one should know of data before training, and the figures of a trained model, in words."""

from __future__ import annotations

from shlex import quote
from typing import Any

from rich.console import Console
from rich.text import Text as Line

from everloop.models import Model, Score
from everloop.train import Run, evaluate


def print_notes(data: Any, batch: int, part: str = "") -> None:
    """Print sizes, unknown symbols, padding and malformed lines on standard error; of one part if it is named."""
    for note in data.notes(batch) if hasattr(data, "notes") else [repr(data)]:
        if note.startswith((part, type(data).__name__)) or "malformed" in note:
            Console(stderr=True).print(Line(note, "dim"), soft_wrap=True)


def show(model: Model, data: Any, run: Run) -> None:
    """Print the score on the test part, and what to do next."""
    console = Console()
    if not run.interrupted and "test" in data.splits:
        console.print(f"test: {told(evaluate(model, data, 'test'), model)}", soft_wrap=True)
    if run.path:
        console.print(Line(f"use it: everloop predict {quote(str(run.path))} FILE", "dim"), soft_wrap=True)


def told(score: Score, model: Model) -> str:
    """Return a score in words: its figures by name, then the loss, and of how many targets."""
    return f"{score} per {model.target}, {score.count:,} {model.target}{'' if score.count == 1 else 's'}"
