"""Training as it is seen: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from itertools import pairwise

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text as Line

from everloop.train import Event, Note, Started, Stepped, Validated
from everloop.train.events import clock

BARS = "▁▂▃▄▅▆▇█"


class Progress:
    """Shows the events of a training run on standard error. Use it as a context around `train(..., report=it)`.

    Args:
        title: what is trained.
        console: where to; standard error by default.
        pause: seconds between two plain lines, at least.
    """

    def __init__(self, title: str, console: Console | None = None, pause: float = 5.0) -> None:
        self.title = title
        self.console = console or Console(stderr=True)
        self.pause, self.shown = pause, -pause
        self.started: Started | None = None
        self.stepped: Stepped | None = None
        self.best: Validated | None = None
        self.validated: Validated | None = None
        self.sample = ""
        self.losses: deque[float] = deque(maxlen=400)
        self.live = Live(console=self.console, refresh_per_second=8) if self.console.is_terminal else None

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, event: Event) -> None:
        """Take in an event and show it."""
        match event:
            case Started():
                self.started = event
            case Stepped():
                self.stepped = event
                if math.isfinite(event.loss):
                    self.losses.append(event.loss)
            case Validated():
                self.validated = event
                self.best = event if event.best else self.best
        if self.live is None:
            now = time.monotonic()
            if isinstance(event, Started):
                self._line(self.title)
            if not isinstance(event, Stepped) or now - self.shown >= self.pause or event.step == event.steps:
                self.shown = now
                self._line(str(event))
        elif isinstance(event, Note):
            self.live.console.print(Line(str(event), "yellow"))
        else:
            self.live.update(self.panel())

    def preview(self, sample: str) -> None:
        """Show what the model writes at this point of training."""
        self.sample = sample
        if self.live:
            self.live.update(self.panel())
        else:
            self._line(f"  it writes: {sample!r}")

    def panel(self) -> Panel:
        """Return the live picture of the run."""
        rows: list[Line | Table] = []
        started, now = self.started, self.stepped
        if started:
            step = now.step if now else started.step
            bar = Table.grid(padding=(0, 1))
            bar.add_row(
                ProgressBar(total=started.steps, completed=step, width=34),
                f"step {step:,} of {started.steps:,}",
                Line(f"{clock(now.left)} left" if now else "", "bold"),
            )
            rows.append(bar)
        if now:
            bits = (f"{now.bits:.3f} bits/{now.target}   ", "bold") if now.symbols else ""
            rows.append(
                Line.assemble(
                    ("loss ", "dim"), (f"{now.loss:.4f}", "bold"), "   ", bits,
                    (f"{now.rate:,.0f}", "bold"), (f" {now.target}s/s", "dim"),
                )
            )  # fmt: skip
            skipped = f"   {now.skipped:,} steps skipped" if now.skipped else ""
            clipped = f", clipped {now.clipped:.0%}" if now.clipped else ""
            rows.append(Line(f"learning rate {now.lr:.2e}   gradient norm {now.norm:.2f}{clipped}{skipped}", "dim"))
            rows.append(Line(spark(self.losses, 56), "cyan"))
        if self.validated and self.best:
            score = self.validated.score
            figures = [f"{name} {mean:.4f}" for name, mean in list(score.means.items())[:2]]
            loss = f"{score.loss:.4f} nats, {score.bits:.3f} bits" if score.symbols else f"loss {score.loss:.4f}"
            rows.append(Line(f"valid {', '.join([*figures, loss])}; best at step {self.best.step:,}", "green"))
        if self.sample:
            rows.append(Line(f"it writes: {' '.join(self.sample.split())}", "italic"))
        return Panel(Group(*rows), title=self.title, title_align="left", width=min(self.console.width, 90))

    def _line(self, text: str) -> None:
        self.console.print(Line(text), soft_wrap=True)


def spark(values: deque[float], width: int) -> str:
    """Return values as a line of bars, their mean in each of at most `width` places."""
    count = len(values)
    if not count:
        return ""
    listed, places = list(values), min(width, count)
    edges = [i * count // places for i in range(places + 1)]
    means = [sum(listed[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)
