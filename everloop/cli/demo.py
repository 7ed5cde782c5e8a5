"""`everloop demo`: from nothing to a writing machine in two minutes, on text that is on every machine with Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import torch
from rich.console import Console
from rich.text import Text as Line

from everloop.cli.options import free_folder, parse, select_device
from everloop.cli.train import follow
from everloop.data import Text
from everloop.data.files import write_atomically
from everloop.kinds import language_model
from everloop.models import LanguageModel, LanguageModelConfig
from everloop.train import TrainConfig
from everloop.train.folder import Folder

MODEL = LanguageModelConfig(cell="lstm", hidden=384, layers=1, embedding=64, dropout=0.2)
TRAIN = TrainConfig(steps=2400, batch=32, length=96, lr=6e-3, validate=240)
PROMPT = "The "


@dataclass(frozen=True)
class Options:
    """The options of `everloop demo`."""

    steps: int = TRAIN.steps
    """Updates of the weights; the default takes about two minutes on two cores."""
    out: Path | None = None
    """Run folder to write; by default a new one in runs/."""
    threads: int = 0
    """Processor threads; 0: as many as PyTorch takes."""


def main(args: Sequence[str]) -> int:
    """Run `everloop demo`."""
    options = parse(Options, args, command="demo", description="Train a character model on the Python reference.")
    select_device(options.threads, "cpu")
    config = TRAIN.replace({"steps": options.steps})
    out = options.out or free_folder(Path("runs") / "demo")
    folder = Folder(out, resume=False)
    # the text stays with the run, so that an interrupted demo can be resumed like any run
    write_atomically(out / "reference.txt", reference().encode())
    text = Text(out / "reference.txt", split=(0.95, 0.05, 0.0))
    hello = f"A model that has never seen English reads the Python reference, {len(reference()):,} characters of it."
    Console(stderr=True).print(Line(hello), soft_wrap=True)
    torch.manual_seed(config.seed)
    model = LanguageModel.from_config(text.vocabulary, MODEL)
    run = follow(model, text, config, folder, language_model.preview)
    for line in language_model.report(model, text, run, PROMPT):
        Console().print(line, soft_wrap=True)
    return 130 if run.interrupted else 0


def reference() -> str:
    """Return the language reference as pydoc holds it."""
    return "\n".join(topics[name] for name in sorted(topics))
