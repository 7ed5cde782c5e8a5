"""`everloop demo`: from nothing to a writing machine in two minutes, on text that is on every machine with Python."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics

import torch
from rich.console import Console
from rich.text import Text as Line

from everloop.cli.options import parse, select_device
from everloop.cli.output import new_folder
from everloop.cli.train import follow
from everloop.data import Text
from everloop.data.files import write_atomically
from everloop.errors import OptionError
from everloop.kinds import language_model
from everloop.models import LanguageModel, LanguageModelConfig
from everloop.train import TrainConfig
from everloop.train.folder import Folder
from everloop.train.pace import Pace, pace

MODEL = LanguageModelConfig(cell="lstm", hidden=384, layers=1, embedding=64, dropout=0.2)
TRAIN = TrainConfig(steps=2400, batch=32, length=96, lr=6e-3)
SMALLER = replace(MODEL, hidden=160, embedding=32)
VALIDATIONS = 8
ENOUGH = 600  # steps that it takes to write words; where they do not fit, the smaller model learns faster
PROMPT = "The "


@dataclass(frozen=True)
class Options:
    """The options of `everloop demo`."""

    minutes: float = 1.75
    """Minutes until the end of training; how many steps they are is tried on this machine, as busy as it is."""
    steps: int | None = None
    """Updates of the weights, in place of `minutes`."""
    out: Path | None = None
    """Run folder to write; by default a new one in runs/."""
    threads: int = 0
    """Processor threads; 0: one, or as many as PyTorch takes, whichever is quicker."""


def main(args: Sequence[str]) -> int:
    """Run `everloop demo`."""
    options = parse(Options, args, command="demo", description="Train a character model on the Python reference.")
    select_device(options.threads, "cpu")
    began = time.perf_counter()
    if not 0 < options.minutes < math.inf:
        raise OptionError(f"minutes is {options.minutes:g}; expected a number above 0")
    with new_folder(Path("runs") / "demo") if not options.out else nullcontext(options.out) as out:
        return _demo(options, out, began)


def _demo(options: Options, out: Path, began: float) -> int:
    """Train in a folder and show what came of it; return 130 if it was interrupted."""
    folder = Folder(out, resume=False)
    # the text stays with the run, so that an interrupted demo can be resumed like any run
    write_atomically(out / "reference.txt", reference().encode())
    text = Text(out / "reference.txt", split=(0.95, 0.05, 0.0))
    hello = f"A model that has never seen English reads the Python reference, {len(reference()):,} characters of it."
    console = Console(stderr=True)
    console.print(Line(hello), soft_wrap=True)
    model, steps = _model(text, MODEL), options.steps
    if steps is None:
        steps, threads = _fitting(model, text, options, began)
        if steps < ENOUGH:
            model = _model(text, SMALLER)
            steps, threads = _fitting(model, text, options, began)
        torch.set_num_threads(threads)
        place = f"on {threads} thread{'s' * (threads > 1)}, as busy as this machine is"
        console.print(Line(f"{options.minutes:g} minutes are enough for {steps:,} steps {place}."), soft_wrap=True)
    config = TRAIN.replace({"steps": steps, "validate": max(1, steps // VALIDATIONS)})
    run = follow(model, text, config, folder, language_model.preview)
    for line in language_model.report(model, text, run, PROMPT):
        Console().print(line, soft_wrap=True)
    return 130 if run.interrupted else 0


def _model(text: Text, shape: LanguageModelConfig) -> LanguageModel:
    torch.manual_seed(TRAIN.seed)
    return LanguageModel.from_config(text.vocabulary, shape)


def _fitting(model: LanguageModel, text: Text, options: Options, began: float) -> tuple[int, int]:
    """Return (steps, threads): what fits into what is left of the minutes, by what a few steps take."""
    threads = torch.get_num_threads()
    found: list[tuple[Pace, int]] = []
    for some in [threads] if options.threads or threads == 1 else [threads, 1]:
        torch.set_num_threads(some)
        found.append((pace(model, text, TRAIN), some))
    torch.set_num_threads(threads)
    left = 60 * options.minutes - (time.perf_counter() - began)
    return max((each.steps(left, VALIDATIONS), some) for each, some in found)


def reference() -> str:
    """Return the language reference as pydoc holds it."""
    return "\n".join(topics[name] for name in sorted(topics))
