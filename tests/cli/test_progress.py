"""The display of training, on a terminal and elsewhere."""

from __future__ import annotations

import io
from collections import deque

from rich.console import Console

from everloop.cli.progress import BARS, Progress, spark
from everloop.models import Score
from everloop.train import Note, Started, Stepped, Validated

EVENTS = (
    Started(0, 100, "character", 1234),
    Stepped(10, 100, "character", 2.0, 1e-3, 2.0, 1.0, 0.25, 0, 12345.0, 61.0),
    Stepped(20, 100, "character", 1.0, 1e-3, 0.5, 0.5, 0.0, 3, 12345.0, 59.0),
    Validated(20, "character", Score(150.0, 100), best=True),
    Note("saved"),
)


def shown(terminal: bool) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=100, color_system=None)
    with Progress("a title", console) as progress:
        for event in EVENTS:
            progress(event)
        progress.preview("once\nupon")
    return screen.getvalue()


def test_plain_lines_elsewhere() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines[0] == "a title"
    assert lines[1] == "training, 100 steps, 1,234 parameters"
    assert sum("loss" in line for line in lines) <= 2
    assert any("valid 1.5000 nats" in line for line in lines)
    assert "saved" in lines
    assert not any("\x1b" in line for line in lines)


def test_a_panel_on_a_terminal() -> None:
    screen = shown(terminal=True)
    for part in (
        "a title", "step 20 of 100", "0:59 left", "loss 1.0000", "1.443 bits/character", "12,345 characters/s",
        "learning rate 1.00e-03", "valid 1.5000 nats", "best at step 20", "it writes: once upon", "saved",
    ):  # fmt: skip
        assert part in screen


def test_markup_in_text_is_text() -> None:
    screen = io.StringIO()
    with Progress("t", Console(file=screen, force_terminal=True, width=100)) as progress:
        progress(EVENTS[0])
        progress.preview("[/bold] [red]")
    assert "[/bold] [red]" in screen.getvalue()


def test_spark() -> None:
    assert spark(deque(), 5) == ""
    assert spark(deque([1.0, 1.0]), 5) == BARS[0] * 2
    assert spark(deque([3.0, 2.0, 1.0]), 5) == BARS[7] + BARS[4] + BARS[0]
    assert spark(deque([4.0, 4.0, 1.0, 1.0]), 2) == BARS[7] + BARS[0]
